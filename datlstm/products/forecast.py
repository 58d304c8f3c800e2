"""The forecast cube that analysts open: its structure, its CF and ACDD metadata, and how a night enters it."""

import logging
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import xarray as xr

from datlstm import daily
from datlstm.archive import LAND, SEA, Archive
from datlstm.clock import now_seconds
from datlstm.cube import Cube
from datlstm.errors import ProductError
from datlstm.grid import Grid
from datlstm.ladder import ForecastSource, NightlyForecast
from datlstm.settings import Settings
from datlstm.store import Store

FORECAST_PATH = "forecast.zarr"
INIT_TIME = "init_time"
OSTIA_REFERENCES = "https://doi.org/10.48670/moi-00165, https://doi.org/10.48670/moi-00168"
ICE = 4
ICE_THRESHOLD = 0.15
# What a gap in the axis has for a day: decoders show it as not a time.
NO_DAY = {"_FillValue": np.iinfo("int32").min, "fill_value": np.iinfo("int32").min}
FIELDS = (INIT_TIME, "lead_time", "latitude", "longitude")
_COUNTS = ("input_age_days", "n_missing_inputs")
Outcome = Literal["published", "kept", "unchanged"]

log = logging.getLogger(__name__)


def forecast_cube(settings: Settings) -> Cube:
    """Return the region's forecast cube ``(init_time, lead_time, latitude, longitude)``, one chunk per init."""
    grid = Grid.from_region(settings.region)
    return Cube(Store(settings.store), FORECAST_PATH, _template(settings, grid), _encoding(settings, grid))


def publish_forecast(settings: Settings, made: NightlyForecast) -> Outcome:
    """Append one forecast to the cube, unless there is one from its init already.

    The first forecast of an init stands for ever. The same again is ``unchanged``; another one is ``kept`` out, with a
    warning. Raises `ProductError` for an init before the newest that has none, and for a cube of another structure.
    """
    cube = forecast_cube(settings)
    with cube.writing() as writer:
        standing = _init(writer.committed, made.init_day)
        if standing is None:
            writer.stage(_rows(settings, made, _new_days(cube, writer.committed, made.init_day)))
            writer.commit()
            return "published"
    if _is_same(standing, made):
        return "unchanged"
    log.warning(
        "%s: the first forecast from %s, by %s, stands; this one, by %s, differs and was kept out, because what "
        "readers have seen never changes",
        cube.url,
        made.init_day,
        standing["model_id"].item(),
        made.bundle.id,
    )
    return "kept"


def read_init(settings: Settings, init_day: date) -> xr.Dataset | None:
    """Return one published init, loaded, or None when there is no forecast from that day."""
    return _init(forecast_cube(settings).open(), init_day)


def published_days(settings: Settings) -> list[date]:
    """Return the init days that have a forecast, ascending."""
    cube = forecast_cube(settings).open()
    if cube is None:
        return []
    days = cube[INIT_TIME].values[cube["forecast_source"].values != ForecastSource.NONE]
    return list(days.astype("datetime64[D]").astype(object))


def _init(cube: xr.Dataset | None, init_day: date) -> xr.Dataset | None:
    if cube is None or np.datetime64(init_day, "ns") not in cube[INIT_TIME].values:
        return None
    init = cube.sel({INIT_TIME: np.datetime64(init_day, "ns")}).load()
    return init if int(init["forecast_source"]) != ForecastSource.NONE else None


def _new_days(cube: Cube, committed: xr.Dataset | None, init_day: date) -> np.ndarray:
    """Return the days, since 1970, that the axis must grow by to end on ``init_day``."""
    init = (init_day - daily.EPOCH).days
    if committed is None:
        return np.array([init])
    newest = int(committed[INIT_TIME].values[-1].astype("datetime64[D]").astype(int))
    if init <= newest:
        raise ProductError(
            f"{cube.url} has no forecast from {init_day} and can't take one any more: it goes on to "
            f"{daily.EPOCH + timedelta(days=newest)}, and what readers have seen, gaps too, never changes. Run missed "
            "nights oldest first, before the newest, or publish to another store"
        )
    return np.arange(newest + 1, init + 1)


def _rows(settings: Settings, made: NightlyForecast, days: np.ndarray) -> dict[str, np.ndarray]:
    anomaly = made.sst - made.bundle.normaliser.climatology(made.sst["valid_time"])
    leads = made.sst["lead_time"].values.astype("int32")
    text = np.dtypes.StringDType()
    return {
        INIT_TIME: days.astype("int32"),
        "sst": made.sst.values.astype("float32")[None],
        "sst_anomaly": anomaly.values.astype("float32")[None],
        "mask": _mask(settings, made)[None],
        "valid_time": (days[-1] + leads)[None],
        "forecast_source": np.array([made.source], "int8"),
        "model_id": np.array([made.bundle.id], text),
        "archive_snapshot": np.array([made.snapshot_id], text),
        "input_age_days": np.array([made.input_age_days], "int16"),
        "n_missing_inputs": np.array([made.n_missing_inputs], "int16"),
        "created_at": np.array([now_seconds()], "int64"),
    }


def _is_same(standing: xr.Dataset, made: NightlyForecast) -> bool:
    return (
        str(standing["model_id"].values) == made.bundle.id
        and int(standing["forecast_source"]) == made.source
        and np.array_equal(standing["sst"].values, made.sst.values.astype("float32"), equal_nan=True)
    )


def _mask(settings: Settings, made: NightlyForecast) -> np.ndarray:
    state = Archive(settings).read(made.init_day, made.init_day, made.snapshot_id).isel(time=0).load()
    ice = (state["sea_ice_fraction"] >= ICE_THRESHOLD) & (state["mask"] == SEA)
    return np.asarray(state["mask"].values | np.where(ice.values, ICE, 0), "int8")


