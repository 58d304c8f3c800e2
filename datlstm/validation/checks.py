"""All checks as of a day, over the stores alone, and the record they make. A check that fails stops no other."""

import logging
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from typing import TypeVar

from datlstm.archive import Archive
from datlstm.errors import DatlstmError, StoreError
from datlstm.registry import Promotion, standing_promotion
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.validation import skill_check
from datlstm.validation.archive_checks import archive_freshness, gaps, mask, missing_cells, ranges
from datlstm.validation.forecast_checks import forecast_freshness, forecast_values
from datlstm.validation.record import Finding, Record, newest_records, write_record

CHECKS: dict[str, Callable[[Settings, date], Finding]] = {
    "archive": archive_freshness,
    "gaps": gaps,
    "missing cells": missing_cells,
    "ranges": ranges,
    "mask": mask,
    "forecast": forecast_freshness,
    "forecast values": forecast_values,
}

R = TypeVar("R")

log = logging.getLogger(__name__)


def validate(settings: Settings, as_of: date) -> Record:
    """Run every check as of a day, write the record, and return it.

    Nothing on or after the day is looked at, and no clock: the same stores give the same bytes. Raises `StoreError`
    when the record can't be written, `ArchiveError` for the store of another region.
    """
    Archive(settings).check_owner()
    findings = [_guarded(name, partial(check, settings, as_of)) for name, check in CHECKS.items()]
    charted = _guarded(skill_check.NAME, partial(skill_check.check_skill, settings, as_of))
    skill_finding, skill = (charted, None) if isinstance(charted, Finding) else charted
    store = Store(settings.store)
    promotion = _promotion(store)
    record = Record(
        as_of=as_of,
        bundle_id=promotion.bundle_id if promotion else None,
        promoted_at=promotion.promoted_at if promotion else None,
        findings=(*findings, skill_finding),
        skill=skill,
        breached_since=_breached_since(store, as_of, promotion) if skill and skill.is_lost else None,
    )
    write_record(store, record)
    return record


def lines_for_a_person(record: Record) -> list[str]:
    """Return a line for each finding that a person should look at, the worst first."""
    order = ("breach", "failed", "warn")
    wanted = sorted((f for f in record.findings if f.state in order), key=lambda finding: order.index(finding.state))
    return [f"{finding.state}: {finding.name}: {finding.message}" for finding in wanted]


def _guarded(name: str, check: Callable[[], R]) -> R | Finding:
    try:
        return check()
    except DatlstmError as error:
        return Finding(name=name, state="failed", message=str(error))
    except Exception as error:  # a check has a flaw: the others matter all the same
        log.exception("the check %r failed", name)
        message = f"{type(error).__name__}: {error}: see the log, and report it"
        return Finding(name=name, state="failed", message=message)


def _promotion(store: Store) -> Promotion | None:
    try:
        return standing_promotion(store)
    except DatlstmError:
        return None  # the checks that need it have said so


def _breached_since(store: Store, as_of: date, promotion: Promotion | None) -> date:
    try:
        before = newest_records(store, as_of - timedelta(days=1), 1)
    except StoreError as error:
        log.error("this breach counts as the first, for an earlier record can't be read: %s", error)
        return as_of
    since = before[0].breached_since if before and promotion and before[0].is_of(promotion) else None
    return since or as_of
