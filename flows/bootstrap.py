"""Give a new store its history and its first model."""

from datetime import date

from prefect import flow, runtime

from datlstm.settings import load_settings
from flows.backfill import backfill
from flows.retrain import retrain
from tasks.bootstrap import lacks_model, missing_history
from tasks.outcome import Done


def run_name() -> str:
    """Name a run after its region."""
    return f"{load_settings(runtime.flow_run.parameters.get('settings')).region.name}, bootstrap"


@flow(name="bootstrap", result_serializer="json", flow_run_name=run_name)
def bootstrap(settings: str | None, night: date) -> Done:
    """Fill the archive up to a night and train a first champion, as far as either is missing.

    One that was interrupted is gone on with.
    """
    told = []
    if history := missing_history(settings, night):
        first_day, last_day = history
        told.append(backfill(last_day, first_day, settings))
    if lacks_model(settings):
        told.append(retrain(settings))
    return Done("; ".join(told) or "nothing was missing")
