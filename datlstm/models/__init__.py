"""The architectures, by name. Another one is one file beside this and one line in ``ARCHITECTURES``."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import nn

from datlstm.errors import SettingsError
from datlstm.models.datlstm import DatLSTM, DatLSTMConfig
from datlstm.settings import Frozen


class Architecture(NamedTuple):
    """A frozen configuration and the module that is built from it."""

    config: type[Frozen]
    model: Callable[[Any], nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "datlstm": Architecture(DatLSTMConfig, DatLSTM),
}


def build(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build the architecture ``name`` with freshly initialised weights.

    Raises `SettingsError` for a name that does not exist and for a configuration that the architecture refuses.
    """
    if name not in ARCHITECTURES:
        raise SettingsError(f"no architecture {name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    architecture = ARCHITECTURES[name]
    try:
        return architecture.model(architecture.config.model_validate(dict(config)))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"the configuration of architecture {name!r} is not valid: {problems}") from error
