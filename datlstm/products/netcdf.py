"""One published forecast as a NetCDF file: CF-1.11 and ACDD-1.3, the same bytes for the same forecast."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from datlstm import daily
from datlstm.errors import ProductError
from datlstm.products.forecast import init_day_of, read_init
from datlstm.settings import Settings

FLAGS = ("flag_values", "flag_masks")
WRITTEN_AT = "created_at"


def netcdf_path(init_day: date) -> str:
    """Return the path in the store of one init's file."""
    return f"netcdf/{init_day}.nc"


def lineage(init: xr.Dataset) -> dict[str, Any]:
    """Return what one init says of how it was made, by name: every text and number without dimensions and flags."""
    scalars = {str(name): field for name, field in init.data_vars.items() if not field.dims}
    return {
        name: field.item()
        for name, field in sorted(scalars.items())
        if name != WRITTEN_AT and not any(flags in field.attrs for flags in FLAGS)
    }


def utc(moment: np.datetime64 | np.ndarray) -> str:
    """Return a time as RFC 3339 writes it, to the second, in UTC."""
    return f"{np.datetime_as_string(moment, unit='s')}Z"


def valid_period(init: xr.Dataset) -> tuple[np.datetime64, np.datetime64]:
    """Return the first and the last second of the days an init forecasts."""
    days = init["valid_time"].values.astype("datetime64[D]")
    return days.min().astype("datetime64[s]"), (days.max() + 1).astype("datetime64[s]") - 1


def netcdf_bytes(init: xr.Dataset) -> bytes:
    """Return one published init as a CF-1.11 / ACDD-1.3 NetCDF-4 file.

    ``init`` is as `read_init` gives it: fields ``([lead_time,] latitude, longitude)``, and scalars, of which those that
    say how it was made become global attributes. Whatever else it holds is written with its own attributes and missing
    value. Variables are in alphabetical order, so that the order they were made in does not show in the bytes.
    """
    made_by = lineage(init)
    file = init.drop_vars([*made_by, WRITTEN_AT])
    file = file[sorted(map(str, file.variables))].assign_attrs(made_by | _discovery(init))
    encoding = {str(name): _encoding(variable, name in file.coords) for name, variable in file.variables.items()}
    file = file.drop_encoding()
    for name, variable in file.variables.items():
        for flags in FLAGS:
            if flags in variable.attrs:
                dtype = encoding[str(name)].get("dtype", variable.dtype)
                file[name].attrs[flags] = np.array(variable.attrs[flags], dtype)
    return bytes(file.to_netcdf(engine="h5netcdf", encoding=encoding))


def export_netcdf(settings: Settings, init_day: date, path: Path) -> None:
    """Write one published init to a file, as `netcdf_bytes`. Raises `ProductError` when it was never published."""
    init = read_init(settings, init_day)
    if init is None:
        raise ProductError(f"no forecast was published from {init_day}: choose one of the init_time of forecast.zarr")
    path.write_bytes(netcdf_bytes(init))


def _discovery(init: xr.Dataset) -> dict[str, str]:
    """Return ACDD's attributes of one file: which of the cube's forecasts it is, and the time it covers."""
    start, end = valid_period(init)
    return {
        "id": f"{init.attrs['id']}-{init_day_of(init)}",
        "time_coverage_start": utc(start),
        "time_coverage_end": utc(end),
        "time_coverage_duration": f"P{init.sizes['lead_time']}D",
        "time_coverage_resolution": "P1D",
        "date_created": utc(init[WRITTEN_AT].values),
    }


def _encoding(variable: xr.Variable, is_coordinate: bool) -> dict[str, Any]:
    if variable.dtype.kind == "M":
        return {"units": daily.DAY_UNITS, "dtype": "int32", "_FillValue": None, "calendar": "standard"}
    if is_coordinate or not variable.dims:
        return {"_FillValue": None}
    missing = variable.encoding.get("_FillValue", variable.dtype.type(np.nan) if variable.dtype.kind == "f" else None)
    dtype = variable.encoding.get("dtype", variable.dtype)
    return {"zlib": True, "shuffle": True, "chunksizes": variable.shape, "dtype": dtype, "_FillValue": missing}
