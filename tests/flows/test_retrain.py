"""The retrain flow on a real Prefect server: its form, its artifacts, an interrupted training, and remote runs."""

from pathlib import Path
from shutil import copytree
from threading import Event

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import ParameterTypeError
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Pending, Running, Scheduled

from datlstm.bundle import Bundle
from datlstm.checkpoints import FOLDER, Checkpoints
from datlstm.errors import (
    BundleError,
    CheckpointError,
    SettingsError,
    TrainingInterruptedError,
)
from datlstm.preparation import prepare
from datlstm.registry import champion_id
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.training import resume
from flows.retrain import retrain, start
from tasks.remote import start_remotely

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def service(filled_store: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a filled store without a model, which the flow finds through the environment."""
    folder = Path(copytree(filled_store, tmp_path / "store"))
    monkeypatch.setenv("DATLSTM_STORE", folder.as_uri())
    monkeypatch.setenv("DATLSTM_SETTINGS", str(settings_file))
    return load_settings()


def artifact(key: str) -> str:
    # Prefect's own `Artifact.get` leaves its connection open.
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.UPDATED_DESC, limit=1
        )
    return f"{found.description} {found.data}"


def test_a_model_may_be_trained_and_judged_without_becoming_champion(service: Settings) -> None:
    outcome = retrain(architecture="convlstm", epochs=1, promote=False)
    assert outcome.startswith("laizhou-convlstm-") and "damped persistence" in outcome
    assert champion_id(Store(service.store)) is None
    told = artifact("training-laizhou")
    for part in (outcome.split(" ")[0], "| epochs | 1 of at most 1 |", "| damped persistence |", "datlstm promote"):
        assert part in told
    assert "epoch 1 of 1: validation loss" in artifact("training-laizhou-progress")
    assert not Store(service.store).list(FOLDER)
    base = outcome.split(" ")[0]
    with pytest.MonkeyPatch.context() as since_then:
        since_then.setenv("DATLSTM_TRAINING__VALIDATION_DAYS", "30")
        since_then.setenv("DATLSTM_FINETUNING__GAP_DAYS", "0")
        outcome = retrain(finetune=True, base=base, epochs=1, promote=False)
    made = Bundle.load(Store(service.store), outcome.split(" ")[0])
    assert made.id != base and made.training["base"] == base
    assert made.training["last_day"] == "2024-05-01"


def crashed_and_scheduled_again() -> FlowRun:
    """A run as a worker takes it up for the second time, with the parameters of the first."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(retrain)
        for state in (Pending(), Running(), Crashed(), Scheduled(), Pending()):
            client.set_flow_run_state(run.id, state, force=True)
        return client.read_flow_run(run.id)


def test_an_interrupted_training_is_resumed_by_the_same_run_judged_and_told_and_then_there_is_none(
    service: Settings,
) -> None:
    asked = Event()
    asked.set()
    with pytest.raises(TrainingInterruptedError):
        resume(service, Checkpoints.of(service, *prepare(service)), stop=asked)
    assert "laizhou-datlstm-" in run_flow(retrain, flow_run=crashed_and_scheduled_again(), return_type="result")
    assert not Store(service.store).list(FOLDER)
    with pytest.raises(CheckpointError, match="run `datlstm retrain`"):
        retrain(resume=True)


def test_a_fine_tuning_needs_a_base(service: Settings) -> None:
    with pytest.raises(BundleError, match="no champion yet"):
        retrain(finetune=True)


@pytest.mark.parametrize("bad", [{"architecture": "transformer"}, {"epochs": 0}])
def test_bad_values_of_the_form_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ParameterTypeError):
        retrain(**bad)  # type: ignore[arg-type]


def test_a_remote_run_is_scheduled_with_its_parameters_and_where_to_look_is_told(prefect_server: str) -> None:
    with pytest.raises(SettingsError, match="knows no deployment retrain/nowhere.*deployments.apply"):
        start_remotely("retrain/nowhere", settings="bohai")
    # A name that no file of the project deploys, for other tests share the server.
    retrain.to_deployment("here").apply()  # type: ignore[union-attr]
    told = start_remotely("retrain/here", settings="bohai", resume=True, promote=True)
    with get_client(sync_client=True) as client:
        run = next(run for run in client.read_flow_runs() if run.name == told.split(":")[0])
    assert run.parameters == {"settings": "bohai", "resume": True, "promote": True}
    assert str(run.id) in told


def test_without_a_server_a_remote_run_says_what_to_set() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(SettingsError, match="PREFECT_API_URL"):
        start(settings="bohai")
