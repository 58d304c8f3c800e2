"""Where work is computed: Dask on threads or a cluster, torch on a stated number of threads, Lightning in silence."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
import torch
from distributed import Client
from distributed.client import FutureCancelledError
from distributed.comm.addressing import resolve_address
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker
from distributed.versions import VersionMismatchWarning

from datlstm.errors import ComputeError, SettingsError
from datlstm.settings import Settings

CONNECT_SECONDS = 30
# What turns days into numbers, and what client and workers speak with.
SAME_VERSIONS = ("datlstm", "dask", "distributed", "icechunk", "numpy", "xarray", "zarr")


@contextmanager
def dask_compute(settings: Settings) -> Iterator[None]:
    """Send Dask work to ``dask_scheduler`` where one is set.

    A worker that dies costs what it was computing, which others compute again. Raises `SettingsError` when the
    scheduler does not answer, has no worker, or a worker has another version of what decides about values;
    `ComputeError` when the cluster loses the work for good.
    """
    address = settings.dask_scheduler
    if address is None:
        yield
        return
    with _client(address) as client:
        _check_workers(client, address)
        try:
            yield
        except (KilledWorker, FutureCancelledError, CommClosedError) as error:
            raise ComputeError(
                f"the Dask cluster at {address} lost the work ({type(error).__name__}), nothing of this step was "
                "committed: look at the logs of its scheduler and workers (out of memory, most often), or unset "
                "dask_scheduler, and run this again"
            ) from error


@contextmanager
def _client(address: str) -> Iterator[Client]:
    try:
        # A client refused for its address is left half open, and hangs the process when it is collected.
        resolve_address(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # told by `_check_workers`, where it matters
            client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise SettingsError(f"no Dask scheduler answers at {address}: start it or unset it") from error
    with client:
        yield client


def _check_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise SettingsError(
            f"the Dask scheduler at {address} has no worker after {CONNECT_SECONDS} s: start some, or unset it"
        ) from error
    versions: Any = client.get_versions(packages=SAME_VERSIONS)
    own = versions["client"]["packages"]
    for worker, found in versions["workers"].items():
        other = [f"{name} {found['packages'][name]}" for name in SAME_VERSIONS if found["packages"][name] != own[name]]
        if other:
            here = ", ".join(f"{name} {own[name]}" for name in SAME_VERSIONS)
            raise SettingsError(
                f"the Dask worker {worker} has {', '.join(other)}, this process {here}: start workers of this release"
            )


@contextmanager
def in_this_process() -> Iterator[None]:
    """Keep what is done inside the block off the cluster.

    While a cluster's client is open xarray asks the cluster for a lock before it writes a NetCDF file, even one in
    memory, and the cluster knows no such lock.
    """
    with dask.config.set(scheduler="threads"):
        yield


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on ``count`` threads inside the block.

    Maps as small as ours gain little from threads and lose up to a factor of 20 to them when other work shares the
    cores; and a sum's last bit depends on their number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's hardware report and advice out of logs and tables; progress and errors stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*litlogger.*")
        yield
