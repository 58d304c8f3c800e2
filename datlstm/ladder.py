"""The ladder of a night: the champion on fresh input, on older input, damped persistence, and no forecast, loudly."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import IntEnum

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.archive import Archive
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.errors import BundleError, NotEnoughDataError
from datlstm.forecasting import probabilistic
from datlstm.inputs import FIELDS
from datlstm.preparation import fit_baseline
from datlstm.registry import bundle_ids, standing_promotion
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.validation.fallback import fallback_reason

log = logging.getLogger(__name__)


class ForecastSource(IntEnum):
    """Which rung of the ladder made a forecast; stored with every init."""

    NONE = 0
    MODEL = 1
    DAMPED_PERSISTENCE = 2


@dataclass(frozen=True)
class NightlyForecast:
    """One forecast and how it came about.

    ``sst`` and its expected error ``spread`` are ``(lead_time, latitude, longitude)`` kelvin; ``input_age_days`` counts
    from the last observed day to the day the forecast was made for, 1 being fresh.
    """

    init_day: date
    sst: xr.DataArray
    spread: xr.DataArray
    source: ForecastSource
    bundle: Bundle
    snapshot_id: str
    input_age_days: int
    n_missing_inputs: int


def nightly_forecast(settings: Settings, forecast_date: date, snapshot_id: str | None = None) -> NightlyForecast:
    """Forecast from the newest usable day before ``forecast_date``, going down the ladder as far as needed.

    The champion forecasts while its input is young and complete enough, its output credible, and validation has not
    found its skill lost twice running; else damped persistence does. No clock is read: the same date, snapshot,
    champion and validation records give the same forecast, bit for bit. Raises `NotEnoughDataError` when the input is
    too old even for that: no forecast is better than a pretended one.
    """
    archive = Archive(settings)
    snapshot_id = snapshot_id or archive.snapshot_id()
    usable = [day for day in archive.usable_days(snapshot_id) if day < forecast_date]
    init = _newest(usable, forecast_date, settings.forecast.maximum_age_days)
    for bundle in _rungs(settings, forecast_date, usable, snapshot_id):
        first = init - timedelta(days=bundle.input_days - 1)
        missing = bundle.input_days - sum(first <= day for day in usable)
        age = (forecast_date - init).days
        if bundle.forecaster != DAMPED_PERSISTENCE and not _model_may(settings, bundle, age, missing):
            continue
        days = archive.read(first, init, snapshot_id)[list(FIELDS)].load()
        try:
            made = probabilistic(bundle, days, pd.DatetimeIndex([pd.Timestamp(init)])).isel(init_time=0)
        except BundleError as error:
            log.error("the next rung forecasts: %s", error)
            continue
        if credible(made["sst"], bundle, settings):
            source = ForecastSource.MODEL
            if bundle.forecaster == DAMPED_PERSISTENCE:
                source = ForecastSource.DAMPED_PERSISTENCE
            made = made.isel(lead_time=slice(0, settings.model.lead_days))
            return NightlyForecast(init, made["sst"], made["sst_spread"], source, bundle, snapshot_id, age, missing)
    raise NotEnoughDataError(f"no forecast for {forecast_date}: no rung of the ladder gave a credible field")


def _newest(usable: Sequence[date], forecast_date: date, limit: int) -> date:
    if not usable or (forecast_date - usable[-1]).days > limit:
        newest = usable[-1] if usable else "none"
        raise NotEnoughDataError(
            f"no forecast for {forecast_date}: the newest usable day before it is {newest}, and {limit} days is the "
            "limit; look at the source, and at the flags of the last days with `datlstm doctor`"
        )
    return usable[-1]


def _rungs(settings: Settings, forecast_date: date, usable: Sequence[date], snapshot_id: str) -> list[Bundle]:
    """Return the champion, when there is a loadable one that may forecast, and the damped persistence under it."""
    store = Store(settings.store)
    try:
        chosen = standing_promotion(store)
    except BundleError as error:
        log.error("damped persistence forecasts: %s", error)
        chosen = None
    if chosen is None:
        log.warning("no champion yet, damped persistence forecasts: run `datlstm retrain`")
    elif champion := _load(settings, store, chosen.bundle_id):
        if reason := fallback_reason(store, chosen, forecast_date):
            log.error("damped persistence forecasts: %s", reason)
            return [champion.damped()]
        return [champion, champion.damped()]
    return [_standing_baseline(settings, store, usable) or _new_baseline(settings, store, usable, snapshot_id)]


def _load(settings: Settings, store: Store, bundle_id: str) -> Bundle | None:
    try:
        bundle = Bundle.load(store, bundle_id)
        bundle.check_matches(settings)
    except BundleError as error:
        log.error("%s can't forecast, damped persistence does: %s", bundle_id, error)
        return None
    return bundle


def _standing_baseline(settings: Settings, store: Store, usable: Sequence[date]) -> Bundle | None:
    """Return the newest baseline fitted on nothing but the usable days' past: a replay must not see its future."""
    prefix = f"{settings.region.name}-{DAMPED_PERSISTENCE.replace('_', '-')}-"
    bundles = [_load(settings, store, name) for name in bundle_ids(store) if name.startswith(prefix)]
    past = [bundle for bundle in bundles if bundle and bundle.training["last_day"] <= str(usable[-1])]
    return max(past, key=lambda bundle: (bundle.training["last_day"], bundle.id), default=None)


def _new_baseline(settings: Settings, store: Store, usable: Sequence[date], snapshot_id: str) -> Bundle:
    fitted = fit_baseline(settings, (usable[0], usable[-1]), snapshot_id)
    fitted.save(store)
    return fitted


def _model_may(settings: Settings, bundle: Bundle, age: int, missing: int) -> bool:
    limits = settings.forecast
    if age <= limits.maximum_model_age_days and missing <= limits.maximum_missing_inputs:
        return True
    log.warning(
        "damped persistence forecasts: the input of %s is %d days old and lacks %d days", bundle.id, age, missing
    )
    return False


def credible(made: xr.DataArray, bundle: Bundle, settings: Settings) -> bool:
    """Tell whether a forecast ``(lead_time, latitude, longitude)`` has a possible temperature in every sea cell."""
    values = made.where(bundle.normaliser.ocean_mask).values
    sea = values[:, bundle.normaliser.ocean_mask.values]
    low, high = settings.quality.minimum_kelvin, settings.quality.maximum_kelvin
    if np.isfinite(sea).all() and sea.min() >= low - 1 and sea.max() <= high + 1:
        return True
    log.error("the forecast of %s is not credible: not finite, or outside %g … %g K", bundle.id, low, high)
    return False
