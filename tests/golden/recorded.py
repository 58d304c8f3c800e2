"""Arrays recorded from the published implementations, and their weight recipe."""

import json
from collections.abc import Mapping
from functools import cache
from math import prod, sqrt
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_GRADIENT = -1.0

Arrays = Mapping[str, NDArray[Any]]


@cache
def load(case: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of a case."""
    with np.load(Path(__file__).parent / f"{case}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def meta(case: str) -> dict[str, Any]:
    """Return the recorded description of a case."""
    return dict(json.loads(str(load(case)["meta"])))


def entries(case: str, prefix: str = "sd/") -> dict[str, Tensor]:
    """Return the recorded state dict, or another group of arrays, by published name."""
    return {key.removeprefix(prefix): torch.from_numpy(a) for key, a in load(case).items() if key.startswith(prefix)}


def gradient_norms(case: str) -> dict[str, float]:
    """Return the recorded norm of every parameter's gradient that has one."""
    arrays = load(case)
    recorded = zip(arrays["grad_names"], arrays["grad_norms"], strict=True)
    return {str(name): float(norm) for name, norm in recorded if norm != NO_GRADIENT}


def from_recipe(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return the values that the recorded weights of a name and shape were drawn with: a hash of name and place."""
    modulus, count = 2**32, prod(shape)
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * 0x9E3779B9 + crc32(name.encode()) + seed * 0x85EBCA6B
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            z = z % modulus
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    uniform = 2 * ((z % modulus).astype(np.float64) + 0.5) / modulus - 1
    return torch.from_numpy(_scaled(name, shape, uniform).astype(np.float32).reshape(shape))


def _scaled(name: str, shape: tuple[int, ...], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    if name.endswith(("rpe_table", "relative_position_bias_table")):
        return 0.5 * uniform
    if len(shape) == 1:
        return 1 + 0.2 * uniform if name.endswith(".weight") else 0.1 * uniform
    if name.endswith(("Conv.weight", "ConvT.weight")):
        return 0.5 * sqrt(3 / (2.25 * shape[0])) * uniform
    return sqrt(3 / prod(shape[1:])) * uniform
