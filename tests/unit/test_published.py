"""Published weights through ``datlstm convert-weights``: forecasts as published, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from datlstm.cli import app
from datlstm.errors import SettingsError, WeightsError
from datlstm.models import build, configure
from datlstm.published import CONVERTERS, convert
from datlstm.published.files import load_network, read_entries, write_network
from tests.golden import recorded

GOLDEN = Path(recorded.__file__).parent
ARCHITECTURE = {
    "dat_small_w4": "datlstm",
    "swind_small": "swinlstm-d",
    "swinb_small": "swinlstm-b",
    "x_convlstm": "convlstm",
    "x_predrnn": "predrnn",
    "x_tctn": "tctn",
}
SIZE = {"height": 32, "width": 32}
SIZE_OPTIONS = ("--height", "32", "--width", "32")


def command(published: Path, path: Path, name: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["convert-weights", str(published), str(path), "--model", name, *options])


def refusal(result: Result) -> str:
    """The error that a command ended with, written for a person and without a traceback."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    return result.stderr


def is_dead(case: str, name: str) -> bool:
    """Whether the published model never runs an entry, or it follows from the shapes."""
    if case == "x_convlstm":
        return re.search(r"cell_list\.\d+\.conv_(o|last)", name) is not None
    if name.startswith(("decoder.decoderlayer.", "decoder.positionnet.", "decoder_embedding.conv2.")):
        return True
    if name.startswith("Upsample.patch_embed.") or name.endswith(("attn_mask", "relative_position_index")):
        return True
    block = re.search(r"layers\.(\d+)\.(red|dat_attn|window_attn)\.", name)
    return block is not None and (block[2] == "dat_attn") == (int(block[1]) % 2 == 0)


def live(case: str) -> dict[str, Tensor]:
    """The recorded entries that the published model runs."""
    return {name: value for name, value in recorded.entries(case).items() if not is_dead(case, name)}


def forecast_error(case: str, network: nn.Module) -> float:
    arrays = recorded.load(case)
    with torch.no_grad():
        output = network(torch.from_numpy(arrays["x"]), arrays["y"].shape[1])
    return float(np.abs(output.numpy() - arrays["out_eval"]).max())


@pytest.mark.parametrize(("case", "options"), [("dat_small_w4", ()), ("swind_small", SIZE_OPTIONS)])
def test_the_converted_file_alone_forecasts_as_the_published_model(
    case: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    result = command(GOLDEN / f"{case}.npz", tmp_path / "network.safetensors", ARCHITECTURE[case], *options)
    assert result.exit_code == 0, result.output
    network = load_network(tmp_path / "network.safetensors")
    assert not network.training
    assert forecast_error(case, network) <= 1e-5
    count = sum(parameter.numel() for parameter in network.parameters())
    assert f"{count:,} parameters of a {ARCHITECTURE[case]}" in result.stdout


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".npz"])
def test_every_kind_of_file_converts_to_the_same_network(suffix: str, tmp_path: Path) -> None:
    published, path = tmp_path / f"published{suffix}", tmp_path / "network.safetensors"
    entries = recorded.entries("swind_small")
    writers: dict[str, Callable[[], object]] = {
        ".safetensors": lambda: safetensors.torch.save_file(entries, published),
        ".npz": lambda: np.savez(
            published, allow_pickle=False, **{name: value.numpy() for name, value in entries.items()}
        ),
    }
    writers.get(suffix, lambda: torch.save(entries, published))()
    assert command(published, path, "swinlstm-d", *SIZE_OPTIONS).exit_code == 0
    assert forecast_error("swind_small", load_network(path)) <= 1e-5


