"""ConvLSTM and PredRNN: against a slow literal formulation on published state dicts, their laws, what they refuse."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from datlstm.errors import SettingsError, WeightsError
from datlstm.models import Preset, build, configure
from datlstm.models.convlstm import JoinedConvolution, PatchNetwork, from_patches, to_patches
from datlstm.published import convert

NAMES = ("convlstm", "predrnn")
SIZE = (9, 14)
GATES = {"convlstm": {"x": 4, "h": 4, "o": 1}, "predrnn": {"x": 7, "h": 4, "m": 3, "o": 1}}

Entries = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(7)


def small(name: str, **changes: Any) -> PatchNetwork:
    model = build(name, {"height": SIZE[0], "width": SIZE[1], "hidden": (6, 6), "kernel": 3, **changes})
    assert isinstance(model, PatchNetwork)
    return model


def preset_of(name: str, preset: Preset, *, size: tuple[int, int] = SIZE, **options: Any) -> PatchNetwork:
    model = build(name, configure(name, preset, height=size[0], width=size[1], **options))
    assert isinstance(model, PatchNetwork)
    return model


def days(count: int, *, batch: int = 2, channels: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(batch, count, channels, *size)


def published_entries(
    name: str, hidden: list[int], kernel: int, channels: int, grid: tuple[int, int] | None
) -> Iterator[tuple[str, Tensor]]:
    """Random entries of a published state dict in float64; a ``grid`` asks for layer norm."""
    for index, (inputs, width) in enumerate(pairwise([channels, *hidden])):
        for part, gates in GATES[name].items():
            read = {"x": inputs, "o": 2 * width}.get(part, width)
            entry = f"cell_list.{index}.conv_{part}"
            yield f"{entry}.0.weight", torch.randn(gates * width, read, kernel, kernel).double() * 0.2
            if grid is not None:
                yield f"{entry}.1.weight", 1 + 0.3 * torch.randn(gates * width, *grid).double()
                yield f"{entry}.1.bias", 0.3 * torch.randn(gates * width, *grid).double()
        yield f"cell_list.{index}.conv_last.weight", torch.randn(width, 2 * width, 1, 1).double()
    yield "conv_last.weight", torch.randn(channels, hidden[-1], 1, 1).double()


def tensors(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in tensors(part)]


def literal_convolution(entries: Entries, name: str, maps: Tensor) -> Tensor:
    kernel = entries[f"{name}.0.weight"]
    output = F.conv2d(maps, kernel, padding=kernel.shape[-1] // 2)
    if f"{name}.1.weight" not in entries:
        return output
    scale, shift = entries[f"{name}.1.weight"], entries[f"{name}.1.bias"]
    return F.layer_norm(output, output.shape[1:], scale, shift)


def literal_convlstm_cell(
    entries: Entries, cell: str, x: Tensor, h: Tensor, c: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    ix, fx, gx, ox = literal_convolution(entries, f"{cell}.conv_x", x).chunk(4, 1)
    ih, fh, gh, oh = literal_convolution(entries, f"{cell}.conv_h", h).chunk(4, 1)
    c = torch.sigmoid(fx + fh) * c + torch.sigmoid(ix + ih) * torch.tanh(gx + gh)
    return torch.sigmoid(ox + oh) * torch.tanh(c), c, m


def literal_predrnn_cell(
    entries: Entries, cell: str, x: Tensor, h: Tensor, c: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    ix, fx, gx, ixm, fxm, gxm, ox = literal_convolution(entries, f"{cell}.conv_x", x).chunk(7, 1)
    ih, fh, gh, oh = literal_convolution(entries, f"{cell}.conv_h", h).chunk(4, 1)
    im, fm, gm = literal_convolution(entries, f"{cell}.conv_m", m).chunk(3, 1)
    c = torch.sigmoid(fx + fh + 1) * c + torch.sigmoid(ix + ih) * torch.tanh(gx + gh)
    m = torch.sigmoid(fxm + fm + 1) * m + torch.sigmoid(ixm + im) * torch.tanh(gxm + gm)
    both = torch.cat([c, m], dim=1)
    output = torch.sigmoid(ox + oh + literal_convolution(entries, f"{cell}.conv_o", both))
    return output * torch.tanh(F.conv2d(both, entries[f"{cell}.conv_last.weight"])), c, m


def literal_patches(frame: Tensor, patch: int) -> Tensor:
    """Cut frames into patches cell by cell; channel (py * patch + px) * C + c."""
    frame = F.pad(frame, (0, -frame.shape[3] % patch, 0, -frame.shape[2] % patch))
    return torch.cat([frame[:, :, y::patch, x::patch] for y in range(patch) for x in range(patch)], dim=1)


def literal_frame(maps: Tensor, patch: int, size: Sequence[int]) -> Tensor:
    frame = maps.new_zeros(len(maps), maps.shape[1] // patch**2, maps.shape[2] * patch, maps.shape[3] * patch)
    for place, part in enumerate(maps.chunk(patch**2, dim=1)):
        frame[:, :, place // patch :: patch, place % patch :: patch] = part
    return frame[:, :, : size[0], : size[1]]


def literal_forecast(name: str, entries: Entries, hidden: list[int], patch: int, frames: Tensor, lead: int) -> Tensor:
    """The published rollout: every convolution and gate on its own, states that start as maps of zeros."""
    cell = {"convlstm": literal_convlstm_cell, "predrnn": literal_predrnn_cell}[name]
    maps = literal_patches(frames[:, 0], patch)
    h, c = ([maps.new_zeros(len(maps), width, *maps.shape[2:]) for width in hidden] for _ in range(2))
    m, outputs = h[0], list[Tensor]()
    for step in range(frames.shape[1] - 1 + lead):
        maps = literal_patches(frames[:, step] if step < frames.shape[1] else outputs[-1], patch)
        for index in range(len(hidden)):
            h[index], c[index], m = cell(entries, f"cell_list.{index}", maps, h[index], c[index], m)
            maps = h[index]
        outputs.append(literal_frame(F.conv2d(maps, entries["conv_last.weight"]), patch, frames.shape[3:]))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(
    ("name", "hidden", "kernel", "patch", "channels", "size"),
    [
        ("convlstm", [3, 5], 3, 2, 1, (8, 6)),
        ("convlstm", [4], 5, 3, 2, (7, 11)),
        ("convlstm", [2, 4, 3], 1, 1, 3, (5, 4)),
        ("predrnn", [4, 4], 3, 2, 1, (8, 6)),
        ("predrnn", [3], 5, 3, 2, (7, 11)),
        ("predrnn", [3, 3, 3], 1, 1, 3, (5, 4)),
    ],
)
def test_forecast_and_gradients_equal_the_literal_formulation(
    name: str, hidden: list[int], kernel: int, patch: int, channels: int, size: tuple[int, int], layer_norm: bool
) -> None:
    grid = (-(-size[0] // patch), -(-size[1] // patch)) if layer_norm else None
    made = published_entries(name, hidden, kernel, patch**2 * channels, grid)
    entries = {key: value.requires_grad_() for key, value in made}
    config, weights = convert(name, entries, height=size[0], width=size[1])
    assert (config["patch"], config["frame_channels"], config["layer_norm"]) == (patch, channels, layer_norm)
    frames = days(3, channels=channels, size=size).double().requires_grad_()

    fast = functional_call(build(name, config).double(), weights, (frames, 3))
    slow = literal_forecast(name, entries, hidden, patch, frames, 3)
    torch.testing.assert_close(fast, slow, atol=1e-10, rtol=0)

    upstream, wanted = torch.randn_like(fast), [frames, *entries.values()]
    ours, literal = (torch.autograd.grad(output, wanted, upstream, allow_unused=True) for output in (fast, slow))
    torch.testing.assert_close(ours, literal, atol=1e-9, rtol=1e-8)


def test_layer_norm_in_published_weights_tells_the_size_of_the_frames() -> None:
    config, _ = convert("predrnn", dict(published_entries("predrnn", [4], 3, 9, (2, 5))))
    assert (config["height"], config["width"]) == (6, 15)


def test_published_weights_of_four_frame_channels_need_patch_and_channels_as_options() -> None:
    entries = dict(published_entries("convlstm", [4], 3, 4 * 2**2, None))
    config, _ = convert("convlstm", entries, height=8, width=8, patch=2, frame_channels=4)
    assert (config["patch"], config["frame_channels"]) == (2, 4)
    with pytest.raises(WeightsError, match="correct the options"):
        convert("convlstm", entries, height=8, width=8, frame_channels=4)


@pytest.mark.parametrize(("name", "entry"), [("convlstm", "conv_h.0.weight"), ("predrnn", "conv_m.0.weight")])
def test_published_gates_of_another_kernel_are_refused(name: str, entry: str) -> None:
    entries = dict(published_entries(name, [4], 3, 4, None))
    entries[f"cell_list.0.{entry}"] = entries[f"cell_list.0.{entry}"][..., :1, :1]
    with pytest.raises(WeightsError, match=rf"{entry}.*kernel of 3 x 3"):
        convert(name, entries, height=8, width=8)


@pytest.mark.parametrize(("patch", "channels"), [(1, 2), (2, 3), (3, 1)])
def test_patches_are_those_of_the_published_models_and_can_be_joined_again(patch: int, channels: int) -> None:
    frames = days(1, channels=channels, size=(2 * patch, 3 * patch))[:, 0]
    assert torch.equal(to_patches(frames, patch), literal_patches(frames, patch))
    assert torch.equal(from_patches(to_patches(frames, patch), patch), frames)


# The published ConvLSTM counts 15 083 520 parameters, but its cells never run the output layers that they carry.
NEVER_RUN = 4 * (2 * 128 * 128 * 5**2 + 2 * 128 * 128)


@pytest.mark.parametrize(("name", "count"), [("convlstm", 15_083_520 - NEVER_RUN), ("predrnn", 23_838_720)])
def test_the_published_configuration_holds_the_published_live_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(name, configure(name, "reference", height=64, width=64))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("inputs", [(3, 40), (40, 3)])
def test_each_part_of_a_joined_convolution_starts_as_its_own_convolution_would(inputs: tuple[int, int]) -> None:
    weight = JoinedConvolution(inputs, 50, 3).weight
    for part, channels in zip(weight.split(inputs, dim=1), inputs, strict=True):
        expected = nn.Conv2d(channels, 50, 3, bias=False).weight
        assert part.abs().max().item() == pytest.approx((9 * channels) ** -0.5, rel=0.02)
        assert part.std().item() == pytest.approx(expected.std().item(), rel=0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["reference", "operational"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_every_parameter_receives_a_gradient(name: str, preset: Preset, layer_norm: bool) -> None:
    model = preset_of(name, preset, lead_frames=2, hidden=(5, 5), forcing_channels=2, layer_norm=layer_norm)
    # A zero head passes no gradient down.
    nn.init.normal_(model.readout.weight)
    model(days(3), 2, days(4, channels=2)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and (parameter.grad.flatten(1) != 0).any(dim=1).all(), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("count", "lead"), [(1, 1), (1, 3), (4, 2)])
@pytest.mark.parametrize(("size", "channels"), [((9, 14), 1), ((1, 3), 2), ((16, 4), 3)])
def test_frames_of_any_size_and_number_give_all_estimates(
    name: str, count: int, lead: int, size: tuple[int, int], channels: int
) -> None:
    model = small(name, height=size[0], width=size[1], frame_channels=channels)
    output = model(days(count, channels=channels, size=size), lead)
    assert output.shape == (2, count - 1 + lead, channels, *size) and output.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_untrained_operational_model_is_persistence(name: str) -> None:
    frames = 5 * days(3)
    persisted = frames[:, -1:].expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(preset_of(name, "operational")(frames, 4), persisted)
    fed_back = preset_of(name, "operational", direct_leads=0)(frames, 4)
    torch.testing.assert_close(fed_back, torch.cat([frames[:, :2], persisted], dim=1))


@pytest.mark.parametrize("name", NAMES)
def test_operational_model_keeps_the_shorter_side_at_sixteen_patches(name: str) -> None:
    assert preset_of(name, "operational", size=(50, 120)).config.grid == (13, 30)


@pytest.mark.parametrize("name", NAMES)
def test_some_training_steps_learn_a_moving_pattern(name: str) -> None:
    phase = torch.arange(4)[:, None] + torch.tensor([0.0, 3.0])[:, None, None]
    movie = torch.sin(torch.arange(SIZE[1]) * 0.7 - phase)[:, :, None, None, :].expand(-1, -1, 1, SIZE[0], -1)
    model = small(name, head="increment")
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-2)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(model(movie[:, :3], 1), movie[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_the_same_weights_and_the_same_forecast(name: str) -> None:
    frames, outputs = days(3), []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(small(name)(frames, 2))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_a_state_dict(name: str) -> None:
    frames, model, other = days(3), small(name), small(name)
    assert not torch.equal(model(frames, 2), other(frames, 2))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(frames, 2), other(frames, 2))
    assert set(model.state_dict()) == {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_one_sample_does_not_depend_on_the_others(name: str, layer_norm: bool) -> None:
    model, frames = small(name, layer_norm=layer_norm), days(3, batch=3)
    torch.testing.assert_close(model(frames, 2)[1:2], model(frames[1:2], 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_forcing_of_a_step_reaches_that_step_and_no_earlier_one(name: str) -> None:
    model, frames, forcing = small(name, forcing_channels=1), days(3), days(5)
    changed = forcing.clone()
    changed[:, 3] += 1
    difference = (model(frames, 3, changed) - model(frames, 3, forcing)).abs().amax(dim=(0, 2, 3, 4))
    assert torch.equal(difference[:3], torch.zeros(3)) and (difference[3:] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_steps_changes_no_gradient(name: str) -> None:
    frames, gradients = days(3), []
    weights = small(name).state_dict()
    for recompute in (False, True):
        model = small(name, checkpoint_steps=recompute)
        model.load_state_dict(weights)
        model(frames, 2).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_model_is_one_graph_and_gives_the_same_forecast(name: str) -> None:
    model, frames = small(name, hidden=(6,)), days(1)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(frames, 2)
        torch.testing.assert_close(compiled, model(frames, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_an_exported_model_gives_the_same_forecast(name: str, layer_norm: bool) -> None:
    model, frames = small(name, layer_norm=layer_norm).eval(), days(1)
    exported = torch.export.export(model, (frames, 2)).module()
    torch.testing.assert_close(exported(frames, 2), model(frames, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_half_precision_products_keep_frames_and_states_in_full_precision(name: str, layer_norm: bool) -> None:
    model, frames = small(name, layer_norm=layer_norm), days(3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = model.step(frames[:, 0], None, None)
        output, state = model.step(output, None, state)
        forecast = model(frames, 3)
    assert {part.dtype for part in (output, *tensors(state))} == {torch.float32}
    torch.testing.assert_close(forecast, model(frames, 3), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head", ["linear", "increment"])
def test_a_diverged_input_gives_a_diverged_forecast_instead_of_a_crash(name: str, head: str) -> None:
    assert small(name, head=head)(torch.full((1, 2, 1, *SIZE), torch.nan), 2).isnan().all()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("convlstm", {"kernel": 4}, "kernel is 4.*odd"),
        ("predrnn", {"kernel": 2}, "kernel is 2.*odd"),
        ("predrnn", {"hidden": (6, 8)}, "share one memory"),
        ("convlstm", {"hidden": ()}, "hidden"),
        ("convlstm", {"heads": 2}, "heads"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        small(name, **changes)
