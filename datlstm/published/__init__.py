"""Weights of the published implementations, converted to the architectures of this package."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from datlstm.errors import WeightsError
from datlstm.models import build, configure
from datlstm.published import convolutional, gated, tctn
from datlstm.published.state import PublishedState

CONVERTERS: dict[str, Callable[[PublishedState], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    "convlstm": convolutional.convlstm,
    "datlstm": gated.datlstm,
    "predrnn": convolutional.predrnn,
    "swinlstm-b": gated.swinlstm_b,
    "swinlstm-d": gated.swinlstm_d,
    "tctn": tctn.tctn,
}


def convert(name: str, entries: Mapping[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return configuration and weights of architecture ``name`` from a published state dict.

    Sizes are read off the shapes; ``options`` of the configuration add or override what they can't tell, such as
    ``height`` and ``width``. What the published model carries and never uses is dropped. Raises `WeightsError` when
    entries are missing, left over or of a wrong shape, `SettingsError` for options that the architecture refuses.
    """
    if name not in CONVERTERS:
        raise WeightsError(f"no published weights of {name!r} are known; there are {', '.join(sorted(CONVERTERS))}")
    try:
        read, weights = CONVERTERS[name](PublishedState(entries))
    # An entry of another rank shows where it is taken apart or joined, in whatever torch and einops raise.
    except (ValueError, IndexError, RuntimeError) as error:
        raise WeightsError(f"entries have shapes that no {name} has ({error}): choose another architecture") from error
    sizes = {**read, **options}
    if not {"height", "width"} <= sizes.keys():
        raise WeightsError(f"the entries of a {name} don't tell the size of its frames: give height and width")
    config = configure(name, "reference", **sizes)
    with torch.device("meta"):
        expected = build(name, config).state_dict()
    wrong = [key for key in expected.keys() | weights.keys() if _shape(expected, key) != _shape(weights, key)]
    if wrong:
        key = min(wrong)
        raise WeightsError(
            f"{key} has shape {_shape(weights, key)}, a {name} of this configuration needs {_shape(expected, key)}: "
            "correct the options"
        )
    return config, {key: value.contiguous() for key, value in weights.items()}


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
