"""Moving MNIST: two handwritten digits bounce inside a frame (Srivastava et al. 2015, arXiv:1502.04681).

Ten frames are given and the next ten forecast, as in the SwinLSTM paper (Tang et al. 2023).
"""

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits as load_small_digits
from torch import Tensor

from datlstm.comparison.sequences import (
    ArraySequences,
    FrameTask,
    Sequences,
    check_unit_range,
    npz_arrays,
    unit_frames,
)
from datlstm.errors import SettingsError

FRAME_SIDE = 64
DIGIT_SIDE = 28
FRAMES = 20
INPUT_FRAMES = 10

MOVING_DIGITS = 2
STEP = 0.1
"""Way of a digit from frame to frame, as a fraction of the room it has along one side."""

ENDLESS = 2**31
"""Length of a training split whose sequences are drawn at random and practically never twice, as is usual."""

TEST_SEQUENCES = 1000

IDX_IMAGES = 2051
"""Magic number of an IDX file of images (LeCun's MNIST page)."""

DIGITS_HINT = (
    "give an IDX file of images, plain or .gz, or an NPZ with an array (N, 28, 28); the usual one is "
    "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz"
)
SEQUENCES_HINT = "give mnist_test_seq.npy of the Moving MNIST page: uint8 (20 frames, 10000 sequences, 64, 64)"

STAND_IN = "stand-in digits, not comparable with published numbers"
GENERATED = "test sequences made here; published numbers are of mnist_test_seq.npy"

_SPLIT_KEYS = {"train": 0, "test": 1}


