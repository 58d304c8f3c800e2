"""A night's ingest through the real client, from a local Marine Data Store that something may be wrong with."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import xarray as xr

from datlstm.archive import FIELDS, Archive
from datlstm.ingest import IngestReport, ingest_night, patient_ingest
from datlstm.quality import UNUSABLE
from datlstm.settings import CopernicusSource, NearRealTimeDataset, RetrySettings, Settings
from datlstm.sources import open_source
from datlstm.synthetic.marine_store import MarineStore
from datlstm.synthetic.marine_store.world import World, ostia_world

NEAR_REAL_TIME = "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2"
REPROCESSED = "METOFFICE-GLO-SST-L4-REP-OBS-SST"
CLIENT_WAITS = {"COPERNICUSMARINE_HTTPS_TIMEOUT": "2", "COPERNICUSMARINE_HTTPS_RETRIES": "1"}
LIMIT_SECONDS = 120.0
"""A run takes four seconds on a machine that has nothing else to do."""
SEED = 20260101
WAITS = {"first_wait_seconds": 0.2, "longest_wait_seconds": 1.0}


def world_of(settings: Settings, night: date, reprocessed_lag_days: int) -> World:
    """What a healthy store holds in a night: near-real-time days up to the day before, reprocessed ones up to a lag."""
    world = ostia_world(settings.region, SEED, night - timedelta(days=1))
    return world.changed(REPROCESSED, last_day=night - timedelta(days=reprocessed_lag_days))


def talking_to(store: MarineStore, settings: Settings, folder: Path, limit_seconds: float = LIMIT_SECONDS) -> Settings:
    """Settings whose source is the client on a store, and whose stores lie in a folder."""
    pinned = NearRealTimeDataset(dataset_version="202311")
    copernicus = CopernicusSource(near_real_time=pinned, limit_seconds=limit_seconds)
    served = settings.source.marine_store.model_copy(
        update={"endpoint": store.endpoint, "certificate": store.certificate}
    )
    source = settings.source.model_copy(
        update={
            "kind": "marine-store",
            "marine_store": served,
            "copernicus": copernicus,
            "retry": RetrySettings(**WAITS),
        }
    )
    return settings.replace(store=folder.as_uri(), source=source)


def ingest_for(settings: Settings, night: date, *, patient: bool = False) -> IngestReport:
    """Ingest for a night, in one attempt or with short waits between several."""
    read = patient_ingest if patient else ingest_night
    return read(settings, night, open_source(settings))


def archived(settings: Settings) -> xr.Dataset:
    """What the archive says of every usable day, but for when it was written."""
    stored = Archive(settings).open().drop_vars("ingested_at").load()
    return stored.isel(time=(stored["quality"].values & int(UNUSABLE)) == 0)


def wrong_days(settings: Settings, truth: xr.Dataset) -> list[str]:
    """Days of the archive that hold a field that is not the truth's."""
    found = archived(settings)
    return [
        str(day)[:10]
        for day in found["time"].values
        if not all(
            np.array_equal(found[name].sel(time=day), truth[name].sel(time=day), equal_nan=True) for name in FIELDS
        )
    ]
