"""Two processes, by Lightning's own strategy on gloo, train the model that one process trains."""

from pathlib import Path
from shutil import copytree

import pytest
import torch

from datlstm.bundle import Bundle
from datlstm.preparation import prepare
from datlstm.registry import bundle_ids
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.training import retrain
from datlstm.training_run import Began, Epoch, Request, run_training


@pytest.fixture
def filled(settings_file: Path, filled_store: Path, tmp_path: Path) -> Settings:
    """Settings with a filled store of the test's own, for a training in which nothing is drawn but the windows."""
    settings = load_settings(str(settings_file)).replace(store=copytree(filled_store, tmp_path / "store").as_uri())
    chosen = {"sign_flips": False, "weight_average_decay": 0.5, "learning_rate": 3e-3}
    return settings.replace(training=settings.training.model_copy(update=chosen))


def test_two_processes_train_what_one_does(filled: Settings) -> None:
    cube, baseline = prepare(filled)
    alone = retrain(filled, cube, baseline)
    shared = filled.training.model_copy(update={"devices": 2, "batch_size": filled.training.batch_size // 2})
    events: list[Began | Epoch] = []
    made = run_training(
        Request(settings=filled.replace(training=shared), cube_path=cube, baseline_id=baseline), events.append
    )
    store = Store(filled.store)
    together = Bundle.load(store, made)
    assert sorted(bundle_ids(store)) == sorted([made, baseline])
    assert [event.number for event in events if isinstance(event, Epoch)] == [1, 2]
    assert together.training["validation_loss"] == pytest.approx(alone.training["validation_loss"], rel=1e-3)
    changed = 0.0
    for name, weights in alone.weights.items():
        torch.testing.assert_close(together.weights[name], weights, atol=2e-3, rtol=0)
        changed = max(changed, float(weights.abs().max()) if "coefficients" in name else 0.0)
    assert changed > 0
