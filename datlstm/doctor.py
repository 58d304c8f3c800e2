"""What is configured, reachable, stale or missing: one finding per line, each with its remedy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from datlstm.archive import Archive
from datlstm.areas import area_masks
from datlstm.bundle import Bundle
from datlstm.errors import DatlstmError
from datlstm.formats import MIGRATE
from datlstm.lease import check_conditional_writes
from datlstm.migrations.stores import examine as examine_formats
from datlstm.products.forecast import published_days
from datlstm.products.skill import standing_skill
from datlstm.products.skill_summary import skill_by_lead
from datlstm.quality import UNUSABLE, describe
from datlstm.registry import champion_id
from datlstm.settings import Settings
from datlstm.sources import open_source
from datlstm.store import Store

State = Literal["ok", "warn", "fail"]
Finding = tuple[State, str]
PROBE = ".doctor"
TRAILING_DAYS = 30


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    state: State
    message: str


def examine(settings: Settings, today: date) -> Iterator[Check]:
    """Yield every check of a region's service as of ``today``; an error of this project becomes a failed check."""
    checks: dict[str, Callable[[Settings, date], Finding]] = {
        "region": _region,
        "source": _source,
        "store": _store,
        "formats": _formats,
        "archive": _archive,
        "last days": _gaps,
        "champion": _champion,
        "forecast": _forecast,
        "skill": _skill,
    }
    for name, check in checks.items():
        try:
            state, message = check(settings, today)
        except DatlstmError as error:
            state, message = "fail", str(error)
        yield Check(name, state, message)


def _region(settings: Settings, today: date) -> Finding:
    grid = Archive(settings).grid
    return (
        "ok",
        f"{settings.region.name}: {grid.shape[0]} x {grid.shape[1]} cells of {settings.region.resolution:g} degrees",
    )


def _formats(settings: Settings, today: date) -> Finding:
    states = examine_formats(settings)
    problems = [f"{state.name}: {state.problem}" for state in states if state.problem]
    older = [f"{state.name} has format {state.found}" for state in states if state.todo]
    if problems or older:
        remedy = f": {MIGRATE}" if older else ""
        return "fail", "; ".join([*problems, *older]) + remedy
    return "ok", "everything in the store has the formats of this release"


def _source(settings: Settings, today: date) -> Finding:
    products = open_source(settings).products()
    age = (today - max(product.last_day for product in products)).days
    state: State = "ok" if age <= 2 else "warn"
    remedy = "" if state == "ok" else f", {age} days ago: wait for it, or look at the provider's notices"
    found = "; ".join(f"{product}, {product.first_day} … {product.last_day}" for product in products)
    return state, f"{settings.source.kind}: {found}{remedy}"


def _store(settings: Settings, today: date) -> Finding:
    store = Store(settings.store)
    store.write(PROBE, b"written by datlstm doctor\n")
    if store.read(PROBE) != b"written by datlstm doctor\n":
        return "fail", f"{store.url} does not return what was written to it: look at its server"
    store.delete(PROBE)
    check_conditional_writes(store)
    return "ok", f"{store.url} can be written and read, and one of two writers at once wins"


def _archive(settings: Settings, today: date) -> Finding:
    archive = Archive(settings)
    days = archive.usable_days()
    area_masks(settings.region, archive.ocean_mask())
    last = archive.last_day()
    age = (today - last).days
    state: State = "ok" if age <= 1 else "warn" if age <= settings.forecast.maximum_model_age_days else "fail"
    remedy = "" if state == "ok" else ": run `datlstm nightly`, or look at the source"
    return state, f"{len(days)} usable days, {days[0]} … {last}, newest is {age} days old{remedy}"


def _gaps(settings: Settings, today: date) -> Finding:
    recent = Archive(settings).open()[["quality"]].isel(time=slice(-TRAILING_DAYS, None)).load()
    flagged = {str(day["time"].values)[:10]: int(day) for day in recent["quality"] if int(day)}
    if not flagged:
        return "ok", f"no gap and no flag in the archive's last {recent.sizes['time']} days"
    flags = ", ".join(f"{day} {describe(flags)}" for day, flags in flagged.items())
    unusable = [day for day, flags in flagged.items() if flags & UNUSABLE]
    if not unusable:
        return "warn", f"{flags}: still used; compare them with the source"
    return "fail", f"{flags}: read again with `datlstm backfill --again --from {unusable[0]} --to {unusable[-1]}`"


def _champion(settings: Settings, today: date) -> Finding:
    store = Store(settings.store)
    chosen = champion_id(store)
    if chosen is None:
        return "warn", "none: damped persistence forecasts until `datlstm retrain` promotes one"
    champion = Bundle.load(store, chosen)
    champion.check_matches(settings)
    return "ok", f"{chosen}, trained on {champion.training['first_day']} … {champion.training['last_day']}"


def _forecast(settings: Settings, today: date) -> Finding:
    days = published_days(settings)
    if not days:
        return "warn", "none published yet: run `datlstm nightly`"
    state: State = "ok" if days[-1] >= today - timedelta(days=1) else "warn"
    remedy = "" if state == "ok" else ": run `datlstm nightly`"
    return state, f"{len(days)} published, the newest from {days[-1]}{remedy}"


def _skill(settings: Settings, today: date) -> Finding:
    standing = standing_skill(settings)
    if standing is None:
        return "warn", "nothing scored yet: truth arrives a day after the forecast"
    skill = skill_by_lead(standing)
    own, bar = (skill.sel(forecaster=name).mean().item() for name in ("forecast", "damped_persistence"))
    found = f"mean RMSE over leads {own:.2f} °C, damped persistence {bar:.2f} °C"
    return ("ok", found) if own <= bar else ("warn", f"{found}: run `datlstm retrain`, or `datlstm rollback`")
