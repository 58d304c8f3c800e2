"""Which axes and variables of an opened dataset are meant, and in which units they are: found, or refused by name.

A name that the settings leave open is searched for by CF's standard names first, then among the field's usual names.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from datlstm.errors import PermanentSourceError

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
ERROR_STANDARD_NAMES = {f"{name} standard_error" for name in SST_STANDARD_NAMES}
ERROR_NAMES = ("analysis_error", "analysed_sst_uncertainty", "err", "error")
ICE_NAME = "sea_ice_fraction"
ERROR_NAME = "analysis_error"
MASK_NAME = "mask"


@dataclass(frozen=True)
class VariableNames:
    """What a dataset calls its variables; None is searched for, and only ``sst`` must be found."""

    sst: str | None = None
    ice: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Axis:
    """A coordinate by its CF standard name, the units that only it has, and its usual names."""

    name: str
    units: frozenset[str]
    usual_names: tuple[str, ...]


LATITUDE = Axis(
    "latitude",
    frozenset({"degrees_north", "degree_north", "degrees_n", "degree_n"}),
    ("latitude", "lat", "nav_lat", "Latitude", "LAT", "y"),
)
LONGITUDE = Axis(
    "longitude",
    frozenset({"degrees_east", "degree_east", "degrees_e", "degree_e"}),
    ("longitude", "lon", "nav_lon", "Longitude", "LON", "x"),
)
TIME = Axis("time", frozenset(), ("time", "t", "date", "Time", "TIME"))


def find_axis(dataset: xr.Dataset, axis: Axis, origin: str) -> str:
    """Return the name of a dataset's one-dimensional (or scalar) coordinate.

    ``origin`` names the dataset in messages. Raises `PermanentSourceError` when there is none or it has two dims.
    """
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


def _declares(variable: xr.Variable, axis: Axis) -> bool:
    units = str(variable.attrs.get("units", "")).lower()
    return variable.attrs.get("standard_name") == axis.name or units in axis.units


def find_variables(dataset: xr.Dataset, names: VariableNames, origin: str) -> dict[str, xr.DataArray]:
    """Return a dataset's ``sst`` and, where it has them, ``analysis_error``, ``sea_ice_fraction`` and ``mask``.

    Their ``units`` attributes become one of this module's: ``kelvin`` or ``degree_Celsius`` for ``sst``, ``kelvin`` for
    its error, ``1`` or ``%`` for ice. ``origin`` names the dataset in messages. Raises `PermanentSourceError` for an
    absent or ambiguous variable and for unknown units.
    """
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
    error = _find_error(dataset, sst)
    if error is not None:
        found[ERROR_NAME] = error.assign_attrs(units="kelvin")
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


def _find_error(dataset: xr.Dataset, sst: xr.DataArray) -> xr.DataArray | None:
    """Return the standard error of ``sst`` in kelvin; relative errors and scores share its usual names and are not it.

    A difference of one degree Celsius is one kelvin, so either unit is right.
    """
    declared = [str(n) for n, v in dataset.data_vars.items() if v.attrs.get("standard_name") in ERROR_STANDARD_NAMES]
    usual = [name for name in ERROR_NAMES if name in dataset.data_vars]
    for error in (dataset[name] for name in declared + usual):
        if set(error.dims) == set(sst.dims) and _known_unit(error, UNIT_NAMES):
            return error
    return None


def _units(variable: xr.DataArray, known: dict[str, set[str]], origin: str) -> str:
    unit = _known_unit(variable, known)
    if unit is None:
        raise PermanentSourceError(
            f"{origin}: variable {variable.name!r} has units {variable.attrs.get('units', '')!r}, "
            f"not {' or '.join(known)}: correct its units attribute"
        )
    return unit


def _known_unit(variable: xr.DataArray, known: dict[str, set[str]]) -> str | None:
    folded = str(variable.attrs.get("units", "")).strip().lower().replace(" ", "_")
    return next((unit for unit, spellings in known.items() if folded in spellings), None)


def _ice_units(ice: xr.DataArray, origin: str) -> str:
    # NOAA's OISST calls its fraction "%"; its range, packed as CF has it, tells the truth.
    largest = float(ice.attrs.get("valid_max", np.inf)) * float(ice.encoding.get("scale_factor", 1))
    return "1" if largest <= 1 else _units(ice, ICE_UNIT_NAMES, origin)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "nothing"
