"""What the synthetic sea does on its own account: season, tidal front, warming and slow years. Degrees Celsius.

Numbers follow the Bohai as described in the literature in round figures: about -1.6 °C in Liaodong Bay in winter, 26 to
28 °C along the shallow coasts in August, 22 to 24 °C over the mixed water of the Bohai Strait; they are invented to
look right, not fitted.
"""

from datetime import date

import numpy as np
from numpy.typing import NDArray

from datlstm.synthetic.basin import Basin
from datlstm.synthetic.noise import Stream, smooth_series

FloatArray = NDArray[np.float64]

DAYS_PER_YEAR = 365.2425
SPRING_NEAP_DAYS = 14.7653
WARMING_KELVIN_PER_YEAR = 0.025
WARMING_REFERENCE = date(2003, 1, 1).toordinal()
INTERANNUAL_KELVIN = 0.4
# Outside the Bohai's latitudes the sea stays the Bohai's, rather than boil or freeze along a straight line.
LATITUDES = (36.5, 41.5)


def season_angle(days: range) -> FloatArray:
    """Return the phase ``(day,)`` of the year in radians, 0 on 1 January 2000; ``days`` are ordinals."""
    return 2 * np.pi * (np.asarray(days, np.float64) - date(2000, 1, 1).toordinal()) / DAYS_PER_YEAR


def background(basin: Basin, days: range, seed: int) -> FloatArray:
    """Return the sea without weather, ``(day, latitude, longitude)`` °C over the padded box.

    Not yet limited by freezing. ``days`` are ordinals.
    """
    return _seasonal_cycle(basin, days) + _tidal_front(basin, days) + _slow_changes(basin, days, seed)


def _seasonal_cycle(basin: Basin, days: range) -> FloatArray:
    """Annual and semi-annual cycle: shallow water swings wider and earlier, the north is colder most in winter."""
    north = np.clip(basin.latitude, *LATITUDES) - 39
    peak_day = 207 + 0.9 * basin.depth_metres
    amplitude = 13.9 - 0.09 * basin.depth_metres + 0.55 * north - 1.2 * basin.tidal_mixing
    mean = 12.9 - 0.65 * north - 0.5 * basin.tidal_mixing
    angle = season_angle(days)[:, None, None] - 2 * np.pi * (peak_day / DAYS_PER_YEAR)
    return mean + amplitude * np.cos(angle) + 0.6 * np.cos(2 * angle + 0.8)


def _tidal_front(basin: Basin, days: range) -> FloatArray:
    """Summer cold patch of water that the tide mixes, renewed at every spring tide."""
    summer = np.clip(np.cos(season_angle(days) - 2 * np.pi * 205 / DAYS_PER_YEAR), 0, None)
    tide = 1 + 0.25 * np.cos(2 * np.pi * np.asarray(days, np.float64) / SPRING_NEAP_DAYS)
    return -1.2 * (summer * tide)[:, None, None] * basin.tidal_mixing


def _slow_changes(basin: Basin, days: range, seed: int) -> FloatArray:
    """Warming, and two patterns (the whole sea; north against south) that wander over months to years."""
    wandering = INTERANNUAL_KELVIN * smooth_series(seed, Stream.INTERANNUAL, days, 2, epoch_days=30, width=5.0)
    warming = WARMING_KELVIN_PER_YEAR * (np.asarray(days, np.float64) - WARMING_REFERENCE) / DAYS_PER_YEAR
    contrast = 0.4 * (np.clip(basin.latitude, *LATITUDES) - 39)
    return (warming + wandering[:, 0])[:, None, None] + wandering[:, 1, None, None] * contrast
