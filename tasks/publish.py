"""Pictures, the page, and what the operator reads."""

from datetime import date

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from datlstm.settings import load_settings
from datlstm.site import publish_site
from tasks.step import step


@step()
def publish_pages(settings_name: str | None) -> str:
    """Draw the newest forecast and write the page; return the page's URL."""
    page = publish_site(load_settings(settings_name))
    get_run_logger().info("page: %s", page)
    return page


@step()
def report_night(forecast_date: date, ingested: str, init_day: date, verified: str, page: str) -> None:
    """Leave a markdown artifact of the night, one line per step."""
    lines = {"ingest": ingested, "forecast": f"from {init_day}", "verify": verified, "page": page}
    rows = "\n".join(f"| {name} | {line} |" for name, line in lines.items())
    create_markdown_artifact(f"# Night of {forecast_date}\n\n| step | result |\n|---|---|\n{rows}\n", key="night")
