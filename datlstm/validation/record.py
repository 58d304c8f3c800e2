"""What validation found on a day, kept as ``validation/<date>.json``: a function of stores and date, of no clock.

It imports nothing of the checks, so that the ladder can read what they left.
"""

from datetime import date, timedelta
from typing import Literal

from pydantic import ValidationError

from datlstm.errors import StoreError
from datlstm.registry import Promotion
from datlstm.settings import Frozen
from datlstm.store import Store

FOLDER = "validation"
# Older records say nothing of tonight.
MEMORY_DAYS = 7
State = Literal["ok", "warn", "breach", "failed"]


class Finding(Frozen):
    """What one check found: its state, a sentence with object and remedy, and the number it rests on, if any.

    ``failed`` says that the check itself did.
    """

    name: str
    state: State
    message: str
    number: float | None = None


class SkillState(Frozen):
    """Where the champion's control chart stands.

    ``last_day`` is the newest valid day charted, ``level`` the chart's height there as a share of its threshold, and
    ``trace`` that of the last days, ascending. Since ``since``, the day the chart last left zero, the RMSE was above
    what is expected by the share ``excess``, and ``ratio`` times damped persistence's.
    """

    days: int
    last_day: date
    level: float
    trace: tuple[float, ...]
    since: date
    excess: float
    ratio: float

    @property
    def is_lost(self) -> bool:
        """Tell whether the chart is above its threshold."""
        return self.level > 1


class Record(Frozen):
    """What validation found as of the day ``as_of``.

    ``bundle_id`` and ``promoted_at`` are the champion's promotion that stood. ``breached_since`` is the day of the
    first of the records, without a gap of `MEMORY_DAYS`, that found its skill lost, this one included.
    """

    format_version: Literal[1] = 1
    as_of: date
    bundle_id: str | None
    promoted_at: int | None
    findings: tuple[Finding, ...]
    skill: SkillState | None
    breached_since: date | None

    @property
    def breach(self) -> bool:
        """Tell whether the champion has lost skill."""
        return self.breached_since is not None

    @property
    def is_second_breach(self) -> bool:
        """Tell whether the record before breached too."""
        return self.breached_since is not None and self.breached_since < self.as_of

    @property
    def is_worse_than_damped(self) -> bool:
        """Tell whether damped persistence was better while skill was lost."""
        return self.skill is not None and self.skill.is_lost and self.skill.ratio > 1

    def is_of(self, promotion: Promotion) -> bool:
        """Tell whether that promotion stood."""
        return (self.bundle_id, self.promoted_at) == (promotion.bundle_id, promotion.promoted_at)


def write_record(store: Store, record: Record) -> str:
    """Keep a record and return its path; the same again changes no byte."""
    path = record_path(record.as_of)
    store.write_json(path, record.model_dump(mode="json"))
    return path


def read_record(store: Store, day: date) -> Record | None:
    """Return the record of a day, or None. Raises `StoreError` when it is damaged or of a newer format."""
    content = store.read(record_path(day))
    try:
        return None if content is None else Record.model_validate_json(content)
    except ValidationError as error:
        problem = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise StoreError(
            f"{store.url_of(record_path(day))} is not a record of validation ({problem}): make it again with "
            f"`datlstm validate --date {day}`"
        ) from error


def newest_records(store: Store, last_day: date, count: int) -> list[Record]:
    """Return the newest records of the `MEMORY_DAYS` days up to and including a day, newest first, at most ``count``.

    Raises `StoreError` as `read_record`.
    """
    found: list[Record] = []
    for back in range(MEMORY_DAYS):
        if len(found) < count and (record := read_record(store, last_day - timedelta(days=back))):
            found.append(record)
    return found


def record_path(day: date) -> str:
    """Return where the record of a day lies in the store."""
    return f"{FOLDER}/{day}.json"
