"""The way of any opened dataset to the one form of `Source.read`: names, cells, days and units found, or refused.

In steps, so that a few days of a long record cost a few days: `locate` finds everything and stays as lazy as the file;
`in_kelvin`, `refuse_wrong_packing` and `deliver` then see only the days that were selected.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from datlstm.errors import GridError, PermanentSourceError
from datlstm.settings import Region
from datlstm.sources.names import (
    CELSIUS,
    ERROR_NAME,
    ICE_NAME,
    LATITUDE,
    LONGITUDE,
    MASK_NAME,
    PERCENT,
    TIME,
    VariableNames,
    find_axis,
    find_variables,
)

DIMS = ("time", "latitude", "longitude")
ZERO_CELSIUS_KELVIN = 273.15
WATER_BIT, LAND_BIT = 1, 2
PACKING = ("dtype", "scale_factor", "add_offset", "_FillValue")
# Ten kelvin beyond what seas reach: a value there is not the sea's but of its storage.
STORABLE_KELVIN = (261.0, 318.0)
UNSTORABLE_SHARE = 0.01


@dataclass(frozen=True)
class Provenance:
    """What days were made of: product and version, stored beside every day, and the credit line of the licence."""

    product: str
    version: str
    attribution: str


def locate(dataset: xr.Dataset, region: Region, names: VariableNames, origin: str) -> xr.Dataset:
    """Return what a dataset holds for a region, in its own units and as lazy as it came.

    Dims ``(time, latitude, longitude)`` as `Source.read` promises, with one more source cell around the region where
    there is one. Variables: ``sst``, its ``units`` attribute ``kelvin`` or ``degree_Celsius``; ``analysis_error``
    (kelvin), ``sea_ice_fraction`` and ``mask`` (OSTIA's bits, with or without time) where the dataset has them.
    ``origin`` names it in messages.
    Raises `PermanentSourceError` for a layout this project can't read and `GridError` for an uncovered region.
    """
    axes = {axis.name: find_axis(dataset, axis, origin) for axis in (TIME, LATITUDE, LONGITUDE)}
    days = _calendar_days(dataset[axes["time"]], origin)
    latitude = _degrees(dataset[axes["latitude"]], 90, origin)
    longitude = _degrees(dataset[axes["longitude"]], 720, origin)
    if np.any(np.abs(longitude) > 180):
        longitude = (longitude + 180) % 360 - 180
    rows = _cells_around(latitude, region.south, region.north)
    columns = _cells_around(longitude, region.west, region.east)
    if rows is None or columns is None:
        raise _not_covered(region, latitude, longitude, origin)
    order = np.argsort(days, kind="stable")
    positions = dict(zip(DIMS, (order, rows, columns), strict=True))
    axis_dims = {name: next((str(dim) for dim in dataset[axis].dims), None) for name, axis in axes.items()}
    cells = {}
    for name, variable in find_variables(dataset, names, origin).items():
        _require_dims(name, variable, axis_dims, origin)
        cells[name] = _on_canonical_dims(name, variable, axis_dims, positions)
    coords = {"time": days[order], "latitude": latitude[rows], "longitude": longitude[columns]}
    return xr.Dataset(cells).assign_coords({name: (name, values) for name, values in coords.items()})


def water_of(located: xr.Dataset) -> xr.DataArray:
    """Return which cells are water on any of the days, bool ``(latitude, longitude)``, read now.

    OSTIA's water bit decides where there is a mask; else a cell that ever has a temperature is water.
    """
    if MASK_NAME in located:
        water = _bits(located[MASK_NAME]) & WATER_BIT > 0
    else:
        water = located["sst"].notnull()
    return water.any([dim for dim in water.dims if dim == "time"]).compute()


def in_kelvin(located: xr.Dataset) -> xr.Dataset:
    """Return days of a located dataset with ``sst`` in kelvin and ``sea_ice_fraction`` as a fraction of one."""
    converted = {}
    for name, variable in located.items():
        if variable.attrs.get("units") == CELSIUS:
            converted[name] = (variable + ZERO_CELSIUS_KELVIN).assign_attrs(variable.attrs, units="kelvin")
        elif variable.attrs.get("units") == PERCENT:
            converted[name] = (variable / 100).assign_attrs(variable.attrs, units="1")
    for name, variable in converted.items():
        variable.encoding = located[name].encoding
    return located.assign(converted)


def refuse_wrong_packing(sst: xr.DataArray, water: xr.DataArray, origin: str) -> None:
    """Raise `PermanentSourceError` when no day of ``sst`` (kelvin, read now) can be what its producer stored.

    A lost scale factor, offset or fill value, or a wrong unit, puts at least a hundredth of the water cells of every
    day beyond what seas reach. A single such day among sound ones is left to the quality checks, which know days.
    """
    values = sst.where(water)
    low, high = STORABLE_KELVIN
    cells = ("latitude", "longitude")
    n_present = values.notnull().sum(cells)
    n_strange = ((values < low) | (values > high)).sum(cells)
    has_values = (n_present > 0).to_numpy()
    if has_values.any() and bool((n_strange > UNSTORABLE_SHARE * n_present).to_numpy()[has_values].all()):
        stored = ", ".join(f"{key} {sst.encoding.get(key, 'missing')}" for key in PACKING)
        raise PermanentSourceError(
            f"{origin} gives sea surface temperatures from {float(values.min()):g} to {float(values.max()):g} K: its "
            f"packing or units are wrong ({stored}); correct these attributes"
        )


def deliver(days: xr.Dataset, water: xr.DataArray, provenance: Provenance, problems: Iterable[str] = ()) -> xr.Dataset:
    """Return days in kelvin in the form of `Source.read`, as lazy as they came.

    ``water`` is bool ``(latitude, longitude)`` and becomes ``mask``; cells outside it are NaN. ``provenance`` becomes
    ``source_product`` and ``source_version``, str objects ``(time)``, and the attribute ``attribution``; ``problems``,
    one line for each part of the source that had to be left out, the attribute of this name, a list; without any,
    ``gaps_are_certain``.
    """
    delivered = days[[name for name in ("sst", ERROR_NAME, ICE_NAME) if name in days]].astype(np.float32).where(water)
    for name, variable in delivered.items():
        variable.attrs = days[name].attrs
        variable.encoding = {}
    bits = water.copy(data=np.where(water, WATER_BIT, LAND_BIT).astype(np.int8))
    flags = {"flag_masks": np.array([WATER_BIT, LAND_BIT], np.int8), "flag_meanings": "water land"}
    delivered = delivered.drop_attrs(deep=False).assign({MASK_NAME: bits.assign_attrs(flags)})
    delivered["source_product"] = _on_every_day(days, provenance.product, "product the day came from")
    delivered["source_version"] = _on_every_day(days, provenance.version, "version of that product")
    lines = list(problems)
    return delivered.assign_attrs(attribution=provenance.attribution, problems=lines, gaps_are_certain=not lines)


def refuse_repeated_days(days: NDArray[np.datetime64], origin: str) -> None:
    """Raise `PermanentSourceError` naming the first calendar day that one dataset holds more than once, in any order.

    Identical repeats are refused too: telling them apart from contradictions would mean reading the whole record.
    """
    distinct, counts = np.unique(days, return_counts=True)
    if counts.size and counts.max() > 1:
        day = np.datetime_as_string(distinct[counts > 1][0], unit="D")
        raise PermanentSourceError(
            f"{origin} holds {counts[counts > 1][0]} fields for {day}: one field a day is needed; "
            "average a finer record to days, or leave the repeats out"
        )


def _on_every_day(days: xr.Dataset, text: str, long_name: str) -> xr.Variable:
    # Objects, because selecting with gaps turns them to NaN where NumPy's own strings raise or are cut.
    return xr.Variable("time", np.full(days.sizes["time"], text, dtype=object), {"long_name": long_name})


def _calendar_days(time: xr.DataArray, origin: str) -> NDArray[np.datetime64]:
    if time.dtype.kind != "M" or bool(time.isnull().any()):
        raise PermanentSourceError(
            f"{origin}: {time.name} does not decode to dates of the standard calendar (it is {time.dtype}, units "
            f"{_encoded(time, 'units')}, calendar {_encoded(time, 'calendar')}): write CF time units and calendar"
        )
    days = np.atleast_1d(time.to_numpy()).astype("datetime64[D]").astype("datetime64[ns]")
    refuse_repeated_days(days, origin)
    return days


def _encoded(time: xr.DataArray, key: str) -> str:
    return repr(time.encoding.get(key, time.attrs.get(key, "missing")))


def _degrees(coordinate: xr.DataArray, limit: float, origin: str) -> NDArray[np.float64]:
    degrees = np.atleast_1d(coordinate.to_numpy()).astype(np.float64)
    if not degrees.size:
        raise PermanentSourceError(f"{origin} has no {coordinate.name}, its size is 0: replace it")
    if not np.all(np.abs(degrees) <= limit):
        raise PermanentSourceError(
            f"{origin}: {coordinate.name} runs from {degrees.min():g} to {degrees.max():g} "
            f"{coordinate.attrs.get('units', '')}, which is not degrees: give it one-dimensional degrees"
        )
    return degrees


def _cells_around(centres: NDArray[np.float64], low: float, high: float) -> NDArray[np.intp] | None:
    """Return positions, by ascending centre, of the cells of an interval and one more on each side.

    None when there is a part of the interval without cells. A meridian that closes the circle twice counts once.
    """
    order = np.argsort(centres, kind="stable")
    order = order[np.diff(centres[order], prepend=-np.inf) > 1e-6]
    ascending = centres[order]
    if ascending.size < 2:
        return None
    cell = float(np.median(np.diff(ascending)))
    slack = cell / 2 - 0.01 * cell
    inside = ascending[(ascending + slack > low) & (ascending - slack < high)]
    if not inside.size or np.diff(inside).max(initial=0) > 1.5 * cell:
        return None
    reach = cell / 2 + 0.01 * cell
    if inside[0] - reach > low or inside[-1] + reach < high:
        return None
    near: NDArray[np.bool_] = (ascending > inside[0] - 1.5 * cell) & (ascending < inside[-1] + 1.5 * cell)
    return order[near]


def _not_covered(
    region: Region, latitude: NDArray[np.float64], longitude: NDArray[np.float64], origin: str
) -> GridError:
    return GridError(
        f"{origin} has cell centres in latitude {latitude.min():g} to {latitude.max():g}, longitude "
        f"{longitude.min():g} to {longitude.max():g}, which do not cover region {region.name!r}: latitude "
        f"{region.south:g} to {region.north:g}, longitude {region.west:g} to {region.east:g}; move the region's box "
        "or choose another source"
    )


def _on_canonical_dims(
    name: str, variable: xr.DataArray, axis_dims: dict[str, str | None], positions: dict[str, NDArray[np.intp]]
) -> xr.DataArray:
    bare = variable.isel({dim: 0 for dim in variable.dims if dim not in axis_dims.values()})
    bare = bare.drop_vars(list(bare.coords))
    own = {dim: axis for axis, dim in axis_dims.items() if dim in bare.dims}
    chosen = bare.isel({dim: _as_slice(positions[axis]) for dim, axis in own.items()}).rename(own)
    if axis_dims["time"] is None and name != MASK_NAME:
        chosen = chosen.chunk().expand_dims("time")
    chosen.encoding = {key: variable.encoding[key] for key in PACKING if key in variable.encoding}
    return chosen.transpose(*(dim for dim in DIMS if dim in chosen.dims))


def _require_dims(name: str, variable: xr.DataArray, axis_dims: dict[str, str | None], origin: str) -> None:
    needed = {dim for axis, dim in axis_dims.items() if dim and not (name == MASK_NAME and axis == "time")}
    extra = [dim for dim in variable.dims if dim not in axis_dims.values() and variable.sizes[dim] > 1]
    shares_dims = axis_dims["latitude"] == axis_dims["longitude"]  # one cell, or an unstructured mesh
    if extra or shares_dims or not needed <= set(variable.dims):
        raise PermanentSourceError(
            f"{origin}: variable {variable.name!r} has dims {dict(variable.sizes)}, not time, latitude and longitude: "
            "select one depth or level, or name another variable in source.files"
        )


def _as_slice(positions: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return evenly spaced neighbours as a slice, which backends read in one piece."""
    steps = np.diff(positions)
    for step in (1, -1):
        if positions.size and np.all(steps == step):
            stop = int(positions[-1]) + step
            return slice(int(positions[0]), stop if stop >= 0 else None, step)
    return positions


def _bits(mask: xr.DataArray) -> xr.DataArray:
    """Return mask bits as integers; a cell without a mask value (decoding made it NaN) has no bit set."""
    return mask.fillna(0).astype(np.int16)
