"""Validate the stores, ask for a retraining when skill was lost, and tell the operator."""

import logging
from datetime import date

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger

from datlstm.settings import load_settings
from datlstm.store import Store
from datlstm.validation.checks import lines_for_a_person, validate
from datlstm.validation.drift import episode_id, note_request, reason_to_retrain
from datlstm.validation.record import read_record
from datlstm.validation.report import report
from tasks.step import artifact_key, step

SKILL_DRIFTED = "datlstm.skill.drifted"
LEVELS = {"ok": logging.INFO, "warn": logging.WARNING, "breach": logging.ERROR, "failed": logging.ERROR}


@step()
def check_stores(settings_name: str | None, as_of: date) -> str:
    """Run every check, keep the record, and return what a person should look at, in one line.

    Raises `StoreError` when the record can't be written.
    """
    record = validate(load_settings(settings_name), as_of)
    for finding in record.findings:
        get_run_logger().log(LEVELS[finding.state], "%s: %s: %s", finding.state, finding.name, finding.message)
    return "<br>".join(lines_for_a_person(record)) or "all is well"


@step()
def request_retraining(settings_name: str | None, as_of: date) -> bool:
    """Emit the event that skill was lost, at the second breach running and once for each episode; tell whether it was.

    Raises `StoreError`.
    """
    settings = load_settings(settings_name)
    store = Store(settings.store)
    record = read_record(store, as_of)
    reason = reason_to_retrain(store, record) if record else None
    if record is None or reason is None:
        return False
    emit_event(
        SKILL_DRIFTED,
        {"prefect.resource.id": f"datlstm.region.{settings.region.name}"},
        # An automation makes text of it: none is the empty one.
        payload={"settings": settings_name or "", "reason": reason},
        id=episode_id(settings.region.name, record),
    )
    note_request(store, record)
    get_run_logger().warning("a retraining was requested: %s", reason)
    return True


@step()
def report_validation(settings_name: str | None, as_of: date) -> None:
    """Leave a markdown artifact of the findings and of the champion's chart."""
    settings = load_settings(settings_name)
    record = read_record(Store(settings.store), as_of)
    if record:
        create_markdown_artifact(report(record), key=artifact_key("validation", settings))