def test_options_join_the_configuration_that_the_shapes_tell(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    options = ("--options", '{"drop_path": 0.3, "uncentred_keys": false}')
    assert command(GOLDEN / "dat_small_w4.npz", path, "datlstm", *options).exit_code == 0
    config: Any = load_network(path).config
    assert (config.drop_path, config.uncentred_keys, config.window, config.groups) == (0.3, False, 4, (1, 2, 4, 2))


@pytest.mark.parametrize("case", ARCHITECTURE)
def test_what_the_published_model_never_runs_may_be_there_or_not(case: str) -> None:
    given = recorded.entries(case)
    assert case == "x_predrnn" or len(live(case)) < len(given)
    (config, weights), (bare_config, bare_weights) = (
        convert(ARCHITECTURE[case], entries, **SIZE) for entries in (given, live(case))
    )
    assert bare_config == config and bare_weights.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in bare_weights.items())


@pytest.mark.parametrize("case", ["swind_small", "swinb_small"])
def test_masks_of_shifted_windows_may_be_there(case: str) -> None:
    entries = live(case)
    shifted = [
        name.replace("attn.qkv.bias", "attn_mask") for name in entries if name.endswith("layers.1.attn.qkv.bias")
    ]
    masks = {name: torch.zeros(16, 16, 16) for name in shifted}
    assert masks
    (_, bare), (_, weights) = (convert(ARCHITECTURE[case], given, **SIZE) for given in (entries, entries | masks))
    assert all(torch.equal(value, weights[key]) for key, value in bare.items())


@pytest.mark.parametrize("options", [(), ("--height", "32"), ("--width", "32")])
def test_a_size_that_the_weights_do_not_tell_is_asked_for(options: tuple[str, ...], tmp_path: Path) -> None:
    result = command(GOLDEN / "swind_small.npz", tmp_path / "network.safetensors", "swinlstm-d", *options)
    assert re.search("WeightsError: .*swinlstm-d.*give height and width", refusal(result))
    assert not list(tmp_path.iterdir())


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    result = command(tmp_path / "nowhere.pt", tmp_path / "network.safetensors", "datlstm")
    assert re.search("WeightsError: there is no file .*nowhere.pt", refusal(result))


def test_a_file_of_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"")
    result = command(tmp_path / "weights.h5", tmp_path / "network.safetensors", "datlstm")
    assert re.search(r"WeightsError: .*weights.h5 is of no known kind.*\.npz.*\.safetensors", refusal(result))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_truncated_file_is_refused(suffix: str, kept: int, tmp_path: Path) -> None:
    path, entries = tmp_path / f"weights{suffix}", {"weight": torch.zeros(300)}
    if suffix == ".npz":
        np.savez(path, weight=entries["weight"].numpy())
    elif suffix == ".pt":
        torch.save(entries, path)
    else:
        safetensors.torch.save_file(entries, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=f"weights{suffix} can't be read as a state dict"):
        read_entries(path)


