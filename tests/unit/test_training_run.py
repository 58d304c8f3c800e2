"""Whatever a training's process does, the run of it ends, says why, and leaves no process behind."""

import json
import logging
import os
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from datlstm import training_run
from datlstm.errors import BundleError, TrainingError, TrainingInterruptedError
from datlstm.models import ARCHITECTURES
from datlstm.settings import ArchitectureName, Settings
from datlstm.training_run import Began, Epoch, Request, run_training

PRELUDE = """
import json, os, signal, sys, time
def say(event, **fields):
    os.write(1, (json.dumps({"event": event} | fields) + "\\n").encode())
"""


class Stop(BaseException):
    """What a signal raises."""


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, list[Began | Epoch]]]:
    """Run a script in the training's place, and give what it returned and the events it told."""
    impatient = settings.replace(training=settings.training.model_copy(update={"grace_seconds": 1.0}))

    def act(script: str, on_event: Callable[[object], None] = lambda event: None) -> tuple[str, list[Began | Epoch]]:
        command = [sys.executable, "-I", "-S", "-c", PRELUDE + textwrap.dedent(script)]
        monkeypatch.setattr(training_run, "COMMAND", command)
        events: list[Began | Epoch] = []

        def note(event: Began | Epoch) -> None:
            events.append(event)
            on_event(event)

        return run_training(Request(settings=impatient, cube_path="cube", baseline_id="id"), note), events

    return act


def stop(event: object) -> None:
    raise Stop


def alive(group: int) -> list[psutil.Process]:
    """Return the processes of a group, but for those that only wait to be forgotten."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_events_arrive_in_order_records_reach_the_log_and_the_bundle_is_returned(
    run: Callable[..., tuple[str, list[Began | Epoch]]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="datlstm"):
        bundle_id, events = run(
            """
            say("began", run_id="r", epochs_done=1, epochs=2)
            say("said", level=30, logger="datlstm.training", text="a 100 % warning")
            os.write(1, b'{"event": "ep\\n')
            say("epoch", number=2, validation_loss=None)
            say("finished", bundle_id="b")
            """
        )
    assert bundle_id == "b"
    assert events == [Began(run_id="r", epochs_done=1, epochs=2), Epoch(number=2, validation_loss=None)]
    assert ("datlstm.training", logging.WARNING, "a 100 % warning") in caplog.record_tuples


@pytest.mark.parametrize(
    ("kind", "error"),
    [("TrainingInterruptedError", TrainingInterruptedError), ("BundleError", BundleError), ("Odd", TrainingError)],
)
def test_an_error_of_the_training_is_raised_here(run: Callable[..., object], kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="what happened"):
        run(f"say('failed', kind={kind!r}, text='what happened')")


@pytest.mark.parametrize(
    ("end", "told"),
    [("os._exit(7)", "code 7 and no report"), ("os.kill(os.getpid(), 9)", "SIGKILL.*lower training.batch_size")],
)
def test_a_training_that_dies_without_a_word_is_an_error_with_a_remedy(
    run: Callable[..., object], end: str, told: str
) -> None:
    with pytest.raises(TrainingError, match=f"{told}.*`datlstm resume`"):
        run(end)


def test_the_request_arrives_whole_and_no_credentials_of_the_source_with_it(
    run: Callable[..., object], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("COPERNICUSMARINE_SERVICE_PASSWORD", "étoile")
    with pytest.raises(TrainingError) as error:
        run("say('failed', kind='X', text=json.dumps([open(sys.argv[1]).read(), dict(os.environ)]))")
    request, environment = json.loads(str(error.value))
    assert Request.model_validate_json(request).settings.region == settings.region
    assert Request.model_validate_json(request).parent == os.getpid()
    assert "étoile" not in environment.values()


def test_stopped_here_it_is_told_to_end_and_its_last_word_is_heard(
    run: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stop):
        run(
            """
            def end(*_):
                say("failed", kind="TrainingInterruptedError", text="a checkpoint holds it")
                sys.exit(1)
            signal.signal(signal.SIGTERM, end)
            say("began", run_id="r", epochs_done=0, epochs=2)
            time.sleep(60)
            """,
            stop,
        )
    assert "a checkpoint holds it" in caplog.text


def test_what_does_not_end_within_the_grace_is_killed_with_all_its_group(
    run: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    groups: list[int] = []

    def note_group_and_stop(event: object) -> None:
        assert isinstance(event, Began)
        groups.append(int(event.run_id))
        assert len(alive(groups[0])) == 2
        raise Stop

    started = time.monotonic()
    with pytest.raises(Stop):
        run(
            """
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if os.fork():
                say("began", run_id=str(os.getpgrp()), epochs_done=0, epochs=2)
            time.sleep(600)
            """,
            note_group_and_stop,
        )
    assert time.monotonic() - started < 300
    assert "goes on from the last epoch that was finished" in caplog.text
    assert psutil.wait_procs(alive(groups[0]), timeout=10)[1] == []


def test_every_architecture_can_be_chosen_in_the_form() -> None:
    assert ArchitectureName.__args__ == tuple(sorted(ARCHITECTURES))  # type: ignore[attr-defined]
