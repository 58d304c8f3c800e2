"""The nightly flow on a real Prefect server: from nothing, again, and when the source fails."""

import hashlib
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest
import xarray as xr

from datlstm.archive import Archive
from datlstm.errors import ArchiveError, NotEnoughDataError, PermanentSourceError
from datlstm.nights import read_night
from datlstm.registry import bundle_ids, champion_id
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from flows.backfill import backfill
from flows.nightly import nightly
from flows.retrain import retrain
from tests.conftest import FIRST_DAY, LAST_DAY

pytestmark = pytest.mark.usefixtures("prefect_server")


def contents(folder: Path) -> dict[str, str]:
    """Every object of a store by its hash; locks hold nothing."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".locks" not in path.parts
    }


@pytest.fixture
def store(service_store: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store in operation, which the flows find through the environment."""
    folder = tmp_path / "store"
    shutil.copytree(service_store, folder)
    monkeypatch.setenv("DATLSTM_STORE", folder.as_uri())
    monkeypatch.setenv("DATLSTM_SETTINGS", str(settings_file))
    return folder


def test_the_first_night_of_an_empty_store_fills_trains_forecasts_and_publishes_and_goes_on_where_it_failed(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", (tmp_path / "new").as_uri())
    settings = load_settings(str(settings_file))
    with monkeypatch.context() as short:
        short.setenv("DATLSTM_ARCHIVE__BOOTSTRAP_DAYS", "40")
        with pytest.raises(NotEnoughDataError, match="training"):
            nightly(LAST_DAY, str(settings_file), bootstrap=True)
    told = read_night(Store(settings.store), LAST_DAY)
    assert told is not None
    assert told.failed["bootstrap"].error == "NotEnoughDataError"
    assert told.steps["ingest"].state == "ok"
    published = nightly(LAST_DAY, str(settings_file), bootstrap=True)
    assert Archive(settings).last_day() == LAST_DAY - timedelta(days=1)
    assert any(name.startswith("laizhou-datlstm-") for name in bundle_ids(Store(settings.store)))
    forecast = xr.open_zarr(tmp_path / "new" / "forecast.zarr", decode_timedelta=False)
    assert str(forecast["init_time"].values[-1])[:10] == str(LAST_DAY - timedelta(days=1))
    assert Path(published.rsplit("file://")[-1]).is_file()


def test_a_night_run_twice_changes_no_byte_and_says_so(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    night = LAST_DAY + timedelta(days=3)
    nightly(night)
    before = contents(store)
    caplog.clear()
    nightly(night)
    assert contents(store) == before
    assert "0 days added, 0 revised" in caplog.text
    assert "forecast unchanged" in caplog.text
    assert "0 days scored" in caplog.text


def test_a_night_whose_source_fails_still_forecasts_from_what_is_there_and_then_fails(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_SOURCE__KIND", "files")
    monkeypatch.setenv("DATLSTM_SOURCE__FILES__PATH", "/nowhere/*.nc")
    night = LAST_DAY + timedelta(days=3)
    with pytest.raises(PermanentSourceError, match="nowhere"):
        nightly(night)
    settings = load_settings()
    init = xr.open_zarr(store / "forecast.zarr", decode_timedelta=False).isel(init_time=-1)
    assert str(init["init_time"].values)[:10] == str(LAST_DAY)
    assert Archive(settings).last_day() == LAST_DAY


def test_a_night_led_into_another_regions_store_writes_nothing(
    store: Path, settings_file: Path, tmp_path: Path
) -> None:
    east = tmp_path / "east.toml"
    east.write_text(settings_file.read_text().replace('name = "laizhou"', 'name = "east"'))
    before = contents(store)
    with pytest.raises(ArchiveError, match="of region 'laizhou'"):
        nightly(LAST_DAY + timedelta(days=3), str(east))
    assert contents(store) == before


def test_a_late_night_catches_up_and_forecasts_once_from_the_newest_day(store: Path) -> None:
    nightly(LAST_DAY + timedelta(days=9))
    published = xr.open_zarr(store / "forecast.zarr", decode_timedelta=False)
    assert Archive(load_settings()).usable_days()[-9:] == [LAST_DAY + timedelta(days=i) for i in range(9)]
    assert (published["forecast_source"].values != 0).tolist() == [True, *[False] * 7, True]
    assert int(published["input_age_days"][-1]) == 1


def test_backfill_and_retrain_run_as_flows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, settings_file: Path
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", settings.store)
    assert "517 days added" in backfill(LAST_DAY, FIRST_DAY, str(settings_file))
    assert "0 days added" in backfill(LAST_DAY, date(2023, 6, 1), str(settings_file))
    verdict = retrain(str(settings_file))
    champion = champion_id(Store(settings.store))
    assert ("is champion" in verdict) == (champion is not None)
    assert "damped persistence" in verdict
