"""From an initial state to a forecast: a bundle's ensemble around damped persistence, and the baselines beside it."""

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pandas as pd
import torch
import xarray as xr

from datlstm import baselines
from datlstm.bundle import Bundle
from datlstm.calibration import calibrated
from datlstm.compute import torch_threads
from datlstm.ensemble import AnomalyForecaster, anomaly_forecaster
from datlstm.errors import NotEnoughDataError
from datlstm.inputs import Record
from datlstm.settings import BaselineName

BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)
BATCH = 16


def forecast(bundle: Bundle, days: xr.Dataset, init_times: pd.DatetimeIndex) -> xr.DataArray:
    """Return a bundle's forecasts ``(init_time, lead_time, latitude, longitude)`` float32 kelvin, as below."""
    return probabilistic(bundle, days, init_times)["sst"]


def probabilistic(bundle: Bundle, days: xr.Dataset, init_times: pd.DatetimeIndex) -> xr.Dataset:
    """Return a bundle's forecasts ``(init_time, lead_time, latitude, longitude)`` float32 kelvin.

    ``sst`` is the forecast and ``sst_spread`` its expected error (one standard deviation), NaN where the bundle was not
    calibrated. ``days`` holds `datlstm.inputs.FIELDS` ``(time, latitude, longitude)``, daily without gaps on its axis
    (absent days NaN), and reaches from ``input_days`` before the first init to the last. Raises `NotEnoughDataError`
    when it does not.
    """
    wanted = pd.date_range(init_times.min() - pd.Timedelta(days=bundle.input_days - 1), init_times.max())
    if not np.isin(wanted, days["time"].values).all():
        raise NotEnoughDataError(f"forecasts from {init_times.min():%Y-%m-%d} need input from {wanted[0]:%Y-%m-%d} on")
    if bundle.forecaster in BASELINES:
        sst = baseline_forecast(bundle, bundle.forecaster, days["sst"], init_times)
        return xr.Dataset({"sst": sst, "sst_spread": xr.full_like(sst, np.nan)})
    return in_kelvin(bundle, raw_estimates(bundle, days.sel(time=wanted), init_times))


def baseline_forecast(bundle: Bundle, name: str, sst: xr.DataArray, init_times: pd.DatetimeIndex) -> xr.DataArray:
    """Return what the baseline ``name`` of a bundle's own climatology and damping forecasts, shaped as `forecast`."""
    initial = sst.sel(time=init_times).rename(time="init_time")
    normaliser, leads = bundle.normaliser, bundle.lead_days
    if name == "persistence":
        return baselines.persistence(initial, leads).load()
    if name == "climatology":
        return baselines.climatology(initial, normaliser, leads).load()
    return baselines.damped_persistence(initial, normaliser, bundle.damping, leads).load()


def reference_forecasts(bundle: Bundle, sst: xr.DataArray, init_times: pd.DatetimeIndex) -> dict[str, xr.DataArray]:
    """Return the baselines every forecast is scored beside, by name, shaped as `forecast`."""
    return {name: baseline_forecast(bundle, name, sst, init_times) for name in BASELINES}


def raw_estimates(bundle: Bundle, days: xr.Dataset, init_times: pd.DatetimeIndex) -> xr.Dataset:
    """Return what a bundle's calibration starts from: ``mean`` and ``variance`` of its members, ``damped`` persistence.

    Normalised anomalies float32, shaped and asked for as `probabilistic`.
    """
    normaliser = bundle.normaliser
    model = anomaly_forecaster(bundle.members(), bundle.recipe, normaliser.ocean_mask, bundle.damping)
    record = Record.of(normaliser.to_anomaly(days["sst"]), days["sea_ice_fraction"])
    first = np.searchsorted(days["time"].values, init_times.values) - bundle.input_days + 1
    leads = bundle.damping["lead_time"]
    init_time = xr.DataArray(init_times, dims="init_time", name="init_time")
    coords = {"init_time": init_time, "lead_time": leads, "latitude": days["latitude"], "longitude": days["longitude"]}
    dims = ("init_time", "lead_time", "latitude", "longitude")
    parts = zip(*_batches(model, record, torch.from_numpy(first), bundle.input_days), strict=True)
    fields = dict(zip(("mean", "variance", "damped"), map(np.concatenate, parts), strict=True))
    raw = xr.Dataset({name: (dims, field) for name, field in fields.items()}, coords)
    return raw.assign_coords(valid_time=init_time + leads * np.timedelta64(1, "D"))


def in_kelvin(bundle: Bundle, raw: xr.Dataset) -> xr.Dataset:
    """Return the calibrated forecasts, as `probabilistic` does, of a bundle's raw estimates."""
    normaliser = bundle.normaliser
    anomaly, spread = calibrated(bundle.calibration, raw["mean"], raw["variance"], raw["damped"])
    sst = normaliser.to_kelvin(anomaly.where(normaliser.ocean_mask)).load()
    spread = (spread * normaliser.scale).where(normaliser.ocean_mask).astype("float32")
    return xr.Dataset({"sst": sst, "sst_spread": spread.assign_attrs(units="kelvin")})


@torch.inference_mode()
def _batches(
    model: AnomalyForecaster, record: Record, starts: torch.Tensor, input_days: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the members' mean and variance, and damped persistence, ``(batch, lead_days, height, width)``."""
    leads = len(model.damping)
    with torch_threads(1):
        for batch in starts.split(BATCH):
            inputs = record.gather(batch, input_days)
            members = model(inputs)[:, :, -leads:, 0]
            damped = model.damped(inputs.frames)[:, :, 0]
            yield members.mean(0).numpy(), members.var(0, correction=0).numpy(), damped.numpy()
