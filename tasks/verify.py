"""Score past forecasts whose truth has arrived."""

from datetime import date

from prefect.logging import get_run_logger

from datlstm.drafts import save_draft
from datlstm.products.scoring import score
from datlstm.settings import load_settings
from datlstm.store import Store
from tasks.step import step


@step()
def score_forecasts(settings_name: str | None, forecast_date: date) -> str | None:
    """Score against every truth before ``forecast_date`` that is new or revised; return the draft's path, if any."""
    settings = load_settings(settings_name)
    scores = score(settings, forecast_date)
    if scores is None:
        get_run_logger().info("no truth is new or revised")
        return None
    get_run_logger().info("%d days of truth to score against", scores.sizes["scoring"])
    return save_draft(Store(settings.store), f"skill-{forecast_date}", scores)