class MovingMnist(Sequences):
    """Sequences ``(frames, 1, side, side)`` of bouncing digits; each is a pure function of seed, split and number.

    ``digits`` are ``(N, height, width)``; of them the last tenth moves in the test split only. A digit starts
    anywhere, keeps its speed and turns back at the edges; where two overlap the brighter cell shows.
    """

    def __init__(
        self,
        digits: np.ndarray,
        split: Literal["train", "test"],
        length: int,
        *,
        seed: int = 0,
        side: int = FRAME_SIDE,
        frames: int = FRAMES,
    ) -> None:
        held_out = max(1, len(digits) // 10)
        self._digits = digits[-held_out:] if split == "test" else digits[:-held_out]
        self._split, self._length, self._seed, self._side, self._frames = split, length, seed, side, frames

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self._length:
            raise IndexError(f"sequence {index} of {self._length}")
        generator = np.random.default_rng(
            np.random.SeedSequence(self._seed, spawn_key=(_SPLIT_KEYS[self._split], index))
        )
        digits = self._digits[generator.integers(len(self._digits), size=MOVING_DIGITS)]
        height, width = digits.shape[1:]
        room = np.array([self._side - height, self._side - width])
        sequence = np.zeros((self._frames, self._side, self._side), digits.dtype)
        for frame, corners in zip(sequence, (_trajectories(generator, self._frames) * room).astype(int), strict=True):
            for digit, (top, left) in zip(digits, corners, strict=True):
                place = frame[top : top + height, left : left + width]
                np.maximum(place, digit, out=place)
        return unit_frames(sequence[:, None])


def moving_mnist_task(
    digits_path: Path | None = None, sequences_path: Path | None = None, test_sequences: int | None = None
) -> FrameTask:
    """Return the task: training sequences made from digits, test sequences published or made.

    Without a file of digits scikit-learn's small ones stand in for MNIST's, and the task's note says so.
    ``test_sequences`` takes fewer of the published ones, or makes so many, 1000 if not given. Raises `SettingsError`
    for a file that is missing or malformed.
    """
    digits = stand_in_digits() if digits_path is None else read_digits(digits_path)
    scored: Sequences
    if sequences_path is None:
        scored = MovingMnist(digits, "test", TEST_SEQUENCES if test_sequences is None else test_sequences)
    else:
        scored = ArraySequences(read_test_sequences(sequences_path)[:test_sequences])
    notes = [STAND_IN] if digits_path is None else [GENERATED] if sequences_path is None else []
    return FrameTask("Moving MNIST", MovingMnist(digits, "train", ENDLESS), scored, INPUT_FRAMES, "; ".join(notes))


def stand_in_digits() -> np.ndarray:
    """Return the 1797 digits of scikit-learn, 8 x 8, laid out as MNIST's: 20 x 20 in the middle of 28 x 28, float32."""
    small = torch.from_numpy(load_small_digits().images).float().unsqueeze(1) / 16
    large = F.interpolate(small, size=(20, 20), mode="bilinear").clamp(0, 1)
    return F.pad(large, (4, 4, 4, 4)).squeeze(1).numpy()


def read_digits(path: Path) -> np.ndarray:
    """Return the digits ``(N, 28, 28)``, uint8 or float32 in 0 … 1, of an IDX file or the first such array of an NPZ.

    Raises `SettingsError`, which says where digits are found, for a file that is missing or malformed.
    """
    digits = _npz_digits(path) if path.suffix == ".npz" else _idx_digits(path)
    if len(digits) < 2:
        raise SettingsError(f"{path} holds {len(digits)} digits, and the splits share none; {DIGITS_HINT}")
    check_unit_range(digits, f"the array of digits of {path}")
    return digits


def read_test_sequences(path: Path) -> np.ndarray:
    """Return the published test sequences, mapped from their file, as ``(sequences, 20, 1, 64, 64)`` uint8.

    Raises `SettingsError` for a file that is missing or holds another array.
    """
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise SettingsError(f"{path} can't be read as test sequences ({error}); {SEQUENCES_HINT}") from error
    if not isinstance(array, np.ndarray):
        raise SettingsError(f"{path} is an archive of several arrays; {SEQUENCES_HINT}")
    wanted = (FRAMES, *array.shape[1:2], FRAME_SIDE, FRAME_SIDE)
    if array.shape != wanted or array.size == 0 or array.dtype != np.uint8:
        raise SettingsError(f"{path} holds {array.dtype} of shape {array.shape}; {SEQUENCES_HINT}")
    return np.swapaxes(array, 0, 1)[:, :, None]


def _trajectories(generator: np.random.Generator, frames: int) -> np.ndarray:
    """Return the places ``(frames, digits, 2)`` of the digits' upper left corners in 0 … 1, first down, then right."""
    place = generator.random((MOVING_DIGITS, 2))
    angle = generator.uniform(0, 2 * np.pi, MOVING_DIGITS)
    velocity = STEP * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    places = np.empty((frames, MOVING_DIGITS, 2))
    for index in range(frames):
        place = place + velocity
        velocity = np.where((place <= 0) | (place >= 1), -velocity, velocity)
        place = places[index] = place.clip(0, 1)
    return places


def _npz_digits(path: Path) -> np.ndarray:
    with npz_arrays(path, DIGITS_HINT) as arrays:
        for array in arrays.values():
            if array.shape[1:] == (DIGIT_SIDE, DIGIT_SIDE):
                return array
    raise SettingsError(f"no array of {path} is (N, {DIGIT_SIDE}, {DIGIT_SIDE}); {DIGITS_HINT}")


def _idx_digits(path: Path) -> np.ndarray:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SettingsError(f"digits can't be read from {path} ({error}); {DIGITS_HINT}") from error
    header = np.frombuffer(content[:16].ljust(16, b"\0"), ">i4").tolist()
    magic, count, *shape = header
    if magic != IDX_IMAGES or shape != [DIGIT_SIDE, DIGIT_SIDE]:
        raise SettingsError(f"{path} does not start as an IDX file of 28 x 28 images but with {header}; {DIGITS_HINT}")
    expected = 16 + count * DIGIT_SIDE**2
    if len(content) != expected:
        raise SettingsError(f"{path} holds {len(content)} bytes; its {count} images take {expected}; {DIGITS_HINT}")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, DIGIT_SIDE, DIGIT_SIDE)
