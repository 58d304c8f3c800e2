"""The retrain flow on a real Prefect server: its form, its artifacts, and an interrupted training that it goes on with."""

import os
import signal
from pathlib import Path
from shutil import copytree

import pytest
from prefect.artifacts import Artifact
from prefect.exceptions import ParameterTypeError

import tasks.train
from datlstm.checkpoints import FOLDER, Checkpoints
from datlstm.errors import CheckpointError, SettingsError, TrainingError
from datlstm.registry import champion_id
from datlstm.settings import load_settings
from datlstm.store import Store
from datlstm.training_run import COMMAND, Began, Epoch
from flows.retrain import retrain, start

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def store(filled_store: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A filled store without a model, which the flow finds through the environment."""
    folder = Path(copytree(filled_store, tmp_path / "store"))
    monkeypatch.setenv("DATLSTM_STORE", folder.as_uri())
    monkeypatch.setenv("DATLSTM_SETTINGS", str(settings_file))
    return Store(folder.as_uri())


def test_a_training_whose_process_is_killed_fails_with_a_remedy_and_resumed_is_judged_and_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tasks.train._Progress.__call__

    def kill_after_an_epoch(progress: object, event: Began | Epoch) -> None:
        original(progress, event)  # type: ignore[arg-type]
        if isinstance(event, Epoch) and event.number == 2:
            os.killpg(_training(), signal.SIGKILL)

    monkeypatch.setattr(tasks.train._Progress, "__call__", kill_after_an_epoch)
    with pytest.raises(TrainingError, match="SIGKILL.*lower training.batch_size.*datlstm resume"):
        retrain(epochs=50)
    monkeypatch.undo()
    monkeypatch.setenv("DATLSTM_STORE", store.url)
    settings = load_settings(os.environ["DATLSTM_SETTINGS"]) if "DATLSTM_SETTINGS" in os.environ else None
    assert settings is None or Checkpoints.newest(settings).manifest.training.epochs == 50
