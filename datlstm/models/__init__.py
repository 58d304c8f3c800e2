"""The architectures, by name. Another one is one file beside this and one line in ``ARCHITECTURES``."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from torch import nn

from datlstm.errors import SettingsError
from datlstm.models.convlstm import ConvLSTM, ConvLSTMConfig
from datlstm.models.datlstm import DatLSTM, DatLSTMConfig
from datlstm.models.frames import ModelConfig
from datlstm.models.predrnn import PredRNN, PredRNNConfig
from datlstm.models.simvp import SimVP, SimVPConfig
from datlstm.models.swinlstm import SwinLSTMB, SwinLSTMBConfig, SwinLSTMD, SwinLSTMDConfig
from datlstm.models.tctn import TCTN, TCTNConfig

Preset = Literal["reference", "operational"]


class Architecture(NamedTuple):
    """A frozen configuration and the network that is built from it."""

    config: type[ModelConfig]
    network: Callable[[Any], nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "convlstm": Architecture(ConvLSTMConfig, ConvLSTM),
    "datlstm": Architecture(DatLSTMConfig, DatLSTM),
    "predrnn": Architecture(PredRNNConfig, PredRNN),
    "simvp": Architecture(SimVPConfig, SimVP),
    "swinlstm-b": Architecture(SwinLSTMBConfig, SwinLSTMB),
    "swinlstm-d": Architecture(SwinLSTMDConfig, SwinLSTMD),
    "tctn": Architecture(TCTNConfig, TCTN),
}


def architecture(name: str) -> Architecture:
    """Return the architecture ``name``. Raises `SettingsError` for one that does not exist."""
    if name not in ARCHITECTURES:
        raise SettingsError(f"no architecture {name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def is_direct(name: str) -> bool:
    """Whether an architecture reads a fixed number of frames at once, ``input_frames`` of its configuration."""
    return "input_frames" in architecture(name).config.model_fields


def configure(name: str, preset: Preset, *, height: int, width: int, **options: Any) -> dict[str, Any]:
    """Return the whole configuration of ``name`` for frames of a size: a preset, overridden by ``options``.

    ``reference`` is the published model, ``operational`` a small one that starts as persistence of the newest frame.
    Raises `SettingsError` as `build`.
    """
    chosen = architecture(name).config.operational(height, width) if preset == "operational" else {}
    config = {**chosen, **options, "height": height, "width": width}
    return _validated(name, config).model_dump(mode="json")


def build(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build the architecture ``name`` with freshly initialised weights.

    Raises `SettingsError` for a name that does not exist and for a configuration that the architecture refuses.
    """
    return architecture(name).network(_validated(name, config))


def _validated(name: str, config: Mapping[str, Any]) -> ModelConfig:
    try:
        return architecture(name).config.model_validate(dict(config))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"the configuration of architecture {name!r} is not valid: {problems}") from error
