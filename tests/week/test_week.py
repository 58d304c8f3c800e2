"""A week in the life of the service, with all its processes, in which something goes wrong in every night.

Each night is a run of the deployment ``nightly/nightly`` on the cpu worker, with its stores on object storage. Of every
disturbance the operator sees something where they would look, and after the week the stores say what those of a week
say in which nothing went wrong.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from uuid import UUID

import psutil
import pytest
import xarray as xr
from prefect.client.schemas.objects import FlowRun

from datlstm.archive import Archive
from datlstm.registry import bundle_ids, champion_id, promote, rollback
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.store_server import Keys
from datlstm.synthetic.marine_store.faults import Fault, FaultPlan
from datlstm.synthetic.marine_store.world import ACCOUNT
from deployments.local.topology import BUCKET, Topology
from tests.faults.marine import CLIENT_WAITS, NEAR_REAL_TIME
from tests.week.operating import Operator, operating
from tests.week.sea import NIGHTS, ONE_DAY, sea_on
from tests.week.stores import contents, opened

NIGHTLY, RETRAIN = "nightly/nightly", "retrain/retrain"
NEW_ACCOUNT = ("demo", "changed-1767")
VARIABLES = {
    **CLIENT_WAITS,
    "DATLSTM_SOURCE__RETRY__ATTEMPTS": "2",
    "DATLSTM_SOURCE__RETRY__FIRST_WAIT_SECONDS": "0.2",
    "DATLSTM_SOURCE__RETRY__POLL_MINUTES": "0.05",
    # The nights lie in the past; so each waits for its days as on its own morning.
    "DATLSTM_SOURCE__RETRY__DEADLINE_HOURS": "1000000",
}
BALLAST_BYTES = 500_000
CANCEL_SECONDS = 90


@dataclass
class Week:
    """The service of a week, its operator, and what was done and seen."""

    topology: Topology
    operator: Operator
    settings_file: Path
    account: tuple[str, str] = ACCOUNT
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """The region's settings, with the stores as the topology's."""
        return load_settings(str(self.settings_file))

    @property
    def store(self) -> Store:
        """The stores, on object storage."""
        return Store(f"s3://{BUCKET}")

    def show(self, night: date) -> None:
        """Let the source be as it is in a night, and healthy."""
        assert self.topology.marine is not None
        self.topology.marine.faults = None
        self.topology.marine.world = sea_on(self.settings.region, night, self.account)

    def begin(self, night: date) -> UUID:
        """Ask for a night."""
        return self.operator.start(NIGHTLY, forecast_date=str(night))

    def run(self, night: date) -> FlowRun:
        """Run a night to its end."""
        return self.operator.wait(self.begin(night))

    def completes(self, run: FlowRun) -> None:
        """Tell whether a run did, with its log where not."""
        assert run.state_name == "Completed", self.operator.log(run.id)

    def tell(self, night: date, done: str, *seen: str) -> None:
        """Note a disturbance, what the operator saw, and what the stores hold."""
        self.rows.append((str(night), done, "; ".join(seen), self.holdings()))

    def holdings(self) -> str:
        """Say how far the stores have come."""
        archive = Archive(self.settings).open()["time"].values[-1].astype("datetime64[D]")
        init = opened(self.store, "forecast")["init_time"].values[-1].astype("datetime64[D]")
        return f"archive to {archive}, forecasts to {init}"

    def table(self) -> str:
        """Return what happened, as a table in markdown."""
        head = "| night | what was done | what the operator saw | the stores then |\n|---|---|---|---|\n"
        return head + "".join(f"| {' | '.join(row)} |\n" for row in self.rows)


@pytest.fixture
def undisturbed(service_store: Path, settings_file: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The undisturbed week, which a process of its own runs meanwhile; its store is ``tmp_path/undisturbed``."""
    store = shutil.copytree(service_store, tmp_path / "undisturbed")
    command = [sys.executable, "-m", "tests.week.undisturbed", store.as_uri(), str(settings_file)]
    with (tmp_path / "undisturbed.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **VARIABLES},
            cwd=Path(__file__).parents[2],
        )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def week(
    service_store: Path,
    settings_file: Path,
    undisturbed: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Week]:
    """The whole service, with a store in operation."""
    given = {**os.environ, **VARIABLES, "DATLSTM_SETTINGS": str(settings_file)}
    sea = sea_on(load_settings(str(settings_file)).region, NIGHTS[0], ACCOUNT)
    with Topology(tmp_path / "local", given, sea) as topology:
        for name, value in topology.environment.items():
            monkeypatch.setenv(name, value)
        copy_to_bucket(service_store)
        with operating(topology) as operator:
            operator.wait_until_scheduled(NIGHTLY)
            operator.pause_schedules()
            yield Week(topology, operator, settings_file)


