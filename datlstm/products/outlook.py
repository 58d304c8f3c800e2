"""What a forecast warns of, in a line each: marine heatwaves, and temperatures past a threshold."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from datlstm.archive import SEA

HEATWAVE, THRESHOLDS = "heatwave_category", "threshold_flags"
# Of an int8 field: a cell of which nothing is known.
UNKNOWN = -1


def outlook(init: xr.Dataset) -> list[str]:
    """Return the lines for one published init, as `read_init` gives it; none where it holds no such variable.

    Shares are of the sea cells of which something is known, on the day that has most of them.
    """
    return [*_heatwave(init), *_thresholds(init)]


def in_heatwave(init: xr.Dataset) -> xr.DataArray:
    """Return, by cell and lead, whether a marine heatwave of any category is forecast."""
    return known(init, HEATWAVE) >= 1


def known(init: xr.Dataset, name: str) -> xr.DataArray:
    """Return a flag variable as integers ``(lead_time, latitude, longitude)``, `UNKNOWN` on land too."""
    is_sea = (init["mask"] & SEA) > 0
    return init[name].where(is_sea, UNKNOWN).fillna(UNKNOWN).astype("int16").transpose("lead_time", ...)


def _heatwave(init: xr.Dataset) -> Iterator[str]:
    if HEATWAVE not in init:
        return
    category = known(init, HEATWAVE)
    meanings = _meanings(init[HEATWAVE], "flag_values")
    if (category == UNKNOWN).all():
        yield "Marine heatwaves: no category is told, for want of years to compare with."
    elif (category < 1).all():
        yield "Marine heatwaves: none."
    else:
        yield f"Marine heatwaves: {meanings[int(category.max())]} at most, over {_most(category, category >= 1)}."


def _thresholds(init: xr.Dataset) -> Iterator[str]:
    if THRESHOLDS not in init:
        return
    flags = known(init, THRESHOLDS)
    for bit, meaning in _meanings(init[THRESHOLDS], "flag_masks").items():
        crossed = (flags != UNKNOWN) & ((flags & bit) > 0)
        if crossed.any():
            yield f"{meaning[:1].upper()}{meaning[1:]}: over {_most(flags, crossed)}."


def _most(field: xr.DataArray, chosen: xr.DataArray) -> str:
    cells = ("latitude", "longitude")
    share = chosen.sum(cells) / np.maximum((field != UNKNOWN).sum(cells), 1)
    percent, lead = 100 * float(share.max()), int(share.idxmax("lead_time"))
    return f"{'less than 1' if percent < 1 else f'up to {percent:.0f}'} % of the sea (day {lead})"


def _meanings(field: xr.DataArray, flags: str) -> dict[int, str]:
    values, meanings = np.atleast_1d(field.attrs[flags]), str(field.attrs["flag_meanings"]).split()
    return {int(value): meaning.replace("_", " ") for value, meaning in zip(values, meanings, strict=True)}
