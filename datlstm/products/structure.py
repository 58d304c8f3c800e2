"""What the forecast cube looks like: variables, chunks, CF and ACDD metadata. A change here is a new format."""

from typing import Any

import numpy as np
import xarray as xr

from datlstm import daily
from datlstm.archive import LAND, SEA, Archive
from datlstm.cube import FORMAT
from datlstm.grid import Grid
from datlstm.ladder import ForecastSource
from datlstm.products.derived import DerivedVariable, variables
from datlstm.settings import Settings

FORMAT_VERSION = 3
"""Format 1 has nothing derived, and neither settings nor code of a forecast; format 2 no spread."""
INIT_TIME = "init_time"
OSTIA_REFERENCES = "https://doi.org/10.48670/moi-00165, https://doi.org/10.48670/moi-00168"
ICE = 4
# What a gap in the axis has for a day: decoders show it as not a time.
NO_DAY = {"_FillValue": np.iinfo("int32").min, "fill_value": np.iinfo("int32").min}
FIELDS = (INIT_TIME, "lead_time", "latitude", "longitude")
LINEAGE_TEXT = ("model_id", "archive_snapshot", "settings_hash", "code_version", "heatwave_baseline")
LINEAGE_COUNTS = ("input_age_days", "n_missing_inputs")


def forecast_template(settings: Settings, grid: Grid) -> xr.Dataset:
    """Return the cube without inits: every variable, its type, dimensions and attributes, and the cube's own."""
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
        "settings_hash": (INIT_TIME, text, {"long_name": "settings the forecast was made with"}),
        "code_version": (INIT_TIME, text, {"long_name": "version of the code that made the forecast"}),
        "heatwave_baseline": (INIT_TIME, text, {"long_name": "climatology and threshold of the heatwave categories"}),
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
    derived = {
        name: (FIELDS, np.zeros((0, leads, *grid.shape), variable.dtype), variable.attributes)
        for name, variable in variables(settings).items()
    }
    return xr.Dataset(
        {
            "sst": (FIELDS, cube, _SST_ATTRIBUTES),
            "sst_anomaly": (FIELDS, cube, _ANOMALY_ATTRIBUTES),
            "sst_spread": (FIELDS, cube, _SPREAD_ATTRIBUTES),
            "mask": ((INIT_TIME, *FIELDS[2:]), np.zeros((0, *grid.shape), "int8"), _MASK_ATTRIBUTES),
            **derived,
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
    "ancillary_variables": "mask forecast_source sst_spread",
}
_ANOMALY_ATTRIBUTES = {
    **_SST_ATTRIBUTES,
    "standard_name": "sea_water_temperature_anomaly",
    "long_name": "foundation sea surface temperature, forecast minus the model's climatology of the valid day",
    "units_metadata": "temperature: difference",
}
_SPREAD_ATTRIBUTES = {
    "standard_name": "sea_surface_foundation_temperature standard_error",
    "long_name": "expected error of the forecast temperature, one standard deviation",
    "units": "kelvin",
    "units_metadata": "temperature: difference",
    "coverage_content_type": "modelResult",
    "ancillary_variables": "mask forecast_source",
    "comment": (
        "from the spread of the model's members and its errors in validation, so that on average over days with such a "
        "value it is the root mean square error; missing where the forecaster tells none"
    ),
}
_MASK_ATTRIBUTES = {
    "long_name": "surface type at the init time",
    "flag_masks": [SEA, LAND, ICE],
    "flag_meanings": "sea land ice",
}
_INIT_ATTRIBUTES = {"standard_name": "forecast_reference_time", "long_name": "last observed day"}
_LEAD_ATTRIBUTES = {"standard_name": "forecast_period", "long_name": "lead time", "units": "days"}
_VALID_ATTRIBUTES = {"standard_name": "time", "long_name": "day the forecast is for"}


def shared_attributes(settings: Settings) -> dict[str, str]:
    """Return what ACDD asks of every cube of the service alike."""
    archive = Archive(settings)
    return {
        "Conventions": "CF-1.11, ACDD-1.3",
        "institution": "datlstm forecast service",
        "project": "datlstm",
        "history": "written by datlstm",
        "references": "none: synthetic" if settings.source.is_synthetic else OSTIA_REFERENCES,
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "acknowledgement": archive.attribution() if archive.exists() else "",
        "naming_authority": "datlstm",
        "standard_name_vocabulary": "CF Standard Name Table v93",
    }


def origin_of(settings: Settings) -> str:
    """Return in one word whether the days were observed or invented."""
    return "synthetic" if settings.source.is_synthetic else "satellite"


def _attributes(settings: Settings, grid: Grid) -> dict[str, Any]:
    region, origin = settings.region, origin_of(settings)
    return {
        **shared_attributes(settings),
        FORMAT: FORMAT_VERSION,
        "title": f"{region.title}: {settings.model.lead_days}-day sea surface temperature forecasts",
        "summary": (
            f"Daily forecasts of foundation sea surface temperature for 1 to {settings.model.lead_days} days ahead, "
            f"made from {origin} daily analyses. Land is NaN; an init_time without a forecast has forecast_source none."
        ),
        "keywords": "sea surface temperature, forecast, foundation SST, machine learning, DatLSTM",
        "source": f"{origin} SST analyses, forecast by the model that model_id names",
        "processing_level": "L4 forecast",
        "geospatial_lat_min": float(grid.latitude[0]),
        "geospatial_lat_max": float(grid.latitude[-1]),
        "geospatial_lon_min": float(grid.longitude[0]),
        "geospatial_lon_max": float(grid.longitude[-1]),
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_units": "degrees_east",
        "id": f"datlstm-{region.name}",
    }


def forecast_encoding(settings: Settings, grid: Grid) -> dict[str, dict[str, Any]]:
    """Return how the cube lies on disk: a field is one chunk an init, a per-init scalar one chunk for years."""
    nan = np.float32(np.nan)
    cube = {"chunks": (1, settings.model.lead_days, *grid.shape), "_FillValue": nan, "fill_value": nan}
    scalar = {"chunks": (daily.LARGE_CHUNK,)}
    days = {"units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"}
    return {
        "sst": cube,
        "sst_anomaly": cube,
        "sst_spread": cube,
        "mask": {"chunks": (1, *grid.shape)},
        **{name: {"chunks": cube["chunks"], **_fill(variable)} for name, variable in variables(settings).items()},
        **dict.fromkeys(("forecast_source", *LINEAGE_TEXT, *LINEAGE_COUNTS), scalar),
        "created_at": {**scalar, "units": daily.SECOND_UNITS, "dtype": "int64"},
        INIT_TIME: {**scalar, **days},
        "valid_time": {"chunks": (daily.LARGE_CHUNK, settings.model.lead_days), **days, **NO_DAY},
    }


def _fill(variable: DerivedVariable) -> dict[str, Any]:
    value = np.dtype(variable.dtype).type(variable.fill_value)
    return {"fill_value": value} | ({"_FillValue": value} if variable.fill_is_missing else {})
