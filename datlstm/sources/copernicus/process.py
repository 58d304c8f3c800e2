"""Runs the official client in a child process with a wall limit, and hands on what it reports."""

import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO

from pydantic import ValidationError

from datlstm.errors import TransientSourceError
from datlstm.sources.copernicus.protocol import EVENT, Event, Failed, Finished, Progress, Request
from datlstm.sources.copernicus.translation import scrubbed

COMMAND = [sys.executable, "-m", "datlstm.sources.copernicus.client"]
# Read by the client when it is imported; its own defaults let a login that hangs take 19 minutes.
CLIENT_ENVIRONMENT = {"COPERNICUSMARINE_HTTPS_TIMEOUT": "15", "COPERNICUSMARINE_HTTPS_RETRIES": "2"}
SECRET_VARIABLES = ("COPERNICUSMARINE_SERVICE_USERNAME", "COPERNICUSMARINE_SERVICE_PASSWORD")
LAST_WORDS = 400
END_SECONDS = 5.0

log = logging.getLogger(__name__)


def run_client(request: Request, limit_seconds: float, environment: Mapping[str, str]) -> list[Event]:
    """Return all messages of one run of the client, telling its progress to the log.

    ``environment`` is added to this process's own. Raises `TransientSourceError` when the run takes longer than
    ``limit_seconds``, after which the client is killed, or when it ends without a last word.
    """
    if request.first_day is not None:
        log.info("asking Copernicus Marine for %s … %s", request.first_day, request.last_day)
    started = time.monotonic()
    secrets = (request.username, request.password)
    events: list[Event] = []
    with tempfile.TemporaryFile() as complaints, _process(request, environment, complaints) as process:
        for event in _events(process, started + limit_seconds):
            if event is None:
                raise TransientSourceError(
                    f"Copernicus Marine did not finish in {limit_seconds:g} s ({_progress_of(events)}) and was "
                    "stopped: try again, or raise source.copernicus.limit_seconds"
                )
            events.append(event)
            if isinstance(event, Progress):
                seconds = time.monotonic() - started
                log.info("%s: %d of %d steps after %.0f s", event.dataset_id, event.done, event.total, seconds)
        if not events or not isinstance(events[-1], Finished | Failed):
            raise TransientSourceError(
                f"the client of Copernicus Marine ended with {_end_of(process)}: "
                f"{_last_words(complaints, secrets)}; try again"
            )
    return events


@contextmanager
def _process(
    request: Request, environment: Mapping[str, str], complaints: IO[bytes]
) -> Iterator[subprocess.Popen[str]]:
    # Credentials travel through the pipe: a command line is everybody's to read, an environment its owner's.
    inherited = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    process = subprocess.Popen(
        COMMAND,
        env={**CLIENT_ENVIRONMENT, **inherited, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        try:
            with process.stdin as pipe:
                pipe.write(request.model_dump_json())
        except BrokenPipeError:
            pass  # It died before it listened; its code and last words tell why.
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _events(process: subprocess.Popen[str], deadline: float) -> Iterator[Event | None]:
    """Yield messages as they come until there are no more, and None when the deadline passes."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        if line is None:
            return
        try:
            event = EVENT.validate_json(line)
        except ValidationError:
            continue  # A line cut off by the process's death.
        yield event
        if isinstance(event, Finished | Failed):
            return
    yield None


def _pump(stream: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    # Closed by its only reader: anybody else would wait for it, as long as any process holds the other end.
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _progress_of(events: list[Event]) -> str:
    reached = [event for event in events if isinstance(event, Progress)]
    if reached:
        return f"{reached[-1].done} of {reached[-1].total} steps were done"
    return "the catalogue had answered" if events else "not even the catalogue had answered"


def _end_of(process: subprocess.Popen[str]) -> str:
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return "a closed output and no report, and hung"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code} and no report"


def _last_words(complaints: IO[bytes], secrets: tuple[str, ...]) -> str:
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return scrubbed(lines[-1], secrets)[-LAST_WORDS:] if lines else "no last words"
