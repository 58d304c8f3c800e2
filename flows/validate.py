"""Look whether the stores and the champion are as they should be."""

from datetime import date

from prefect import flow, runtime

from datlstm.clock import today
from datlstm.settings import load_settings
from tasks.validate import check_stores, report_validation, request_retraining


def run_name() -> str:
    """Name a run after its region and day."""
    given = runtime.flow_run.parameters
    region = load_settings(given.get("settings")).region.name
    return f"{region}, validation of {given.get('forecast_date') or today()}"


@flow(name="validate", result_serializer="json", flow_run_name=run_name)
def validate(forecast_date: date | None = None, settings: str | None = None) -> str:
    """Check archive, forecast and skill as of a day; return what a person should look at. Findings do not fail it.

    Args:
        forecast_date: The day (UTC); what is checked are the days before it. Default: today.
        settings: A shipped region's name or the path of a settings file. Default: DATLSTM_SETTINGS, else bohai.
    """
    as_of = forecast_date or today()
    found = check_stores(settings, as_of)
    request_retraining(settings, as_of)
    report_validation(settings, as_of)
    return found
