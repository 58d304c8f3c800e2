"""Forecast, and leave the draft for publication."""

from datetime import date

from prefect.logging import get_run_logger

from datlstm.drafts import save_draft
from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import draft_forecast
from datlstm.settings import load_settings
from datlstm.store import Store
from tasks.outcome import Done
from tasks.step import step


@step()
def make_forecast(settings_name: str | None, forecast_date: date) -> Done:
    """Forecast from the newest usable day before ``forecast_date``, and leave a draft.

    Raises `NotEnoughDataError` when no rung of the ladder can forecast.
    """
    settings = load_settings(settings_name)
    made = nightly_forecast(settings, forecast_date)
    message = (
        f"forecast from {made.init_day} by {made.bundle.id} ({made.source.name.lower()}, input "
        f"{made.input_age_days} days old)"
    )
    get_run_logger().info("%s", message)
    draft = save_draft(Store(settings.store), f"forecast-{made.init_day}", draft_forecast(settings, made))
    return Done(message, draft=draft)
