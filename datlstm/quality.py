"""Checks of a day's SST field. The result is flags beside the field; no value is ever repaired here."""

from enum import IntFlag

import numpy as np
import xarray as xr

from datlstm.settings import QualitySettings

DAY = np.timedelta64(1, "D")


class DayQuality(IntFlag):
    """What is wrong with a day; stored with it as an 8-bit field."""

    GOOD = 0
    MISSING = 1
    EMPTY = 2
    OUT_OF_RANGE = 4
    PARTIAL = 8
    JUMP = 16
    REPEATED = 32


UNUSABLE = DayQuality.MISSING | DayQuality.EMPTY | DayQuality.OUT_OF_RANGE | DayQuality.REPEATED
"""A day with any of these counts as missing. `PARTIAL` and `JUMP` are warnings: gaps are NaN, and the sea does jump."""


def check_days(
    sst: xr.DataArray, ocean_mask: xr.DataArray, previous: xr.DataArray | None, settings: QualitySettings
) -> xr.DataArray:
    """Return the `DayQuality` of each day as uint8 ``(time)``.

    ``sst`` is ``(time, latitude, longitude)`` kelvin, days ascending but not necessarily consecutive; ``ocean_mask`` is
    boolean ``(latitude, longitude)``; ``previous`` is the field of the day before the first, or None when it is absent.
    `REPEATED` marks a field equal, cell by cell, to the day before's: a stale copy, since the sea never stands still.
    """
    fields = sst.where(ocean_mask).values
    before = np.full_like(fields, np.nan)
    before[1:] = fields[:-1]
    before[:1] = np.nan if previous is None else previous.values
    consecutive = np.diff(sst["time"].values, prepend=sst["time"].values[:1] - DAY) == DAY
    flags = [
        _check_field(field, ocean_mask.values, settings) | (_check_change(field, last, settings) if follows else 0)
        for field, last, follows in zip(fields, before, consecutive, strict=True)
    ]
    return xr.DataArray(np.array(flags, dtype="uint8"), dims="time", coords={"time": sst["time"]}, name="quality")


def describe(flags: int) -> str:
    """Return the names of the flags of a day, for people."""
    return "|".join(str(flag.name) for flag in DayQuality(flags)) or "GOOD"


def _check_field(field: np.ndarray, ocean: np.ndarray, settings: QualitySettings) -> int:
    finite = np.isfinite(field)
    coverage = finite.sum() / max(int(ocean.sum()), 1)
    if coverage == 0:
        return int(DayQuality.EMPTY)
    flags = DayQuality.GOOD
    if coverage < settings.minimum_coverage:
        flags |= DayQuality.PARTIAL
    values = field[finite]
    if values.min() < settings.minimum_kelvin or values.max() > settings.maximum_kelvin:
        flags |= DayQuality.OUT_OF_RANGE
    return int(flags)


def _check_change(field: np.ndarray, before: np.ndarray, settings: QualitySettings) -> int:
    change = np.abs(field - before)
    change = change[np.isfinite(change)]
    if change.size == 0:
        return 0
    if np.array_equal(field, before, equal_nan=True):
        return int(DayQuality.REPEATED)
    return int(DayQuality.JUMP) if change.mean() > settings.maximum_jump_kelvin else 0
