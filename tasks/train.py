"""Train a challenger, and let the gate decide."""

import logging
from time import monotonic
from typing import cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from datlstm.challenger import judge_challenger as judge
from datlstm.checkpoints import Checkpoints
from datlstm.errors import CheckpointError
from datlstm.settings import ArchitectureName, load_settings
from datlstm.training_run import Began, Epoch, Request, run_training
from tasks.step import artifact_key, step


@step()
def train_challenger(
    settings_name: str | None,
    cube_path: str,
    baseline_id: str,
    architecture: ArchitectureName | None = None,
    epochs: int | None = None,
) -> str:
    """Train, score and save a challenger in a process group of its own, and return its bundle's id.

    What is not given is as the settings say. An interrupted training of the same is gone on with. Raises as
    `run_training`.
    """
    settings = load_settings(settings_name).with_training_of(architecture, epochs)
    return _followed(Request(settings=settings, cube_path=cube_path, baseline_id=baseline_id))


@step()
def finetune_challenger(settings_name: str | None, cube_path: str, base_id: str, epochs: int | None = None) -> str:
    """Fine-tune a bundle instead of training from scratch; else as above."""
    settings = load_settings(settings_name).with_finetuning_of(epochs)
    return _followed(Request(settings=settings, cube_path=cube_path, baseline_id=base_id))


@step()
def resume_challenger(settings_name: str | None, architecture: ArchitectureName | None = None) -> str:
    """Go on with the region's training, maybe of one architecture, that was interrupted last; else as above."""
    return _followed(Request(settings=load_settings(settings_name), architecture=architecture))


@step()
def has_interrupted(settings_name: str | None, architecture: ArchitectureName | None = None) -> bool:
    """Tell whether there is a training to go on with."""
    try:
        Checkpoints.newest(load_settings(settings_name), architecture)
    except CheckpointError as error:
        get_run_logger().info("%s", error)
        return False
    return True


@step()
def judge_challenger(settings_name: str | None, bundle_id: str, promote: bool = True) -> str:
    """Promote the challenger if the gate lets it through and it may be; leave the artifact `training`.

    Returns the outcome in one line.
    """
    settings = load_settings(settings_name)
    outcome = judge(settings, bundle_id, may_promote=promote)
    create_markdown_artifact(outcome.report(), key=artifact_key("training", settings), description=str(outcome))
    get_run_logger().info("%s", outcome)
    return str(outcome)


def _followed(request: Request) -> str:
    key = f"{artifact_key('training', request.settings)}-progress"
    return run_training(request, _Progress(get_run_logger(), key))


class _Progress:
    """Tells of each epoch, in the log and as an artifact, with the time left."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger], key: str) -> None:
        self._logger, self._key = logger, key
        self._artifact: UUID | None = None
        self._began: Began | None = None
        self._started = monotonic()

    def __call__(self, event: Began | Epoch) -> None:
        if isinstance(event, Began):
            self._began, self._started = event, monotonic()
            self._show(event.epochs_done, f"{event.run_id}: epoch {event.epochs_done} of {event.epochs}")
            return
        assert self._began is not None
        done, total = event.number, self._began.epochs
        left = (monotonic() - self._started) / (done - self._began.epochs_done) * (total - done)
        loss = "not finite" if event.validation_loss is None else f"{event.validation_loss:.4f}"
        line = f"epoch {done} of {total}: validation loss {loss}, at most {left:.0f} s left"
        self._logger.info("%s", line)
        self._show(done, f"{self._began.run_id}: {line}")

    def _show(self, done: int, description: str) -> None:
        assert self._began is not None
        percent = 100 * done / self._began.epochs
        try:
            if self._artifact is None:
                made = create_progress_artifact(percent, key=self._key, description=description)
                self._artifact = cast(UUID, made)
            else:
                update_progress_artifact(self._artifact, percent, description=description)
        except Exception as error:  # of any kind: a server that does not answer must not end hours of training
            self._logger.warning("the training's progress can't be shown: %r", error)
