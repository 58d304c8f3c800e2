"""A bundle's calibration, fitted on its validation period, and its forecasts of days that the fit did not see."""

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.calibration import fit_calibration
from datlstm.evaluation import Forecaster, of_bundle
from datlstm.forecasting import in_kelvin, raw_estimates
from datlstm.inputs import FIELDS
from datlstm.settings import Settings
from datlstm.verification import area_weights, valid_truth, validation_inits
from datlstm.windows import Periods

INITS = 150
"""Forecasts, spread over the validation period, that a calibration is fitted on."""

FOLDS = 10
"""Pieces of the validation period; each is forecast with a calibration that was fitted on the others."""


def calibrate(settings: Settings, bundle: Bundle) -> Bundle:
    """Return a bundle with its calibration. Raises `NotEnoughDataError` when the validation period has no init."""
    return replace(bundle, calibration=_fit(_sample(settings, bundle), _evidence(settings, bundle)))


def cross_fitted(settings: Settings, bundle: Bundle) -> Forecaster:
    """Return a bundle as a forecaster that knows nothing of the truth of the validation days it forecasts.

    Raises as `calibrate`.
    """
    if bundle.calibration is None:
        return of_bundle(bundle)
    sample = _sample(settings, bundle)
    folds = np.array_split(np.arange(sample.sizes["init_time"]), FOLDS)
    others = [np.concatenate([*folds[:fold], *folds[fold + 1 :]]) for fold in range(FOLDS)]
    evidence = _evidence(settings, bundle)
    bundles = [replace(bundle, calibration=_fit(sample.isel(init_time=chosen), evidence)) for chosen in others]
    first_inits = sample["init_time"].values[[fold[0] for fold in folds if len(fold)]]

    def forecast(days: xr.Dataset, init_times: pd.DatetimeIndex) -> xr.Dataset:
        raw = raw_estimates(bundle, days, init_times)
        fold_of = np.searchsorted(first_inits, init_times.values, side="right").clip(1) - 1
        parts = [in_kelvin(bundles[fold], raw.isel(init_time=fold_of == fold)) for fold in np.unique(fold_of)]
        return xr.concat(parts, "init_time").sel(init_time=init_times)

    return forecast


def _sample(settings: Settings, bundle: Bundle) -> xr.Dataset:
    """Return raw estimates with their ``truth``, normalised, and the cells' ``weights``."""
    archive, normaliser = Archive(settings), bundle.normaliser
    first, last = Periods.of(settings, archive.usable_days(bundle.archive_snapshot)).validation
    inits = validation_inits(settings, bundle, INITS)
    days = archive.read(first, last, bundle.archive_snapshot)[list(FIELDS)].load()
    raw = raw_estimates(bundle, days, inits)
    truth = valid_truth(normaliser.to_anomaly(days["sst"]), raw["valid_time"]).load()
    weights = (area_weights(truth) * normaliser.scale**2).fillna(0.0)
    return raw.assign(truth=truth.transpose(*raw["mean"].dims), weights=weights)


def _evidence(settings: Settings, bundle: Bundle) -> float:
    """Return the share of the validation period in all the days that a bundle was fitted on.

    The raw mean is the best blend of the training period, for that is what was trained. So the two are pooled by their
    lengths: a few summers in a row are one sample of the sea's moods, and a blend fitted on them alone does not last.
    """
    first, last = Periods.of(settings, Archive(settings).usable_days(bundle.archive_snapshot)).validation
    trained = date.fromisoformat(bundle.training["last_day"]) - date.fromisoformat(bundle.training["first_day"])
    validated = last - first
    return validated / (validated + trained)


def _fit(sample: xr.Dataset, evidence: float) -> xr.Dataset:
    names = ("mean", "variance", "damped", "truth", "weights")
    return fit_calibration(**{name: sample[name] for name in names}, evidence=evidence)
