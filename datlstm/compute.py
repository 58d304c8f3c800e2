"""Where work is computed: Dask on threads or a cluster, torch on a stated number of threads, Lightning in silence."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import torch
from distributed import Client
from distributed.comm.addressing import resolve_address

from datlstm.errors import SettingsError
from datlstm.settings import Settings


@contextmanager
def dask_compute(settings: Settings) -> Iterator[None]:
    """Send Dask work to ``dask_scheduler`` where one is set. Raises `SettingsError` when it does not answer."""
    if settings.dask_scheduler is None:
        yield
        return
    try:
        # A client refused for its address is left half open, and hangs the process when it is collected.
        resolve_address(settings.dask_scheduler)
        client = Client(settings.dask_scheduler, timeout="30s")
    except (OSError, ValueError) as error:
        raise SettingsError(f"no Dask scheduler answers at {settings.dask_scheduler}: start it or unset it") from error
    with client:
        yield


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
