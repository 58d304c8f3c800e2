"""What the stores say of a region's operation as of a day: facts, and checks each of which ends with its remedy."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, Literal

import pandas as pd

from datlstm.archive import Archive, consecutive
from datlstm.areas import area_masks
from datlstm.bundle import Bundle
from datlstm.errors import ArchiveError, DatlstmError, StoreError
from datlstm.ladder import ForecastSource
from datlstm.products.forecast import days_in, forecast_cube, init_in
from datlstm.quality import UNUSABLE, describe
from datlstm.registry import champion_id
from datlstm.settings import Frozen, Settings
from datlstm.skill_trend import SkillTrend, judged, skill_trend
from datlstm.store import Store
from datlstm.validation.record import newest_records

TRAILING_DAYS = 30
LAST_DAYS = "last days"
VALIDATION = "validation"
MAY_PASS = ("archive", "forecast", "skill", VALIDATION)
"""Checks whose warnings may pass by themselves."""
# A month in which a good model is behind by chance is one by less, or has fewer days.
GRAVE_LOSS = 0.05
GRAVE_LOSS_DAYS = 20

CheckState = Literal["ok", "warn", "fail"]


class Check(Frozen):
    """One thing that was looked at: how it is, and, where it is not well, what to do."""

    name: str
    state: CheckState
    message: str

    @property
    def needs_person(self) -> bool:
        """Tell whether waiting mends nothing: nights read days again by themselves, and what is late may still come."""
        is_grave = self.state == "fail" or (self.state == "warn" and self.name not in MAY_PASS)
        return is_grave and self.name != LAST_DAYS


class ArchiveFacts(Frozen):
    """The usable days before a day: their number, the newest with the product it came from and its age.

    ``missing_days`` are those of the `TRAILING_DAYS` before that day that are absent or unusable.
    """

    usable_days: int
    newest_day: date
    age_days: int
    product: str
    missing_days: tuple[date, ...]


class ForecastFacts(Frozen):
    """The newest forecast whose init is before a day: its age, and how it came about (see `NightlyForecast`)."""

    init_time: date
    age_days: int
    source: str
    model_id: str
    input_age_days: int
    n_missing_inputs: int


class Operation(Frozen):
    """What the stores say as of a day; None stands for what is not there or can't be read, which a check tells."""

    as_of: date
    archive: ArchiveFacts | None
    champion: str | None
    forecast: ForecastFacts | None
    skill: SkillTrend | None
    checks: tuple[Check, ...]


def examine_operation(settings: Settings, as_of: date) -> Operation:
    """Return facts and checks of all that a night leaves; an error of this project becomes a failed check."""
    facts: dict[str, Any] = {}
    checks: list[Check] = []
    for name, look in LOOKS.items():
        try:
            facts[name], found = look(settings, as_of)
        except DatlstmError as error:
            facts[name], found = None, [Check(name=name, state="fail", message=str(error))]
        checks += found
    checks += _validation(settings, as_of)
    champion, forecast = facts["champion"], facts["forecast"]
    if champion and forecast and forecast.source != _told(ForecastSource.MODEL):
        checks.append(_fallen_back(champion, forecast))
    return Operation(as_of=as_of, checks=tuple(checks), **facts)


def _archive(settings: Settings, as_of: date) -> tuple[ArchiveFacts, list[Check]]:
    archive = Archive(settings)
    days = archive.provenance()
    area_masks(settings.region, archive.ocean_mask())
    days = days[days.index < as_of]
    usable = days[(days["quality"].astype(int) & int(UNUSABLE)) == 0]
    if usable.empty:
        raise ArchiveError(
            f"{Store(settings.store).url_of('archive')} holds no usable day before {as_of}: run a backfill, or look at "
            "its flags"
        )
    newest = usable.iloc[-1]
    recent = consecutive(as_of - timedelta(days=TRAILING_DAYS), as_of - timedelta(days=1))
    facts = ArchiveFacts(
        usable_days=len(usable),
        newest_day=usable.index[-1],
        age_days=(as_of - usable.index[-1]).days,
        product=f"{newest['source_product']} {newest['source_version']}",
        missing_days=tuple(sorted(set(recent) - set(usable.index))),
    )
    span = f"{facts.usable_days} usable days, {usable.index[0]} … {facts.newest_day}"
    message = f"{span}, newest is {facts.age_days} days old"
    remedy = "run `datlstm nightly`, or look at the source"
    return facts, [_aged("archive", settings, facts.age_days, message, remedy), _flags(days)]


