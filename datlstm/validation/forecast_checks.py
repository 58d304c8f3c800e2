"""Checks of the newest published forecast as of a day: fresh, whole, in range, and changing as the sea does."""

from datetime import date

import numpy as np
import xarray as xr

from datlstm.archive import Archive
from datlstm.products.forecast import published_days, read_init
from datlstm.settings import Settings
from datlstm.validation.archive_checks import FRESH_DAYS, daily_change, window_fields
from datlstm.validation.record import Finding, State

# A forecast is smoother than the sea: this many times its largest change of late is none of the sea's.
UNUSUAL_CHANGE = 2.0
# As the ladder allows beyond the limits of a credible day.
MARGIN_KELVIN = 1.0


def forecast_freshness(settings: Settings, as_of: date) -> Finding:
    """Tell how old the newest published forecast's init is."""
    newest = _newest(settings, as_of)
    if newest is None:
        message = f"none was published from a day before {as_of}: run `datlstm nightly`"
        return Finding(name="forecast", state="warn", message=message)
    age, limit = (as_of - newest).days, settings.forecast.maximum_model_age_days
    state: State = "ok" if age <= FRESH_DAYS else "warn" if age <= limit else "breach"
    remedy = "" if state == "ok" else ": run `datlstm nightly`, and look why the last nights failed"
    message = f"the newest is from {newest}, {age} days old{remedy}"
    return Finding(name="forecast", state=state, message=message, number=age)


def forecast_values(settings: Settings, as_of: date) -> Finding:
    """Tell whether the newest forecast is finite and in range over the sea, and how much it changes from lead to lead.

    It warns when a mean change is `UNUSUAL_CHANGE` times the archive's largest in the window, and breaches when it is
    above the quality settings' limit of a jump.
    """
    newest = _newest(settings, as_of)
    init = None if newest is None else read_init(settings, newest)
    if newest is None or init is None:
        return Finding(name="forecast values", state="ok", message="no forecast to look at")
    archive = Archive(settings)
    sst = init["sst"].where(archive.ocean_mask())
    change = _changes(sst, archive.read(newest, newest)["sst"].load())
    usual = float(daily_change(window_fields(settings, as_of)[["sst"]].load()).max(initial=0.0))
    largest = float(np.nanmax(change, initial=0.0))
    problem, state = _judged(settings, sst, int(archive.ocean_mask().sum()), largest, usual)
    remedy = ": look at it, at its input and at its model with " + f"`datlstm explain {newest}`"
    message = f"from {newest}: {problem}{'' if state == 'ok' else remedy}"
    return Finding(name="forecast values", state=state, message=message, number=round(largest, 3))


def _newest(settings: Settings, as_of: date) -> date | None:
    return max((day for day in published_days(settings) if day < as_of), default=None)


def _changes(sst: xr.DataArray, observed: xr.DataArray) -> np.ndarray:
    """Return the mean over the sea of the size of the change from lead to lead, the first from the observed day."""
    fields = np.concatenate([observed.values[:1], sst.transpose("lead_time", "latitude", "longitude").values])
    change = np.abs(np.diff(fields, axis=0))
    counted = np.isfinite(change).sum(axis=(1, 2))
    return np.asarray(np.nansum(change, axis=(1, 2)) / np.maximum(counted, 1))


def _judged(settings: Settings, sst: xr.DataArray, cells: int, largest: float, usual: float) -> tuple[str, State]:
    limits = settings.quality
    missing = cells * sst.sizes["lead_time"] - int(np.isfinite(sst).sum())
    if missing:
        return f"{missing} values over the sea are not finite", "breach"
    low, high = float(sst.min()), float(sst.max())
    if low < limits.minimum_kelvin - MARGIN_KELVIN or high > limits.maximum_kelvin + MARGIN_KELVIN:
        return f"{low:.1f} … {high:.1f} K is outside {limits.minimum_kelvin:g} … {limits.maximum_kelvin:g} K", "breach"
    changes = f"changes by up to {largest:.2f} K from lead to lead (mean over the sea)"
    if largest > limits.maximum_jump_kelvin:
        return f"{changes}, above {limits.maximum_jump_kelvin:g} K", "breach"
    if usual and largest > UNUSUAL_CHANGE * usual:
        return f"{changes}, the sea of late by up to {usual:.2f} K", "warn"
    return f"finite, in {low:.1f} … {high:.1f} K, {changes}", "ok"
