"""Score past forecasts whose truth has arrived."""

from datetime import date

from prefect.logging import get_run_logger

from datlstm.drafts import save_draft
from datlstm.products.scoring import score
from datlstm.settings import load_settings
from datlstm.store import Store
from tasks.outcome import Done
from tasks.step import step


@step()
def score_forecasts(settings_name: str | None, forecast_date: date) -> Done:
    """Score against every truth before ``forecast_date`` that is new or revised, and leave a draft, if there is any."""
    settings = load_settings(settings_name)
    scores = score(settings, forecast_date)
    days = 0 if scores is None else scores.sizes["scoring"]
    message = f"{days} days of truth to score against" if days else "no truth is new or revised"
    get_run_logger().info("%s", message)
    draft = None if scores is None else save_draft(Store(settings.store), f"skill-{forecast_date}", scores)
    return Done(message, draft=draft)
