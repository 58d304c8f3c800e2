"""What is configured, reachable, stale or missing: one finding per line, each with its remedy."""

from collections.abc import Callable, Iterator
from datetime import date

from datlstm.archive import Archive
from datlstm.errors import DatlstmError
from datlstm.formats import MIGRATE
from datlstm.lease import check_conditional_writes
from datlstm.migrations.stores import examine as examine_formats
from datlstm.operation import Check, CheckState, examine_operation
from datlstm.settings import Settings
from datlstm.sources import open_source
from datlstm.store import Store

Finding = tuple[CheckState, str]
PROBE = ".doctor"


def examine(settings: Settings, today: date) -> Iterator[Check]:
    """Yield every check of a region's service as of ``today``; an error of this project becomes a failed check."""
    checks: dict[str, Callable[[Settings, date], Finding]] = {
        "region": _region,
        "source": _source,
        "store": _store,
        "formats": _formats,
    }
    for name, check in checks.items():
        try:
            state, message = check(settings, today)
        except DatlstmError as error:
            state, message = "fail", str(error)
        yield Check(name=name, state=state, message=message)
    yield from examine_operation(settings, today).checks


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
    state: CheckState = "ok" if age <= 2 else "warn"
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
