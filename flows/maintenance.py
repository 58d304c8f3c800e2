"""Keep the stores small."""

from datetime import date

from prefect import flow, runtime

from datlstm.clock import today
from datlstm.settings import load_settings
from tasks.maintain import (
    expire_archive_states,
    progress_of_maintenance,
    remove_leftovers,
    remove_old_files,
    remove_training_cubes,
    report_maintenance,
    write_series,
)
from tasks.outcome import attempt, told

PARTS = {
    "archive states": expire_archive_states,
    "training cubes": remove_training_cubes,
    "files": remove_old_files,
    "leftovers": remove_leftovers,
    "series": write_series,
}


def run_name() -> str:
    """Name a run after its region and night."""
    given = runtime.flow_run.parameters
    region = load_settings(given.get("settings")).region.name
    return f"{region}, maintenance as of {given.get('as_of') or today()}"


@flow(name="maintenance", result_serializer="json", flow_run_name=run_name)
def maintenance(as_of: date | None = None, settings: str | None = None) -> dict[str, str]:
    """Take away what is older than the settings' retention, and make the yearly copies; return a line per part.

    Args:
        as_of: The night from which ages count back. Default: today (UTC).
        settings: A shipped region's name or the path of a settings file. Default: DATLSTM_SETTINGS, else bohai.
    """
    night = as_of or today()
    progress = progress_of_maintenance(settings, night, len(PARTS))
    attempts = {}
    for name, part in PARTS.items():
        attempts[name] = attempt(part, settings, night)
        progress.advance(name)
    lines = {name: told(attempted) for name, attempted in attempts.items()}
    report_maintenance(settings, night, lines)
    # Every part has run; the flow fails now if one did, so that somebody looks.
    for attempted in attempts.values():
        attempted.check()
    return lines
