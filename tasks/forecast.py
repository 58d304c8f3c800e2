"""Forecast, and put the forecast into the published cube."""

from datetime import date

from prefect.logging import get_run_logger

from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import publish_forecast
from datlstm.settings import load_settings
from tasks.step import step


@step()
def make_forecast(settings_name: str | None, forecast_date: date) -> date:
    """Forecast from the newest usable day before ``forecast_date``; return that day, the forecast's init.

    Raises `NotEnoughDataError` when no rung of the ladder can forecast, `ProductError` for a refused write.
    """
    settings = load_settings(settings_name)
    made = nightly_forecast(settings, forecast_date)
    outcome = publish_forecast(settings, made)
    get_run_logger().info(
        "forecast from %s by %s (%s, input %d days old): %s",
        made.init_day,
        made.bundle.id,
        made.source.name.lower(),
        made.input_age_days,
        outcome,
    )
    return made.init_day
