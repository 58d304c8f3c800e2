"""The parts of maintenance, and what the operator reads of them."""

from datetime import date

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from datlstm.maintenance import run_part
from datlstm.settings import load_settings
from tasks.step import step


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


@step()
def report_maintenance(as_of: date, lines: dict[str, str]) -> None:
    """Leave a markdown artifact of the maintenance, one line per part."""
    rows = "\n".join(f"| {name} | {line} |" for name, line in lines.items())
    create_markdown_artifact(
        f"# Maintenance as of {as_of}\n\n| part | result |\n|---|---|\n{rows}\n", key="maintenance"
    )
