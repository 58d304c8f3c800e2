"""The service as it runs for real, on one machine: which parts there are, what each is told, and their order."""

import json
import os
import secrets
import shlex
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self

from datlstm.errors import DeploymentError, StoreError
from datlstm.ports import LOOPBACK, check_free, free_ports
from datlstm.store_server import StoreServer
from datlstm.synthetic.marine_store import MarineStore
from datlstm.synthetic.marine_store.world import World
from deployments.local.postgres import Postgres
from deployments.local.processes import Program, Supervisor

ROOT = Path(__file__).parents[2]
BUCKET = "datlstm"
POOLS = ("cpu", "gpu")
FOREIGN = ("PREFECT_", "AWS_")
"""What the caller's environment says of these leads elsewhere."""


class ObjectStorage:
    """The S3 server as a part that is started again, on its port, with its keys."""

    name = "object storage"

    def __init__(self, server: StoreServer) -> None:
        self.server = server

    def launch(self) -> None:
        """Start the server and wait until it answers."""
        self.server.__enter__()

    def wait(self) -> None:
        """Raise `StoreError` when the server has ended."""
        self.server.check()

    def is_alive(self) -> bool:
        """Tell whether the server runs."""
        try:
            self.server.check()
        except StoreError:
            return False
        return True

    def stop(self) -> None:
        """End the server."""
        self.server.close()


class Topology:
    """Everything that a night needs, in ``folder`` and on loopback, running inside a ``with``.

    Parts: ``postgres``, ``prefect server``, ``object storage``, the workers ``cpu`` and ``gpu``, and a Marine Data
    Store where there is a ``world`` for it. What the stores and the database hold stays in the folder. The flows see
    ``environment``, and over it what leads them here. The bucket may be read without keys by everybody on the machine;
    writing it, the API and the database ask for secrets, which are in files of mode 600 in the folder. Entering raises
    `DatlstmError` when a part does not come up.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        world: World | None = None,
        *,
        server_port: int = 0,
        store_port: int = 0,
    ) -> None:
        self.folder = folder.absolute()
        self._given = {name: value for name, value in environment.items() if not name.startswith(FOREIGN)}
        for port in filter(None, (server_port, store_port)):
            check_free(port)
        database_port, free_port = free_ports(2)
        self._server_port = server_port or free_port
        self.postgres = Postgres(self.folder / "postgres", database_port)
        self.storage = ObjectStorage(StoreServer(self.folder / "s3", port=store_port, public=[BUCKET]))
        self._world = world
        self.marine: MarineStore | None = None
        self.supervisor = Supervisor()
        self.programs: dict[str, Program] = {}
        self._stack = ExitStack()

    @property
    def ui_url(self) -> str:
        """Where a browser finds Prefect's pages."""
        return f"http://{LOOPBACK}:{self._server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a worker, or a shell, needs to be part of it."""
        return {
            **{name: value for name, value in self._given.items() if name.startswith("DATLSTM_")},
            "DATLSTM_STORE": f"s3://{BUCKET}",
            **self._marine_environment(),
            **self.storage.server.environment,
            **self._prefect_environment(),
            "PREFECT_API_URL": f"{self.ui_url}/api",
            "PREFECT_API_AUTH_STRING": self._authorisation(),
        }

    def __enter__(self) -> Self:
        """Start everything and wait until it is ready."""
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything, last to first."""
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        server = self._start_server(stack)
        self.storage.launch()
        self.supervisor.watch(self.storage)
        self.storage.server.make_bucket(BUCKET)
        if self._world is not None:
            self.marine = stack.enter_context(MarineStore(self._world))
        self.write_environment()
        stack.callback((self.folder / "env").unlink)
        server.wait()
        self.deploy()
        for worker in [self._launch(self._worker(pool)) for pool in POOLS]:
            worker.wait()

    def _start_server(self, stack: ExitStack) -> Program:
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        stack.enter_context(self.supervisor)
        self.postgres.prepare()
        self._launch(self._database()).wait()
        return self._launch(self._server())

    def deploy(self) -> None:
        """Make pools, deployments and automations what the project's files say. Raises `DeploymentError`."""
        done = subprocess.run(
            [sys.executable, "-m", "deployments.apply"],
            env=self._process_environment(self.environment),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise DeploymentError(f"`python -m deployments.apply` failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def write_environment(self) -> Path:
        """Write what a shell needs into a file that nobody else can read, and return its path."""
        path = self.folder / "env"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items())
        return path

    def _launch(self, program: Program) -> Program:
        program.launch()
        self.programs[program.name] = program
        self.supervisor.watch(program)
        return program

    def _program(self, name: str, **options: object) -> Program:
        log = self.folder / "log" / f"{name.replace(' ', '-')}.log"
        return Program(name=name, log=log, folder=ROOT, **options)  # type: ignore[arg-type]

    def _database(self) -> Program:
        return self._program(
            "postgres",
            command=self.postgres.command,
            environment=lambda: {"HOME": "/", "TZ": "UTC"},
            answers=lambda _: self.postgres.answers(),
            stop_signal="SIGINT",  # PostgreSQL's fast shutdown
        )

    def _server(self) -> Program:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK]
        return self._program(
            "prefect server",
            command=[*command, "--port", str(self._server_port)],
            environment=lambda: self._process_environment(
                {
                    **self._prefect_environment(),
                    "PREFECT_API_DATABASE_CONNECTION_URL": self.postgres.url,
                    "PREFECT_SERVER_API_AUTH_STRING": self._authorisation(),
                    "PREFECT_UI_URL": self.ui_url,
                    "PREFECT_SERVER_UI_API_URL": f"{self.ui_url}/api",
                    # In memory, as by default, a restart of the server would end every run that holds a limit's place.
                    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
                }
            ),
            answers=lambda _: self._ask("GET", "/api/health") is True,
        )

    def _worker(self, pool: str) -> Program:
        return self._program(
            pool,
            command=[sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", pool],
            environment=lambda: self._process_environment({**self.environment, "PREFECT_WORKER_QUERY_SECONDS": "2"}),
            answers=lambda launched: self._has_polled(pool, launched),
        )

    def _has_polled(self, pool: str, since: datetime) -> bool:
        workers = self._ask("POST", f"/api/work_pools/{pool}/workers/filter")
        if not isinstance(workers, list):
            return False
        return any(datetime.fromisoformat(worker["last_heartbeat_time"]) > since for worker in workers)

    def _ask(self, method: str, path: str) -> object:
        connection = HTTPConnection(LOOPBACK, self._server_port, timeout=5)
        token = b64encode(self._authorisation().encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body="{}" if method == "POST" else None, headers=headers)
            return json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def _process_environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {**self._given, **variables}

    def _prefect_environment(self) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def _authorisation(self) -> str:
        path = self.folder / "authorisation"
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"operator:{secrets.token_urlsafe(20)}")
        return path.read_text()

    def _marine_environment(self) -> dict[str, str]:
        if self.marine is None:
            return {}
        return {
            "DATLSTM_SOURCE__KIND": "marine-store",
            "DATLSTM_SOURCE__MARINE_STORE__ENDPOINT": self.marine.endpoint,
            "DATLSTM_SOURCE__MARINE_STORE__CERTIFICATE": str(self.marine.certificate),
            "COPERNICUSMARINE_SERVICE_USERNAME": self.marine.world.username,
            "COPERNICUSMARINE_SERVICE_PASSWORD": self.marine.world.password,
        }
