"""Bring days from the source into the archive."""

from datetime import date
from time import monotonic

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from tqdm import tqdm

from datlstm import ingest as library
from datlstm.compute import dask_compute
from datlstm.errors import NotEnoughDataError, NotYetAvailableError, PermanentSourceError
from datlstm.product_overlap import measure_step
from datlstm.settings import load_settings
from datlstm.store import Store
from tasks.source import source_of
from tasks.step import step


@step()
def ingest_days(settings_name: str | None, forecast_date: date) -> str:
    """Read what a night needs into the archive, waiting for a source that fails or is late.

    Returns one line that says what changed, and one for each thing that a person should look at. Raises `SourceError`,
    `GridError`, `ArchiveError`; an error that waiting can't mend is left as an artifact at once.
    """
    settings = load_settings(settings_name)
    try:
        with dask_compute(settings):
            report = library.patient_ingest(settings, forecast_date, source_of(settings))
    except NotYetAvailableError as error:
        get_run_logger().warning("%s", error)
        return f"nothing new: {error}"
    except PermanentSourceError as error:
        get_run_logger().error("the source needs a person: %s", error)
        create_markdown_artifact(f"# The source needs a person\n\n{error}\n", key="source")
        raise
    get_run_logger().info("%s", report)
    return "<br>".join([str(report), *report.problems])


@step()
def backfill_days(settings_name: str | None, first_day: date | None, last_day: date | None, again: bool) -> str:
    """Fill the archive year by year, by default from the source's first day to its last, and say what was added.

    Finished years are not read unless ``again``. Raises as `ingest_days`.
    """
    settings = load_settings(settings_name)
    source = source_of(settings)
    products = source.products()
    first = first_day or max(min(product.first_day for product in products), settings.archive.first_day)
    last = last_day or max(product.last_day for product in products)
    pieces = library.yearly_pieces(first, last)
    added = revised = problems = 0
    started, read = monotonic(), 0
    with dask_compute(settings), tqdm(total=len(pieces), unit="year", desc="backfill", disable=None) as bar:
        pieces_done = library.backfill(settings, first, last, source, again=again)
        for done, (start, end, report) in enumerate(pieces_done, start=1):
            if report is None:
                get_run_logger().info("%s … %s: nothing to read", start, end)
            else:
                added, revised = added + len(report.upsert.added), revised + len(report.upsert.revised)
                problems, read = problems + len(report.problems), read + 1
                left = (monotonic() - started) / read * (len(pieces) - done)
                get_run_logger().info("%s; %d of %d years, at most %.0f s left", report, done, len(pieces), left)
            bar.set_postfix_str(str(start.year))
            bar.update()
    told = f", {problems} problems: see the warnings" if problems else ""
    message = f"{first} … {last}: {added} days added, {revised} revised{told}"
    get_run_logger().info(message)
    return message


@step()
def measure_product_step(settings_name: str | None) -> str:
    """Measure and store the step between the source's products, where it has two; return its summary in one line."""
    settings = load_settings(settings_name)
    source = source_of(settings)
    if len(source.products()) < 2:
        return "the source has one product"
    get_run_logger().info("measuring the step between the source's products, on days that both have")
    try:
        measured = measure_step(settings, source)
    except NotEnoughDataError as error:
        get_run_logger().info("step between the products not measured: %s", error)
        return str(error)
    measured.save(Store(settings.store))
    get_run_logger().info("step between the products: %s", measured.summary())
    return measured.summary()
