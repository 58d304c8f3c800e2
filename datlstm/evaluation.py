"""Hindcasts of a period scored day by day, forecaster by forecaster, as forecast centres do.

The scores of `datlstm.day_scores`, and beside them what an ensemble's spread is worth (continuous ranked probability
score, spread and skill), whether a forecast is blurred (gradients, power by wavelength), and whether it knows marine
heatwaves. Definitions: docs/verification.md.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta

import numpy as np
import pandas as pd
import scipy.fft
import scipy.stats
import xarray as xr

from datlstm.archive import Archive
from datlstm.areas import area_masks, surfaces
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.day_scores import by_valid_day, init_times, score_days
from datlstm.errors import NotEnoughDataError
from datlstm.forecasting import probabilistic, reference_forecasts
from datlstm.inputs import FIELDS
from datlstm.products.derived import OBSERVED_DAYS
from datlstm.products.heatwave import HeatwaveBaseline, in_heatwave
from datlstm.settings import Settings
from datlstm.verification import CELLS, area_weights

BLOCK_VALUES = 2**22
"""Values of one forecaster, over days, leads and cells, that are held at a time."""

BANDS = (4, 8, 16)
"""Wavelengths, in cells, that part the bands of the power spectrum."""

Forecaster = Callable[[xr.Dataset, pd.DatetimeIndex], xr.Dataset]
"""Makes ``sst`` and ``sst_spread`` of inits, as `datlstm.forecasting.probabilistic` does for a bundle."""


def of_bundle(bundle: Bundle) -> Forecaster:
    """Return a bundle as a forecaster."""
    return lambda days, inits: probabilistic(bundle, days, inits)


def evaluate(
    settings: Settings,
    contenders: Mapping[str, Forecaster],
    reference: Bundle,
    period: tuple[date, date],
    snapshot_id: str,
    heatwaves: HeatwaveBaseline | None = None,
) -> xr.Dataset:
    """Return the scores of contenders and of the baselines fitted with a bundle, by valid day of a closed period.

    All are scored on the same days and cells; a day on which a night's ladder would not have let the reference forecast
    is no init. Inputs may reach back before the period. Beside what `score_days` returns, with the same dimensions:
    ``crps`` and ``spread`` kelvin of forecasters that tell an error; ``hits``, ``misses`` and ``false_alarms`` of
    marine heatwaves, in cells, with a baseline of ``heatwaves``. For the whole region ``gradient``, ``truth_gradient``
    (mean square difference of neighbours, kelvin^2) and, with ``band``, ``power`` and ``truth_power`` (kelvin^2).
    Raises `NotEnoughDataError` when nothing can be scored.
    """
    archive = Archive(settings)
    areas = area_masks(settings.region, archive.ocean_mask())
    usable = frozenset(archive.usable_days(snapshot_id))
    blocks = []
    for valid in _blocks(period, reference):
        inits = pd.date_range(valid[0] - pd.Timedelta(days=reference.lead_days), valid[-1] - pd.Timedelta(days=1))
        reach = max(reference.input_days, OBSERVED_DAYS) - 1
        first = (inits[0] - pd.Timedelta(days=reach)).date()
        # Heatwaves of the last days are known a few days later.
        last = min((valid[-1] + pd.Timedelta(days=OBSERVED_DAYS)).date(), period[1])
        days = archive.read(first, last, snapshot_id)[list(FIELDS)].load()
        if days["sst"].sel(time=valid).notnull().any():
            made = _forecasts(contenders, reference, days, inits, usable, settings.forecast.maximum_missing_inputs)
            blocks.append(_scored(made, days, valid, areas, heatwaves))
    if not blocks or not any(block["n"].any() for block in blocks):
        raise NotEnoughDataError(
            f"no forecast of {reference.id} can be scored in {period[0]} … {period[1]}: backfill more, or move it"
        )
    return xr.concat(blocks, "valid_time")


def _blocks(period: tuple[date, date], reference: Bundle) -> Iterator[pd.DatetimeIndex]:
    size = max(4 * reference.lead_days, BLOCK_VALUES // reference.damping.size)
    days = pd.date_range(*period)
    for start in range(0, len(days), size):
        yield days[start : start + size]


def _forecasts(
    contenders: Mapping[str, Forecaster],
    reference: Bundle,
    days: xr.Dataset,
    inits: pd.DatetimeIndex,
    usable: frozenset[date],
    most_missing: int,
) -> dict[str, xr.Dataset]:
    """Return ``sst`` and ``sst_spread`` by forecaster, NaN from inits that a night would not have forecast from."""

    def may(init: date) -> bool:
        before = (init - timedelta(days=back) for back in range(reference.input_days))
        return init in usable and sum(day not in usable for day in before) <= most_missing

    made = {name: forecaster(days, inits) for name, forecaster in contenders.items()}
    baselines = reference_forecasts(reference, days["sst"], inits)
    made |= {name: xr.Dataset({"sst": field}) for name, field in baselines.items()}
    is_init = xr.DataArray([may(init.date()) for init in inits], dims="init_time", coords={"init_time": inits})
    return {name: fields.where(is_init) for name, fields in made.items()}


def _scored(
    made: Mapping[str, xr.Dataset],
    days: xr.Dataset,
    valid: pd.DatetimeIndex,
    areas: xr.DataArray,
    heatwaves: HeatwaveBaseline | None,
) -> xr.Dataset:
    truth = days.sel(time=valid).rename(time="valid_time")
    inits = init_times(truth["valid_time"], made["climatology"].sizes["lead_time"])
    forecasts = {name: by_valid_day(fields["sst"], inits) for name, fields in made.items()}
    samples = areas & surfaces(truth["sea_ice_fraction"])
    scored = score_days(forecasts, truth["sst"], forecasts["climatology"], samples)
    common: xr.DataArray = truth["sst"].notnull()
    for field in forecasts.values():
        common = common & field.notnull()
    parts: dict[str, xr.Dataset] = {}
    for name, fields in made.items():
        own = _structure(forecasts[name], truth["sst"], forecasts["climatology"], common)
        if "sst_spread" in fields:
            spread = by_valid_day(fields["sst_spread"], inits)
            own |= _probabilistic(forecasts[name], spread, truth["sst"], common, samples)
        if heatwaves is not None:
            waves = by_valid_day(_forecast_heatwaves(fields["sst"], days["sst"], heatwaves), inits)
            own |= _contingency(waves, in_heatwave(days["sst"], heatwaves), valid, common, samples)
        parts[name] = xr.Dataset(own)
    for name in ("crps", "spread"):
        told = next((part[name] for part in parts.values() if name in part), None)
        if told is not None:
            parts = {own: part if name in part else part.assign({name: told * np.nan}) for own, part in parts.items()}
    return scored.merge(xr.concat(list(parts.values()), pd.Index(list(parts), name="forecaster")))


def _mean(field: xr.DataArray, counted: xr.DataArray) -> xr.DataArray:
    """Return the area-weighted mean over the cells that count, ``(…)``; NaN without any."""
    weights = counted * area_weights(field)
    return (field.fillna(0.0) * weights).sum(CELLS) / weights.sum(CELLS).where(lambda total: total > 0)


def _probabilistic(
    forecast: xr.DataArray, spread: xr.DataArray, truth: xr.DataArray, common: xr.DataArray, samples: xr.DataArray
) -> dict[str, xr.DataArray]:
    """Return the CRPS of normal forecasts (Gneiting et al. 2005, eq. 5) and the root mean square spread."""
    error = (truth - forecast) / spread
    crps = spread * (
        error * (2 * scipy.stats.norm.cdf(error) - 1) + 2 * scipy.stats.norm.pdf(error) - 1 / np.sqrt(np.pi)
    )
    by_sample = [
        xr.Dataset({"crps": _mean(crps, common & sample), "spread": _mean(spread**2, common & sample) ** 0.5})
        for sample in _each(samples)
    ]
    return _stacked(by_sample, samples)


def _structure(
    forecast: xr.DataArray, truth: xr.DataArray, climatology: xr.DataArray, common: xr.DataArray
) -> dict[str, xr.DataArray]:
    """Return what tells whether a forecast is as rough as the truth."""
    anomalies = {"": forecast - climatology, "truth_": truth - climatology}
    found = {}
    for prefix, anomaly in anomalies.items():
        field = anomaly.transpose("valid_time", "lead_time", *CELLS)
        found[f"{prefix}gradient"] = _mean_square_difference(field.where(common))
        found[f"{prefix}power"] = _power(field.where(common))
    return found


def _mean_square_difference(field: xr.DataArray) -> xr.DataArray:
    south, east = (field.diff(axis) ** 2 for axis in CELLS)
    count = south.notnull().sum(CELLS) + east.notnull().sum(CELLS)
    return (south.sum(CELLS) + east.sum(CELLS)) / count.where(count > 0)


def _power(field: xr.DataArray) -> xr.DataArray:
    """Return the power of anomalies about their mean by band ``(…, band)``, the longest wavelengths first.

    Missing cells count as the mean, which makes a step of the coast, in forecast and truth alike. By the discrete
    cosine transform, whose waves need no periodic field (Denis et al. 2002,
    doi:10.1175/1520-0493(2002)130<1812:SDOTDA>2.0.CO;2).
    """
    rows, columns = (field.sizes[axis] for axis in CELLS)
    deviation = (field - field.mean(CELLS)).fillna(0.0)
    waves = scipy.fft.dctn(deviation.values, axes=(-2, -1), norm="ortho") ** 2 / (rows * columns)
    numbers = np.hypot(*np.meshgrid(np.arange(rows) / rows, np.arange(columns) / columns, indexing="ij")) / 2
    band = np.digitize(numbers, [1 / length for length in sorted(BANDS, reverse=True)])
    power = np.stack([waves[..., band == index].sum(axis=-1) for index in range(len(BANDS) + 1)], axis=-1)
    is_there = field.notnull().any(CELLS).values
    return xr.DataArray(
        np.where(is_there[..., None], power, np.nan),
        dims=("valid_time", "lead_time", "band"),
        coords={"valid_time": field["valid_time"], "lead_time": field["lead_time"], "band": list(band_names())},
    )


def band_names() -> Iterator[str]:
    """Yield the names of the bands of wavelengths, the longest first."""
    lengths = sorted(BANDS, reverse=True)
    yield f"over {lengths[0]} cells"
    for long, short in zip(lengths, lengths[1:], strict=False):
        yield f"{short}-{long} cells"
    yield f"under {lengths[-1]} cells"


def _forecast_heatwaves(sst: xr.DataArray, observed: xr.DataArray, heatwaves: HeatwaveBaseline) -> xr.DataArray:
    """Return which cells a forecast has in a marine heatwave, with the days observed before it; float, NaN unknown."""
    found = []
    for init in sst["init_time"].values:
        own = sst.sel(init_time=init)
        past = observed.sel(time=slice(init - np.timedelta64(OBSERVED_DAYS - 1, "D"), init))
        ahead = own.drop_vars(("lead_time", "valid_time", "init_time"), errors="ignore")
        ahead = ahead.rename(lead_time="time").assign_coords(
            time=init + own["lead_time"].values * np.timedelta64(1, "D")
        )
        told = in_heatwave(xr.concat([past, ahead], "time"), heatwaves).values[-own.sizes["lead_time"] :]
        found.append(own.copy(data=told))
    return xr.concat(found, "init_time", coords="minimal", compat="override")


def _contingency(
    told: xr.DataArray, happened: xr.DataArray, valid: pd.DatetimeIndex, common: xr.DataArray, samples: xr.DataArray
) -> dict[str, xr.DataArray]:
    truth = happened.sel(time=valid).rename(time="valid_time")
    known = common & told.notnull() & truth.notnull()
    events = {
        "hits": known & (told == 1) & (truth == 1),
        "misses": known & (told == 0) & (truth == 1),
        "false_alarms": known & (told == 1) & (truth == 0),
    }
    by_sample = [
        xr.Dataset({name: (event & sample).sum(CELLS) for name, event in events.items()}) for sample in _each(samples)
    ]
    return _stacked(by_sample, samples)


def _each(samples: xr.DataArray) -> Iterator[xr.DataArray]:
    for area in samples["area"].values:
        for surface in samples["surface"].values:
            yield samples.sel(area=area, surface=surface, drop=True)


def _stacked(by_sample: list[xr.Dataset], samples: xr.DataArray) -> dict[str, xr.DataArray]:
    shape = (samples.sizes["area"], samples.sizes["surface"])
    stacked = xr.concat(by_sample, "sample")
    axes = {"area": samples["area"], "surface": samples["surface"]}
    return {
        str(name): xr.DataArray(
            field.transpose("sample", ...).values.reshape(*shape, *field.shape[1:]),
            dims=("area", "surface", *field.dims[1:]),
            coords={**axes, **{axis: field[axis] for axis in field.dims[1:]}},
        )
        for name, field in stacked.items()
    }


REFERENCE = DAMPED_PERSISTENCE
"""The baseline that a forecast must beat."""
