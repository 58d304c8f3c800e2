"""Nights in a row through the real client, each with the faults that a seed draws for it."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from datlstm.errors import SourceError
from datlstm.ingest import ingest
from datlstm.settings import load_settings
from datlstm.sources import open_source
from datlstm.synthetic.marine_store import MarineStore
from datlstm.synthetic.marine_store.faults import Fault, FaultPlan
from tests.faults.marine import CLIENT_WAITS, NEAR_REAL_TIME, archived, ingest_for, talking_to, world_of, wrong_days

FIRST_NIGHT = date(2024, 6, 5)
NIGHTS, MANY_NIGHTS = 12, 100
"""Each takes about five seconds, one that hangs its limit."""
SEED = 11
DAYS_BEFORE = 20
HANG_LIMIT_SECONDS = 20.0
REPROCESSED_LAG_DAYS, REPROCESSED_EVERY = 12, 7


def reprocessed_lag(night: int) -> int:
    """Reprocessed days come a week at a time."""
    return REPROCESSED_LAG_DAYS + night % REPROCESSED_EVERY


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("nights", [NIGHTS, MANY_NIGHTS])
def test_an_archive_of_disturbed_nights_equals_an_undisturbed_one_as_soon_as_the_source_is_healthy(
    nights: int, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, seconds in CLIENT_WAITS.items():
        monkeypatch.setenv(variable, seconds)
    region = load_settings(str(settings_file))
    with MarineStore(world_of(region, FIRST_NIGHT, reprocessed_lag(0))) as store:
        disturbed = talking_to(store, region, tmp_path / "disturbed", HANG_LIMIT_SECONDS)
        first_day = FIRST_NIGHT - timedelta(days=DAYS_BEFORE)
        ingest(disturbed, first_day, FIRST_NIGHT - timedelta(days=1), open_source(disturbed))
        told: list[str] = []
        for i in range(1, nights + 1):
            night = FIRST_NIGHT + timedelta(days=i)
            store.world = world_of(region, night, reprocessed_lag(i))
            store.faults = FaultPlan.drawn(SEED, i, night - timedelta(days=1), NEAR_REAL_TIME)
            had = archived(disturbed)
            try:
                told.append(f"{night} {store.faults.faults}: {ingest_for(disturbed, night)}")
            except SourceError as error:
                told.append(f"{night} {store.faults.faults}: {type(error).__name__}: {error}")
            assert set(had["time"].values) <= set(archived(disturbed)["time"].values), told[-1]

        healthy_night = FIRST_NIGHT + timedelta(days=nights + 1)
        store.world, store.faults = world_of(region, healthy_night, reprocessed_lag(nights)), None
        ingest_for(disturbed, healthy_night)

        undisturbed = talking_to(store, region, tmp_path / "undisturbed")
        # On Sundays the window reaches back beyond the days that the archive began with.
        first_day = archived(disturbed)["time"].values[0].astype("datetime64[D]").item()
        ingest(undisturbed, first_day, healthy_night - timedelta(days=1), open_source(undisturbed))
        truth = archived(undisturbed)
        assert wrong_days(disturbed, truth) == [], told
        assert archived(disturbed).identical(truth), told
        assert store.refused == []
    seen = {fault for line in told for fault in Fault if str(fault) in line}
    assert len(seen) >= min(nights // 4, 10), "the seed draws hardly any fault"
