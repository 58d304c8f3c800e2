"""The same week without any disturbance, by the library alone: ``python -m tests.week.undisturbed STORE SETTINGS``."""

import os
import sys
from datetime import date

from datlstm.ingest import patient_ingest
from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import draft_forecast
from datlstm.products.publication import publish
from datlstm.products.scoring import score
from datlstm.settings import Settings, load_settings
from datlstm.sources import open_source
from datlstm.synthetic.marine_store import MarineStore
from datlstm.synthetic.marine_store.world import ACCOUNT
from tests.week.sea import NIGHTS, sea_on


def run_week(store_url: str, settings_file: str) -> None:
    """Run the week's nights on a store."""
    region = load_settings(settings_file).region
    with MarineStore(sea_on(region, NIGHTS[0], ACCOUNT)) as marine:
        os.environ |= {
            "DATLSTM_STORE": store_url,
            "DATLSTM_SOURCE__KIND": "marine-store",
            "DATLSTM_SOURCE__MARINE_STORE__ENDPOINT": marine.endpoint,
            "DATLSTM_SOURCE__MARINE_STORE__CERTIFICATE": str(marine.certificate),
            "COPERNICUSMARINE_SERVICE_USERNAME": ACCOUNT[0],
            "COPERNICUSMARINE_SERVICE_PASSWORD": ACCOUNT[1],
        }
        settings = load_settings(settings_file)
        for night in NIGHTS:
            marine.world = sea_on(region, night, ACCOUNT)
            run_night(settings, night)


def run_night(settings: Settings, night: date) -> None:
    """Ingest, forecast, score, publish."""
    patient_ingest(settings, night, open_source(settings))
    forecast = draft_forecast(settings, nightly_forecast(settings, night))
    publish(settings, forecast, score(settings, night))


if __name__ == "__main__":
    run_week(*sys.argv[1:])