def _template(settings: Settings, grid: Grid) -> xr.Dataset:
    leads = settings.model.lead_days
    cube = np.zeros((0, leads, *grid.shape), "float32")
    text = np.array([], np.dtypes.StringDType())
    lineage: dict[str, tuple[str, np.ndarray, dict[str, Any]]] = {
        "forecast_source": (
            INIT_TIME,
            np.zeros(0, "int8"),
            {
                "long_name": "what made the forecast",
                "flag_values": [int(s) for s in ForecastSource],
                "flag_meanings": " ".join(s.name.lower() for s in ForecastSource),
            },
        ),
        "model_id": (INIT_TIME, text, {"long_name": "bundle that made the forecast"}),
        "archive_snapshot": (INIT_TIME, text, {"long_name": "archive state the forecast was made from"}),
        "input_age_days": (
            INIT_TIME,
            np.zeros(0, "int16"),
            {"long_name": "days from the last observed day to the night of the forecast", "units": "days"},
        ),
        "n_missing_inputs": (
            INIT_TIME,
            np.zeros(0, "int16"),
            {"long_name": "input days that were missing", "units": "1"},
        ),
        "created_at": (INIT_TIME, np.zeros(0, "datetime64[s]"), {"long_name": "when the forecast was written"}),
    }
    return xr.Dataset(
        {
            "sst": (FIELDS, cube, _SST_ATTRIBUTES),
            "sst_anomaly": (FIELDS, cube, _ANOMALY_ATTRIBUTES),
            "mask": ((INIT_TIME, *FIELDS[2:]), np.zeros((0, *grid.shape), "int8"), _MASK_ATTRIBUTES),
            **lineage,
        },
        {
            INIT_TIME: (INIT_TIME, np.zeros(0, "datetime64[ns]"), _INIT_ATTRIBUTES),
            "lead_time": ("lead_time", np.arange(1, leads + 1, dtype="int32"), _LEAD_ATTRIBUTES),
            "valid_time": (FIELDS[:2], np.zeros((0, leads), "datetime64[ns]"), _VALID_ATTRIBUTES),
            **grid.coords(),
        },
        _attributes(settings, grid),
    )


_SST_ATTRIBUTES = {
    "standard_name": "sea_surface_foundation_temperature",
    "long_name": "foundation sea surface temperature, forecast",
    "units": "kelvin",
    "units_metadata": "temperature: on_scale",
    "coverage_content_type": "modelResult",
    "ancillary_variables": "mask forecast_source",
}
_ANOMALY_ATTRIBUTES = {
    **_SST_ATTRIBUTES,
    "standard_name": "sea_water_temperature_anomaly",
    "long_name": "foundation sea surface temperature, forecast minus the model's climatology of the valid day",
    "units_metadata": "temperature: difference",
}
_MASK_ATTRIBUTES = {
    "long_name": "surface type at the init time",
    "flag_masks": [SEA, LAND, ICE],
    "flag_meanings": "sea land ice",
}
_INIT_ATTRIBUTES = {"standard_name": "forecast_reference_time", "long_name": "last observed day"}
_LEAD_ATTRIBUTES = {"standard_name": "forecast_period", "long_name": "lead time", "units": "days"}
_VALID_ATTRIBUTES = {"standard_name": "time", "long_name": "day the forecast is for"}


def _attributes(settings: Settings, grid: Grid) -> dict[str, Any]:
    region, archive = settings.region, Archive(settings)
    source = "synthetic" if settings.source.is_synthetic else "satellite"
    return {
        "Conventions": "CF-1.11, ACDD-1.3",
        "title": f"{region.title}: {settings.model.lead_days}-day sea surface temperature forecasts",
        "summary": (
            f"Daily forecasts of foundation sea surface temperature for 1 to {settings.model.lead_days} days ahead, "
            f"made from {source} daily analyses. Land is NaN; an init_time without a forecast has forecast_source none."
        ),
        "keywords": "sea surface temperature, forecast, foundation SST, machine learning, DatLSTM",
        "institution": "datlstm forecast service",
        "project": "datlstm",
        "source": f"{source} SST ({settings.source.kind}), forecast by the model that model_id names",
        "history": "written by datlstm",
        "references": "none: synthetic" if settings.source.is_synthetic else OSTIA_REFERENCES,
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "acknowledgement": archive.attribution() if archive.exists() else "",
        "processing_level": "L4 forecast",
        "geospatial_lat_min": float(grid.latitude[0]),
        "geospatial_lat_max": float(grid.latitude[-1]),
        "geospatial_lon_min": float(grid.longitude[0]),
        "geospatial_lon_max": float(grid.longitude[-1]),
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_units": "degrees_east",
        "id": f"datlstm-{region.name}",
        "naming_authority": "datlstm",
        "standard_name_vocabulary": "CF Standard Name Table v93",
    }


def _encoding(settings: Settings, grid: Grid) -> dict[str, dict[str, Any]]:
    nan = np.float32(np.nan)
    cube = {"chunks": (1, settings.model.lead_days, *grid.shape), "_FillValue": nan, "fill_value": nan}
    scalar = {"chunks": (daily.LARGE_CHUNK,)}
    days = {"units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"}
    return {
        "sst": cube,
        "sst_anomaly": cube,
        "mask": {"chunks": (1, *grid.shape)},
        **dict.fromkeys(
            ("forecast_source", "model_id", "archive_snapshot", "input_age_days", "n_missing_inputs"), scalar
        ),
        "created_at": {**scalar, "units": daily.SECOND_UNITS, "dtype": "int64"},
        INIT_TIME: {**scalar, **days},
        "valid_time": {"chunks": (daily.LARGE_CHUNK, settings.model.lead_days), **days, **NO_DAY},
    }
