"""Frame sequences to train and score on, and the array file through which any benchmark of the field comes in."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor
from torch.utils.data import Dataset

from datlstm.errors import SettingsError

SMALLEST_SIDE = 7
"""Cells: the window of the structural similarity."""

FORMAT = (
    "the file holds arrays 'train', 'test' and, if wanted, 'validation', each (sequences, frames, channels, height, "
    "width), float32 in 0 … 1 or uint8 in 0 … 255"
)


class Sequences(Dataset[Tensor], ABC):
    """Frame sequences by number; an item is float32 ``(frames, channels, height, width)`` in 0 … 1."""

    @abstractmethod
    def __len__(self) -> int: ...


class ArraySequences(Sequences):
    """Sequences of an array ``(N, T, C, H, W)``, float32 in 0 … 1 or uint8 in 0 … 255, in memory or mapped."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Tensor:
        return unit_frames(self._frames[index])


@dataclass(frozen=True)
class FrameTask:
    """What architectures are compared on: forecast from ``input_frames`` frames the rest of a sequence.

    ``note`` says what keeps the scores from comparison with published ones; it is shown with every table.
    """

    title: str
    train: Sequences
    scored: Sequences
    input_frames: int
    note: str = ""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a frame."""
        channels, height, width = self.scored[0].shape[1:]
        return channels, height, width


def load_task(path: Path, input_frames: int, split: Literal["validation", "test"] = "test") -> FrameTask:
    """Return the task of an NPZ file with arrays ``train``, ``test`` and, where ``split`` asks for it, ``validation``.

    Each array is ``(sequences, frames, channels, height, width)``, float32 in 0 … 1 or uint8 in 0 … 255; splits may
    differ in their number of frames, so that longer forecasts can be scored than were trained. Raises `SettingsError`
    for a file, an array or a number of input frames that does not fit this.
    """
    arrays = _read(path, ("train", split))
    for name, frames in arrays.items():
        _check_frames(frames, f"array {name!r} of {path}", input_frames)
    train, scored = arrays["train"], arrays[split]
    if train.shape[2:] != scored.shape[2:]:
        raise SettingsError(
            f"the frames of {path} are {train.shape[2:]} in 'train' and {scored.shape[2:]} in {split!r}; "
            "give both the same channels, height and width"
        )
    return FrameTask(f"{path.stem} ({split})", ArraySequences(train), ArraySequences(scored), input_frames)


def unit_frames(frames: np.ndarray) -> Tensor:
    """Return frames as a float32 tensor of their own memory, bytes scaled to 0 … 1."""
    values = torch.from_numpy(frames.astype(np.float32))
    return values / 255 if frames.dtype == np.uint8 else values


def check_unit_range(values: np.ndarray, what: str) -> None:
    """Raise `SettingsError` unless values are bytes or float32 numbers in 0 … 1."""
    if values.dtype == np.uint8:
        return
    if values.dtype != np.float32:
        raise SettingsError(f"{what} is {values.dtype}; convert it to float32 in 0 … 1 or to uint8 in 0 … 255")
    low, high = values.min(), values.max()
    # Written so that NaN, which both of them then are, is refused too.
    if not (low >= 0 and high <= 1):
        raise SettingsError(f"{what} holds values {low} … {high}; scale it to 0 … 1 and fill what is missing")


@contextmanager
def npz_arrays(path: Path, hint: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Open the arrays of an NPZ file, each read when it is asked for.

    Raises `SettingsError`, which ends with ``hint``, when the file or an array can't be read.
    """
    try:
        with path.open("rb") as file, NpzFile(file) as arrays:
            yield arrays
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise SettingsError(f"{path} can't be read as an NPZ file ({error}); {hint}") from error


def _read(path: Path, names: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    with npz_arrays(path, FORMAT) as arrays:
        absent = set(names) - set(arrays)
        if absent:
            raise SettingsError(f"{path} has no array {' and no array '.join(sorted(absent))}; {FORMAT}")
        return {name: arrays[name] for name in names}


def _check_frames(frames: np.ndarray, what: str, input_frames: int) -> None:
    if frames.ndim != 5 or frames.size == 0:
        raise SettingsError(f"{what} has shape {frames.shape}; {FORMAT}")
    if frames.shape[1] <= input_frames:
        raise SettingsError(
            f"{what} has {frames.shape[1]} frames a sequence, {input_frames} of them input: leave at least one to "
            "forecast with --input-frames"
        )
    if min(frames.shape[3:]) < SMALLEST_SIDE:
        raise SettingsError(f"{what} has frames of {frames.shape[3:]} cells; {SMALLEST_SIDE} a side are the fewest")
    check_unit_range(frames, what)
