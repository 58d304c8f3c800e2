"""Compares what the client gave with what was asked, and believes in nothing that it was seen to get wrong.

The client answers for a missing day with its neighbour, for a missing or forbidden chunk with NaN, and for a missing
scale factor with other numbers, all without a word.
"""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from datlstm.errors import PermanentSourceError, TransientSourceError
from datlstm.settings import QualitySettings, Region
from datlstm.sources.copernicus.protocol import ERROR, ICE, MASK, SST, VARIABLES, Axis, Described
from datlstm.sources.form import LAND_BIT, WATER_BIT

COINCIDENCE = 1e-2
"""As a share of a cell: by how much coordinates may differ from the catalogue's, which rounds them."""
STAMP_HOURS = {0, 12}
"""The Zarr service stamps a day at midnight, the provider's own files at noon."""
MISPACKED_SHARE = 0.01
MAXIMUM_ERROR_KELVIN = 20.0


def require_asked_form(days: xr.Dataset, described: Described, region: Region) -> None:
    """Raise `PermanentSourceError` unless variables, cells and stamps are the ones that were asked."""
    name = described.dataset_id
    missing = [variable for variable in VARIABLES if variable not in days]
    if missing:
        raise PermanentSourceError(f"{name} came without {', '.join(missing)}: look at the provider's notices")
    _require_cells(days["latitude"].to_numpy(), described.latitude, region.south, region.north, f"{name}: latitude")
    _require_cells(days["longitude"].to_numpy(), described.longitude, region.west, region.east, f"{name}: longitude")
    since_midnight = days["time"].to_numpy() - days["time"].to_numpy().astype("datetime64[D]")
    allowed = [np.timedelta64(hour, "h") for hour in STAMP_HOURS]
    odd = days["time"].to_numpy()[~np.isin(since_midnight, allowed)]
    if odd.size:
        raise PermanentSourceError(
            f"{name} is stamped {np.datetime_as_string(odd[-1], 's')}, where midnight or noon is its custom, so it may "
            "be another day: nothing was taken; look at the provider's notices"
        )


def require_credible_packing(days: xr.Dataset, quality: QualitySettings, name: str) -> None:
    """Raise `PermanentSourceError` when no day's values can be what they are said to be: a scale or offset is missing.

    A spoilt day among sound ones is left to the checks of each day's quality.
    """
    limits = {
        SST: (quality.minimum_kelvin, quality.maximum_kelvin),
        ERROR: (0.0, MAXIMUM_ERROR_KELVIN),
        ICE: (0.0, 1.0),
    }
    for variable, (low, high) in limits.items():
        values = days[variable].where(np.isfinite(days[variable]))
        outside = (values < low - 1e-3) | (values > high + 1e-3)
        cells = ("latitude", "longitude")
        share = outside.sum(cells) / values.notnull().sum(cells)
        if float(share.min()) > MISPACKED_SHARE:
            raise PermanentSourceError(
                f"{name}: {variable} is between {float(values.min()):g} and {float(values.max()):g}, outside {low:g} … "
                f"{high:g}: its scale factor or offset is missing or has changed; nothing was taken; look at the "
                "provider's notices"
            )


def require_known_error(located: xr.Dataset, name: str) -> None:
    """Raise `PermanentSourceError` when the analysis error came in units that nobody knows, and was not recognised."""
    if ERROR not in located:
        raise PermanentSourceError(f"{name}: {ERROR} came in other units than kelvin: look at the provider's notices")


def water_by_mask(days: xr.Dataset, name: str) -> tuple[xr.DataArray, list[str]]:
    """Return which cells are water, bool ``(latitude, longitude)``, and a line about days whose mask is damaged.

    A sound mask says of every cell that it is either water or land; a missing chunk says neither. Raises
    `TransientSourceError` when no day's mask is sound.
    """
    bits = days[MASK].fillna(0).astype(np.int16)
    sound = bits.isin([b for b in range(32) if b & WATER_BIT != (b & LAND_BIT) // LAND_BIT]).all(
        ("latitude", "longitude")
    )
    if not bool(sound.any()):
        raise TransientSourceError(
            f"{name} came with a mask that calls cells neither water nor land on every day, so a chunk of it is "
            "missing or forbidden: try again"
        )
    water = (bits.isel(time=sound.to_numpy()) & WATER_BIT > 0).any("time")
    if bool(sound.all()):
        return water, []
    return water, [f"{name}: {_named(days, ~sound)} with a damaged mask: other days' was used"]


def without_incomplete_days(
    days: xr.Dataset, water: xr.DataArray, minimum_coverage: float, name: str
) -> tuple[xr.Dataset, list[str]]:
    """Return the days that have a value wherever they should, and a line about the others, if there are any.

    The product has no gaps, so a day lacks a chunk when a sea cell is NaN that has a value on another day, or when more
    than a few are.
    """
    finite = days["sst"].notnull() & water
    sea = int(water.sum())
    usual = finite.any("time")
    lacking = (usual & ~finite).sum(("latitude", "longitude"))
    covered = finite.sum(("latitude", "longitude")) / max(sea, 1)
    complete = (lacking == 0) & (covered >= minimum_coverage)
    without_error = (days[ERROR].isnull() & finite).any(("latitude", "longitude")) & complete
    problems = []
    if not bool(complete.all()):
        lost = sea - int(finite.sum(("latitude", "longitude")).where(~complete).min())
        problems.append(
            f"{name}: {_named(days, ~complete)} not taken, for up to {lost} of {sea} sea cells have no value: a chunk "
            "is missing or forbidden, or the day is not complete yet"
        )
    if bool(without_error.any()):
        problems.append(f"{name}: {_named(days, without_error)} taken without parts of the analysis error")
    return days.isel(time=complete.to_numpy()), problems


def _require_cells(centres: NDArray[np.float64], axis: Axis, low: float, high: float, what: str) -> None:
    announced = np.asarray(axis.values) if axis.values else _evenly(axis)
    step = float(np.diff(announced).mean())
    expected = announced[(announced > low - step * (1 + COINCIDENCE)) & (announced < high + step * (1 + COINCIDENCE))]
    centres = np.sort(centres.astype(np.float64))
    if centres.shape != expected.shape or np.abs(centres - expected).max(initial=0) > COINCIDENCE * step:
        raise PermanentSourceError(
            f"{what} has {centres.size} cells from {centres.min(initial=np.inf):g} to "
            f"{centres.max(initial=-np.inf):g}, asked were {expected.size} of the catalogue's: nothing was taken; look "
            "at the provider's notices"
        )


def _evenly(axis: Axis) -> NDArray[np.float64]:
    assert axis.step is not None
    count = round((axis.maximum - axis.minimum) / axis.step) + 1
    return np.linspace(axis.minimum, axis.maximum, count)


def _named(days: xr.Dataset, chosen: xr.DataArray) -> str:
    names = [str(day)[:10] for day in days["time"].to_numpy()[chosen.to_numpy()]]
    return names[0] if len(names) == 1 else f"{len(names)} days ({names[0]} … {names[-1]})"
