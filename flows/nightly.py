"""The night: ingest, forecast, verify, publish."""

from datetime import date

from prefect import flow, runtime

from datlstm.clock import today
from datlstm.settings import load_settings
from flows.backfill import backfill
from flows.retrain import retrain
from tasks.bootstrap import lacks_model, missing_history
from tasks.forecast import make_forecast
from tasks.ingest import ingest_days
from tasks.outcome import result_of, told
from tasks.publish import publish_night, report_night
from tasks.verify import score_forecasts


def run_name() -> str:
    """Name a run after its date and region."""
    given = runtime.flow_run.parameters
    return f"{load_settings(given.get('settings')).region.name}, night of {given.get('forecast_date') or today()}"


@flow(name="nightly", result_serializer="json", flow_run_name=run_name)
def nightly(forecast_date: date | None = None, settings: str | None = None, bootstrap: bool = False) -> str:
    """Ingest what is new, forecast, score what can be scored, publish; return what became visible.

    Args:
        forecast_date: The night, UTC; input are the days before it. Default: today. Any past night can be run again.
        settings: A shipped region's name or the path of a settings file. Default: DATLSTM_SETTINGS, else bohai.
        bootstrap: First fill an empty archive and train a first champion, as far as either is missing.
    """
    night = forecast_date or today()
    if bootstrap:
        fill_and_train(settings, night)
    ingested = ingest_days(settings, night, return_state=True)
    forecast = make_forecast(settings, night, return_state=True)
    scores = score_forecasts(settings, night, return_state=True)
    published = publish_night(settings, result_of(forecast), result_of(scores), return_state=True)
    report_night(night, told(ingested), told(published))
    # What could go out went out; the night still fails when a step did, so that somebody looks.
    for state in (forecast, scores, published, ingested):
        state.result()
    return told(published)


def fill_and_train(settings: str | None, night: date) -> None:
    """Give an empty store its history and its first model."""
    history = missing_history(settings, night)
    if history is not None:
        first_day, last_day = history
        backfill(last_day, first_day, settings)
    if lacks_model(settings):
        retrain(settings)
