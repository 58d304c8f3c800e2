"""The nightly flow with the real client on a local Marine Data Store: what the operator sees, and what nobody sees."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from shutil import copytree

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter
from prefect.settings import get_current_settings

from datlstm.archive import Archive
from datlstm.errors import PermanentSourceError
from datlstm.products.forecast import published_days
from datlstm.settings import load_settings
from datlstm.synthetic.marine_store import MarineStore
from datlstm.synthetic.marine_store.world import ostia_world
from flows.nightly import nightly
from tests.conftest import LAST_DAY

pytestmark = pytest.mark.usefixtures("prefect_server")

NIGHT = LAST_DAY + timedelta(days=3)
USERNAME, PASSWORD = "jeanne-baret", "etoile-1766"


@pytest.fixture
def store(service_store: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the store in operation; its source is the client, whose account the environment holds."""
    folder = copytree(service_store, tmp_path / "store")
    world = ostia_world(load_settings(str(settings_file)).region, 1, NIGHT - timedelta(days=1))
    with MarineStore(replace(world, username=USERNAME, password=PASSWORD)) as served:
        for name, value in {
            "DATLSTM_STORE": folder.as_uri(),
            "DATLSTM_SETTINGS": str(settings_file),
            "DATLSTM_SOURCE__KIND": "marine-store",
            "DATLSTM_SOURCE__MARINE_STORE__ENDPOINT": served.endpoint,
            "DATLSTM_SOURCE__MARINE_STORE__CERTIFICATE": str(served.certificate),
            "DATLSTM_ARCHIVE__UPGRADE_DAYS": "5",
            "COPERNICUSMARINE_SERVICE_USERNAME": USERNAME,
            "COPERNICUSMARINE_SERVICE_PASSWORD": PASSWORD,
        }.items():
            monkeypatch.setenv(name, value)
        yield folder
        assert served.refused == []


def artifacts(key: str) -> list[str]:
    """What was left for the operator under a key, newest last."""
    with get_client(sync_client=True) as client:
        found = [artifact for artifact in client.read_artifacts() if artifact.key == key]
    return [str(artifact.data) for artifact in sorted(found, key=lambda artifact: artifact.created or datetime.min)]


def everything_prefect_keeps() -> str:
    """Logs, artifacts and parameters of all runs."""
    with get_client(sync_client=True) as client:
        kept = [
            client.read_logs(LogFilter()),
            client.read_artifacts(),
            client.read_flow_runs(),
            client.read_task_runs(),
        ]
    return str(kept)


def stored_results() -> set[Path]:
    """What Prefect keeps of results, of every run of this machine's user."""
    return set(get_current_settings().results.local_storage_path.glob("*"))


def test_a_night_brings_its_days_and_the_account_is_written_nowhere(
    store: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    nightly(NIGHT)
    assert Archive(load_settings()).last_day() == NIGHT - timedelta(days=1)
    assert "2 days added" in artifacts("night-laizhou")[-1]
    kept = everything_prefect_keeps() + caplog.text + "".join(capfd.readouterr())
    files = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    for secret in (USERNAME, PASSWORD):
        assert secret not in kept
        assert secret.encode() not in files


def test_a_wrong_password_is_told_at_once_and_the_forecast_goes_out_all_the_same(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = stored_results()
    monkeypatch.setenv("COPERNICUSMARINE_SERVICE_PASSWORD", "forgotten-1767")
    with pytest.raises(PermanentSourceError, match="correct COPERNICUSMARINE_SERVICE_USERNAME and"):
        nightly(NIGHT)
    assert "correct COPERNICUSMARINE_SERVICE_USERNAME and" in artifacts("source-laizhou")[-1]
    assert published_days(load_settings())[-1] == date(2024, 5, 31)
    assert "forgotten-1767" not in everything_prefect_keeps() + caplog.text
    for error in stored_results() - before:
        assert json.loads(error.read_bytes()), "Prefect keeps a failed run's error, and must not pickle it"
