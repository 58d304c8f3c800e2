"""Processes that are started when what they need is there, started again when they die, and stopped in order."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Protocol, Self

import psutil

from datlstm.clock import now
from datlstm.errors import DatlstmError, DeploymentError
from deployments.local import keeper

CHECK_SECONDS = 0.3
READY_SECONDS = 180.0
"""A Prefect server takes 40 s to its first answer on a busy machine, its database made anew."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
CALM_SECONDS = 60.0
"""Whatever lived so long waits no longer than at the first time."""

logger = logging.getLogger(__name__)


class Service(Protocol):
    """A part of the service that can die and be started again."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def launch(self) -> None:
        """Start it. Raises `DatlstmError`."""
        ...

    def wait(self) -> None:
        """Wait until it answers. Raises `DatlstmError`."""
        ...

    def is_alive(self) -> bool:
        """Tell whether it is still there."""
        ...

    def stop(self) -> None:
        """End it, with everything it started; does nothing when it has ended."""
        ...


@dataclass
class Program:
    """A command in a session of its own, with its output in ``log``; everything it starts ends with it.

    ``environment`` is asked at each start, all that the command sees; ``answers`` tells whether what was launched at a
    time is ready. When told to stop, it gets ``stop_signal`` and ``patience_seconds``.
    """

    name: str
    command: Sequence[str]
    environment: Callable[[], Mapping[str, str]]
    answers: Callable[[datetime], bool]
    log: Path
    stop_signal: str = "SIGTERM"
    patience_seconds: float = 10.0
    folder: Path | None = None
    launched: datetime = field(default=datetime.max, init=False)
    _keeper: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def launch(self) -> None:
        """Start the command without waiting for it."""
        self.launched = now()
        with self.log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, keeper.__file__, self.stop_signal, str(self.patience_seconds), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment()),
                cwd=self.folder,
                # Ctrl-C is for the process that started it, which then ends everything in order.
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the command answers. Raises `DeploymentError` when it ends, or says nothing for too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers(self.launched):
            if not self.is_alive():
                raise DeploymentError(f"{self.name} ended as it started: {self._last_words()}. Look at {self.log}")
            if time.monotonic() > deadline:
                raise DeploymentError(f"{self.name} does not answer after {READY_SECONDS:g} s. Look at {self.log}")
            time.sleep(0.1)

    def is_alive(self) -> bool:
        """Tell whether the command runs."""
        return self._keeper is not None and self._keeper.poll() is None

    def stop(self) -> None:
        """Tell the command to end, and wait until nothing of it is left."""
        if self._keeper is None:
            return
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()

    def family(self) -> list[psutil.Process]:
        """Return the command's processes, the command itself first; none once it has ended."""
        assert self._keeper is not None
        try:
            children = psutil.Process(self._keeper.pid).children()
            mark = children[0].environ().get(keeper.MARK, "") if children else ""
        except psutil.NoSuchProcess:
            return []
        return [*children, *(process for process in keeper.marked(mark) if process not in children)]

    def kill(self) -> None:
        """End the command and everything it started at once, as a machine that loses its power."""
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"


class Supervisor:
    """Services in the order of their start; whichever dies is started again, after a wait that grows with each time.

    All are stopped last to first when the ``with`` ends.
    """

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}
        self._lock = RLock()
        self._ended = Event()

    def watch(self, service: Service) -> None:
        """Take a service that was launched into care."""
        self._services[service.name] = service
        Thread(target=self._watch, args=(service,), name=f"watch {service.name}", daemon=True).start()

    def restart(self, name: str) -> None:
        """Stop a service and start it with what its environment is now. Raises `DatlstmError`."""
        service = self._services[name]
        with self._lock:
            service.stop()
            service.launch()
        service.wait()

    def __enter__(self) -> Self:
        """Return the supervisor, which has nothing to watch yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything, last to first."""
        self._ended.set()
        # Nothing is launched any more once the lock was free.
        with self._lock:
            services = list(self._services.values())
        for service in reversed(services):
            logger.info("stopping %s", service.name)
            service.stop()

    def _watch(self, service: Service) -> None:
        wait, launched = FIRST_WAIT_SECONDS, time.monotonic()
        while not self._ended.wait(CHECK_SECONDS):
            with self._lock:  # not while it is stopped and started again on purpose
                if service.is_alive():
                    continue
            if time.monotonic() - launched > CALM_SECONDS:
                wait = FIRST_WAIT_SECONDS
            logger.warning("%s died; it is started again in %.0f s", service.name, wait)
            if self._ended.wait(wait):
                return
            wait, launched = min(2 * wait, LONGEST_WAIT_SECONDS), time.monotonic()
            self._revive(service)

    def _revive(self, service: Service) -> None:
        try:
            with self._lock:
                if self._ended.is_set() or service.is_alive():
                    return
                service.stop()
                service.launch()
            service.wait()
        except DatlstmError as error:
            if not self._ended.is_set():
                logger.error("%s", error)
        else:
            logger.info("%s runs again", service.name)
