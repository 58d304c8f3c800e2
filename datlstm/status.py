"""How a region's service is doing, from its stores alone: newest forecast, archive, last nights, skill, what is needed.

Silence is told too: a night that was not recorded in time needs a person.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

from datlstm.errors import DatlstmError
from datlstm.lineage import code_version
from datlstm.nights import Night, Step, needs_of, recent_nights
from datlstm.operation import Check, Operation, examine_operation
from datlstm.settings import Frozen, Settings
from datlstm.store import Store

SHOWN_NIGHTS = 7


class Status(Frozen):
    """A region's service at a moment; ``nights`` are the newest recorded first, ``needs`` what a person must do."""

    region: str
    moment: datetime
    operation: Operation
    nights: tuple[Night, ...]
    needs: tuple[str, ...]


def examine(settings: Settings, moment: datetime) -> Status:
    """Return the status at a moment (UTC). An error of this project becomes something that a person must mend."""
    operation = examine_operation(settings, moment.date())
    nights, unreadable = _recent(settings, moment.date())
    found = [*unreadable, *needs_of(nights), *_of_checks(operation.checks)]
    if not unreadable:
        found += _silence(settings, nights, moment)
    return Status(
        region=settings.region.name,
        moment=moment,
        operation=operation,
        nights=tuple(nights),
        needs=tuple(dict.fromkeys(found)),
    )


def conclude(
    settings: Settings, night: date, steps: Mapping[str, Step], started_at: datetime, finished_at: datetime
) -> Status:
    """Return the status right after a night, whose record, the newest of ``nights``, is not written yet."""
    operation = examine_operation(settings, night)
    earlier, unreadable = _recent(settings, night - timedelta(days=1))
    record = Night(
        night=night,
        region=settings.region.name,
        code_version=code_version(),
        started_at=started_at,
        finished_at=finished_at,
        steps=steps,
        archive=operation.archive,
        forecast=operation.forecast,
    )
    needs = tuple(
        dict.fromkeys([*unreadable, *needs_of([record, *earlier]), *_of_checks(operation.checks)]),
    )
    record = record.model_copy(update={"needs": needs})
    nights = (record, *earlier)
    return Status(region=record.region, moment=finished_at, operation=operation, nights=nights, needs=needs)


def end_of(day: date) -> datetime:
    """Return the last second of a day, UTC."""
    return datetime.combine(day, time(23, 59, 59), UTC)


def _recent(settings: Settings, as_of: date) -> tuple[list[Night], list[str]]:
    """Return the newest records, and what kept them from being read."""
    try:
        return recent_nights(Store(settings.store), as_of), []
    except DatlstmError as error:
        return [], [f"nights: {error}"]


def _of_checks(checks: Sequence[Check]) -> list[str]:
    return [f"{check.name}: {check.message}" for check in checks if check.needs_person]


def _silence(settings: Settings, nights: Sequence[Night], moment: datetime) -> list[str]:
    remedy = "run `datlstm nightly`, and look whether its schedule, the server and a worker run"
    if not nights:
        return [f"nights: none was ever recorded: {remedy}"]
    due = datetime.combine(nights[0].night + timedelta(days=1), time.min, UTC)
    if moment <= due + timedelta(hours=settings.notify.silence_hours):
        return []
    return [f"nights: the last that was recorded is that of {nights[0].night}: {remedy}"]
