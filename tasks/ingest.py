"""Bring days from the source into the archive."""

from datetime import date, timedelta

from prefect.logging import get_run_logger
from prefect.states import State
from tqdm import tqdm

from datlstm import ingest as library
from datlstm.archive import Archive
from datlstm.compute import dask_compute
from datlstm.errors import NotYetAvailableError, TransientSourceError
from datlstm.settings import load_settings
from tasks.step import step


def _is_transient(_task: object, _run: object, state: State[str]) -> bool:
    return isinstance(state.result(raise_on_failure=False), TransientSourceError)


@step(retries=3, retry_delay_seconds=[30, 120, 480], retry_jitter_factor=0.3, retry_condition_fn=_is_transient)
def ingest_days(settings_name: str | None, forecast_date: date) -> str:
    """Read the rolling window before ``forecast_date``, and all since the archive's end, into the archive.

    Returns one line that says what changed. Raises `SourceError`, `GridError`, `ArchiveError`.
    """
    settings = load_settings(settings_name)
    last = forecast_date - timedelta(days=1)
    first = forecast_date - timedelta(days=settings.archive.rolling_days)
    archive = Archive(settings)
    usable = archive.usable_days() if archive.exists() else []
    if usable:
        first = min(first, usable[-1] + timedelta(days=1))
    first = max(first, settings.archive.first_day)
    try:
        with dask_compute(settings):
            report = library.ingest(settings, first, last)
    except NotYetAvailableError as error:
        get_run_logger().warning("%s", error)
        return f"nothing new: {error}"
    message = (
        f"{first} … {last}: {len(report.added)} days added, {len(report.revised)} revised, "
        f"{len(report.unchanged)} unchanged, {len(report.refused)} refused; snapshot {report.snapshot_id}"
    )
    get_run_logger().info(message)
    return message


def outcome(ingested: State[str]) -> str:
    """Return in one line what came of `ingest_days`, failed or not."""
    return ingested.result() if ingested.is_completed() else f"**failed**: {ingested.message}"


@step()
def backfill_days(settings_name: str | None, first_day: date | None, last_day: date) -> str:
    """Fill the archive year by year, from the source's first day when none is given, and say what was added.

    Finished years are not read again. Raises as `ingest_days`.
    """
    settings = load_settings(settings_name)
    first = first_day or max(library.open_source(settings).coverage()[0], settings.archive.first_day)
    pieces = library.yearly_pieces(first, last_day)
    added = 0
    with dask_compute(settings), tqdm(total=len(pieces), unit="year", desc="backfill", disable=None) as bar:
        for start, _, report in library.backfill(settings, first, last_day):
            added += len(report.added) if report else 0
            bar.set_postfix_str(str(start.year))
            bar.update()
    message = f"{first} … {last_day}: {added} days added"
    get_run_logger().info(message)
    return message
