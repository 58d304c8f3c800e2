"""The skill cube: every published forecast scored when its truth comes, beside the baselines, by area and surface.

The cube is a log: a row holds all scores of one valid day, of the forecasts from all inits before it, and is never
changed. When the truth of the day is revised, or more forecasts for it can be scored, a new row of that day follows and
says why. The last row of a day counts; the earlier ones say what was known before. Why in this form:
docs/decisions/0013.
"""

from typing import Any

import numpy as np
import xarray as xr

from datlstm import daily
from datlstm.areas import ICE_THRESHOLD, SURFACES, area_names
from datlstm.cube import FORMAT, Cube, CubeWriter
from datlstm.products.basis import bases
from datlstm.products.structure import NO_DAY, origin_of, shared_attributes
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.verification import METRICS

SKILL_PATH = "skill.zarr"
FORMAT_VERSION = 2
"""Format 1 has a row for each init."""
SCORING = "scoring"
FORECAST = "forecast"
FORECASTERS = (FORECAST, "persistence", "climatology", "damped_persistence")
PROVISIONAL, FINAL = 0, 1
DIMS = (SCORING, "forecaster", "area", "surface", "lead_time")
BASIS = ("valid_time", "init_time", "truth_product", "truth_version", "truth_ingested_at", "definitions_version")
"""What `basis.bases` reads of a row."""
# With six areas and ten leads half a megabyte of a metric: little to write again each night, few objects in a year.
CHUNK_ROWS = 256


def skill_cube(settings: Settings) -> Cube:
    """Return the region's log of scores, `DIMS`."""
    return Cube(Store(settings.store), SKILL_PATH, _template(settings), _encoding(settings))


def skill_log(settings: Settings) -> xr.Dataset | None:
    """Return all rows ever written, `DIMS`, lazily, or None before the first. Raises as `Cube.open`."""
    return skill_cube(settings).open()


def standing_skill(settings: Settings) -> xr.Dataset | None:
    """Return the scores that count ``(valid_time, …)``, lazily, or None before the first. Raises as `skill_log`."""
    log = skill_log(settings)
    return None if log is None else standing(log)


def standing(log: xr.Dataset) -> xr.Dataset:
    """Return the last row of each valid day of a log, by ``valid_time``, ascending."""
    return log.swap_dims({SCORING: "valid_time"}).drop_duplicates("valid_time", keep="last").sortby("valid_time")


def stage(writer: CubeWriter, news: xr.Dataset) -> xr.Dataset:
    """Stage new rows, as `scoring.score` gives them, for the writer's commit; return those that were staged.

    A row that stands already, or whose truth is older than the standing one's, is left out: another writer was first.
    Raises `ProductError` when the cube on disk has another structure.
    """
    stood = {} if writer.committed is None else bases(writer.committed[list(BASIS)].load())
    days = news["valid_time"].values.astype("datetime64[D]").tolist()
    own = bases(news)
    kept = news.isel({SCORING: [own[day].adds_to(stood.get(day)) for day in days]})
    if kept.sizes[SCORING]:
        writer.stage(_encoded(kept))
    return kept


def _encoded(rows: xr.Dataset) -> dict[str, np.ndarray]:
    """Return rows as they lie on disk."""
    text = np.dtypes.StringDType()
    init_time = rows["init_time"].transpose(SCORING, "lead_time").values.astype("datetime64[D]")
    days = np.where(np.isnat(init_time), NO_DAY["fill_value"], init_time.astype("int64"))
    return {
        **{name: rows[name].transpose(*DIMS).values.astype("float32") for name in METRICS},
        "n": rows["n"].transpose(*DIMS).values.astype("int32"),
        "flip_flop": rows["flip_flop"].transpose(*DIMS[:-1]).values.astype("float32"),
        "valid_time": rows["valid_time"].values.astype("datetime64[D]").astype("int32"),
        "init_time": days.astype("int32"),
        **{name: rows[name].values.astype(text) for name in _TEXTS},
        **{name: rows[name].values.astype("datetime64[s]").astype("int64") for name in _SECONDS},
        "status": rows["status"].values.astype("int8"),
        "definitions_version": rows["definitions_version"].values.astype("int16"),
    }


def _template(settings: Settings) -> xr.Dataset:
    leads, text = settings.model.lead_days, np.dtypes.StringDType()
    areas = area_names(settings.region)
    shape = (0, len(FORECASTERS), len(areas), len(SURFACES), leads)
    moments = np.zeros(0, "datetime64[s]")
    return xr.Dataset(
        {
            **{name: (DIMS, np.zeros(shape, "float32"), _METRIC_ATTRIBUTES[name]) for name in METRICS},
            "n": (DIMS, np.zeros(shape, "int32"), _N_ATTRIBUTES),
            "flip_flop": (DIMS[:-1], np.zeros(shape[:-1], "float32"), _FLIP_FLOP_ATTRIBUTES),
            **{
                name: (SCORING, np.zeros(0, text), {**_AUXILIARY, "long_name": meaning})
                for name, meaning in _TEXTS.items()
            },
            **{name: (SCORING, moments, {**_AUXILIARY, "long_name": meaning}) for name, meaning in _SECONDS.items()},
            "status": (SCORING, np.zeros(0, "int8"), _STATUS_ATTRIBUTES),
            "definitions_version": (
                SCORING,
                np.zeros(0, "int16"),
                {**_AUXILIARY, "long_name": "version of the definitions of the scores", "units": "1"},
            ),
        },
        {
            "valid_time": (SCORING, np.zeros(0, "datetime64[ns]"), _VALID_ATTRIBUTES),
            "init_time": ((SCORING, "lead_time"), np.zeros((0, leads), "datetime64[ns]"), _INIT_ATTRIBUTES),
            "forecaster": ("forecaster", np.array(FORECASTERS, text), {"long_name": "what made the forecasts"}),
            "area": ("area", np.array(areas, text), {"long_name": "sea cells of the region or of a sub-basin"}),
            "surface": ("surface", np.array(SURFACES, text), _SURFACE_ATTRIBUTES),
            "lead_time": ("lead_time", np.arange(1, leads + 1, dtype="int32"), _LEAD_ATTRIBUTES),
        },
        _attributes(settings),
    )


