"""The maintenance flow on a real Prefect server: a line per part, again no change, and a part that fails."""

import json
import shutil
from datetime import date
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from datlstm.errors import BundleError
from datlstm.store import Store
from flows.maintenance import PARTS, maintenance

pytestmark = pytest.mark.usefixtures("prefect_server")

LATER = date(2100, 1, 1)


@pytest.fixture
def store(service_store: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of the store in operation, which the flow finds through the environment."""
    folder = Path(shutil.copytree(service_store, tmp_path / "store"))
    monkeypatch.setenv("DATLSTM_STORE", folder.as_uri())
    monkeypatch.setenv("DATLSTM_SETTINGS", str(settings_file))
    return Store(folder.as_uri())


def content(store: Store) -> dict[str, bytes | None]:
    return {path: store.read(path) for path in store.list("") if not path.startswith(".locks")}


def test_every_part_tells_what_it_did_and_again_changes_no_byte(store: Store) -> None:
    store.write("models/half/card.json", b"left")
    lines = maintenance(LATER)
    assert list(lines) == list(PARTS)
    assert lines["archive states"].startswith("0 states expired, 1 kept; ")
    with get_client(sync_client=True) as client:
        left = {str(artifact.key): artifact for artifact in client.read_artifacts()}
    assert "maintenance as of 2100-01-01: all well" in str(left["maintenance-laizhou"].data)
    assert [row["part"] for row in json.loads(str(left["maintenance-laizhou-parts"].data))] == list(PARTS)
    assert left["maintenance-laizhou-progress"].data == 100.0
    assert lines["leftovers"].startswith("1 leftovers removed; ")
    before = content(store)
    assert maintenance(LATER)["leftovers"].startswith("0 leftovers removed; ")
    assert content(store) == before


def test_a_part_that_fails_does_not_stop_the_others_and_then_the_flow_fails(store: Store) -> None:
    store.write("models/torn/bundle.json", b"{")
    store.write("training/half.zarr/anomaly/c/0", b"left")
    with pytest.raises(BundleError, match="torn/bundle.json does not say"):
        maintenance(LATER)
    assert "training/half.zarr/anomaly/c/0" not in store.list("training")
