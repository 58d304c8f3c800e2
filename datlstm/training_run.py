"""Runs a training in a process group of its own, which can be stopped whatever it is doing, and follows what it says.

One request, as a file, for every device's process reads it; then JSON lines on a pipe. The other side is
`datlstm.training_process`.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from datlstm import errors
from datlstm.errors import TrainingError
from datlstm.settings import ArchitectureName, Settings

COMMAND = [sys.executable, "-m", "datlstm.training_process"]
SECRET_VARIABLES = ("COPERNICUSMARINE_SERVICE_USERNAME", "COPERNICUSMARINE_SERVICE_PASSWORD")

log = logging.getLogger(__name__)


class Message(BaseModel):
    """Base of what is passed: immutable, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(Message):
    """What is to be trained; without a cube, the training of the region (and architecture) that was interrupted last.

    ``parent`` is the process whose end is the end of this one as well.
    """

    settings: Settings
    cube_path: str | None = None
    baseline_id: str | None = None
    architecture: ArchitectureName | None = None
    parent: int = Field(default_factory=os.getpid)


class Began(Message):
    """Training begins, or goes on, after so many epochs."""

    event: Literal["began"] = "began"
    run_id: str
    epochs_done: int
    epochs: int


class Epoch(Message):
    """An epoch's number and validation loss."""

    event: Literal["epoch"] = "epoch"
    number: int
    validation_loss: float | None


class Said(Message):
    """A record for the log."""

    event: Literal["said"] = "said"
    level: int
    logger: str
    text: str


class Failed(Message):
    """The last word of a training that ended without a model: the error's class, and what it says."""

    event: Literal["failed"] = "failed"
    kind: str
    text: str


class Finished(Message):
    """The last word of a training whose bundle is saved."""

    event: Literal["finished"] = "finished"
    bundle_id: str


Event = Began | Epoch | Said | Failed | Finished
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def run_training(request: Request, on_event: Callable[[Began | Epoch], None]) -> str:
    """Train in a child process and return the id of the bundle it saved.

    An exception here (a signal, Ctrl-C) stops it: it has ``training.grace_seconds`` to write a checkpoint, then its
    whole process group is killed. Raises what the training raised, `TrainingInterruptedError` among others, or
    `TrainingError` when it died without a word.
    """
    with tempfile.TemporaryDirectory(prefix="datlstm-training-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(request.model_dump_json())
        with _start(path) as process:
            try:
                return _followed(process, on_event)
            except errors.DatlstmError:
                raise
            except BaseException:
                _ask_to_stop(process, request.settings.training.grace_seconds)
                raise
            finally:
                _kill(process)


def _followed(process: subprocess.Popen[str], on_event: Callable[[Began | Epoch], None]) -> str:
    for event in _events(process):
        if isinstance(event, Finished):
            return event.bundle_id
        if isinstance(event, Failed):
            raise getattr(errors, event.kind, TrainingError)(event.text)
        on_event(event)
    raise TrainingError(f"the training ended with {_end_of(process)} and no report: {_remedy(process)}")


def _start(request: Path) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    return subprocess.Popen(
        [*COMMAND, str(request)],
        env=inherited,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def _events(process: subprocess.Popen[str]) -> Iterator[Began | Epoch | Failed | Finished]:
    """Yield what the child says as it comes, but for what it says to the log, until it says no more."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = EVENT.validate_json(line)
        except ValidationError:
            continue  # A line cut off by the process's death.
        if isinstance(event, Said):
            logging.getLogger(event.logger).log(event.level, "%s", event.text)
        else:
            yield event


def _ask_to_stop(process: subprocess.Popen[str], grace_seconds: float) -> None:
    """Send SIGTERM to the group, tell the log of its last word, and kill it when it takes longer than the grace."""
    log.warning("the training is asked to stop, and has %g s to write a checkpoint", grace_seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    out_of_patience = threading.Timer(grace_seconds, _kill, [process])
    out_of_patience.start()
    try:
        last = next(iter(deque(_events(process), maxlen=1)), None)
        if isinstance(last, Failed):
            log.warning("%s", last.text)
        elif isinstance(last, Finished):
            log.warning("the training had finished: bundle %s is saved and not judged", last.bundle_id)
        else:
            log.warning("the training was killed: `datlstm resume` goes on from the last epoch that was finished")
    finally:
        out_of_patience.cancel()


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end_of(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"


def _remedy(process: subprocess.Popen[str]) -> str:
    memory = "memory may be short, then lower training.batch_size; " if process.returncode == -signal.SIGKILL else ""
    return f"{memory}what it wrote to standard error may tell more; `datlstm resume` goes on from the last whole epoch"
