"""A one-sided tabular CUSUM (Page 1954; Montgomery, Statistical Quality Control) for autocorrelated daily values.

What is charted is the excess of a day's value over its seasonal expectation, unstandardised and not pre-whitened: a
chart of whitened residuals sees but a small part of a lasting shift of a strongly autocorrelated series. The
correlation goes into the threshold instead, which is read off moving-block bootstraps (Künsch 1989, circular as Politis
and Romano 1992) of the reference. Each replicate fits its own expectation first, so a short reference gives a high
threshold. What that means in false alarms and delay: docs/validation.md.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

REPLICATES, SEED = 1000, 0
YEAR_DAYS = 365
# Some times as long as daily scores of ten-day forecasts remember.
BLOCK_DAYS = 60
# A loss as large as the chart is tuned to must last so long at least; as long as overlapping forecasts are one event.
LEAST_DAYS = 10
# One freak day counts for no more than so many robust standard deviations, or tuned losses where these are larger.
WINSOR = 3.0
MAD_TO_DEVIATION = 1.4826
# Without a reference, on the safe side: what persistence against damped persistence has in OSTIA. A network that is
# close to damped persistence has 0.04, and the same correlation.
ASSUMED_DEVIATION, ASSUMED_CORRELATION = 0.3, 0.9


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a chart is tuned to: the lasting rise to detect, in the values' unit, and the years between false alarms."""

    rise: float
    false_alarm_years: float

    @property
    def allowance(self) -> float:
        """Page's reference value k: half the rise."""
        return self.rise / 2


@dataclass(frozen=True, eq=False)
class Chart:
    """The chart of one series: per day the ``excess`` over the expectation and the ``level`` of the cumulative sum."""

    excess: np.ndarray
    level: np.ndarray
    threshold: float


def chart(
    days: np.ndarray, values: np.ndarray, reference_days: np.ndarray, reference: np.ndarray, tuning: Tuning
) -> Chart:
    """Return the chart of ``values`` on ``days`` against the ``reference`` on ``reference_days``.

    Days are datetime64[D], ascending. With a reference the expectation is its annual harmonic regression; without one
    (length 0) it is zero, and the threshold that of a first-order autoregression with `ASSUMED_DEVIATION` and
    `ASSUMED_CORRELATION`.
    """
    if not reference.size:
        excess, paths = values, _assumed_paths()
        bound = _bound(ASSUMED_DEVIATION, tuning)
    else:
        terms = harmonic_terms(reference_days)
        fit = np.linalg.pinv(terms)
        residuals = reference - terms @ (fit @ reference)
        excess = values - harmonic_terms(days) @ (fit @ reference)
        bound = _bound(robust_deviation(residuals), tuning)
        paths = _bootstrapped_paths(reference_days, residuals)
    level = cumulative_sum(np.clip(excess, -bound, bound), tuning.allowance)
    return Chart(excess, level, _threshold(np.clip(paths, -bound, bound), tuning))


def cumulative_sum(excess: np.ndarray, allowance: float) -> np.ndarray:
    """Return S(t) = max(0, S(t-1) + excess(t) - allowance) along the first axis, from S = 0."""
    level = np.zeros_like(excess)
    above = np.zeros(excess.shape[1:])
    for i, value in enumerate(excess):
        level[i] = above = np.maximum(0.0, above + value - allowance)
    return level


def harmonic_terms(days: np.ndarray) -> np.ndarray:
    """Return the terms ``(day, 3)`` of the seasonal expectation: one, cosine and sine of the annual angle."""
    angle = 2 * np.pi * days.astype("datetime64[D]").astype("float64") / 365.2425
    return np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=1)


def robust_deviation(values: np.ndarray) -> float:
    """Return the standard deviation as the median absolute deviation tells it."""
    return float(MAD_TO_DEVIATION * np.median(np.abs(values - np.median(values))))


def _bound(deviation: float, tuning: Tuning) -> float:
    return WINSOR * max(deviation, tuning.rise)


def _threshold(paths: np.ndarray, tuning: Tuning) -> float:
    """Return the height that years in control ``(day, replicate)`` pass as seldom as the tuning wants."""
    highest = cumulative_sum(paths, tuning.allowance).max(axis=0)
    quiet = np.exp(-len(paths) / YEAR_DAYS / tuning.false_alarm_years)
    return float(max(np.quantile(highest, quiet), LEAST_DAYS * tuning.allowance))


def _bootstrapped_paths(days: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return excesses of the year after the reference ``(day, replicate)``, each over its own fitted expectation."""
    size, blocks = len(residuals), -(-(len(residuals) + YEAR_DAYS) // BLOCK_DAYS)
    starts = np.random.default_rng(SEED).integers(0, size, (blocks, 1, REPLICATES))
    places = (starts + np.arange(BLOCK_DAYS)[None, :, None]) % size
    # A fitted season and drawn blocks both lose slow variability, the more the shorter the reference is. So much more
    # gives series of known correlation the false alarms that were asked for.
    drawn = np.sqrt(1 + YEAR_DAYS / size) * residuals[places].reshape(-1, REPLICATES)
    known, later = drawn[:size], drawn[size : size + YEAR_DAYS]
    year = days[-1] + np.arange(1, YEAR_DAYS + 1)
    return later - harmonic_terms(year) @ (np.linalg.pinv(harmonic_terms(days)) @ known)


def _assumed_paths() -> np.ndarray:
    noise = np.random.default_rng(SEED).standard_normal((2 * YEAR_DAYS, REPLICATES))
    own = np.sqrt(1 - ASSUMED_CORRELATION**2) * ASSUMED_DEVIATION
    return np.asarray(lfilter([own], [1.0, -ASSUMED_CORRELATION], noise, axis=0))[YEAR_DAYS:]
