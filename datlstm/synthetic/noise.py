"""Noise that is a function of (seed, stream, index), so that any day can be drawn without the days before it."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Stream(IntEnum):
    """What a number is drawn for; streams of one seed are independent."""

    WAVES = 0
    MESOSCALE = 1
    WEATHER = 2
    OUTBREAK = 3
    INTERANNUAL = 4


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Return a random generator of its own for a seed, a stream and a non-negative index.

    Philox is counter-based: the seed and the index are its key, the stream the top word of its counter, so no two
    sequences overlap (Salmon et al. 2011, doi:10.1145/2063384.2063405).
    """
    return np.random.Generator(np.random.Philox(counter=[0, 0, 0, int(stream)], key=[seed % 2**64, index]))


def standard_normals(seed: int, stream: Stream, indices: range, size: int) -> FloatArray:
    """Return ``(len(indices), size)`` standard normal numbers; a row depends on its own index only."""
    return np.stack([generator(seed, stream, index).standard_normal(size) for index in indices])


def smooth_series(seed: int, stream: Stream, days: range, series: int, epoch_days: int, width: float) -> FloatArray:
    """Return ``(len(days), series)`` smooth noise of zero mean and unit variance at every day.

    Normal numbers, one row per epoch of ``epoch_days``, under a Gaussian of standard deviation ``width`` epochs cut
    off at three of them. ``days`` are ordinals (`datetime.date.toordinal`).
    """
    reach = int(np.ceil(3 * width))
    epochs = range(days.start // epoch_days - reach, days.stop // epoch_days + reach + 2)
    distance = np.asarray(days)[:, None] / epoch_days - np.asarray(epochs)[None, :]
    weights = np.exp(-0.5 * (distance / width) ** 2) * (np.abs(distance) <= 3 * width)
    weights /= np.sqrt(np.sum(weights**2, axis=1, keepdims=True))
    draws = standard_normals(seed, stream, epochs, series)
    series_by_day: FloatArray = np.sum(weights[:, :, None] * draws[None, :, :], axis=1)
    return series_by_day
