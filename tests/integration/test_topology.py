"""The service as processes: one night through all of them, and that nothing of them stays behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import xarray as xr

from datlstm.errors import DeploymentError
from datlstm.settings import load_settings
from datlstm.store import Store
from deployments.local.processes import Program, Supervisor
from deployments.local.topology import BUCKET, Topology
from tests.conftest import LAST_DAY
from tests.faults.marine import world_of
from tests.week.operating import operating

NIGHT = LAST_DAY + timedelta(days=1)
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


@pytest.mark.timeout(900)
def test_a_night_runs_through_all_processes_and_none_stays_behind(
    service_store: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**os.environ, "DATLSTM_SETTINGS": str(settings_file), "DATLSTM_ARCHIVE__UPGRADE_DAYS": "5"}
    world = world_of(load_settings(str(settings_file)), NIGHT, 12)
    with Topology(tmp_path / "local", given, world) as topology:
        for name, value in topology.environment.items():
            monkeypatch.setenv(name, value)
        copy_to_bucket(service_store)
        with operating(topology) as operator:
            operator.pause_schedules()
            night = operator.run("nightly/nightly", forecast_date=str(NIGHT))
            assert night.state_name == "Completed", operator.log(night.id)
            assert str(NIGHT) in str(operator.artifact(night.id, "night"))
        forecast = xr.open_zarr(
            f"s3://{BUCKET}/forecast.zarr",
            storage_options={"anon": True, "endpoint_url": topology.storage.server.endpoint},
        )
        assert forecast.init_time.values[-1].astype("datetime64[D]").item() == LAST_DAY
        family = [process for program in topology.programs.values() for process in program.family()]
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert not (topology.folder / "env").exists()


def copy_to_bucket(folder: Path) -> None:
    """Put a store's files into the bucket."""
    store = Store(f"s3://{BUCKET}")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())