def _flags(days: pd.DataFrame) -> Check:
    """Check the flags of the archive's last days."""
    recent = days["quality"].astype(int).iloc[-TRAILING_DAYS:]
    flagged = recent[recent != 0]
    if flagged.empty:
        message = f"no gap and no flag in the archive's last {len(recent)} days"
        return Check(name=LAST_DAYS, state="ok", message=message)
    told = ", ".join(f"{day} {describe(flags)}" for day, flags in flagged.items())
    unusable = [day for day, flags in flagged.items() if flags & UNUSABLE]
    if not unusable:
        return Check(name=LAST_DAYS, state="warn", message=f"{told}: still used; compare them with the source")
    remedy = f"read again with `datlstm backfill --again --from {unusable[0]} --to {unusable[-1]}`"
    return Check(name=LAST_DAYS, state="fail", message=f"{told}: {remedy}")


def _champion(settings: Settings, as_of: date) -> tuple[str | None, list[Check]]:
    store = Store(settings.store)
    chosen = champion_id(store)
    if chosen is None:
        message = "none: damped persistence forecasts until `datlstm retrain` promotes one"
        return None, [Check(name="champion", state="warn", message=message)]
    champion = Bundle.load(store, chosen)
    champion.check_matches(settings)
    message = f"{chosen}, trained on {champion.training['first_day']} … {champion.training['last_day']}"
    return chosen, [Check(name="champion", state="ok", message=message)]


def _forecast(settings: Settings, as_of: date) -> tuple[ForecastFacts | None, list[Check]]:
    cube = forecast_cube(settings).open()
    days = [day for day in days_in(cube) if day < as_of]
    if cube is None or not days:
        return None, [Check(name="forecast", state="warn", message="none published yet: run `datlstm nightly`")]
    init = init_in(cube[["forecast_source", "model_id", "input_age_days", "n_missing_inputs"]], days[-1])
    assert init is not None
    facts = ForecastFacts(
        init_time=days[-1],
        age_days=(as_of - days[-1]).days,
        source=_told(ForecastSource(int(init["forecast_source"]))),
        model_id=str(init["model_id"].item()),
        input_age_days=int(init["input_age_days"]),
        n_missing_inputs=int(init["n_missing_inputs"]),
    )
    message = f"{len(days)} published, the newest from {days[-1]}"
    return facts, [_aged("forecast", settings, facts.age_days, message, "run `datlstm nightly`")]


def _skill(settings: Settings, as_of: date) -> tuple[SkillTrend | None, list[Check]]:
    trend = skill_trend(settings, as_of)
    if trend is None:
        message = "nothing scored yet: truth arrives a day after the forecast"
        return None, [Check(name="skill", state="ok", message=message)]
    means = judged(trend)
    if means is None:
        return trend, [Check(name="skill", state="ok", message="not every lead was scored yet")]
    own, bar = means
    window = trend.windows[0]
    message = (
        f"mean RMSE over leads {own:.2f} °C, damped persistence {bar:.2f} °C, {window.first_day} … {window.last_day}"
    )
    if own <= bar:
        return trend, [Check(name="skill", state="ok", message=message)]
    remedy = "run `datlstm retrain`, or `datlstm rollback`"
    is_grave = own > (1 + GRAVE_LOSS) * bar and window.scored_days >= GRAVE_LOSS_DAYS
    return trend, [Check(name="skill", state="fail" if is_grave else "warn", message=f"{message}: {remedy}")]


LOOKS: dict[str, Callable[[Settings, date], tuple[Any, list[Check]]]] = {
    "archive": _archive,
    "champion": _champion,
    "forecast": _forecast,
    "skill": _skill,
}


def _aged(name: str, settings: Settings, age_days: int, message: str, remedy: str) -> Check:
    """Check an age in days: well at one, a failure once the model may not use it any more."""
    if age_days <= 1:
        return Check(name=name, state="ok", message=message)
    too_old = age_days > settings.forecast.maximum_model_age_days
    return Check(name=name, state="fail" if too_old else "warn", message=f"{message}: {remedy}")


def _validation(settings: Settings, as_of: date) -> list[Check]:
    """Return what the newest validation left for a person, nothing where none is at work."""
    try:
        records = newest_records(Store(settings.store), as_of, 1)
    except StoreError as error:
        return [Check(name=VALIDATION, state="warn", message=str(error))]
    if not records:
        return []
    grave = [finding for finding in records[0].findings if finding.state in ("breach", "failed")]
    mild = [finding for finding in records[0].findings if finding.state == "warn"]
    told = "; ".join(f"{finding.name}: {finding.message}" for finding in grave or mild) or "nothing was found"
    state: CheckState = "fail" if grave else "warn" if mild else "ok"
    return [Check(name=VALIDATION, state=state, message=f"on {records[0].as_of}: {told}")]


def _fallen_back(champion: str, forecast: ForecastFacts) -> Check:
    return Check(
        name="rung",
        state="warn",
        message=(
            f"the forecast from {forecast.init_time} is {forecast.source}'s, not that of {champion}: look for the "
            "reason in the log of its night, and at the archive's last days"
        ),
    )


def _told(source: ForecastSource) -> str:
    return source.name.lower().replace("_", " ")
