"""The presets of all architectures: the published model, and a small one that starts as persistence."""

import json
from typing import Any

import pytest
import torch
from pydantic_core import to_jsonable_python

from datlstm.errors import SettingsError
from datlstm.models import ARCHITECTURES, Preset, architecture, build, configure

SIZES = [(64, 64), (96, 96), (20, 40), (33, 17)]
PRESETS: tuple[Preset, ...] = ("reference", "operational")
QUIRKS: dict[str, dict[str, Any]] = {
    "datlstm": {"uncentred_keys": True},
    "simvp": {"norm": "batch"},
    "tctn": {"pooled_norm": True, "masks_zero_logits": True},
}
WITHOUT_QUIRKS: dict[str, dict[str, Any]] = {
    "datlstm": {"uncentred_keys": False},
    "simvp": {"norm": "sample"},
    "tctn": {"pooled_norm": False, "masks_zero_logits": False},
}

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
every_size = pytest.mark.parametrize("size", SIZES)


def preset_of(name: str, preset: Preset, size: tuple[int, int], **options: Any) -> dict[str, Any]:
    return configure(name, preset, height=size[0], width=size[1], **options)


def parameters(name: str, config: dict[str, Any]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(name, config).parameters())


@every_architecture
@every_size
def test_the_operational_model_has_at_most_a_tenth_of_the_reference_models_parameters(
    name: str, size: tuple[int, int]
) -> None:
    reference, operational = (parameters(name, preset_of(name, preset, size)) for preset in PRESETS)
    assert 0 < 10 * operational <= reference


@every_architecture
@every_size
def test_the_untrained_operational_model_forecasts_the_newest_frame(name: str, size: tuple[int, int]) -> None:
    config = preset_of(name, "operational", size, input_frames=2, lead_frames=3, forcing_channels=1)
    assert config["head"] == "increment"
    frames, forcing = 5 * torch.randn(1, 2, 1, *size), torch.randn(1, 4, 1, *size)
    with torch.no_grad():
        forecast = build(name, config)(frames, 3, forcing)[:, -3:]
    torch.testing.assert_close(forecast, frames[:, -1:].expand(-1, 3, -1, -1, -1))


@every_architecture
@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_is_plain_json_that_builds_the_same_network_again(name: str, preset: Preset) -> None:
    config = preset_of(name, preset, (20, 40), forcing_channels=2, frame_channels=3)
    again = json.loads(json.dumps(config))
    assert again == config and architecture(name).config(**again).model_dump(mode="json") == config
    assert parameters(name, again) == parameters(name, config)


@every_architecture
def test_the_reference_is_the_defaults_of_the_configuration(name: str) -> None:
    config = preset_of(name, "reference", (33, 17))
    fields = architecture(name).config.model_fields
    defaults = {key: to_jsonable_python(field.default) for key, field in fields.items() if not field.is_required()}
    assert {key: config[key] for key in defaults} == defaults
    assert (config["height"], config["width"]) == (33, 17)
    assert config.keys() == fields.keys()


@pytest.mark.parametrize("name", QUIRKS)
def test_quirks_of_the_published_models_are_kept_in_the_reference_alone(name: str) -> None:
    assert preset_of(name, "reference", (64, 64)).items() >= QUIRKS[name].items()
    assert preset_of(name, "operational", (64, 64)).items() >= WITHOUT_QUIRKS[name].items()


@every_architecture
@pytest.mark.parametrize("preset", PRESETS)
def test_an_option_overrides_the_preset_and_nothing_else(name: str, preset: Preset) -> None:
    config = preset_of(name, preset, (20, 40))
    options = {"head": "linear" if config["head"] != "linear" else "sigmoid", "patch": config["patch"] * 2}
    assert preset_of(name, preset, (20, 40), **options) == config | options


@every_architecture
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heed": 3}, "heed: "),
        ({"patch": 0}, "patch: "),
        ({"head": "softmax"}, "head: "),
        ({"patch": "two"}, "patch: "),
    ],
)
def test_an_option_that_the_architecture_does_not_take_is_refused(
    name: str, preset: Preset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=f"architecture '{name}' is not valid: .*{message}"):
        preset_of(name, preset, (20, 40), **options)
    with pytest.raises(SettingsError, match=message):
        build(name, preset_of(name, preset, (20, 40)) | options)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_unknown_architecture_is_refused_with_the_known_names(preset: Preset) -> None:
    with pytest.raises(SettingsError, match="no architecture 'nonsense'.*convlstm.*tctn"):
        preset_of("nonsense", preset, (20, 40))
