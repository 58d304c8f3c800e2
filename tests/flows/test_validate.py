"""The validation on a real Prefect server: findings don't fail it, and the second breach asks for a retraining once."""

import shutil
import time
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker

from datlstm.bundle import Bundle
from datlstm.ladder import ForecastSource, nightly_forecast
from datlstm.registry import champion_id, promote
from datlstm.settings import load_settings
from datlstm.store import Store
from flows.validate import validate
from tasks.validate import SKILL_DRIFTED
from tests.conftest import LAST_DAY
from tests.skill_logs import write_history

pytestmark = pytest.mark.usefixtures("prefect_server")

NIGHT = LAST_DAY + timedelta(days=1)


@pytest.fixture
def store(service_store: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose champion has had twice the RMSE of damped persistence for two months."""
    folder = Path(shutil.copytree(service_store, tmp_path / "store", ignore=shutil.ignore_patterns("forecast.zarr")))
    monkeypatch.setenv("DATLSTM_STORE", folder.as_uri())
    monkeypatch.setenv("DATLSTM_SETTINGS", str(settings_file))
    store, settings = Store(folder.as_uri()), load_settings()
    former = Bundle.load(store, champion_id(store) or "")
    weights = {name: 2 * value for name, value in former.weights.items()}
    card = {"rmse": {"datlstm": [0.3] * 4, "damped_persistence": [0.3] * 4}}
    chosen = replace(former, weights=weights, card=card).save(store)
    promote(store, chosen, "for the test")
    write_history(settings, LAST_DAY - timedelta(days=60), [chosen] * 60, lambda day: 0.7 + 0.0 * day)
    return store


def drift_events(expected: int) -> list[dict[str, Any]]:
    """What the server has of the event, once that many have arrived."""
    EventsWorker.drain_all(timeout=30)
    deadline = time.monotonic() + 60
    while True:
        with get_client(sync_client=True) as client:
            asked = {"filter": {"event": {"name": [SKILL_DRIFTED]}}}
            found = list(client.request("POST", "/events/filter", json=asked).json()["events"])
        if len(found) >= expected or time.monotonic() > deadline:
            return found
        time.sleep(1)


def artifact() -> str:
    with get_client(sync_client=True) as client:
        found = [artifact for artifact in client.read_artifacts() if artifact.key == "validation-laizhou"]
    return str(max(found, key=lambda artifact: artifact.created or datetime.min).data)


def test_the_second_breach_falls_back_and_asks_for_a_retraining_once(store: Store, settings_file: Path) -> None:
    assert "breach: skill: skill was lost" in validate(NIGHT, str(settings_file))
    assert nightly_forecast(load_settings(), NIGHT).source == ForecastSource.MODEL
    for _ in range(2):
        validate(NIGHT + timedelta(days=1), str(settings_file))
    validate(NIGHT + timedelta(days=2), str(settings_file))
    (event,) = drift_events(1)
    assert event["resource"]["prefect.resource.id"] == "datlstm.region.laizhou"
    assert event["payload"]["settings"] == str(settings_file)
    assert event["payload"]["reason"].startswith("skill was lost: from ")
    text = artifact()
    assert f"# Validation of {NIGHT + timedelta(days=2)}" in text
    assert "| **BREACH** | skill |" in text and "damped persistence forecasts until" in text
    assert nightly_forecast(load_settings(), NIGHT + timedelta(days=1)).source == ForecastSource.DAMPED_PERSISTENCE
    assert store.read_json("validation/requested.json")["breached_since"] == str(NIGHT)


def test_a_store_with_nothing_in_it_is_told_and_the_run_is_named_after_region_and_day(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", (tmp_path / "new").as_uri())
    state = validate(date(2024, 6, 1), str(settings_file), return_state=True)
    assert state.is_completed()
    assert "failed: archive: no archive at" in state.result()
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert run.name == "laizhou, validation of 2024-06-01"
