"""A training in a process of its own: ``python -m datlstm.training_process REQUEST``, started by `run_training`.

With several devices Lightning starts this module again for each further one. SIGTERM, or the end of the parent however
it dies, asks the training to stop; what has not ended after the grace is killed with all its group.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from datlstm.errors import DatlstmError
from datlstm.training_run import Began, Epoch, Event, Failed, Finished, Request, Said

PARENT_LOOK_SECONDS = 1.0

Report = Callable[[Event], None]


def main() -> None:
    """Answer one request and end: with 0 when a bundle is saved."""
    # Only the guard takes SIGTERM. Blocked before anything else starts threads, which inherit that.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    request = Request.model_validate_json(Path(sys.argv[1]).read_bytes())
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    report = _reporter() if is_first else _unheard
    stop = threading.Event()
    parent = request.parent if is_first else os.getppid()
    grace = request.settings.training.grace_seconds
    threading.Thread(target=_guard, args=(parent, grace, stop), daemon=True).start()
    _hand_on_log(report)
    sys.exit(answer(request, report, stop, is_first=is_first))


def answer(request: Request, report: Report, stop: threading.Event, *, is_first: bool) -> int:
    """Train as asked, report, and return the exit status; only the first device's process scores and saves."""
    try:
        report(Finished(bundle_id=_train(request, report, stop, is_first)))
    except DatlstmError as error:
        report(Failed(kind=type(error).__name__, text=str(error)))
        return 1
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}; `datlstm resume` goes on from the last whole epoch"
        report(Failed(kind="TrainingError", text=text))
        return 1
    return 0


def _train(request: Request, report: Report, stop: threading.Event, is_first: bool) -> str:
    from datlstm.checkpoints import Checkpoints
    from datlstm.training import resume, train_challenger

    if request.cube_path is None or request.baseline_id is None:
        checkpoints = Checkpoints.newest(request.settings, request.architecture)
    else:
        checkpoints = Checkpoints.of(request.settings, request.cube_path, request.baseline_id)
    told = checkpoints.manifest
    report(Began(run_id=told.run_id, epochs_done=told.epochs, epochs=told.training.epochs))

    def on_epoch(number: int, loss: float) -> None:
        report(Epoch(number=number, validation_loss=loss))

    train = train_challenger if is_first else resume
    return train(request.settings, checkpoints, on_epoch, stop).id


def _guard(parent: int, grace_seconds: float, stop: threading.Event) -> None:
    while os.getppid() == parent and signal.sigtimedwait({signal.SIGTERM}, PARENT_LOOK_SECONDS) is None:
        pass
    stop.set()
    time.sleep(grace_seconds)
    os.killpg(0, signal.SIGKILL)


def _reporter() -> Report:
    # What libraries print must not reach the messages.
    messages = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def report(event: Event) -> None:
        # The parent may be gone, and this is to end with a checkpoint all the same.
        with lock:
            try:
                messages.write(event.model_dump_json() + "\n")
            except BrokenPipeError:
                pass

    return report


def _unheard(event: Event) -> None:
    pass


def _hand_on_log(report: Report) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            report(Said(level=record.levelno, logger=record.name, text=record.getMessage()))

    ours = logging.getLogger("datlstm")
    ours.setLevel(logging.INFO)
    ours.addHandler(Handler())


if __name__ == "__main__":
    main()
