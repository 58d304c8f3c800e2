"""Bring days from the source into the archive."""

from dataclasses import dataclass, field
from datetime import date
from time import monotonic

from prefect import runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from tqdm import tqdm

from datlstm import ingest as library
from datlstm.compute import dask_compute
from datlstm.errors import DatlstmError, NotEnoughDataError, NotYetAvailableError, PermanentSourceError
from datlstm.logs import label
from datlstm.product_overlap import measure_step
from datlstm.settings import Settings, load_settings
from datlstm.sources import Source
from datlstm.store import Store
from tasks.outcome import Done
from tasks.progress import Progress
from tasks.source import source_of
from tasks.step import artifact_key, step


@step()
def ingest_days(settings_name: str | None, forecast_date: date) -> Done:
    """Read what a night needs into the archive, waiting for a source that fails or is late.

    Raises `SourceError`, `GridError`, `ArchiveError`; an error that waiting can't mend is left as an artifact at once.
    """
    settings = load_settings(settings_name)
    try:
        with dask_compute(settings):
            report = library.patient_ingest(settings, forecast_date, source_of(settings))
    except NotYetAvailableError as error:
        get_run_logger().warning("%s", error)
        return Done("nothing new", (str(error),))
    except PermanentSourceError as error:
        get_run_logger().error("the source needs a person: %s", error)
        create_markdown_artifact(f"# The source needs a person\n\n{error}\n", key=artifact_key("source", settings))
        raise
    get_run_logger().info("%s", report)
    late = [f"{len(report.missing)} days are missing"] if report.missing else []
    return Done(str(report), (*late, *report.problems))


@dataclass
class Backfilled:
    """What a backfill has brought so far, and what its artifacts tell of it."""

    settings: Settings
    first_day: date
    last_day: date
    rows: list[dict[str, str]] = field(default_factory=list)
    reports: list[library.IngestReport] = field(default_factory=list)

    def take(self, start: date, report: library.IngestReport | None) -> None:
        """Count a year in; None stands for one of which nothing was read."""
        self.rows.append({"year": str(start.year), "what": str(report or "nothing to read")})
        self.reports += [report] if report else []

    def __str__(self) -> str:
        """Return it all in one line."""
        added, revised = (sum(len(getattr(r.upsert, name)) for r in self.reports) for name in ("added", "revised"))
        problems = sum(len(report.problems) for report in self.reports)
        told = f", {problems} problems: see the warnings" if problems else ""
        return f"{self.first_day} … {self.last_day}: {added} days added, {revised} revised{told}"

    def leave_artifacts(self, failure: str = "") -> None:
        """Leave it all for the operator."""
        key, title = artifact_key("backfill", self.settings), f"{self.settings.region.title}, backfill"
        ended = f"\n\n**failed**: {failure}" if failure else ""
        create_markdown_artifact(f"# {title}\n\n{self}{ended}\n", key=key, description=str(self))
        create_table_artifact(self.rows, key=f"{key}-years", description="What came of each year.")


@step()
def backfill_days(settings_name: str | None, first_day: date | None, last_day: date | None, again: bool) -> str:
    """Fill the archive year by year, by default from the source's first day to its last, and say what was added.

    Finished years are not read unless ``again``. Raises as `ingest_days`.
    """
    settings = load_settings(settings_name)
    label(flow_run_name=str(runtime.flow_run.name), region=settings.region.name)
    source = source_of(settings)
    products = source.products()
    first = first_day or max(min(product.first_day for product in products), settings.archive.first_day)
    last = last_day or max(product.last_day for product in products)
    filled = Backfilled(settings, first, last)
    try:
        with dask_compute(settings):
            _read_years(filled, source, again)
    except DatlstmError as error:
        filled.leave_artifacts(str(error))
        raise
    get_run_logger().info("%s", filled)
    filled.leave_artifacts()
    return str(filled)


def _read_years(filled: Backfilled, source: Source, again: bool) -> None:
    """Read one year after the other, and tell how far it is."""
    first, last, key = filled.first_day, filled.last_day, artifact_key("backfill", filled.settings)
    years = len(library.yearly_pieces(first, last))
    progress, started = Progress(f"{key}-progress", f"Backfill {first} … {last}", years), monotonic()
    with tqdm(total=years, unit="year", desc="backfill", disable=None) as bar:
        for start, end, report in library.backfill(filled.settings, first, last, source, again=again):
            filled.take(start, report)
            done, read = len(filled.rows), len(filled.reports)
            if report is None:
                get_run_logger().info("%s … %s: nothing to read", start, end)
            else:
                left = (monotonic() - started) / read * (years - done)
                get_run_logger().info("%s; %d of %d years, at most %.0f s left", report, done, years, left)
            bar.set_postfix_str(str(start.year))
            bar.update()
            progress.advance(str(start.year))


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