_TEXTS = {
    "truth_product": "product the truth came from",
    "truth_version": "version of that product",
    "reason": "why the row was written",
}
_SECONDS = {
    "truth_ingested_at": "when the archive took the truth in",
    "scored_at": "when the scores were computed",
}
_QUALITY = {"coverage_content_type": "qualityInformation"}
_AUXILIARY = {"coverage_content_type": "auxiliaryInformation"}
# By the standard names of what is not there any more (CF 7.3.4): "area" is the name of a dimension here.
_CELLS_METHOD = "latitude: longitude: {} (weighted by the cosine of latitude, over the cells that n counts)"
_DIFFERENCE = {
    **_QUALITY,
    "units": "kelvin",
    "units_metadata": "temperature: difference",
    "ancillary_variables": "n status",
}
_METRIC_ATTRIBUTES = {
    "rmse": {
        **_DIFFERENCE,
        "long_name": "root mean square error of the sea surface temperature",
        "cell_methods": _CELLS_METHOD.format("root_mean_square"),
    },
    "mae": {
        **_DIFFERENCE,
        "long_name": "mean absolute error of the sea surface temperature",
        "cell_methods": _CELLS_METHOD.format("mean_absolute_value"),
    },
    "bias": {
        **_DIFFERENCE,
        "long_name": "mean error of the sea surface temperature, forecast minus truth",
        "cell_methods": _CELLS_METHOD.format("mean"),
    },
    "acc": {
        **_QUALITY,
        "units": "1",
        "ancillary_variables": "n status",
        "long_name": "uncentred anomaly correlation of the sea surface temperature",
    },
}
_N_ATTRIBUTES = {
    **_QUALITY,
    "units": "1",
    "long_name": "number of cells scored: those that the truth and all forecasters have",
    "cell_methods": "latitude: longitude: sum",
}
_FLIP_FLOP_ATTRIBUTES = {
    **_DIFFERENCE,
    "ancillary_variables": "status",
    "long_name": "flip-flop index of the successive forecasts for the day, longest lead first",
    "cell_methods": _CELLS_METHOD.format("mean"),
    "references": "https://doi.org/10.1002/met.1732",
}
_STATUS_ATTRIBUTES = {
    **_QUALITY,
    "standard_name": "status_flag",
    "long_name": "whether the truth is the best its source gives, or may still be revised",
    "flag_values": [PROVISIONAL, FINAL],
    "flag_meanings": "provisional final",
}
_VALID_ATTRIBUTES = {"standard_name": "time", "long_name": "day the forecasts are for"}
_INIT_ATTRIBUTES = {
    "standard_name": "forecast_reference_time",
    "long_name": "last observed day of each forecast scored",
}
_LEAD_ATTRIBUTES = {"standard_name": "forecast_period", "long_name": "lead time", "units": "days"}
_SURFACE_ATTRIBUTES = {
    "long_name": "which cells count",
    "comment": f"ice_free leaves out cells with a sea ice fraction of {ICE_THRESHOLD} or more in the truth of the day",
}


def _attributes(settings: Settings) -> dict[str, Any]:
    region, origin = settings.region, origin_of(settings)
    return {
        **shared_attributes(settings),
        FORMAT: FORMAT_VERSION,
        "title": f"{region.title}: skill of the sea surface temperature forecasts",
        "summary": (
            f"Errors and stability of the published forecasts and of three baselines against {origin} daily analyses, "
            "in kelvin (equal to °C for differences), by valid day, area, surface and lead time."
        ),
        "comment": (
            "A log of which a row never changes: of several rows of the same valid_time the last counts, and reason "
            "tells why it was written."
        ),
        "keywords": "sea surface temperature, forecast, verification, forecast skill",
        "source": f"{origin} SST analyses against the forecasts of forecast.zarr",
        "id": f"datlstm-{region.name}-skill",
    }


def _encoding(settings: Settings) -> dict[str, dict[str, Any]]:
    leads, nan = settings.model.lead_days, np.float32(np.nan)
    samples = (CHUNK_ROWS, len(FORECASTERS), len(area_names(settings.region)), len(SURFACES))
    score = {"_FillValue": nan, "fill_value": nan}
    scalar = {"chunks": (daily.LARGE_CHUNK,)}
    days = {"units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"}
    return {
        **dict.fromkeys(METRICS, {**score, "chunks": (*samples, leads)}),
        "n": {"chunks": (*samples, leads)},
        "flip_flop": {**score, "chunks": samples},
        **dict.fromkeys((*_TEXTS, "status", "definitions_version"), scalar),
        **dict.fromkeys(_SECONDS, {**scalar, "units": daily.SECOND_UNITS, "dtype": "int64"}),
        "valid_time": {**scalar, **days},
        "init_time": {"chunks": (daily.LARGE_CHUNK, leads), **days, **NO_DAY},
    }
