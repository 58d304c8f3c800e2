"""From an initial state to a forecast: a bundle's network around damped persistence, and the baselines beside it."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from datlstm import baselines
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.compute import torch_threads
from datlstm.errors import NotEnoughDataError
from datlstm.models.frames import Head, ModelConfig

BATCH = 16

SIGMOID_REACH = 10.0
"""Largest normalised anomaly that a network with a sigmoid head can tell."""


class AnomalyForecaster(nn.Module):
    """A network between normalised anomalies, around damped persistence where it reads out changes.

    With an ``increment`` head the network changes the newest frame, and its changes are added to damped persistence:
    what damping takes from the newest frame, lead by lead, is taken from the estimates, so that a network that changes
    nothing is the bar. With a ``linear`` head the estimates are the network's own; with a ``sigmoid`` head too, the
    anomalies mapped from +-`SIGMOID_REACH` onto 0 ... 1. ``ocean_mask`` is bool ``(height, width)``; ``damping`` float
    ``(lead_days, height, width)``. The network sees two channels: the anomaly, 0 where missing, and whether it was
    observed (for days to come: whether it is sea).
    """

    ocean_mask: Tensor
    damping: Tensor

    def __init__(self, network: nn.Module, head: Head, ocean_mask: Tensor, damping: Tensor) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.register_buffer("ocean_mask", ocean_mask)
        self.register_buffer("damping", damping.float())

    def forward(self, frames: Tensor, observed: Tensor) -> Tensor:
        """Return the estimates of the last N days, the last lead the last of them.

        ``frames`` float32 and ``observed`` bool are ``(batch, input_days, 1, height, width)``; the result is
        ``(batch, N, 1, height, width)``. A recurrent network estimates every day from the second input on, N =
        ``input_days - 1 + lead_days``, a direct one the leads alone.
        """
        leads = len(self.damping)
        ahead = self.ocean_mask.expand(len(frames), leads - 1, 1, -1, -1)
        forcing = torch.cat([observed, ahead], dim=1).to(frames.dtype)
        if self.head == "sigmoid":
            bounded: Tensor = self.network(0.5 + frames / (2 * SIGMOID_REACH), leads, forcing)
            return (bounded - 0.5) * (2 * SIGMOID_REACH)
        estimates: Tensor = self.network(frames, leads, forcing)
        return estimates - self._damped(frames)[:, -estimates.shape[1] :] if self.head == "increment" else estimates

    def _damped(self, frames: Tensor) -> Tensor:
        """Return what damping takes from each frame a day ahead, and from the newest at every lead."""
        persisted = frames[:, -1:].expand(-1, len(self.damping), -1, -1, -1)
        return torch.cat([frames[:, :-1] * (1 - self.damping[0]), persisted * (1 - self.damping[:, None])], dim=1)


def anomaly_forecaster(network: nn.Module, ocean_mask: xr.DataArray, damping: xr.DataArray) -> AnomalyForecaster:
    """Return the network between its fitted fields; ``damping`` is NaN on land, where the forecast is masked."""
    kept = torch.from_numpy(damping.fillna(0.0).values)
    head = cast(ModelConfig, network.config).head
    return AnomalyForecaster(network, head, torch.from_numpy(ocean_mask.values), kept)


def forecast(bundle: Bundle, sst: xr.DataArray, init_times: pd.DatetimeIndex) -> xr.DataArray:
    """Return a bundle's forecasts ``(init_time, lead_time, latitude, longitude)`` float32 kelvin.

    ``sst`` is ``(time, latitude, longitude)`` kelvin, daily without gaps on its axis (absent days NaN), and reaches
    from ``input_days`` before the first init to the last. Raises `NotEnoughDataError` when it does not.
    """
    wanted = pd.date_range(init_times.min() - pd.Timedelta(days=bundle.input_days - 1), init_times.max())
    if not np.isin(wanted, sst["time"].values).all():
        raise NotEnoughDataError(f"forecasts from {init_times.min():%Y-%m-%d} need input from {wanted[0]:%Y-%m-%d} on")
    if bundle.forecaster == DAMPED_PERSISTENCE:
        return damped_persistence(bundle, sst, init_times)
    return _network_forecast(bundle, sst.sel(time=wanted), init_times)


def damped_persistence(bundle: Bundle, sst: xr.DataArray, init_times: pd.DatetimeIndex) -> xr.DataArray:
    """Return the damped persistence of a bundle's own climatology and damping, shaped as `forecast`."""
    initial = sst.sel(time=init_times).rename(time="init_time")
    return baselines.damped_persistence(initial, bundle.normaliser, bundle.damping, bundle.lead_days).load()


def reference_forecasts(bundle: Bundle, sst: xr.DataArray, init_times: pd.DatetimeIndex) -> dict[str, xr.DataArray]:
    """Return the baselines every forecast is scored beside, by name, shaped as `forecast`."""
    initial = sst.sel(time=init_times).rename(time="init_time")
    return {
        "persistence": baselines.persistence(initial, bundle.lead_days).load(),
        "climatology": baselines.climatology(initial, bundle.normaliser, bundle.lead_days).load(),
        "damped_persistence": damped_persistence(bundle, sst, init_times),
    }


def _network_forecast(bundle: Bundle, sst: xr.DataArray, init_times: pd.DatetimeIndex) -> xr.DataArray:
    normaliser = bundle.normaliser
    model = anomaly_forecaster(bundle.network(), normaliser.ocean_mask, bundle.damping)
    anomaly = normaliser.to_anomaly(sst).values
    last = np.searchsorted(sst["time"].values, init_times.values)
    estimates = [
        _run(model, anomaly, last[start : start + BATCH], bundle.input_days) for start in range(0, len(last), BATCH)
    ]
    leads = bundle.damping["lead_time"]
    init_time = xr.DataArray(init_times, dims="init_time", name="init_time")
    coords = {"init_time": init_time, "lead_time": leads, "latitude": sst["latitude"], "longitude": sst["longitude"]}
    normalised = xr.DataArray(np.concatenate(estimates), dims=("init_time", "lead_time", "latitude", "longitude"))
    valid_time = init_time + leads * np.timedelta64(1, "D")
    normalised = normalised.assign_coords(coords).assign_coords(valid_time=valid_time)
    return normaliser.to_kelvin(normalised.where(normaliser.ocean_mask)).load()


@torch.inference_mode()
def _run(model: AnomalyForecaster, anomaly: np.ndarray, last: Sequence[int], input_days: int) -> np.ndarray:
    inputs = torch.from_numpy(np.stack([anomaly[i - input_days + 1 : i + 1] for i in last])).unsqueeze(2)
    with torch_threads(1):
        estimates = model(torch.nan_to_num(inputs, nan=0.0), torch.isfinite(inputs))
    return np.asarray(estimates[:, -len(model.damping) :, 0])
