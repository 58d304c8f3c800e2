"""What an empty store lacks before its first night."""

from datetime import date, timedelta

from datlstm.archive import Archive
from datlstm.registry import bundle_ids
from datlstm.settings import load_settings
from datlstm.store import Store
from tasks.step import step


@step()
def missing_history(settings_name: str | None, forecast_date: date) -> tuple[date, date] | None:
    """Return the first and last day to backfill when there is no archive yet, else None."""
    settings = load_settings(settings_name)
    if Archive(settings).exists():
        return None
    first = max(forecast_date - timedelta(days=settings.archive.bootstrap_days), settings.archive.first_day)
    return first, forecast_date - timedelta(days=1)


@step()
def lacks_model(settings_name: str | None) -> bool:
    """Tell whether no model of the chosen architecture was ever trained."""
    settings = load_settings(settings_name)
    prefix = f"{settings.region.name}-{settings.model.name.replace('_', '-')}-"
    return not any(bundle_id.startswith(prefix) for bundle_id in bundle_ids(Store(settings.store)))
