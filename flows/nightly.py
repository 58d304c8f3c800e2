"""The night: ingest, forecast, verify, publish."""

from datetime import date

from prefect import flow, runtime

from datlstm.clock import today
from datlstm.settings import load_settings
from flows.bootstrap import bootstrap as fill_and_train
from tasks.forecast import make_forecast
from tasks.ingest import ingest_days
from tasks.outcome import Attempt, Done, attempt, draft_of
from tasks.publish import publish_night
from tasks.report import close_night, open_night, steps_of
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
    began = open_night(settings, night)
    first: dict[str, Attempt[Done]] = {"bootstrap": attempt(fill_and_train, settings, night)} if bootstrap else {}
    ingested = attempt(ingest_days, settings, night)
    forecast = attempt(make_forecast, settings, night)
    scores = attempt(score_forecasts, settings, night)
    published = attempt(publish_night, settings, draft_of(forecast), draft_of(scores))
    steps = steps_of(**first, ingest=ingested, forecast=forecast, scores=scores, publish=published)
    closed = attempt(close_night, settings, night, began, steps)
    # What could go out went out; the night still fails when a step did, so that somebody looks.
    for step in (*first.values(), forecast, scores, published, ingested):
        step.check()
    closed.check()
    return published.check().message
