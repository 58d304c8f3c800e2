"""Fill the archive with the past."""

from datetime import date

from prefect import flow, runtime

from datlstm.settings import load_settings
from tasks.ingest import backfill_days, measure_product_step


def run_name() -> str:
    """Name a run after its region and last day."""
    given = runtime.flow_run.parameters
    region = load_settings(given.get("settings")).region.name
    return f"{region}, backfill to {given.get('last_day') or 'the newest day'}"


@flow(name="backfill", result_serializer="json", flow_run_name=run_name)
def backfill(
    last_day: date | None = None, first_day: date | None = None, settings: str | None = None, again: bool = False
) -> str:
    """Read past days from the source, a year a commit, then measure the step between its products where it has two.

    Args:
        last_day: The last day to read. Default: the last the source has.
        first_day: The first day to read. Default: the first the source has.
        settings: A shipped region's name or the path of a settings file. Default: DATLSTM_SETTINGS, else bohai.
        again: Read finished years again too.
    """
    filled = backfill_days(settings, first_day, last_day, again)
    measure_product_step(settings)
    return filled
