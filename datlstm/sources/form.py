"""The way of any opened dataset to the one form of `Source.read`: names, cells, days and units found, or refused.

In steps, so that a few days of a long record cost a few days: `locate` finds everything and stays as lazy as the file;
`chunked`, `in_kelvin` and `deliver` then see only the days that were selected.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from datlstm.errors import GridError, PermanentSourceError
from datlstm.settings import Region

DAYS_PER_CHUNK = 365
DIMS = ("time", "latitude", "longitude")
ZERO_CELSIUS_KELVIN = 273.15
CELSIUS = "degree_Celsius"
PERCENT = "%"
UNIT_NAMES = {
    "kelvin": {"k", "kelvin", "kelvins", "degk", "deg_k", "degree_kelvin", "degrees_kelvin"},
    CELSIUS: {"c", "°c", "degc", "deg_c", "celsius", "degree_c", "degrees_c", "degree_celsius", "degrees_celsius"},
}
ICE_UNIT_NAMES = {"1": {"", "1", "fraction", "dimensionless", "unitless"}, PERCENT: {"%", "percent"}}

SST_STANDARD_NAMES = {
    "sea_surface_foundation_temperature",
    "sea_surface_temperature",
    "sea_surface_subskin_temperature",
    "sea_surface_skin_temperature",
    "sea_water_potential_temperature",
    "sea_water_temperature",
}
SST_NAMES = ("analysed_sst", "sst", "tos", "thetao", "sea_surface_temperature", "SST")
ICE_STANDARD_NAMES = {"sea_ice_area_fraction"}
ICE_NAMES = ("sea_ice_fraction", "siconc", "ice", "icec")
ICE_NAME = "sea_ice_fraction"
MASK_NAME = "mask"
WATER_BIT, LAND_BIT = 1, 2


@dataclass(frozen=True)
class VariableNames:
    """What a dataset calls its variables; None is searched for, and only ``sst`` must be found."""

    sst: str | None = None
    ice: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class _Axis:
    name: str
    units: frozenset[str]
    usual_names: tuple[str, ...]


_LATITUDE = _Axis(
    "latitude",
    frozenset({"degrees_north", "degree_north", "degrees_n", "degree_n"}),
    ("latitude", "lat", "nav_lat", "Latitude", "LAT", "y"),
)
_LONGITUDE = _Axis(
    "longitude",
    frozenset({"degrees_east", "degree_east", "degrees_e", "degree_e"}),
    ("longitude", "lon", "nav_lon", "Longitude", "LON", "x"),
)
_TIME = _Axis("time", frozenset(), ("time", "t", "date", "Time", "TIME"))


def locate(dataset: xr.Dataset, region: Region, names: VariableNames, origin: str) -> xr.Dataset:
    """Return what a dataset holds for a region, in its own units and as lazy as it came.

    Dims ``(time, latitude, longitude)`` as `Source.read` promises, with one more source cell around the region where
    there is one. Variables: ``sst``, its ``units`` attribute ``kelvin`` or ``degree_Celsius``; ``sea_ice_fraction``
    and ``mask`` (OSTIA's bits, with or without time) where the dataset has them. ``origin`` names it in messages.
    Raises `PermanentSourceError` for a layout this project can't read and `GridError` for an uncovered region.
    """
    axes = {axis.name: _find_axis(dataset, axis, origin) for axis in (_TIME, _LATITUDE, _LONGITUDE)}
    days = _calendar_days(dataset[axes["time"]], origin)
    latitude = _degrees(dataset[axes["latitude"]], 90, origin)
    longitude = _degrees(dataset[axes["longitude"]], 720, origin)
    if np.any(longitude > 180):
        longitude = (longitude + 180) % 360 - 180
    rows = _cells_around(latitude, region.south, region.north)
    columns = _cells_around(longitude, region.west, region.east)
    if rows is None or columns is None:
        raise _not_covered(region, latitude, longitude, origin)
    order = np.argsort(days, kind="stable")
    positions = dict(zip(DIMS, (order, rows, columns), strict=True))
    axis_dims = {name: next((str(dim) for dim in dataset[axis].dims), None) for name, axis in axes.items()}
    cells = {}
    for name, variable in _find_variables(dataset, names, origin).items():
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


def chunked(located: xr.Dataset) -> xr.Dataset:
    """Return days of a located dataset as dask arrays, of a year or whole chunks of the file along time."""
    stored = located["sst"].encoding["preferred_chunks"]["time"]
    chunks = {"time": stored * max(1, DAYS_PER_CHUNK // stored), "latitude": -1, "longitude": -1}
    return located.drop_vars(MASK_NAME, errors="ignore").chunk(chunks)


def in_kelvin(located: xr.Dataset) -> xr.Dataset:
    """Return days of a located dataset with ``sst`` in kelvin and ``sea_ice_fraction`` as a fraction of one."""
    converted = {}
    if located["sst"].attrs["units"] == CELSIUS:
        converted["sst"] = (located["sst"] + ZERO_CELSIUS_KELVIN).assign_attrs(located["sst"].attrs, units="kelvin")
    if ICE_NAME in located and located[ICE_NAME].attrs["units"] == PERCENT:
        converted[ICE_NAME] = (located[ICE_NAME] / 100).assign_attrs(located[ICE_NAME].attrs, units="1")
    return located.assign(converted)


def deliver(days: xr.Dataset, water: xr.DataArray) -> xr.Dataset:
    """Return days in kelvin in the form of `Source.read`, as lazy as they came.

    ``water`` is bool ``(latitude, longitude)`` and becomes ``mask``; cells outside it are NaN.
    """
    delivered = days[[name for name in ("sst", ICE_NAME) if name in days]].astype(np.float32).where(water)
    for name, variable in delivered.items():
        variable.attrs = days[name].attrs
        variable.encoding = {}
    bits = water.copy(data=np.where(water, WATER_BIT, LAND_BIT).astype(np.int8))
    flags = {"flag_masks": np.array([WATER_BIT, LAND_BIT], np.int8), "flag_meanings": "water land"}
    return delivered.drop_attrs(deep=False).assign({MASK_NAME: bits.assign_attrs(flags)})


def refuse_repeated_days(days: NDArray[np.datetime64], origin: str) -> None:
    """Raise `PermanentSourceError` naming the first calendar day that occurs more than once, in any order.

    Identical repeats are refused too: telling them apart from contradictions would mean reading the whole record.
    """
    distinct, counts = np.unique(days, return_counts=True)
    if counts.size and counts.max() > 1:
        day = np.datetime_as_string(distinct[counts > 1][0], unit="D")
        raise PermanentSourceError(
            f"{origin} holds {counts[counts > 1][0]} fields for {day}: one field a day is needed; "
            "average a finer record to days, or leave the overlapping file out"
        )


def _find_axis(dataset: xr.Dataset, axis: _Axis, origin: str) -> str:
    declared = [str(name) for name, variable in dataset.variables.items() if _declares(variable, axis)]
    usual = [name for name in axis.usual_names if name in dataset.variables]
    found = sorted(declared, key=lambda name: dataset[name].ndim) or usual
    if not found:
        raise PermanentSourceError(
            f"{origin} has no {axis.name} among {_listed(dataset.variables)}: "
            f"name it {axis.name} or give it standard_name={axis.name!r}"
        )
    if dataset[found[0]].ndim > 1:
        raise PermanentSourceError(
            f"{origin} is on a curvilinear grid ({found[0]} has dims {dataset[found[0]].dims}): "
            "regrid it to one-dimensional latitude and longitude first"
        )
    return found[0]


def _declares(variable: xr.Variable, axis: _Axis) -> bool:
    units = str(variable.attrs.get("units", "")).lower()
    return variable.attrs.get("standard_name") == axis.name or units in axis.units


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


def _find_variables(dataset: xr.Dataset, names: VariableNames, origin: str) -> dict[str, xr.DataArray]:
    sst = _find_variable(dataset, names.sst, SST_STANDARD_NAMES, SST_NAMES, origin)
    if sst is None:
        raise PermanentSourceError(
            f"{origin} has no sea surface temperature among {_listed(dataset.data_vars)}: "
            "name it in source.files.variable"
        )
    found = {"sst": sst.assign_attrs(units=_units(sst, UNIT_NAMES, origin))}
    ice = _find_variable(dataset, names.ice, ICE_STANDARD_NAMES, ICE_NAMES, origin)
    if ice is not None:
        found[ICE_NAME] = ice.assign_attrs(units=_ice_units(ice, origin))
    mask = _find_variable(dataset, names.mask, set(), (MASK_NAME,), origin)
    return found if mask is None else found | {MASK_NAME: mask}


def _find_variable(
    dataset: xr.Dataset, given: str | None, standard_names: set[str], usual_names: tuple[str, ...], origin: str
) -> xr.DataArray | None:
    if given is not None:
        if given not in dataset.data_vars:
            raise PermanentSourceError(f"{origin} has no variable {given!r}; it has {_listed(dataset.data_vars)}")
        return dataset[given]
    declared = [str(n) for n, v in dataset.data_vars.items() if v.attrs.get("standard_name") in standard_names]
    usual = [name for name in usual_names if name in dataset.data_vars]
    candidates = [name for name in usual if name in declared] or declared or usual
    if len(declared) > 1 and not set(declared) & set(usual):
        raise PermanentSourceError(f"{origin}: any of {_listed(declared)} may be meant: name one in source.files")
    return dataset[candidates[0]] if candidates else None


def _units(variable: xr.DataArray, known: dict[str, set[str]], origin: str) -> str:
    written = variable.attrs.get("units", "")
    folded = str(written).strip().lower().replace(" ", "_")
    for unit, spellings in known.items():
        if folded in spellings:
            return unit
    raise PermanentSourceError(
        f"{origin}: variable {variable.name!r} has units {written!r}, not {' or '.join(known)}: "
        "correct its units attribute"
    )


def _ice_units(ice: xr.DataArray, origin: str) -> str:
    # NOAA's OISST calls its fraction "%"; its range, packed as CF has it, tells the truth.
    largest = float(ice.attrs.get("valid_max", np.inf)) * float(ice.encoding.get("scale_factor", 1))
    return "1" if largest <= 1 else _units(ice, ICE_UNIT_NAMES, origin)


def _on_canonical_dims(
    name: str, variable: xr.DataArray, axis_dims: dict[str, str | None], positions: dict[str, NDArray[np.intp]]
) -> xr.DataArray:
    bare = variable.isel({dim: 0 for dim in variable.dims if dim not in axis_dims.values()})
    bare = bare.drop_vars(list(bare.coords))
    own = {dim: axis for axis, dim in axis_dims.items() if dim in bare.dims}
    chosen = bare.isel({dim: _as_slice(positions[axis]) for dim, axis in own.items()}).rename(own)
    if axis_dims["time"] is None and name != MASK_NAME:
        chosen = chosen.chunk().expand_dims("time")
    stored = variable.encoding.get("preferred_chunks", {}).get(axis_dims["time"], 1)
    chosen.encoding = {"preferred_chunks": {"time": int(stored)}}
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


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "nothing"
