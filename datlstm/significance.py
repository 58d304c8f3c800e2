"""Whether one forecaster is better than another, or only luckier: paired tests on the errors of the same days.

Errors of neighbouring days are alike, so days are drawn in blocks: the circular block bootstrap of Politis and Romano
(1992). Beside it stands the test of Diebold and Mariano (1995) in the form of Hering and Genton (2011), that of the
package ``scores``.
"""

import math
from typing import NamedTuple

import numpy as np
import xarray as xr
from scores.stats.statistical_tests import diebold_mariano

RESAMPLES = 1000
BLOCK_DAYS = 20
CONFIDENCE = 0.95


class Gain(NamedTuple):
    """How much less the mean square error is than a rival's, as a share of the rival's, averaged over leads.

    ``low`` and ``high`` bound it with 95 % confidence; ``confidence`` is that of Diebold and Mariano's test that the
    mean over leads of the difference, relative to the rival's mean, is above zero.
    """

    mean: float
    low: float
    high: float
    confidence: float


def gain(own: np.ndarray, rival: np.ndarray) -> Gain:
    """Compare the sums of squared errors ``(days, leads)`` of two forecasters over the same cells, days ascending.

    A day without cells is 0 in both. All are NaN where a sum is not finite or the rival has no error.
    """
    if not (np.isfinite(own).all() and np.isfinite(rival).all() and (rival.sum(axis=0) > 0).all()):
        return Gain(*[math.nan] * 4)
    weights = block_resamples(len(own))
    resampled = (1 - (weights @ own) / (weights @ rival)).mean(axis=1)
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    mean = float((1 - own.sum(axis=0) / rival.sum(axis=0)).mean())
    return Gain(mean, float(low), float(high), _diebold_mariano(own, rival))


def block_resamples(days: int) -> np.ndarray:
    """Return how often each day is drawn, ``(RESAMPLES, days)``, in blocks of `BLOCK_DAYS`; the same each time."""
    generator = np.random.default_rng(0)
    starts = generator.integers(0, days, (RESAMPLES, math.ceil(days / BLOCK_DAYS)))
    drawn = ((starts[..., None] + np.arange(BLOCK_DAYS)) % days).reshape(RESAMPLES, -1)
    return np.stack([np.bincount(row, minlength=days) for row in drawn]).astype(float)


def _diebold_mariano(own: np.ndarray, rival: np.ndarray) -> float:
    differences = ((rival - own) / rival.mean(axis=0)).mean(axis=1)
    leads = own.shape[1]
    if len(differences) <= leads or not differences.any():
        return math.nan
    series = xr.DataArray(differences[None], dims=("comparison", "day"), coords={"h": ("comparison", [leads])})
    return float(diebold_mariano(series, "comparison", "h")["confidence_gt_0"].item())
