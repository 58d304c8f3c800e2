"""Forecast, and leave the draft for publication."""

from datetime import date

from prefect.logging import get_run_logger

from datlstm.drafts import save_draft
from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import draft_forecast
from datlstm.settings import load_settings
from datlstm.store import Store
from tasks.step import step


@step()
def make_forecast(settings_name: str | None, forecast_date: date) -> str:
    """Forecast from the newest usable day before ``forecast_date``; return the path of the draft.

    Raises `NotEnoughDataError` when no rung of the ladder can forecast.
    """
    settings = load_settings(settings_name)
    made = nightly_forecast(settings, forecast_date)
    get_run_logger().info(
        "forecast from %s by %s (%s, input %d days old)",
        made.init_day,
        made.bundle.id,
        made.source.name.lower(),
        made.input_age_days,
    )
    return save_draft(Store(settings.store), f"forecast-{made.init_day}", draft_forecast(settings, made))
