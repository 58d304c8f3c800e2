"""Fill the archive with the past."""

from datetime import date

from prefect import flow

from tasks.ingest import backfill_days


@flow(name="backfill", flow_run_name="backfill to {last_day}")
def backfill(last_day: date, first_day: date | None = None, settings: str | None = None) -> str:
    """Read past days from the source, a year a commit; what is there already is not read again.

    Args:
        last_day: The last day to read.
        first_day: The first day to read. Default: the first the source has.
        settings: A shipped region's name or the path of a settings file. Default: DATLSTM_SETTINGS, else bohai.
    """
    return backfill_days(settings, first_day, last_day)
