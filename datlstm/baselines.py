"""The forecasters that every model must beat, with one interface: persistence, climatology, damped persistence.

Each takes the initial field ``initial_sst`` (init_time, latitude, longitude) kelvin, of many dates at once or of one
(``init_time`` then is a scalar coordinate), and returns float32 kelvin (init_time, lead_time, latitude, longitude) with
``lead_time`` in whole days from 1 and ``valid_time`` (init_time, lead_time) = init_time + lead_time.
"""

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from datlstm.errors import NotEnoughDataError
from datlstm.normalise import BLOCKS, Normaliser


def persistence(initial_sst: xr.DataArray, lead_days: int) -> xr.DataArray:
    """Forecast that nothing changes; a missing initial value stays NaN."""
    return _forecast(initial_sst.expand_dims(lead_time=_leads(lead_days)), initial_sst)


def climatology(initial_sst: xr.DataArray, normaliser: Normaliser, lead_days: int) -> xr.DataArray:
    """Forecast the climatology of the valid day, whatever the initial value; NaN where the normaliser has none."""
    return _forecast(normaliser.climatology(_valid_time(initial_sst["init_time"], _leads(lead_days))), initial_sst)


def damped_persistence(
    initial_sst: xr.DataArray, normaliser: Normaliser, damping: xr.DataArray, lead_days: int
) -> xr.DataArray:
    """Forecast the climatology of the valid day plus ``damping`` (lead_time, latitude, longitude) x initial anomaly.

    Where the initial value is missing the anomaly counts as zero, so the forecast is climatology; where the normaliser
    has no climatology it is NaN.
    Raises `NotEnoughDataError` when ``damping`` has fewer leads, `GridError` when ``initial_sst`` is on another grid.
    """
    leads = _leads(lead_days)
    if not np.isin(leads, damping["lead_time"]).all():
        raise NotEnoughDataError(
            f"damping is fitted for leads up to {damping['lead_time'].max().item()} days, {lead_days} were asked; "
            "fit the damping for as many lead days as the forecast has"
        )
    anomaly = normaliser.kelvin_anomaly(initial_sst.rename(init_time="time")).rename(time="init_time").fillna(0.0)
    expected = normaliser.climatology(_valid_time(initial_sst["init_time"], leads))
    return _forecast(expected + damping.sel(lead_time=leads) * anomaly, initial_sst)


def fit_damping(sst: xr.DataArray, normaliser: Normaliser, lead_days: int) -> xr.DataArray:
    """Return the damping (lead_time, latitude, longitude) float64 in 0 … 1 of the initial anomaly, lead by lead.

    Per cell and lead the regression through the origin of anomaly(t + lead) on anomaly(t) over all pairs of observed
    days in the normaliser's training period; of ``sst`` (time, latitude, longitude) kelvin no other day is read. Zero
    where a cell offers no pair, NaN where the normaliser has no climatology.
    Raises `NotEnoughDataError` when ``sst`` has no two days ``lead_days`` apart in the training period.
    """
    training = sst.sel(time=slice(str(normaliser.first_day), str(normaliser.last_day)))
    if training.sizes["time"] <= lead_days:
        raise NotEnoughDataError(
            f"{training.sizes['time']} days between {normaliser.first_day} and {normaliser.last_day} are too few to "
            f"fit a damping of {lead_days} days; give the days that the normaliser was fitted on"
        )
    anomaly = normaliser.kelvin_anomaly(_every_day(training).chunk(BLOCKS)).transpose("time", "latitude", "longitude")
    product, power = _lagged_sums(anomaly, lead_days)
    damping = np.divide(product, power, out=np.zeros_like(product), where=power > 0).clip(0.0, 1.0)
    coordinates = {"lead_time": _leads(lead_days), "latitude": sst["latitude"], "longitude": sst["longitude"]}
    fitted = xr.DataArray(damping, dims=tuple(coordinates), coords=coordinates, name="damping", attrs={"units": "1"})
    return fitted.where(normaliser.ocean_mask)


def _lagged_sums(anomaly: xr.DataArray, lead_days: int) -> np.ndarray:
    """Return the sums over pairs of a(t) a(t + lead) and of a(t)^2: (2, lead_time, latitude, longitude).

    Each block of days sees the first ``lead_days`` of the next one, the last as many absent days: the memory needed
    does not grow with the record.
    """
    padded = anomaly.pad(time=(0, lead_days)).data
    blocks = da.overlap.overlap(padded, depth={0: (0, lead_days)}, boundary="none")
    chunks = ((1,) * blocks.numblocks[0], (2,), (lead_days,), *blocks.chunks[1:])
    sums = blocks.map_blocks(_lagged_sums_of_block, lead_days, chunks=chunks, new_axis=[1, 2], dtype=np.float64)
    return np.asarray(sums.sum(axis=0).compute())


def _lagged_sums_of_block(block: np.ndarray, lead_days: int) -> np.ndarray:
    values, observed = np.nan_to_num(block), np.isfinite(block).astype(np.float64)
    origins = len(block) - lead_days
    sums = np.empty((1, 2, lead_days, *block.shape[1:]))
    for lead in range(1, lead_days + 1):
        later = slice(lead, lead + origins)
        sums[0, 0, lead - 1] = np.einsum("tyx,tyx->yx", values[:origins], values[later])
        sums[0, 1, lead - 1] = np.einsum("tyx,tyx,tyx->yx", values[:origins], values[:origins], observed[later])
    return sums


def _every_day(sst: xr.DataArray) -> xr.DataArray:
    """Return ``sst`` on a gapless daily axis, absent days NaN, so that a shift by one step is one day."""
    days = pd.DatetimeIndex(sst["time"].values).floor("D")
    return sst.assign_coords(time=days).reindex(time=pd.date_range(days[0], days[-1], freq="D"))


def _leads(lead_days: int) -> np.ndarray:
    return np.arange(1, lead_days + 1, dtype=np.int64)


def _valid_time(init_time: xr.DataArray, leads: np.ndarray) -> xr.DataArray:
    return init_time + xr.DataArray(pd.to_timedelta(leads, unit="D"), dims="lead_time", coords={"lead_time": leads})


def _forecast(values: xr.DataArray, initial_sst: xr.DataArray) -> xr.DataArray:
    forecast = values.transpose(..., "lead_time", "latitude", "longitude").astype(np.float32)
    valid_time = _valid_time(initial_sst["init_time"], forecast["lead_time"].values)
    return forecast.assign_coords(valid_time=valid_time).rename("sst").assign_attrs(units="kelvin")
