"""How the forecasts did lately beside what they did before, and beside the baselines: RMSE by lead."""

from datetime import date

import numpy as np
import xarray as xr

from datlstm.areas import ALL_SURFACES, REGION
from datlstm.products.skill import FORECAST, standing_skill
from datlstm.settings import Frozen, Settings
from datlstm.verification import pooled

WINDOWS = (30, 90)
BAR = "damped_persistence"
Scores = dict[str, tuple[float | None, ...]]
"""RMSE by lead in °C, of each forecaster; None where nothing was scored."""


class SkillWindow(Frozen):
    """The scores of the last ``days`` days up to a scored day, and of as many before them."""

    days: int
    first_day: date
    last_day: date
    scored_days: int
    rmse: Scores
    before: Scores

    def mean(self, forecaster: str) -> float | None:
        """Return a forecaster's mean RMSE over leads, None when a lead has none."""
        return mean_over_leads(self.rmse[forecaster])


class SkillTrend(Frozen):
    """The skill over trailing windows, `WINDOWS`, that end on the last scored day."""

    lead_days: tuple[int, ...]
    windows: tuple[SkillWindow, ...]


def skill_trend(settings: Settings, as_of: date) -> SkillTrend | None:
    """Return the skill of the days before ``as_of``, None when none was scored. Raises as `standing_skill`."""
    standing = standing_skill(settings)
    if standing is None:
        return None
    whole = standing[["rmse", "n"]].sel(area=REGION, surface=ALL_SURFACES, drop=True)
    scored = whole.sel(valid_time=slice(None, np.datetime64(as_of, "ns") - np.timedelta64(1, "D"))).load()
    if not scored.sizes["valid_time"]:
        return None
    leads = tuple(int(lead) for lead in scored["lead_time"].values)
    return SkillTrend(lead_days=leads, windows=tuple(_window(scored, days) for days in WINDOWS))


def mean_over_leads(scores: tuple[float | None, ...]) -> float | None:
    """Return the mean of scores by lead, None when one is not there."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known and len(known) == len(scores) else None


def _window(scored: xr.Dataset, days: int) -> SkillWindow:
    day, last = np.timedelta64(1, "D"), scored["valid_time"].values[-1]
    first = last - (days - 1) * day
    recent = scored.sel(valid_time=slice(first, last))
    return SkillWindow(
        days=days,
        first_day=recent["valid_time"].values[0].astype("datetime64[D]").item(),
        last_day=last.astype("datetime64[D]").item(),
        scored_days=recent.sizes["valid_time"],
        rmse=_rmse(recent),
        before=_rmse(scored.sel(valid_time=slice(first - days * day, first - day))),
    )


def _rmse(scored: xr.Dataset) -> Scores:
    rmse = pooled(scored, "valid_time")["rmse"]
    return {
        str(name): tuple(None if np.isnan(value) else round(float(value), 4) for value in rmse.sel(forecaster=name))
        for name in rmse["forecaster"].values
    }


def judged(trend: SkillTrend) -> tuple[float, float] | None:
    """Return the mean RMSE over leads, °C, of the forecasts and of the bar, over the shortest window; None without."""
    window = trend.windows[0]
    own, bar = window.mean(FORECAST), window.mean(BAR)
    return None if own is None or bar is None else (own, bar)
