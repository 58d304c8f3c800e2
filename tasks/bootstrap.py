"""What an empty store lacks before its first night."""

from datetime import date, timedelta

from datlstm.archive import Archive
from datlstm.registry import bundle_ids
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from tasks.step import step


@step()
def missing_history(settings_name: str | None, forecast_date: date) -> tuple[date, date] | None:
    """Return the first and last day to backfill, None once there is an archive and a model was trained on it."""
    settings = load_settings(settings_name)
    if Archive(settings).exists() and _was_trained(settings):
        return None
    first = max(forecast_date - timedelta(days=settings.archive.bootstrap_days), settings.archive.first_day)
    return first, forecast_date - timedelta(days=1)


@step()
def lacks_model(settings_name: str | None) -> bool:
    """Tell whether no model of the chosen architecture was ever trained."""
    return not _was_trained(load_settings(settings_name))


def _was_trained(settings: Settings) -> bool:
    prefix = f"{settings.region.name}-{settings.model.name.replace('_', '-')}-"
    return any(bundle_id.startswith(prefix) for bundle_id in bundle_ids(Store(settings.store)))
