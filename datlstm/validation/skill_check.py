"""Whether the champion is as good as it should be: its daily skill on a control chart."""

from datetime import date

import numpy as np

from datlstm.registry import Promotion, standing_promotion
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.validation.control_chart import Chart, Tuning, chart
from datlstm.validation.record import Finding, SkillState
from datlstm.validation.skill_series import DailySkill, expected_rmse, skill_series

NAME = "skill"
TRACE_DAYS = 60
# What the chart is told over while it stands at zero.
RECENT_DAYS = 30


def check_skill(settings: Settings, as_of: date) -> tuple[Finding, SkillState | None]:
    """Return what the chart of the standing champion says, and its state where there are days enough to judge.

    Raises `BundleError` for a damaged pointer, `ProductError` for scores that can't be read.
    """
    store = Store(settings.store)
    promotion = standing_promotion(store)
    if promotion is None:
        return _told("no champion: damped persistence forecasts until `datlstm retrain` promotes one"), None
    if expected_rmse(store, promotion.bundle_id) is None:
        message = (
            f"{promotion.bundle_id} has no scores on its card, so nothing is expected of it: run `datlstm retrain`"
        )
        return Finding(name=NAME, state="warn", message=message), None
    series = skill_series(settings, promotion, as_of)
    days, least = series.charted.days.size if series else 0, settings.validation.minimum_scored_days
    if series is None or days < least:
        return _told(f"{promotion.bundle_id} is scored on {days} days, too few to judge: {least} are needed"), None
    tuning = Tuning(float(np.log1p(settings.validation.skill_loss)), settings.validation.false_alarm_years)
    reference = series.reference
    made = chart(series.charted.days, series.charted.excess, reference.days, reference.excess, tuning)
    state = _state(series.charted, made)
    return _finding(promotion, series.charted, state, reference.days.size), state


def _state(charted: DailySkill, made: Chart) -> SkillState:
    share = made.level / made.threshold
    recent = _since(made.level)
    return SkillState(
        days=charted.days.size,
        last_day=charted.days[-1].item(),
        level=round(float(share[-1]), 4),
        trace=tuple(np.round(share[-TRACE_DAYS:], 3).tolist()),
        excess=round(float(np.expm1(made.excess[recent].mean())), 4),
        ratio=round(float(np.exp(charted.ratio[recent].mean())), 4),
        since=charted.days[recent][0].item(),
    )


def _since(level: np.ndarray) -> slice:
    """Return the days since the chart last stood at zero, or the last `RECENT_DAYS` while it does."""
    if level[-1] == 0:
        return slice(-RECENT_DAYS, None)
    zeros = np.flatnonzero(level == 0)
    return slice(zeros[-1] + 1 if zeros.size else 0, None)


def _finding(promotion: Promotion, charted: DailySkill, state: SkillState, reference_days: int) -> Finding:
    basis = f"{reference_days} days before" if reference_days else "its card, for want of a year of scores"
    found = (
        f"from {state.since} to {state.last_day} the RMSE of {promotion.bundle_id} was {_compared(1 + state.excess)} "
        f"what is expected of it ({basis}) and {_compared(state.ratio)} damped persistence's; the chart stands at "
        f"{state.level:.2f} of its threshold"
    )
    if not state.is_lost:
        return Finding(name=NAME, state="ok", message=found, number=state.level)
    message = f"skill was lost: {found}: run `datlstm retrain`, or `datlstm rollback` if the champion is new"
    return Finding(name=NAME, state="breach", message=message, number=state.level)


def _compared(ratio: float) -> str:
    return f"{abs(ratio - 1):.1%} {'above' if ratio >= 1 else 'below'}"


def _told(message: str) -> Finding:
    return Finding(name=NAME, state="ok", message=message)
