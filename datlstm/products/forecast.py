"""The forecast cube that analysts open: how a night's forecast is drafted, enters it, and is read back."""

import logging
from datetime import date, timedelta
from typing import Literal

import numpy as np
import xarray as xr

from datlstm import daily
from datlstm.archive import SEA, Archive
from datlstm.areas import ICE_THRESHOLD
from datlstm.clock import now_seconds
from datlstm.cube import Cube, CubeWriter
from datlstm.errors import ProductError
from datlstm.grid import Grid
from datlstm.ladder import ForecastSource, NightlyForecast
from datlstm.lineage import code_version, settings_hash
from datlstm.products.derived import OBSERVED_DAYS, derive
from datlstm.products.heatwave import HeatwaveBaseline
from datlstm.products.heatwave import baseline as heatwave_baseline
from datlstm.products.structure import (
    ICE,
    INIT_TIME,
    forecast_encoding,
    forecast_template,
)
from datlstm.settings import Settings
from datlstm.store import Store

FORECAST_PATH = "forecast.zarr"
Outcome = Literal["published", "kept", "unchanged"]

log = logging.getLogger(__name__)


def forecast_cube(settings: Settings) -> Cube:
    """Return the region's forecast cube ``(init_time, lead_time, latitude, longitude)``, one chunk per init."""
    grid = Grid.from_region(settings.region)
    template, encoding = forecast_template(settings, grid), forecast_encoding(settings, grid)
    return Cube(Store(settings.store), FORECAST_PATH, template, encoding)


def draft_forecast(settings: Settings, made: NightlyForecast) -> xr.Dataset:
    """Return a forecast with all that is derived from it and its lineage, one init long, encoded as the cube has it."""
    return draft_against(settings, made, heatwave_baseline(settings, made.init_day, made.snapshot_id))


def draft_against(settings: Settings, made: NightlyForecast, baseline: HeatwaveBaseline | None) -> xr.Dataset:
    """Return `draft_forecast` with the heatwaves of a given baseline."""
    first = made.init_day - timedelta(days=OBSERVED_DAYS - 1)
    observed = Archive(settings).read(first, made.init_day, made.snapshot_id).load()
    return draft_beside(settings, made, baseline, observed)


def draft_beside(
    settings: Settings, made: NightlyForecast, baseline: HeatwaveBaseline | None, observed: xr.Dataset
) -> xr.Dataset:
    """Return `draft_against` of the archive's days up to the init day, at least `OBSERVED_DAYS`, as `Archive.read`."""
    derived = derive(settings, made.sst, observed["sst"], baseline)
    anomaly = made.sst - made.bundle.normaliser.climatology(made.sst["valid_time"])
    init = (made.init_day - daily.EPOCH).days
    values = {
        INIT_TIME: np.int32(init),
        "valid_time": (init + made.sst["lead_time"].values).astype("int32"),
        "sst": made.sst.values.astype("float32"),
        "sst_anomaly": anomaly.values.astype("float32"),
        "sst_spread": made.spread.values.astype("float32"),
        "mask": _surface_mask(observed.isel(time=-1)).values,
        **{str(name): field.values for name, field in derived.data_vars.items()},
        "forecast_source": np.int8(made.source),
        "model_id": made.bundle.id,
        "archive_snapshot": made.snapshot_id,
        "settings_hash": settings_hash(settings),
        "code_version": code_version(),
        "heatwave_baseline": baseline.id if baseline else "",
        "input_age_days": np.int16(made.input_age_days),
        "n_missing_inputs": np.int16(made.n_missing_inputs),
        "created_at": np.int64(now_seconds()),
    }
    template = forecast_template(settings, Grid.from_region(settings.region))
    return xr.Dataset({name: (template[name].dims, np.asarray(value)[None]) for name, value in values.items()})


def shown(cube: Cube, draft: xr.Dataset) -> xr.Dataset:
    """Return a draft's init as the cube shows it once published; see `read_init`."""
    return cube.preview(rows_of(draft)).isel({INIT_TIME: 0})


def stage_forecast(cube: Cube, writer: CubeWriter, draft: xr.Dataset) -> tuple[Outcome, xr.Dataset]:
    """Stage a draft, unless its init has a forecast already; return what came of it and the init that will stand.

    The first forecast of an init stands for ever. The same again is ``unchanged``; another one is ``kept`` out, with a
    warning. Raises `ProductError` for an init before the newest that has none, and for a cube of another structure.
    """
    rows = rows_of(draft)
    init = shown(cube, draft)
    day = init_day_of(init)
    standing = init_in(writer.committed, day)
    if standing is None:
        writer.stage(rows | {INIT_TIME: new_days(writer, day, day)})
        return "published", init
    if _is_same(standing, init):
        return "unchanged", standing
    log.warning(
        "the first forecast from %s, by %s, stands; this one, by %s, differs and was kept out, because what readers "
        "have seen never changes",
        day,
        standing["model_id"].item(),
        init["model_id"].item(),
    )
    return "kept", standing


def _surface_mask(state: xr.Dataset) -> xr.DataArray:
    """Return sea, land and ice ``(latitude, longitude)`` int8 on a day of the archive."""
    ice = (state["sea_ice_fraction"] >= ICE_THRESHOLD) & (state["mask"] == SEA)
    return xr.DataArray((state["mask"] | ICE * ice).astype("int8"))


def init_day_of(init: xr.Dataset) -> date:
    """Return the day a published init, as `read_init` gives it, starts from."""
    return init[INIT_TIME].values.astype("datetime64[D]").item()


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


def new_days(writer: CubeWriter, init_day: date, last_day: date) -> np.ndarray:
    """Return the days, since 1970, that the axis must grow by to take the inits of a closed interval.

    Raises `ProductError` when it has gone beyond the first of them already.
    """
    init, last = ((day - daily.EPOCH).days for day in (init_day, last_day))
    if writer.committed is None:
        return np.arange(init, last + 1, dtype="int32")
    newest = int(writer.committed[INIT_TIME].values[-1].astype("datetime64[D]").astype(int))
    if init <= newest:
        raise ProductError(
            f"{writer.url} has no forecast from {init_day} and can't take one any more: it goes on to "
            f"{daily.EPOCH + timedelta(days=newest)}, and what readers have seen, gaps too, never changes. Run missed "
            "nights oldest first, before the newest, or publish to another store"
        )
    return np.arange(newest + 1, last + 1, dtype="int32")


def rows_of(draft: xr.Dataset) -> dict[str, np.ndarray]:
    """Return drafted inits as the arrays that `CubeWriter.stage` takes."""
    return {str(name): _as_stored(field.values) for name, field in draft.variables.items()}


def _as_stored(values: np.ndarray) -> np.ndarray:
    return values.astype(np.dtypes.StringDType()) if values.dtype.kind in "OU" else values


def _is_same(standing: xr.Dataset, init: xr.Dataset) -> bool:
    return all(
        np.array_equal(standing[name].values, init[name].values, equal_nan=name == "sst")
        for name in ("model_id", "forecast_source", "sst")
    )
