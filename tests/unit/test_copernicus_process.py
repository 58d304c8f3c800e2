"""Whatever the client's process does, a run of it ends in time, leaves nothing behind and tells no secret."""

import json
import logging
import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datlstm.errors import TransientSourceError
from datlstm.sources.copernicus import process
from datlstm.sources.copernicus.process import run_client
from datlstm.sources.copernicus.protocol import AskedDataset, Event, Failed, Finished, Progress, Request

REQUEST = Request(
    username="jeanne.baret", password="étoile", datasets=[AskedDataset(dataset_id="SST", version=None)],
    first_day=None, last_day=None, south=37, north=38, west=118, east=119, folder="", loopback_only=False,
)  # fmt: skip
LONG_SECONDS = 60.0
SHORT_SECONDS = 1.5
# What every child can say. A child marks its life in a FIFO: when the last process that has it open dies, it ends.
PRELUDE = """
import json, os, sys, time
def say(event, **fields):
    os.write(1, (json.dumps({"event": event} | fields) + "\\n").encode())
def progress(done):
    say("progress", dataset_id="SST", done=done, total=5)
def fail(words):
    say("failed", dataset_id="SST", asked="", classes=["Exception"], words=words)
def live():
    os.write(os.open(os.environ["ALIVE"], os.O_WRONLY), b".")
"""
LISTEN = "sys.stdin.buffer.read()\n"


def child(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let ``script`` be the client's process."""
    command = [sys.executable, "-I", "-S", "-c", PRELUDE + textwrap.dedent(script)]
    monkeypatch.setattr(process, "COMMAND", command)


def run(limit_seconds: float = LONG_SECONDS, environment: dict[str, str] | None = None) -> list[Event]:
    return run_client(REQUEST, limit_seconds, environment or {})


@contextmanager
def lives(folder: Path) -> Iterator[tuple[dict[str, str], int]]:
    """Give the environment for children that mark their life, and the descriptor that tells of it."""
    path = folder / "alive"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield {"ALIVE": str(path)}, descriptor
    finally:
        os.close(descriptor)


def require_all_dead(descriptor: int, n_born: int) -> None:
    born = os.read(descriptor, n_born + 1)
    assert len(born) == n_born
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert os.read(descriptor, 1) == b""
            return
        except BlockingIOError:
            time.sleep(0.01)
    raise AssertionError("a process of the run is still alive")


class TestMessages:
    def test_messages_arrive_in_order_and_progress_is_told(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        child(monkeypatch, LISTEN + "for i in range(4): progress(i)\nsay('finished')")
        with caplog.at_level(logging.INFO, logger=process.__name__):
            events = run()
        assert [event.done for event in events if isinstance(event, Progress)] == [0, 1, 2, 3]
        assert isinstance(events[-1], Finished)
        assert "SST: 3 of 5 steps after" in caplog.text

    def test_request_arrives_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, "fail(sys.stdin.buffer.read().decode())")
        (told,) = run()
        assert isinstance(told, Failed)
        assert Request.model_validate_json(told.words) == REQUEST

    def test_failure_is_a_last_word_and_its_process_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, LISTEN + "fail('so it went'); time.sleep(600)")
        (told,) = run()
        assert isinstance(told, Failed)
        assert told.words == "so it went"

    def test_lines_that_are_no_messages_are_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        garbage = r"""
        os.write(1, b"INFO hello\n\n{\"event\": \"unknown\"}\n{}\n[1\n\xff\xfe\x00\n")
        progress(1)
        os.write(1, b"{\"event\": \"progress\", \"dataset_id\"\n")
        say("finished")
        """
        child(monkeypatch, LISTEN + textwrap.dedent(garbage))
        assert [event.event for event in run()] == ["progress", "finished"]

    def test_child_that_never_listens_is_heard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, "os.close(0); say('finished')")
        assert run() == [Finished()]


class TestLimit:
    def test_hanging_process_is_killed_with_its_own_and_the_error_tells_how_far_it_came(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        child(monkeypatch, LISTEN + "live(); progress(2); os.fork() or live(); time.sleep(600)")
        with lives(tmp_path) as (environment, descriptor):
            started = time.monotonic()
            with pytest.raises(TransientSourceError, match=r"1.5 s \(2 of 5 steps were done\).*limit_seconds"):
                run(SHORT_SECONDS, environment)
            assert time.monotonic() - started < 20
            require_all_dead(descriptor, 2)

    def test_process_that_says_nothing_is_told_as_such(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, LISTEN + "time.sleep(600)")
        with pytest.raises(TransientSourceError, match="not even the catalogue had answered"):
            run(0.2)

    def test_process_that_never_listens_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, "time.sleep(600)")
        with pytest.raises(TransientSourceError, match="did not finish in 0.2 s"):
            run(0.2)

    def test_process_that_talks_without_end_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, LISTEN + "while True: progress(1)")
        with pytest.raises(TransientSourceError, match="did not finish in 0.5 s"):
            run(0.5)

    def test_process_that_falls_silent_for_good_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, LISTEN + "progress(1); os.close(1); time.sleep(600)")
        monkeypatch.setattr(process, "END_SECONDS", 0.2)
        with pytest.raises(TransientSourceError, match="no report, and hung: no last words; try again"):
            run()

    def test_detached_grandchild_does_not_hold_up_the_caller(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, LISTEN + "os.fork() or (os.setsid(), time.sleep(5), os._exit(0))\ntime.sleep(600)")
        started = time.monotonic()
        with pytest.raises(TransientSourceError, match="did not finish"):
            run(0.5)
        assert time.monotonic() - started < 4


