"""Temperature anomalies: weather heats and cools the sea, the gyre carries it along, the atmosphere damps it.

For an anomaly T of water of depth h, dT/dt + u·∇T = -T/τ(h) + F: Frankignoul and Hasselmann (1977,
doi:10.3402/tellusa.v29i4.11362) with a mean flow. F has eddies of tens of km, air masses of hundreds, and outbreaks of
cold air in autumn and winter; the last two act more on shallow water.

The equation forgets, so a block of days is begun from rest `SPIN_UP_DAYS` before it: a day depends on the noise of no
more than `SPIN_UP_DAYS + BLOCK_DAYS` days, and what two neighbouring blocks disagree on is below OSTIA's 0.01 K.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from datlstm.synthetic.basin import Basin
from datlstm.synthetic.climate import DAYS_PER_YEAR, season_angle
from datlstm.synthetic.noise import Stream, generator, standard_normals

FloatArray = NDArray[np.float64]

BLOCK_DAYS = 30
SPIN_UP_DAYS = 120

WAVES = 64
EDDY_SCALE_KM, AIR_MASS_SCALE_KM = 45.0, 260.0
EDDY_KELVIN_PER_DAY, AIR_MASS_KELVIN_PER_DAY = 0.10, 0.09
EDDY_MEMORY, AIR_MASS_MEMORY = 0.55, 0.65
REFERENCE_DEPTH_METRES = 16.0

OUTBREAKS_PER_DAY = 0.09
OUTBREAK_KELVIN = 1.5
OUTBREAK_COURSE = np.array([0.3, 0.45, 0.25])
HARSHEST_DAY = 345


def anomalies(basin: Basin, days: range, seed: int) -> FloatArray:
    """Return anomalies ``(day, latitude, longitude)`` in kelvin over the padded box, for one block of ordinals."""
    spun = range(days.start - SPIN_UP_DAYS, days.stop)
    forcing = _forcing(basin, spun, seed)
    kept = np.exp(-1 / relaxation_days(basin)).ravel()
    state = np.zeros(basin.water.size)
    for index in range(len(spun)):
        state = kept * (basin.transport @ state) + forcing[index]
        forcing[index] = state
    return forcing[SPIN_UP_DAYS:].reshape(len(days), *basin.water.shape)


def relaxation_days(basin: Basin) -> FloatArray:
    """Return how long an anomaly lasts, ``(latitude, longitude)`` e-folding days: about a week over the shallows."""
    return 4 + 0.55 * basin.depth_metres


def _forcing(basin: Basin, days: range, seed: int) -> FloatArray:
    """Return heating ``(day, cell)`` in kelvin a day."""
    eddies, air_masses = _waves(basin, seed)
    depth_factor = (REFERENCE_DEPTH_METRES / basin.depth_metres).ravel()
    summer = 1 - 0.25 * np.cos(season_angle(days))[:, None]
    eddy = _amplitudes(seed, Stream.MESOSCALE, days, EDDY_KELVIN_PER_DAY, EDDY_MEMORY)
    air = _amplitudes(seed, Stream.WEATHER, days, AIR_MASS_KELVIN_PER_DAY, AIR_MASS_MEMORY)
    outbreaks = _outbreaks(seed, days)[:, None] * _outbreak_pattern(basin).ravel()
    heating: FloatArray = (eddy * summer) @ eddies + air @ (air_masses * depth_factor) - outbreaks
    return heating


def _amplitudes(seed: int, stream: Stream, days: range, kelvin_per_day: float, memory: float) -> FloatArray:
    """Return red noise ``(day, 2 x waves)``: sine and cosine of each wave remember ``memory`` of the day before."""
    draws = standard_normals(seed, stream, days, 2 * WAVES)
    scale = kelvin_per_day / np.sqrt(WAVES) * np.sqrt(1 - memory**2)
    reddened: FloatArray = lfilter([scale], [1, -memory], draws, axis=0)
    return reddened


@lru_cache(maxsize=2)
def _waves(basin: Basin, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return two sets of ``(2 x waves, cell)`` plane waves, whose random sums are fields of a given scale.

    Wave numbers are normal, so that the covariance of a sum is the Gaussian exp(-r²/2L²).
    """
    source = generator(seed, Stream.WAVES)
    sets = []
    for scale_km in (EDDY_SCALE_KM, AIR_MASS_SCALE_KM):
        east, north = source.standard_normal((2, WAVES)) / scale_km
        phase = east[:, None] * basin.x_km.ravel() + north[:, None] * basin.y_km.ravel()
        sets.append(np.concatenate([np.cos(phase), np.sin(phase)]))
    return sets[0], sets[1]


def _outbreaks(seed: int, days: range) -> FloatArray:
    """Return the strength ``(day,)`` of cold air, kelvin a day over the reference depth, in autumn and winter."""
    first = days.start - OUTBREAK_COURSE.size + 1
    starts = range(first, days.stop)
    harshness = np.clip(np.cos(season_angle(starts) - 2 * np.pi * HARSHEST_DAY / DAYS_PER_YEAR), 0, None)
    draws = np.stack([generator(seed, Stream.OUTBREAK, day).random(2) for day in starts])
    begins = draws[:, 0] < OUTBREAKS_PER_DAY * (harshness > 0)
    strength = OUTBREAK_KELVIN * begins * harshness**0.5 * (0.5 + 0.5 * draws[:, 1])
    return np.convolve(strength, OUTBREAK_COURSE, mode="valid")


def _outbreak_pattern(basin: Basin) -> FloatArray:
    """Cold air comes from the north-west and has warmed by the time it reaches the south-east."""
    downwind = (basin.x_km - basin.y_km) / np.sqrt(2)
    pattern: FloatArray = (REFERENCE_DEPTH_METRES / basin.depth_metres) * (1 - 0.25 * np.tanh(downwind / 200))
    return pattern
