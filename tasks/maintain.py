"""The parts of maintenance, and what the operator reads of them."""

from datetime import date

from prefect import runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from datlstm.logs import label
from datlstm.maintenance import run_part
from datlstm.settings import load_settings
from tasks.outcome import FAILED
from tasks.progress import Progress
from tasks.step import artifact_key, step


def _run(settings_name: str | None, as_of: date, part: str) -> str:
    report = run_part(load_settings(settings_name), as_of, part)
    get_run_logger().info("%s: %s", part, report)
    return str(report)


@step()
def expire_archive_states(settings_name: str | None, as_of: date) -> str:
    """Take away old archive states; return one line. Raises `StoreError`, `ArchiveError`, `BundleError`."""
    return _run(settings_name, as_of, "archive states")


@step()
def remove_training_cubes(settings_name: str | None, as_of: date) -> str:
    """Delete training cubes but for the newest; return one line. Raises `StoreError`."""
    return _run(settings_name, as_of, "training cubes")


@step()
def remove_old_files(settings_name: str | None, as_of: date) -> str:
    """Delete old NetCDF files and pictures; return one line. Raises `StoreError`."""
    return _run(settings_name, as_of, "files")


@step()
def remove_leftovers(settings_name: str | None, as_of: date) -> str:
    """Delete what killed writers left; return one line. Raises `StoreError`, `ProductError`."""
    return _run(settings_name, as_of, "leftovers")


@step()
def write_series(settings_name: str | None, as_of: date) -> str:
    """Make the yearly copies that are due; return one line. Raises `StoreError`, `ProductError`."""
    return _run(settings_name, as_of, "series")


def progress_of_maintenance(settings_name: str | None, as_of: date, parts: int) -> Progress:
    """Return what tells how many of the parts are done, and label the logs."""
    settings = load_settings(settings_name)
    label(flow_run_name=str(runtime.flow_run.name), region=settings.region.name, date=str(as_of))
    return Progress(f"{artifact_key('maintenance', settings)}-progress", f"Maintenance as of {as_of}", parts)


@step()
def report_maintenance(settings_name: str | None, as_of: date, lines: dict[str, str]) -> None:
    """Leave a markdown artifact of the maintenance, one line per part, and the same as a table."""
    settings = load_settings(settings_name)
    key, title = artifact_key("maintenance", settings), f"{settings.region.title}, maintenance as of {as_of}"
    failed = [name for name, line in lines.items() if line.startswith(FAILED)]
    headline = f"{', '.join(failed)} failed" if failed else "all well"
    rows = "\n".join(f"| {name} | {line} |" for name, line in lines.items())
    create_markdown_artifact(
        f"# {title}: {headline}\n\n| part | result |\n|---|---|\n{rows}\n", key=key, description=headline
    )
    table = [{"part": name, "result": line} for name, line in lines.items()]
    create_table_artifact(table, key=f"{key}-parts", description="What came of each part.")