class TestDeath:
    def test_signal_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, LISTEN + "progress(1); os.kill(os.getpid(), 9)")
        with pytest.raises(TransientSourceError, match="ended with signal SIGKILL: no last words; try again"):
            run()

    def test_code_and_last_words_are_told_without_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        words = "Traceback\\nSSLError: https://s3/x?x-cop-user=jeanne.baret refused jeanne.baret with étoile\\n"
        child(monkeypatch, LISTEN + f"os.write(2, '{words}'.encode()); sys.exit(3)")
        with pytest.raises(TransientSourceError) as told:
            run()
        assert "ended with code 3 and no report: SSLError: <url> refused *** with ***; try again" in str(told.value)

    def test_long_last_words_do_not_betray_a_secret_where_they_are_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, LISTEN + f"os.write(2, b'jeanne.baret' + {process.LAST_WORDS - 5} * b'x'); sys.exit(3)")
        with pytest.raises(TransientSourceError) as told:
            run()
        assert "baret" not in str(told.value)
        assert len(str(told.value)) < process.LAST_WORDS + 200

    def test_silent_end_is_not_success(self, monkeypatch: pytest.MonkeyPatch) -> None:
        child(monkeypatch, LISTEN + "progress(5)")
        with pytest.raises(TransientSourceError, match="code 0 and no report: no last words"):
            run()

    def test_process_that_dies_before_it_listens_tells_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "COMMAND", [sys.executable, "-I", "-S", "-c", "raise SystemExit('no module')"])
        with pytest.raises(TransientSourceError, match="code 1 and no report: no module"):
            run()


class TestSecrets:
    def test_username_and_password_are_in_neither_command_line_nor_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COPERNICUSMARINE_SERVICE_USERNAME", REQUEST.username)
        monkeypatch.setenv("COPERNICUSMARINE_SERVICE_PASSWORD", REQUEST.password)
        monkeypatch.setenv("KEPT", "inherited")
        child(monkeypatch, LISTEN + "fail(json.dumps([sys.orig_argv, dict(os.environ)], ensure_ascii=False))")
        (told,) = run(environment={"ADDED": "given"})
        assert isinstance(told, Failed)
        _, environment = json.loads(told.words)
        assert REQUEST.username not in told.words
        assert REQUEST.password not in told.words
        assert (environment["KEPT"], environment["ADDED"]) == ("inherited", "given")

    def test_clients_waits_are_bounded_unless_the_environment_says_otherwise(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COPERNICUSMARINE_HTTPS_RETRIES", "7")
        child(monkeypatch, LISTEN + "fail(json.dumps(dict(os.environ)))")
        (told,) = run()
        assert isinstance(told, Failed)
        environment = json.loads(told.words)
        assert environment["COPERNICUSMARINE_HTTPS_TIMEOUT"] == "15"
        assert environment["COPERNICUSMARINE_HTTPS_RETRIES"] == "7"

    def test_request_does_not_show_its_secrets(self) -> None:
        assert REQUEST.username not in repr(REQUEST)
        assert REQUEST.password not in repr(REQUEST)


class TestCleanliness:
    def test_process_is_killed_when_the_caller_is_interrupted(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        child(monkeypatch, LISTEN + "live(); progress(1); time.sleep(600)")
        monkeypatch.setattr(process.log, "info", interrupt)
        with lives(tmp_path) as (environment, descriptor):
            with pytest.raises(KeyboardInterrupt):
                run(environment=environment)
            require_all_dead(descriptor, 1)

    def test_twenty_runs_leave_no_process_descriptor_or_thread(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def held() -> tuple[int, int]:
            return len(os.listdir("/dev/fd")), threading.active_count()

        before = held()
        with lives(tmp_path) as (environment, descriptor):
            for i in range(20):
                child(monkeypatch, LISTEN + f"live(); progress({i}); {i % 2} and say('finished')")
                if i % 2:
                    run(environment=environment)
                else:
                    with pytest.raises(TransientSourceError):
                        run(environment=environment)
            require_all_dead(descriptor, 20)
        # The thread that reads the last output is told of its end a moment later.
        deadline = time.monotonic() + 5
        while held() != before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held() == before
