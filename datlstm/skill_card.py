"""What a bundle's card tells: its scores on the validation period, and how it compares with each of its rivals."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from datlstm.archive import Archive
from datlstm.areas import ALL_SURFACES, REGION
from datlstm.bundle import Bundle
from datlstm.calibrating import cross_fitted
from datlstm.calibration import SEASONS
from datlstm.evaluation import evaluate, of_bundle
from datlstm.settings import Settings
from datlstm.significance import gain
from datlstm.verification import DEFINITIONS_VERSION, pooled
from datlstm.windows import Periods

CHAMPION = "champion"
"""What the champion is called among the forecasters of a challenger's card."""


def skill_card(settings: Settings, bundle: Bundle, champion: Bundle | None) -> dict[str, Any]:
    """Return the scores of a bundle, the champion and the baselines on every day of the validation period.

    ``rmse``, ``mae``, ``bias`` (°C), ``acc``, and ``crps``, ``spread`` (°C) where an error is told, are lists by lead;
    ``against`` tells of each rival what the gate asks: see `comparison`. Numbers that are not finite are None. Weights
    were selected on this period, but for the calibration, which is fitted on other days than it is scored on. Raises
    `NotEnoughDataError` when the period is too short.
    """
    period = Periods.of(settings, Archive(settings).usable_days(bundle.archive_snapshot)).validation
    contenders = {bundle.forecaster: cross_fitted(settings, bundle)}
    if champion:
        contenders[CHAMPION] = of_bundle(champion)
    daily = evaluate(settings, contenders, bundle, period, bundle.archive_snapshot)
    days = daily["n"].sel(area=REGION, surface=ALL_SURFACES).isel(forecaster=0).any("lead_time")
    rivals = [str(name) for name in daily["forecaster"].values if name != bundle.forecaster]
    return {
        "period": list(map(str, period)),
        "days": int(days.sum()),
        "days_of_seasons": {name: int((days.values & own).sum()) for name, own in days_of_seasons(daily).items()},
        "areas": [str(area) for area in daily["area"].values if area != REGION],
        "definitions_version": DEFINITIONS_VERSION,
        "champion": champion.id if champion else None,
        **by_lead(daily),
        "against": {rival: comparison(daily, bundle.forecaster, rival) for rival in rivals},
    }


def by_lead(daily: xr.Dataset) -> dict[str, dict[str, list[float | None]]]:
    """Return each score over all days and cells, as lists by lead, by its name and the forecaster's."""
    whole = totals(daily.sel(area=REGION, surface=ALL_SURFACES, drop=True))
    return {
        str(name): {
            str(forecaster): [_number(value) for value in field.sel(forecaster=forecaster).values]
            for forecaster in field["forecaster"].values
            if name not in ("crps", "spread") or np.isfinite(field.sel(forecaster=forecaster).values).any()
        }
        for name, field in whole.items()
        if name != "n"
    }


def totals(daily: xr.Dataset) -> xr.Dataset:
    """Return the scores over all valid days, each day weighted by its cells, errors and spread by their squares."""
    found = pooled(daily, "valid_time")
    cells = daily["n"].fillna(0)
    for name in ("crps", "spread"):
        if name in daily:
            power = 2 if name == "spread" else 1
            found[name] = (daily[name] ** power).weighted(cells).mean("valid_time") ** (1 / power)
    return found


def comparison(daily: xr.Dataset, own: str, rival: str) -> dict[str, Any]:
    """Return how a forecaster compares with a rival.

    ``gain`` is the share of the rival's mean square error that is saved, averaged over leads, with its interval
    ``low`` … ``high`` and the ``confidence`` that it is above zero (`datlstm.significance`). ``loss`` tells by how much
    larger, as a share, its RMSE is by ``lead``, ``season`` and ``area``, the last two averaged over leads.
    """
    whole = daily.sel(area=REGION, surface=ALL_SURFACES, drop=True)
    square = (whole["rmse"].astype("float64") ** 2 * whole["n"]).fillna(0.0)
    sums = [square.sel(forecaster=name).transpose("valid_time", "lead_time").values for name in (own, rival)]
    found = gain(*sums)
    seasons = days_of_seasons(daily)
    by_season = {name: daily.isel(valid_time=days) for name, days in seasons.items() if days.any()}
    areas = [str(area) for area in daily["area"].values if area != REGION]
    return {
        "gain": _number(found.mean),
        "low": _number(found.low),
        "high": _number(found.high),
        "confidence": _number(found.confidence),
        "loss": {
            "lead": dict(zip(map(str, daily["lead_time"].values), map(_number, _loss(daily, own, rival)), strict=True)),
            "season": {
                season: _mean(_loss(chosen, own, rival))
                for season, chosen in by_season.items()
                if chosen.sizes["valid_time"]
            },
            "area": {area: _mean(_loss(daily, own, rival, area)) for area in areas},
        },
    }


def _loss(daily: xr.Dataset, own: str, rival: str, area: str = REGION) -> np.ndarray:
    rmse = pooled(daily.sel(area=area, surface=ALL_SURFACES, drop=True), "valid_time")["rmse"].astype("float64")
    return np.asarray(rmse.sel(forecaster=own).values / rmse.sel(forecaster=rival).values - 1)


def days_of_seasons(daily: xr.Dataset) -> Mapping[str, np.ndarray]:
    """Return which valid days are of each season."""
    season = daily["valid_time"].dt.month.values % 12 // 3
    return {name: season == index for index, name in enumerate(SEASONS)}


def _mean(losses: np.ndarray) -> float | None:
    return _number(float(losses.mean()))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
