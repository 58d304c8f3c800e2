"""A Dask cluster of two worker processes, by setting: the same bits as threads, work done there, deaths survived."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.sizeof import sizeof
from distributed import Client, LocalCluster, SchedulerPlugin, default_client

from datlstm.archive import Archive
from datlstm.compute import dask_compute
from datlstm.errors import ComputeError
from datlstm.ingest import ingest
from datlstm.preparation import prepare
from datlstm.settings import Settings
from datlstm.sources import open_source
from datlstm.store import Store
from datlstm.store_server import StoreServer

# Workers start in 5 to 20 s, so all tests share them; the test of their death comes last.
pytestmark = pytest.mark.xdist_group("dask cluster")


class Record(SchedulerPlugin):
    """How many tasks of which kind each worker has done."""

    def __init__(self) -> None:
        self.done: Counter[tuple[str, str]] = Counter()

    def transition(self, key: Any, start: str, finish: str, *args: Any, worker: str = "", **kwargs: Any) -> None:
        if finish == "memory" and worker:
            self.done[worker, str(key[0] if isinstance(key, tuple) else key).rsplit("-", 1)[0]] += 1

    @property
    def workers(self) -> set[str]:
        return {worker for worker, _ in self.done}

    def tasks(self, kind: str) -> int:
        return sum(count for (_, name), count in self.done.items() if kind in name)


@pytest.fixture(scope="module")
def cluster(s3_server: StoreServer) -> Iterator[LocalCluster]:
    """Two worker processes that know the keys of the object storage, and give a task up that kills two of them."""
    with pytest.MonkeyPatch.context() as environment:
        for variable, value in {**s3_server.environment, "OMP_NUM_THREADS": "1"}.items():
            environment.setenv(variable, value)
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 1}),
            LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        ):
            yield cluster


@pytest.fixture
def record(cluster: LocalCluster) -> Iterator[Record]:
    record = Record()
    cluster.scheduler.add_plugin(record, name="record")
    yield record
    cluster.scheduler.remove_plugin("record")


@pytest.fixture
def coarse(settings: Settings) -> Settings:
    """Cells of a tenth of a degree, four of the source's each: days have to be averaged."""
    return settings.replace(region=settings.region.model_copy(update={"resolution": 0.1}))


def test_days_ingested_on_the_cluster_are_those_of_threads(
    coarse: Settings, cluster: LocalCluster, record: Record, s3_store_url: str
) -> None:
    elsewhere = coarse.replace(store=s3_store_url, dask_scheduler=cluster.scheduler_address)
    for settings in (coarse, elsewhere):
        with dask_compute(settings):
            ingest(settings, date(2024, 1, 20), date(2024, 3, 10), open_source(settings))
    found, wanted = (Archive(settings).open().load().drop_vars("ingested_at") for settings in (elsewhere, coarse))
    xr.testing.assert_identical(found, wanted)
    assert record.workers == set(cluster.scheduler.workers) and len(record.workers) == 2
    assert record.tasks("_block") and record.tasks("renormalised_mean")
    with pytest.raises(ValueError, match="No client"):
        default_client()


def test_the_training_cube_written_by_the_cluster_has_the_bytes_of_one_written_by_threads(
    settings: Settings,
    filled_store: Path,
    cluster: LocalCluster,
    record: Record,
    s3_store_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = settings.replace(store=shutil.copytree(filled_store, tmp_path / "copy").as_uri())
    remote = settings.replace(store=s3_store_url, dask_scheduler=cluster.scheduler_address)
    for path in Store(local.store).list("archive"):
        Store(remote.store).write(path, Store(local.store).read(path) or b"")
    through_the_client = 0
    gather = Client.gather

    def weighed(client: Client, *given: Any, **options: Any) -> Any:
        nonlocal through_the_client
        results = gather(client, *given, **options)
        through_the_client += sizeof(results)
        return results

    monkeypatch.setattr(Client, "gather", weighed)
    made = []
    for chosen in (local, remote):
        with dask_compute(chosen):
            cube, baseline = prepare(chosen)
        store = Store(chosen.store)
        digests = {path: hashlib.sha256(store.read(path) or b"").hexdigest() for path in store.list(cube)}
        made.append((cube, baseline, digests))
    assert made[0] == made[1]
    assert record.workers == set(cluster.scheduler.workers)
    assert record.tasks("store-map") >= len([path for path in made[0][2] if "/anomaly/c/" in path])
    # The sums that the climatology is fitted to, and not one day.
    days, rows, columns = 500, *Archive(local).grid.shape
    assert 0 < through_the_client < days * rows * columns * np.dtype("float32").itemsize


@pytest.mark.parametrize(("times", "completes"), [(1, True), (2, False)])
def test_a_worker_that_dies_costs_time_and_work_that_kills_workers_is_given_up(
    settings: Settings, cluster: LocalCluster, tmp_path: Path, times: int, completes: bool
) -> None:
    folder = str(tmp_path)

    # Defined here it travels whole: a worker that starts again need not import this module.
    def die(block: Any) -> Any:
        import os
        import signal

        deaths = len(os.listdir(folder))
        if block.size and block.flat[0] == 0 and deaths < times:
            open(f"{folder}/{deaths}", "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    on_the_cluster = settings.replace(dask_scheduler=cluster.scheduler_address)
    numbers = da.arange(8, chunks=2).map_blocks(die, dtype="int64")
    given_up = pytest.raises(ComputeError, match="lost the work .KilledWorker.*nothing of this step was committed")
    with nullcontext() if completes else given_up, dask_compute(on_the_cluster):
        assert numbers.sum().compute() == 28
