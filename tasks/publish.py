"""Make the night visible."""

from prefect.logging import get_run_logger

from datlstm.drafts import load_draft
from datlstm.products.publication import publish
from datlstm.settings import load_settings
from datlstm.store import Store
from tasks.outcome import Done
from tasks.step import step


@step()
def publish_night(settings_name: str | None, forecast: str | None, scores: str | None) -> Done:
    """Publish drafts, as far as there are any, with all that is made of them.

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
    return Done(str(published))