def copy_to_bucket(folder: Path) -> None:
    """Put a store's files into the bucket, as one moves a store."""
    store = Store(f"s3://{BUCKET}")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())


@pytest.mark.timeout(3600)
def test_after_a_week_of_disturbances_the_stores_are_those_of_an_undisturbed_week_and_each_was_visible(
    week: Week, undisturbed: subprocess.Popen[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="deployments.local")
    try:
        healthy(week, NIGHTS[0])
        source_is_late(week, NIGHTS[1])
        source_is_down(week, NIGHTS[2])
        worker_dies_with_its_run(week, NIGHTS[3], caplog)
        server_dies_and_a_day_is_revised(week, NIGHTS[4], caplog)
        disk_is_full_and_then_the_plug_is_pulled(week, NIGHTS[5], caplog)
        credentials_are_rotated(week, NIGHTS[6])
    finally:
        (tmp_path / "disturbances.md").write_text(week.table())
        sys.stdout.write(week.table())
    assert undisturbed.wait(300) == 0, (tmp_path / "undisturbed.log").read_text()
    expected = contents(week.settings.replace(store=(tmp_path / "undisturbed").as_uri()))
    found = contents(week.settings)
    assert [name for name in {**expected, **found} if expected.get(name) != found.get(name)] == []


def healthy(week: Week, night: date) -> None:
    """Nothing happens; an analyst reads the forecast with xarray alone, and without keys."""
    run = week.run(night)
    week.completes(run)
    forecast = xr.open_zarr(
        f"s3://{BUCKET}/forecast.zarr",
        storage_options={"anon": True, "endpoint_url": week.topology.storage.server.endpoint},
    )
    assert forecast.init_time.values[-1].astype("datetime64[D]").item() == night - ONE_DAY
    week.tell(
        night,
        "nothing",
        f"run {run.state_name}",
        first_line(week.operator.artifact(run.id, f"night-{week.settings.region.name}")),
    )


def source_is_late(week: Week, night: date) -> None:
    """The newest day comes while the night waits for it."""
    assert week.topology.marine is not None
    week.show(night)
    week.topology.marine.world = week.topology.marine.world.changed(NEAR_REAL_TIME, last_day=night - 2 * ONE_DAY)
    run = week.begin(night)
    waiting = f"{night - ONE_DAY} is not there yet"
    week.operator.wait_until_logged(run, waiting)
    week.show(night)
    ended = week.operator.wait(run)
    week.completes(ended)
    week.tell(night, "the newest day came late", f"the run's log: {waiting!r}", f"run {ended.state_name}")


def source_is_down(week: Week, night: date) -> None:
    """The catalogue is down; the night fails, forecasting from what there is, and is run again."""
    assert week.topology.marine is not None
    week.show(night)
    week.topology.marine.faults = FaultPlan((Fault.CATALOGUE_DOWN,), 1, night - ONE_DAY, NEAR_REAL_TIME)
    run = week.run(night)
    assert run.state_name == "Failed"
    assert run.state is not None
    week.tell(night, "the source was down", f"run {run.state_name}: {run.state.message}")
    week.show(night)
    again = week.run(night)
    week.completes(again)
    week.tell(night, "the night was run again", f"run {again.state_name}")


def worker_dies_with_its_run(week: Week, night: date, caplog: pytest.LogCaptureFixture) -> None:
    """The worker and its run are killed after the ingest; meanwhile the GPU pool is used."""
    week.show(night)
    run = week.begin(night)
    week.operator.wait_until_step(run, "ingest_days")
    week.topology.programs["cpu"].kill()
    week.tell(night, "kill -9 of the worker and its run, after the ingest", "run Running, without a heartbeat")
    training(week, night)
    ended = week.operator.wait_until_completed(run)
    states = week.operator.states(run)
    week.completes(ended)
    assert "Crashed" in states
    assert "cpu died" in caplog.text
    week.tell(night, "nothing: supervision and automations", f"run {' → '.join(states)}", "supervisor: cpu died")


def training(week: Week, night: date) -> None:
    """One training is cancelled, one runs to its end; its model is promoted and taken back."""
    before = champion_id(week.store)
    endless = week.settings_file.with_name("endless.toml")
    endless.write_text(week.settings_file.read_text().replace("epochs = 2", "epochs = 100000"))
    run = week.operator.start(RETRAIN, settings=str(endless))
    week.operator.wait_until_step(run, "prepare_training")
    week.operator.cancel(run)
    cancelled = week.operator.wait(run, CANCEL_SECONDS)
    assert cancelled.state_name == "Cancelled"
    assert champion_id(week.store) == before
    week.tell(night, "a training was cancelled", f"run {cancelled.state_name}")

    trained = week.operator.run(RETRAIN)
    week.completes(trained)
    challenger = next(name for name in bundle_ids(week.store) if name != before)
    if champion_id(week.store) != challenger:
        promote(week.store, challenger, "for the tests")
    assert rollback(week.store) == champion_id(week.store) == before
    week.tell(night, "retrain, promote, roll back", f"run {trained.state_name}", f"champion {before} again")


def server_dies_and_a_day_is_revised(week: Week, night: date, caplog: pytest.LogCaptureFixture) -> None:
    """The Prefect server is killed while the night downloads; a day that was preliminary is revised."""
    week.show(night)
    run = week.begin(night)
    # Not in the moment in which a state changes: of an event that dies with the server the next waits for 15 minutes.
    week.operator.wait_until_logged(run, "asking Copernicus Marine")
    week.topology.programs["prefect server"].kill()
    ended = week.operator.wait_until_completed(run)
    states = week.operator.states(run)
    assert "prefect server died" in caplog.text
    week.tell(night, "kill -9 of the Prefect server", "supervisor: prefect server died", f"run {' → '.join(states)}")
    week.completes(ended)
    # What is logged while the server is away reaches no page of it; the worker's own log has everything.
    assert ", 1 revised" in week.topology.programs["cpu"].log.read_text()
    week.tell(night, "the source revised a day", "the worker's log: 1 revised")


def disk_is_full_and_then_the_plug_is_pulled(week: Week, night: date, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing can be written; then there is room, and the object storage is killed in the middle of the night."""
    week.show(night)
    server = week.topology.storage.server
    server.capacity_megabytes = 1
    week.topology.supervisor.restart("object storage")
    run = week.run(night)
    assert run.state_name == "Failed"
    assert "full disk" in str(run.state and run.state.message)
    week.tell(night, "the store's disk was full", f"run Failed: {run.state and run.state.message}")

    server.capacity_megabytes = None
    week.topology.supervisor.restart("object storage")
    run_id = week.begin(night)
    week.operator.wait_until_step(run_id, "ingest_days")
    os.kill(psutil.Process(server.process_id).children()[0].pid, signal.SIGKILL)
    ended = week.operator.wait(run_id)
    assert "object storage died" in caplog.text
    week.tell(night, "kill -9 of the object storage", "supervisor: object storage died", f"run {ended.state_name}")
    if ended.state_name != "Completed":
        ended = week.run(night)
        week.completes(ended)
        week.tell(night, "the night was run again", f"run {ended.state_name}")


def credentials_are_rotated(week: Week, night: date) -> None:
    """The account's password and the store's keys change; the worker learns of it when it is started again."""
    week.account = NEW_ACCOUNT
    week.show(night)
    refused = week.run(night)
    assert refused.state_name == "Failed"
    told = str(week.operator.artifact(refused.id, f"source-{week.settings.region.name}"))
    assert "correct COPERNICUSMARINE_SERVICE_USERNAME and" in told
    week.tell(
        night, "another password of the source's account", f"run Failed; artifact source-laizhou: {last_line(told)}"
    )

    server = week.topology.storage.server
    server.writer = Keys()
    week.topology.supervisor.restart("object storage")
    refused = week.run(night)
    assert refused.state_name == "Failed"
    assert "InvalidAccessKeyId" in str(refused.state and refused.state.message)
    for name, value in server.environment.items():
        os.environ[name] = value
    week.tell(night, "other keys of the store", f"run Failed: {refused.state and refused.state.message}")

    week.topology.write_environment()
    week.topology.supervisor.restart("cpu")
    run = week.run(night)
    week.completes(run)
    week.tell(night, "the worker was started again with both", f"run {run.state_name}")


def last_line(text: str | None) -> str:
    """Return the last line of a text that says something."""
    return [line for line in str(text).splitlines() if line.strip()][-1].strip("| ").replace("|", ":")


def first_line(text: str | None) -> str:
    """Return the first line of an artifact, its title."""
    return str(text).splitlines()[0].strip("# ")
