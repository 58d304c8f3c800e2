"""Scores of whole days: the successive forecasts for a day against its truth, over several samples of cells at once.

The definitions are those of `datlstm.verification`. Beside accuracy stands stability: the flip-flop index of ``scores``
(Griffiths et al. 2019, Meteorological Applications, doi:10.1002/met.1732), which is 0 for forecasts that approach the
truth from one side, and grows with every turn.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scores.continuous
import xarray as xr

from datlstm.verification import CELLS, area_weights

DIMS = ("valid_time", "forecaster", "area", "surface", "lead_time")
# Two forecasts can't flip and flop.
MINIMUM_SUCCESSIVE = 3


def score_days(
    forecasts: Mapping[str, xr.DataArray], truth: xr.DataArray, climatology: xr.DataArray, samples: xr.DataArray
) -> xr.Dataset:
    """Return the scores of days, `DIMS`, by forecaster, lead and sample.

    ``forecasts`` and ``climatology`` are ``(valid_time, lead_time, latitude, longitude)`` kelvin, ``truth``
    ``(valid_time, latitude, longitude)`` kelvin, ``samples`` bool ``(valid_time, area, surface, latitude, longitude)``.
    ``rmse``, ``mae``, ``bias`` kelvin, ``acc`` and ``n`` are of every sample what `verification.score` gives for its
    cells. ``flip_flop`` kelvin, without ``lead_time``, is the mean of the flip-flop index, longest lead first, over the
    cells that count at every lead which has any; NaN with fewer than `MINIMUM_SUCCESSIVE` of these. All are NaN where
    ``n`` is 0.
    """
    kept = samples.any(("valid_time", "area", "surface")).values
    fields = np.stack([_cells(field, kept, "lead_time") for field in forecasts.values()])
    observed, expected = _cells(truth, kept)[:, np.newaxis], _cells(climatology, kept, "lead_time")
    counted = np.isfinite(observed) & np.isfinite(fields).all(axis=0)
    members = _cells(samples, kept, "area", "surface")
    shape = members.shape[1:3]
    members = members.reshape(len(members), -1, members.shape[-1])
    weights = members * area_weights(truth).values[kept]
    metrics = _metrics(fields, observed, expected, counted, weights)
    metrics["n"] = np.broadcast_to(_sums(counted, members), metrics["rmse"].shape)
    metrics["flip_flop"] = _flip_flop(fields, counted, weights)
    scored = {
        # Arrays are (forecaster, valid_time, sample, …): a sample is one surface of one area.
        name: (
            (DIMS[1], DIMS[0], *DIMS[2 : values.ndim + 1]),
            values.reshape(*values.shape[:2], *shape, *values.shape[3:]).astype("int32" if name == "n" else "float32"),
        )
        for name, values in metrics.items()
    }
    coordinates = {name: samples[name] for name in ("valid_time", "area", "surface")}
    return xr.Dataset(
        scored, {**coordinates, "forecaster": list(forecasts), "lead_time": climatology["lead_time"]}
    ).transpose(*DIMS)


def init_times(valid_time: xr.DataArray, lead_days: int) -> xr.DataArray:
    """Return the inits ``(valid_time, lead_time)`` of the forecasts for days."""
    leads = np.arange(1, lead_days + 1, dtype="int32")
    return valid_time - xr.DataArray(pd.to_timedelta(leads, "D"), dims="lead_time", coords={"lead_time": leads})


def by_valid_day(made: xr.DataArray, inits: xr.DataArray) -> xr.DataArray:
    """Return forecasts ``(valid_time, lead_time, …)``, NaN where there is none from the ``inits`` of `init_times`."""
    plain = made.drop_vars("valid_time", errors="ignore").reindex(init_time=np.unique(inits.values))
    return plain.sel(init_time=inits, lead_time=inits["lead_time"]).drop_vars("init_time")


def _cells(field: xr.DataArray, kept: np.ndarray, *more: str) -> np.ndarray:
    """Return ``(valid_time, *more, cell)`` float64 of the cells of ``kept`` ``(latitude, longitude)``."""
    return np.asarray(field.transpose("valid_time", *more, *CELLS).values[..., kept], "float64")


def _sums(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the sums ``(…, valid_time, sample, lead_time)`` of ``(…, valid_time, lead_time, cell)``.

    ``weights`` are ``(valid_time, sample, cell)``.
    """
    sums: np.ndarray = weights @ values.swapaxes(-1, -2).astype("float64")
    return sums


def _ratio(sums: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)


def _metrics(
    fields: np.ndarray, observed: np.ndarray, expected: np.ndarray, counted: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the metrics ``(forecaster, valid_time, sample, lead_time)``.

    ``fields`` is ``(forecaster, valid_time, lead_time, cell)``, what follows the same without ``forecaster``.
    """
    total = _sums(counted, weights)

    def mean(values: np.ndarray) -> np.ndarray:
        return _ratio(_sums(np.where(counted, values, 0.0), weights), total)

    error, forecast_anomaly, anomaly = fields - observed, fields - expected, observed - expected
    power = mean(forecast_anomaly**2) * mean(anomaly**2)
    return {
        "rmse": np.sqrt(mean(error**2)),
        "mae": mean(abs(error)),
        "bias": mean(error),
        "acc": _ratio(mean(forecast_anomaly * anomaly), np.sqrt(power)),
    }


def _flip_flop(fields: np.ndarray, counted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean flip-flop index ``(forecaster, valid_time, sample)`` kelvin."""
    index = np.full((len(fields), *weights.shape[:2]), np.nan)
    for day, (there, weight) in enumerate(zip(counted, weights, strict=True)):
        leads = np.flatnonzero(there.any(axis=-1))[::-1]
        if leads.size >= MINIMUM_SUCCESSIVE:
            everywhere = there[leads].all(axis=0)
            successive = fields[:, day, leads][..., everywhere]
            of_cells = scores.continuous.flip_flop_index(
                xr.DataArray(successive, dims=("forecaster", "lead_time", "cell")), "lead_time"
            ).values
            index[:, day] = _ratio(of_cells @ weight[:, everywhere].T, weight[:, everywhere].sum(axis=-1))
    return index
