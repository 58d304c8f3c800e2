"""The forecast cube that analysts open: how a night's forecast is drafted, enters it, and is read back."""

import logging
from datetime import date, timedelta
from typing import Literal

import numpy as np
import xarray as xr

from datlstm import daily
from datlstm.archive import SEA, Archive
from datlstm.clock import now_seconds
from datlstm.cube import Cube, CubeWriter
from datlstm.errors import ProductError
from datlstm.grid import Grid
from datlstm.ladder import ForecastSource, NightlyForecast
from datlstm.lineage import code_version, settings_hash
from datlstm.products.derived import OBSERVED_DAYS, derive
from datlstm.products.heatwave import baseline as heatwave_baseline
from datlstm.products.structure import (
    FIELDS,
    ICE,
    INIT_TIME,
    LINEAGE_COUNTS,
    LINEAGE_TEXT,
    forecast_encoding,
    forecast_template,
)
from datlstm.settings import Settings
from datlstm.store import Store

FORECAST_PATH = "forecast.zarr"
ICE_THRESHOLD = 0.15
Outcome = Literal["published", "kept", "unchanged"]

log = logging.getLogger(__name__)


def forecast_cube(settings: Settings) -> Cube:
    """Return the region's forecast cube ``(init_time, lead_time, latitude, longitude)``, one chunk per init."""
    grid = Grid.from_region(settings.region)
    template, encoding = forecast_template(settings, grid), forecast_encoding(settings, grid)
    return Cube(Store(settings.store), FORECAST_PATH, template, encoding)


def draft_forecast(settings: Settings, made: NightlyForecast) -> xr.Dataset:
    """Return a forecast with all that is derived from it and its lineage, as the cube will show the init.

    Fields are ``(lead_time, latitude, longitude)``, lineage is scalar; see `read_init`.
    """
    first = made.init_day - timedelta(days=OBSERVED_DAYS - 1)
    observed = Archive(settings).read(first, made.init_day, made.snapshot_id).load()
    baseline = heatwave_baseline(settings, made.init_day, made.snapshot_id)
    anomaly = made.sst - made.bundle.normaliser.climatology(made.sst["valid_time"])
    fields = {
        "sst": made.sst.astype("float32"),
        "sst_anomaly": anomaly.astype("float32"),
        "mask": _mask(observed.isel(time=-1)),
        **derive(settings, made.sst, observed["sst"], baseline).data_vars,
    }
    lineage = {
        "forecast_source": np.int8(made.source),
        "model_id": made.bundle.id,
        "archive_snapshot": made.snapshot_id,
        "settings_hash": settings_hash(settings),
        "code_version": code_version(),
        "heatwave_baseline": baseline.id if baseline else "",
        "input_age_days": np.int16(made.input_age_days),
        "n_missing_inputs": np.int16(made.n_missing_inputs),
        "created_at": np.datetime64(now_seconds(), "s").astype("datetime64[ns]"),
    }
    init_time = np.datetime64(made.init_day, "ns")
    valid_time = init_time + made.sst["lead_time"].values * np.timedelta64(1, "D").astype("timedelta64[ns]")
    template = forecast_template(settings, Grid.from_region(settings.region))
    coords = {INIT_TIME: init_time, "valid_time": ("lead_time", valid_time)}
    coords |= {name: template[name] for name in FIELDS[1:]}
    values = {name: (field.dims, field.values) for name, field in fields.items()} | {
        n: ((), v) for n, v in lineage.items()
    }
    init = xr.Dataset(values, coords, template.attrs)
    for name in init.variables:
        init[name].attrs = template[name].attrs
    return init


