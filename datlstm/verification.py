"""Scores by lead, beside the baselines, on the same inits, days and cells.

Definitions version 2. Errors are forecast minus truth in kelvin (equal to °C), cosine-latitude weighted over the sea
cells that every forecaster and the truth have. RMSE, MAE and bias are those of the ``scores`` package; the anomaly
correlation is the uncentred one of the WMO (Manual on the Global Data-processing System, WMO-No. 485). The same by
area, and beside it the stability of successive forecasts: `datlstm.day_scores`.
"""

from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import pandas as pd
import scores.continuous
import xarray as xr

from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.errors import NotEnoughDataError
from datlstm.grid import Grid
from datlstm.settings import Settings
from datlstm.windows import Periods

DEFINITIONS_VERSION = 2
CELLS = ("latitude", "longitude")
METRICS = ("rmse", "mae", "bias", "acc")


def score(forecasts: Mapping[str, xr.DataArray], truth: xr.DataArray, climatology: xr.DataArray) -> xr.Dataset:
    """Return ``rmse``, ``mae``, ``bias`` kelvin, ``acc`` and ``n`` by ``(forecaster, init_time, lead_time)``.

    All inputs are ``(init_time, lead_time, latitude, longitude)`` kelvin. ``n`` is the number of cells of the common
    sample; where it is 0 the scores are NaN.
    """
    common = truth.notnull()
    for field in forecasts.values():
        common = common & field.notnull()
    observed = truth.where(common)
    weights = area_weights(truth)
    by_forecaster = [_score_one(field.where(common), observed, climatology, weights) for field in forecasts.values()]
    scored = xr.concat(by_forecaster, pd.Index(list(forecasts), name="forecaster"))
    return scored.assign(n=common.sum(CELLS).astype("int32").expand_dims(forecaster=scored["forecaster"]))


def pooled(scored: xr.Dataset, dimension: str) -> xr.Dataset:
    """Return the scores over all of a dimension: means weighted by the number of cells, of the RMSE of its square.

    ``n`` is the number of cells of all. A score that is NaN counts for nothing.
    """
    cells = scored["n"].fillna(0)
    metrics = scored[[name for name in METRICS if name in scored]]
    mean: xr.Dataset = metrics.assign(rmse=scored["rmse"] ** 2).weighted(cells).mean(dimension)
    return mean.assign(rmse=mean["rmse"] ** 0.5, n=cells.sum(dimension))


def pooled_rmse(scored: xr.Dataset) -> xr.DataArray:
    """Return the RMSE over all inits ``(forecaster, lead_time)``, each weighted by its number of cells."""
    return pooled(scored[["rmse", "n"]], "init_time")["rmse"]


def area_weights(field: xr.DataArray) -> xr.DataArray:
    """Return the weights ``(latitude, longitude)`` of a field's cells: the cosine of latitude."""
    weights = Grid(field["latitude"].values, field["longitude"].values).area_weights()
    return weights.assign_coords(latitude=field["latitude"]) * xr.ones_like(field["longitude"])


def valid_truth(sst: xr.DataArray, valid_time: xr.DataArray) -> xr.DataArray:
    """Return ``sst`` ``(time, …)`` at every ``valid_time`` ``(init_time, lead_time)``, NaN where it is absent."""
    days = pd.DatetimeIndex(np.unique(valid_time.values))
    return sst.reindex(time=days).sel(time=valid_time).drop_vars("time")


def validation_inits(settings: Settings, bundle: Bundle, most: int) -> pd.DatetimeIndex:
    """Return at most so many days, spread evenly, whose forecasts by a bundle lie in the validation period.

    Raises `NotEnoughDataError` when there is none.
    """
    usable = Archive(settings).usable_days(bundle.archive_snapshot)
    first, last = Periods.of(settings, usable).validation
    earliest, latest = first + timedelta(days=bundle.input_days - 1), last - timedelta(days=bundle.lead_days)
    candidates = sorted(set(usable) & set(pd.date_range(earliest, latest).date))
    if not candidates:
        raise NotEnoughDataError(
            f"no usable init day in the validation period {first} … {last}: backfill more days, or lengthen it"
        )
    return pd.DatetimeIndex(candidates[:: max(1, -(-len(candidates) // most))])


def _score_one(fcst: xr.DataArray, obs: xr.DataArray, climatology: xr.DataArray, weights: xr.DataArray) -> xr.Dataset:
    arguments = {"reduce_dims": list(CELLS), "weights": weights}
    return xr.Dataset(
        {
            "rmse": scores.continuous.rmse(fcst, obs, **arguments),
            "mae": scores.continuous.mae(fcst, obs, **arguments),
            "bias": scores.continuous.additive_bias(fcst, obs, **arguments),
            "acc": _anomaly_correlation(fcst - climatology, obs - climatology, weights),
        }
    ).astype("float32")


def _anomaly_correlation(fcst: xr.DataArray, obs: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    product = (weights * fcst * obs).sum(CELLS)
    power = (weights * fcst**2).sum(CELLS) * (weights * obs**2).sum(CELLS)
    return product / np.sqrt(power.where(power > 0))
