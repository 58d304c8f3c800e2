"""The architectures, by name. Another one is one file beside this and one line in ``ARCHITECTURES``."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from torch import nn

from datlstm.errors import SettingsError
from datlstm.models.convlstm import ConvLSTM, ConvLSTMCell, ConvLSTMConfig
from datlstm.models.datlstm import DatLSTM, DatLSTMConfig
from datlstm.models.frames import ModelConfig
from datlstm.models.layers import Block
from datlstm.models.predrnn import PredRNN, PredRNNCell, PredRNNConfig
from datlstm.models.simvp import SimVP, SimVPConfig, TranslatorBlock
from datlstm.models.swinlstm import SwinLSTMB, SwinLSTMBConfig, SwinLSTMD, SwinLSTMDConfig
from datlstm.models.tctn import TCTN, Layer, TCTNConfig

MAXIMUM_COMPILATIONS = 64
"""Shapes of blocks in one network; torch gives up compiling after eight unless it is told."""

Preset = Literal["reference", "operational"]


class Architecture(NamedTuple):
    """A frozen configuration, the network that is built from it, and the block that repeats in it."""

    config: type[ModelConfig]
    network: type[nn.Module]
    block: type[nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "convlstm": Architecture(ConvLSTMConfig, ConvLSTM, ConvLSTMCell),
    "datlstm": Architecture(DatLSTMConfig, DatLSTM, Block),
    "predrnn": Architecture(PredRNNConfig, PredRNN, PredRNNCell),
    "simvp": Architecture(SimVPConfig, SimVP, TranslatorBlock),
    "swinlstm-b": Architecture(SwinLSTMBConfig, SwinLSTMB, Block),
    "swinlstm-d": Architecture(SwinLSTMDConfig, SwinLSTMD, Block),
    "tctn": Architecture(TCTNConfig, TCTN, Layer),
}


def architecture(name: str) -> Architecture:
    """Return the architecture ``name``. Raises `SettingsError` for one that does not exist."""
    if name not in ARCHITECTURES:
        raise SettingsError(f"no architecture {name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def configure(
    name: str, preset: Preset, *, height: int, width: int, input_frames: int = 10, lead_frames: int = 10, **options: Any
) -> dict[str, Any]:
    """Return the whole configuration of ``name`` for frames of a size: a preset, overridden by ``options``.

    ``reference`` is the published model, ``operational`` a small one that starts as persistence of the newest frame
    and forecasts ``lead_frames`` at once. Only some architectures depend on ``input_frames``. Raises `SettingsError`
    as `build`.
    """
    config_class = architecture(name).config
    sequence = {"input_frames": input_frames}
    chosen: dict[str, Any] = {}
    if preset == "operational":
        chosen = config_class.operational(height, width)
        sequence["direct_leads"] = lead_frames
    chosen |= {key: value for key, value in sequence.items() if key in config_class.model_fields}
    return _validated(name, {**chosen, **options, "height": height, "width": width}).model_dump(mode="json")


def build(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build the architecture ``name`` with freshly initialised weights.

    Raises `SettingsError` for a name that does not exist and for a configuration that the architecture refuses.
    """
    return architecture(name).network(_validated(name, config))


def compile_blocks(network: nn.Module) -> None:
    """Have the blocks of an architecture's network compiled when they first run; names of weights stay.

    Blocks, not the network: all of one shape share one compilation, where an unrolled network takes ten times as long.
    """
    from torch._dynamo import config  # seconds to import, which only a training that compiles needs

    block = next(found.block for found in ARCHITECTURES.values() if isinstance(network, found.network))
    config.recompile_limit = MAXIMUM_COMPILATIONS
    for module in network.modules():
        if isinstance(module, block):
            module.compile(dynamic=False)


def _validated(name: str, config: Mapping[str, Any]) -> ModelConfig:
    try:
        return architecture(name).config.model_validate(dict(config))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"the configuration of architecture {name!r} is not valid: {problems}") from error