class Intruder:
    """An object that creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("beside_tensors", [False, True])
def test_code_in_a_pytorch_file_is_refused_and_not_run(beside_tensors: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pt", tmp_path / "trace"
    torch.save({"weight": torch.zeros(2), "extra": Intruder(trace)} if beside_tensors else Intruder(trace), path)
    result = command(path, tmp_path / "network.safetensors", "datlstm")
    assert re.search("WeightsError: .*weights.pt can't be read as a state dict", refusal(result))
    assert not trace.exists()


def test_code_in_an_npz_file_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.npz", tmp_path / "trace"
    np.savez(path, weight=np.array([Intruder(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(WeightsError, match="can't be read as a state dict"):
        read_entries(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [{"model": {"weight": torch.zeros(2)}}, {"epoch": 3, "weight": torch.zeros(2)}])
def test_a_checkpoint_that_holds_more_than_a_state_dict_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"more than tensors by name: save the model's state_dict\(\) alone"):
        read_entries(tmp_path / "weights.pt")


@pytest.mark.parametrize("case", ARCHITECTURE)
def test_weights_of_another_architecture_are_refused(case: str) -> None:
    for name in CONVERTERS.keys() - {ARCHITECTURE[case]}:
        with pytest.raises(WeightsError, match="choose another architecture"):
            convert(name, recorded.entries(case), **SIZE)


def test_an_architecture_without_published_weights_is_refused_with_those_that_have_some(tmp_path: Path) -> None:
    result = command(GOLDEN / "dat_small_w4.npz", tmp_path / "network.safetensors", "simvp")
    assert re.search("WeightsError: no published weights of 'simvp' are known; there are convlstm", refusal(result))


@pytest.mark.parametrize("case", ARCHITECTURE)
def test_a_missing_entry_is_refused_by_name(case: str) -> None:
    entries = live(case)
    for missing in list(entries)[::5]:
        rest = {name: value for name, value in entries.items() if name != missing}
        with pytest.raises(WeightsError) as refused:
            convert(ARCHITECTURE[case], rest, **SIZE)
        assert missing in str(refused.value)


@pytest.mark.parametrize("case", ARCHITECTURE)
@pytest.mark.parametrize(
    "change",
    [
        lambda value: torch.zeros(value.numel() + 1),
        lambda value: torch.zeros(()),
        lambda value: value.unsqueeze(0),
        lambda value: torch.cat([value, value[:1]]),
    ],
    ids=["flat", "scalar", "deeper", "longer"],
)
def test_an_entry_of_another_shape_is_refused(case: str, change: Callable[[Tensor], Tensor]) -> None:
    entries = live(case)
    for name in list(entries)[::11]:
        with pytest.raises((WeightsError, SettingsError)):
            convert(ARCHITECTURE[case], entries | {name: change(entries[name])}, **SIZE)


@pytest.mark.parametrize("case", ARCHITECTURE)
def test_an_entry_that_belongs_to_no_layer_is_refused_by_name(case: str) -> None:
    entries = recorded.entries(case) | {"optimizer.step": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"1 entries, such as 'optimizer\.step', belong to no layer"):
        convert(ARCHITECTURE[case], entries, **SIZE)


@pytest.mark.parametrize("option", [{"window": 2}, {"height": 64}, {"embed": 32}, {"groups": [2, 2, 4, 2]}])
def test_options_that_contradict_the_weights_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="a datlstm of this configuration needs .*: correct the options"):
        convert("datlstm", recorded.entries("dat_small_w4"), **option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"heed": 3}', "SettingsError: .*heed"),
        ('{"heads": [3, 2, 4, 2]}', "SettingsError: .*heads must divide channels"),
        ("{", "SettingsError: --options is not JSON"),
        ("[1]", "SettingsError: --options is not a JSON object"),
    ],
)
def test_options_that_no_architecture_takes_are_refused(options: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    assert re.search(message, refusal(command(GOLDEN / "dat_small_w4.npz", path, "datlstm", "--options", options)))


def test_a_path_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    result = command(GOLDEN / "dat_small_w4.npz", tmp_path / "nowhere" / "network.safetensors", "datlstm")
    assert re.search("WeightsError: .*network.safetensors can't be written", refusal(result))


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"architecture": "convlstm"},
        {"architecture": "nonsense", "config": "{}"},
        {"architecture": "convlstm", "config": "{"},
        {"architecture": "convlstm", "config": '{"height": 8}'},
        {"architecture": "convlstm", "config": '{"height": 8, "width": 8, "hidden": [4]}'},
    ],
)
def test_a_file_that_was_not_converted_is_no_network(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(WeightsError, match="not a network written by `datlstm convert-weights`"):
        load_network(path)


@pytest.mark.parametrize("content", [None, b"", b"\x08" * 50])
def test_an_absent_or_damaged_network_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a network written by"):
        load_network(path)


def test_a_written_network_carries_its_architecture_and_configuration(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    config = configure("convlstm", "operational", height=9, width=14)
    weights = build("convlstm", config).state_dict()
    write_network(path, "convlstm", config, weights)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata == {"architecture": "convlstm", "config": json.dumps(config)}
    again = load_network(path).state_dict()
    assert again.keys() == weights.keys() and all(torch.equal(again[key], weights[key]) for key in weights)
