"""Make the night visible, and tell the operator of it."""

from datetime import date

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from datlstm.drafts import load_draft
from datlstm.products.publication import publish
from datlstm.settings import load_settings
from datlstm.store import Store
from tasks.step import step


@step()
def publish_night(settings_name: str | None, forecast: str | None, scores: str | None) -> str:
    """Publish drafts, as far as there are any, with all that is made of them; return in one line what became visible.

    Raises `ProductError` for a refused forecast and when nothing was ever published; `ConflictError` when another
    writer was first.
    """
    settings = load_settings(settings_name)
    store = Store(settings.store)
    drafts = [load_draft(store, path) if path else None for path in (forecast, scores)]
    published = publish(settings, *drafts)
    for path in filter(None, (forecast, scores)):
        store.delete(path)
    get_run_logger().info("%s", published)
    return f"{published}"


@step()
def report_night(forecast_date: date, ingested: str, published: str) -> None:
    """Leave a markdown artifact of the night, one line per step."""
    rows = f"| ingest | {ingested} |\n| publish | {published} |\n"
    create_markdown_artifact(f"# Night of {forecast_date}\n\n| step | result |\n|---|---|\n{rows}", key="night")