def stage_forecast(writer: CubeWriter, draft: xr.Dataset) -> tuple[Outcome, xr.Dataset]:
    """Stage a draft, unless its init has a forecast already; return what came of it and the init that will stand.

    The first forecast of an init stands for ever. The same again is ``unchanged``; another one is ``kept`` out, with a
    warning. Raises `ProductError` for an init before the newest that has none, and for a cube of another structure.
    """
    day = day_of(draft)
    standing = init_in(writer.committed, day)
    if standing is None:
        writer.stage(_rows(draft, _new_days(writer, day)))
        return "published", draft
    if _is_same(standing, draft):
        return "unchanged", standing
    log.warning(
        "the first forecast from %s, by %s, stands; this one, by %s, differs and was kept out, because what readers "
        "have seen never changes",
        day,
        standing["model_id"].item(),
        draft["model_id"].item(),
    )
    return "kept", standing


def day_of(init: xr.Dataset) -> date:
    """Return the day an init started from."""
    return date.fromisoformat(str(init[INIT_TIME].values)[:10])


def read_init(settings: Settings, init_day: date) -> xr.Dataset | None:
    """Return one published init, loaded, or None when there is no forecast from that day."""
    return init_in(forecast_cube(settings).open(), init_day)


def published_days(settings: Settings) -> list[date]:
    """Return the init days that have a forecast, ascending."""
    return days_in(forecast_cube(settings).open())


def days_in(cube: xr.Dataset | None) -> list[date]:
    """Return the init days of an opened cube that have a forecast, ascending."""
    if cube is None:
        return []
    days = cube[INIT_TIME].values[cube["forecast_source"].values != ForecastSource.NONE]
    return list(days.astype("datetime64[D]").astype(object))


def init_in(cube: xr.Dataset | None, init_day: date) -> xr.Dataset | None:
    """Return one init of an opened cube, loaded, or None when there is no forecast from that day."""
    if cube is None or np.datetime64(init_day, "ns") not in cube[INIT_TIME].values:
        return None
    init = cube.sel({INIT_TIME: np.datetime64(init_day, "ns")}).load()
    return init if int(init["forecast_source"]) != ForecastSource.NONE else None


def _new_days(writer: CubeWriter, init_day: date) -> np.ndarray:
    """Return the days, since 1970, that the axis must grow by to end on ``init_day``."""
    init = (init_day - daily.EPOCH).days
    if writer.committed is None:
        return np.array([init])
    newest = int(writer.committed[INIT_TIME].values[-1].astype("datetime64[D]").astype(int))
    if init <= newest:
        raise ProductError(
            f"{writer.url} has no forecast from {init_day} and can't take one any more: it goes on to "
            f"{daily.EPOCH + timedelta(days=newest)}, and what readers have seen, gaps too, never changes. Run missed "
            "nights oldest first, before the newest, or publish to another store"
        )
    return np.arange(newest + 1, init + 1)


def _rows(draft: xr.Dataset, days: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of a draft as on disk, after empty rows for the days before it that are new too."""
    rows = {str(name): draft[name].values[None] for name in draft.data_vars if draft[name].ndim}
    rows |= {name: np.array([str(draft[name].values)], np.dtypes.StringDType()) for name in LINEAGE_TEXT}
    rows |= {name: draft[name].values[None] for name in ("forecast_source", *LINEAGE_COUNTS)}
    created_at = draft["created_at"].values.astype("datetime64[s]").astype("int64")
    leads = draft["lead_time"].values.astype("int32")
    return rows | {
        INIT_TIME: days.astype("int32"),
        "valid_time": (days[-1] + leads)[None].astype("int32"),
        "created_at": created_at[None],
    }


def _is_same(standing: xr.Dataset, draft: xr.Dataset) -> bool:
    return all(
        np.array_equal(standing[name].values, draft[name].values, equal_nan=name == "sst")
        for name in ("model_id", "forecast_source", "sst")
    )


def _mask(state: xr.Dataset) -> xr.DataArray:
    ice = (state["sea_ice_fraction"] >= ICE_THRESHOLD) & (state["mask"] == SEA)
    return xr.DataArray((state["mask"] | ICE * ice).astype("int8"))
