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
    sst: xr.DataArray, ocean_mask: xr.DataArray, stored: xr.DataArray | None, settings: QualitySettings
) -> xr.DataArray:
    """Return the `DayQuality` of each day as uint8 ``(time)``.

    ``sst`` is ``(time, latitude, longitude)`` kelvin, days ascending but not necessarily consecutive; ``ocean_mask`` is
    boolean ``(latitude, longitude)``; ``stored`` is what the archive holds of the days from the one before the first
    to the one after the last, as stored, or None when there is no archive. `REPEATED` marks a field equal, cell by
    cell, to a neighbouring day's: a stale copy or another day's stamp, since the sea never stands still.
    """
    fields = sst.where(ocean_mask).transpose("time", ...)
    given = dict(zip(fields["time"].values, fields.values, strict=True))
    known = {} if stored is None else dict(zip(stored["time"].values, stored.values, strict=True))
    flags = []
    for day, field in given.items():
        before = given.get(day - DAY, known.get(day - DAY))
        flag = _check_field(field, ocean_mask.values, settings) | _check_change(field, before, settings)
        if (
            day in known
            and not _equal(field, known[day])
            and any(_equal(field, known[near]) for near in (day - DAY, day + DAY) if near in known)
        ):
            flag |= DayQuality.REPEATED
        flags.append(int(flag))
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


def _check_change(field: np.ndarray, before: np.ndarray | None, settings: QualitySettings) -> int:
    change = np.abs(field - before) if before is not None else np.array([])
    change = change[np.isfinite(change)]
    if before is None or change.size == 0:
        return 0
    if _equal(field, before):
        return int(DayQuality.REPEATED)
    return int(DayQuality.JUMP) if change.mean() > settings.maximum_jump_kelvin else 0


def _equal(field: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.isfinite(field).any()) and np.array_equal(field, other, equal_nan=True)
