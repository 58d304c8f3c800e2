"""The official client on a local Marine Data Store, as a source of the service."""

import atexit
from datetime import date, timedelta
from functools import lru_cache

from pydantic import SecretStr

from datlstm.clock import today
from datlstm.errors import SettingsError
from datlstm.settings import CopernicusCredentials, Region, Settings
from datlstm.sources.copernicus import CopernicusSource
from datlstm.synthetic.marine_store.server import MarineStore, client_environment
from datlstm.synthetic.marine_store.world import ACCOUNT, ostia_world


def marine_store_source(settings: Settings) -> CopernicusSource:
    """Return the source of a served store where the settings name one, else of one that lives as long as this process.

    Credentials of the environment are used where there are any, so that a wrong password can be tried; else the
    store's own account. Raises `SettingsError` when only half of a served store is named, or it is served no longer.
    """
    options = settings.source.marine_store
    if (options.endpoint is None) != (options.certificate is None):
        raise SettingsError(
            "source.marine_store needs both endpoint and certificate, as `datlstm marine-store serve` says"
        )
    if options.endpoint and options.certificate:
        if not options.certificate.is_file():
            raise SettingsError(
                f"the local Marine Data Store at {options.endpoint} is not served any more, for its certificate "
                f"{options.certificate} is gone: start `datlstm marine-store serve` again and take its new variables"
            )
        environment = client_environment(options.endpoint, options.certificate)
    else:
        store = _own_store(settings.region, settings.source.synthetic.seed, today() - timedelta(days=1))
        environment = store.environment
    given = CopernicusCredentials()
    username, password = (SecretStr(text) for text in ACCOUNT)
    return CopernicusSource(
        settings.region,
        settings.source.copernicus,
        CopernicusCredentials(username=given.username or username, password=given.password or password),
        settings.quality,
        environment=environment,
        synthetic=True,
    )


@lru_cache(maxsize=1)
def _own_store(region: Region, seed: int, last_day: date) -> MarineStore:
    store = MarineStore(ostia_world(region, seed, last_day))
    atexit.register(store.close)
    return store
