"""Where Dask computes: threads of this process, or a cluster whose scheduler's address is a setting."""

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client

from datlstm.errors import SettingsError
from datlstm.settings import Settings


@contextmanager
def dask_compute(settings: Settings) -> Iterator[None]:
    """Send Dask work to ``dask_scheduler`` where one is set. Raises `SettingsError` when it does not answer."""
    if settings.dask_scheduler is None:
        yield
        return
    try:
        client = Client(settings.dask_scheduler, timeout="30s")
    except (OSError, ValueError) as error:
        raise SettingsError(f"no Dask scheduler answers at {settings.dask_scheduler}: start it or unset it") from error
    with client:
        yield
