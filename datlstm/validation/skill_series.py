"""Daily skill of the champion and of those before it, from the published scores: the series that the chart judges."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import xarray as xr

from datlstm.areas import ALL_SURFACES, REGION
from datlstm.bundle import CARD, DAMPED_PERSISTENCE, MANIFEST
from datlstm.ladder import ForecastSource
from datlstm.products.forecast import INIT_TIME, forecast_cube
from datlstm.products.skill import FORECAST, standing_skill
from datlstm.registry import Promotion
from datlstm.settings import Settings
from datlstm.store import Store

YEAR = np.timedelta64(365, "D")
REFERENCE_YEARS = 5
# A year with its gaps.
LEAST_REFERENCE_DAYS = 270


@dataclass(frozen=True, eq=False)
class DailySkill:
    """Of days, ascending, the log of RMSE over damped persistence's, ``ratio``, and its ``excess`` over the card's.

    Both are means over the leads that one bundle forecast for the day, at least half of all.
    """

    days: np.ndarray
    ratio: np.ndarray
    excess: np.ndarray

    def where(self, chosen: np.ndarray) -> "DailySkill":
        """Return the chosen days."""
        return DailySkill(self.days[chosen], self.ratio[chosen], self.excess[chosen])


@dataclass(frozen=True, eq=False)
class SkillSeries:
    """What is charted of the standing champion, and the reference that tells what to expect: empty before a year."""

    charted: DailySkill
    reference: DailySkill


def skill_series(settings: Settings, promotion: Promotion, as_of: date) -> SkillSeries | None:
    """Return the series of days before ``as_of``, or None while no forecast of the champion is scored.

    The reference are the years before the champion's first day or, where the log of models is younger than a year then,
    its first year; the chart starts after it, and after a renewed promotion. Without a year of log there is none.
    Raises `ProductError` when the scores can't be read.
    """
    scores = _scores(settings, as_of)
    if scores is None:
        return None
    made_by = _made_by(settings, scores["init_time"])
    store = Store(settings.store)
    bundles = sorted({name for name in made_by.ravel() if name})
    by_bundle = {name: _daily(scores, made_by == name, expected_rmse(store, name)) for name in bundles}
    own = by_bundle.pop(promotion.bundle_id, None)
    if own is None or not own.days.size:
        return None
    everyone = _joined([own, *by_bundle.values()])
    start = max(own.days[0], everyone.days[0] + YEAR)
    is_reference = (everyone.days < start) & (everyone.days >= start - REFERENCE_YEARS * YEAR)
    if own.days[-1] < start or is_reference.sum() < LEAST_REFERENCE_DAYS:
        start, is_reference = own.days[0], np.zeros(everyone.days.size, bool)
    charted = own.where(own.days >= max(start, _first_charted(promotion)))
    return SkillSeries(charted, everyone.where(is_reference)) if charted.days.size else None


def expected_rmse(store: Store, bundle_id: str) -> np.ndarray | None:
    """Return the RMSE ``(forecaster, lead_time)`` of a bundle and of damped persistence on its card, None without."""
    manifest, card = (store.read_json(f"models/{bundle_id}/{name}") or {} for name in (MANIFEST, CARD))
    scores: dict[str, Any] = card.get("rmse", {})
    rows = [scores.get(str(manifest.get("forecaster"))), scores.get(DAMPED_PERSISTENCE)]
    return np.array(rows, "float64") if all(rows) else None


def _first_charted(promotion: Promotion) -> np.datetime64:
    if not promotion.is_renewal:
        return np.datetime64(date.min, "D")
    renewed = datetime.fromtimestamp(promotion.promoted_at, UTC).date()
    return np.datetime64(renewed + timedelta(days=1), "D")


def _scores(settings: Settings, as_of: date) -> xr.Dataset | None:
    """Return ``rmse`` ``(valid_time, forecaster, lead_time)`` of model and damped persistence before a day."""
    standing = standing_skill(settings)
    if standing is None:
        return None
    past = standing[["rmse"]].sel(valid_time=slice(None, np.datetime64(as_of - timedelta(days=1), "ns")))
    chosen = past.sel(area=REGION, surface=ALL_SURFACES, forecaster=[FORECAST, DAMPED_PERSISTENCE], drop=True)
    return chosen.transpose("valid_time", "forecaster", "lead_time").load()


def _made_by(settings: Settings, init_time: xr.DataArray) -> np.ndarray:
    """Return the bundle whose network made each forecast ``(valid_time, lead_time)``, empty where none did."""
    cube = forecast_cube(settings).open()
    assert cube is not None
    made = cube[["model_id", "forecast_source"]].load()
    made = made.isel({INIT_TIME: made["forecast_source"].values == ForecastSource.MODEL})
    names = dict(zip(made[INIT_TIME].values.astype("datetime64[D]").tolist(), made["model_id"].values, strict=True))
    inits = init_time.transpose("valid_time", "lead_time").values.astype("datetime64[D]")
    return np.array([[str(names.get(day, "")) for day in row] for row in inits.tolist()], object).reshape(inits.shape)


def _daily(scores: xr.Dataset, is_own: np.ndarray, expected: np.ndarray | None) -> DailySkill:
    leads = is_own.shape[1]
    if expected is None or expected.shape[1] < leads:
        return DailySkill(np.array([], "datetime64[D]"), np.array([]), np.array([]))
    rmse = scores["rmse"].values.astype("float64")
    is_own = is_own & (np.isfinite(rmse) & (rmse > 0)).all(axis=1)
    days = is_own.sum(axis=1) * 2 >= leads
    own, bar = (np.where(is_own, rmse[:, i], 0).sum(axis=1)[days] for i in range(2))
    card_own, card_bar = (is_own @ expected[i, :leads] for i in range(2))
    ratio = np.log(own / bar)
    excess = ratio - np.log(card_own[days] / card_bar[days])
    return DailySkill(scores["valid_time"].values.astype("datetime64[D]")[days], ratio, excess)


def _joined(series: list[DailySkill]) -> DailySkill:
    days, ratio, excess = (
        np.concatenate([getattr(s, name) for s in series if s.days.size]) for name in ("days", "ratio", "excess")
    )
    return DailySkill(days, ratio, excess).where(np.argsort(days, kind="stable"))
