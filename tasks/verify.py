"""Score past forecasts whose truth has arrived."""

from datetime import date

from prefect.logging import get_run_logger

from datlstm.products.scoring import verify
from datlstm.settings import load_settings
from tasks.step import step


@step()
def score_forecasts(settings_name: str | None, forecast_date: date) -> str:
    """Score against every truth before ``forecast_date``; return one line that says how many days' scores changed."""
    report = verify(load_settings(settings_name), forecast_date)
    message = f"{len(report.scored)} days scored, {report.unchanged} unchanged"
    get_run_logger().info(message)
    return message
