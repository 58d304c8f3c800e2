"""A training that was stopped anywhere and gone on with ends in the bundle of one that was not, bit for bit."""

from collections.abc import Callable, Iterator
from threading import Event

import lightning
import pytest
import torch

from datlstm.bundle import Bundle
from datlstm.checkpoints import Checkpoints
from datlstm.errors import TrainingInterruptedError
from datlstm.preparation import prepare
from datlstm.settings import Settings
from datlstm.training import resume, retrain

EPOCHS, BATCHES = 3, 3


@pytest.fixture
def short(trained: Settings) -> Settings:
    """A training of three epochs of three batches, in which dropping paths draws from torch's own generator."""
    options = {"datlstm": {**trained.model.options["datlstm"], "drop_path": 0.3}}
    return trained.replace(
        model={**dict(trained.model), "options": options},
        training=trained.training.model_copy(
            update={
                "epochs": EPOCHS,
                "windows_per_epoch": 8 * BATCHES,
                "learning_rate": 3e-3,
                "seed": 1,
                "weight_average_decay": 0.5,
            }
        ),
    )


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Event]]:
    """Give an event that is set during the training step of a number, counted from now."""
    original = lightning.LightningModule.on_train_batch_start
    state = {"left": 0}
    event = Event()

    def count(module: lightning.LightningModule, *arguments: object) -> None:
        state["left"] -= 1
        if state["left"] == 0:
            event.set()

    monkeypatch.setattr(lightning.LightningModule, "on_train_batch_start", count)

    def after(steps: int) -> Event:
        state["left"] = steps
        event.clear()
        return event

    yield after
    monkeypatch.setattr(lightning.LightningModule, "on_train_batch_start", original)


def interrupted(settings: Settings, prepared: tuple[str, str], stop: Event) -> str:
    with pytest.raises(TrainingInterruptedError, match="datlstm resume") as error:
        retrain(settings, *prepared, checkpoints=Checkpoints.of(settings, *prepared), stop=stop)
    return str(error.value)


def require_same(one: Bundle, other: Bundle) -> None:
    assert one.id == other.id
    assert one.training == other.training


def test_stopped_after_any_batch_and_resumed_it_ends_bit_identical(
    short: Settings, stop_after: Callable[[int], Event]
) -> None:
    prepared = prepare(short)
    undisturbed = retrain(short, *prepared)
    assert undisturbed.training["validation_loss"] < undisturbed.training["untrained_validation_loss"]
    for step in range(1, EPOCHS * BATCHES + 1):
        interrupted(short, prepared, stop_after(step))
        checkpoints = Checkpoints.newest(short)
        assert checkpoints.manifest.steps == step
        assert (checkpoints.manifest.epochs, checkpoints.manifest.batches) == divmod(step, BATCHES)
        torch.manual_seed(step)
        require_same(resume(short, checkpoints), undisturbed)
        checkpoints.clear()
