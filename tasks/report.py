"""The two ends of a night: what every later log line says of it, and what the operator is left with."""

import logging
from collections.abc import Callable, Mapping
from datetime import date, datetime

from prefect import runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from datlstm.archive import Archive
from datlstm.clock import now
from datlstm.errors import DatlstmError
from datlstm.logs import label
from datlstm.metrics import write_textfile
from datlstm.night_report import SKILL_NOTE, headline, picture, report, skill_rows, step_rows
from datlstm.nights import Night, Step, save_night
from datlstm.settings import Settings, load_settings
from datlstm.status import Status, conclude
from datlstm.store import Store
from tasks.notify import tell_others
from tasks.outcome import Attempt, Done, step_of
from tasks.step import artifact_key, step


def open_night(settings_name: str | None, night: date) -> datetime:
    """Label the logs with the night, and return when it began."""
    region = load_settings(settings_name).region.name
    label(flow_run_name=str(runtime.flow_run.name), region=region, date=str(night))
    return now()


def steps_of(**attempts: Attempt[Done]) -> dict[str, Step]:
    """Return what is recorded of the steps of a night, by name."""
    return {name: step_of(attempted) for name, attempted in attempts.items()}


@step()
def close_night(settings_name: str | None, night: date, began: datetime, steps: Mapping[str, Step]) -> None:
    """Record a night in the store, tell others of it, leave its artifacts and numbers.

    All of these are tried. Raises `StoreError` when the record could not be written, `ArchiveError` when the store is
    another region's.
    """
    settings = load_settings(settings_name)
    status = conclude(settings, night, steps, began, now())
    unrecorded = _tried(lambda: _record(settings, status.nights[0]))
    unwritten = _tried(lambda: write_textfile(settings, status))
    undelivered = [str(error) for error in (unrecorded, unwritten) if error] + tell_others(settings, status)
    _leave_artifacts(settings, status, undelivered)
    get_run_logger().log(_level(status, undelivered), "%s", headline(status.nights[0]))
    if unrecorded:
        raise unrecorded


def _record(settings: Settings, night: Night) -> None:
    Archive(settings).check_owner()
    save_night(Store(settings.store), night)


def _leave_artifacts(settings: Settings, status: Status, undelivered: list[str]) -> None:
    night, key = status.nights[0], artifact_key("night", settings)
    create_markdown_artifact(report(settings, status, undelivered), key=key, description=headline(night))
    create_table_artifact(step_rows(night), key=f"{key}-steps", description="How long each step took.")
    if rows := skill_rows(status.operation.skill):
        create_table_artifact(rows, key=f"{key}-skill", description=SKILL_NOTE)
    drawn: list[str | None] = []
    if error := _tried(lambda: drawn.append(picture(settings, status))):
        get_run_logger().warning("no picture in the report: %s", error)
    for markdown in filter(None, drawn):
        create_markdown_artifact(markdown, key=f"{key}-picture", description="The newest forecast.")


def _tried(act: Callable[[], object]) -> DatlstmError | None:
    """Run ``act``, and return the error of this project that ended it, logged."""
    try:
        act()
    except DatlstmError as error:
        get_run_logger().error("%s", error)
        return error
    return None


def _level(status: Status, undelivered: list[str]) -> int:
    if status.nights[0].failed:
        return logging.ERROR
    return logging.WARNING if status.needs or undelivered else logging.INFO
