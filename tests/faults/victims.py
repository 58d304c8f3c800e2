"""Writers that die for real, forked from a process in which all is imported and nothing has begun."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import obstore
import pytest
import xarray as xr

from datlstm import lease
from datlstm.archive import FIELDS, Archive
from datlstm.clock import now
from datlstm.products import publication
from datlstm.quality import DayQuality
from datlstm.settings import Settings
from tests.faults.publisher import WRITES, Mortal

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


def start(act: Callable[..., None], ahead: timedelta, *arguments: Any, dies_at: int | None = None) -> BaseProcess:
    """Run ``act`` in a process of its own whose leases see the time ``ahead``.

    With ``dies_at`` it kills itself before its write of that number, as far as the writes are obstore's.
    """
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = FORKS.Process(target=_run, args=(act, environment, ahead, dies_at, arguments))
    process.start()
    return process


def _run(
    act: Callable[..., None],
    environment: Mapping[str, str],
    ahead: timedelta,
    dies_at: int | None,
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    lease.now = lambda: now() + ahead  # type: ignore[attr-defined]
    publication.quicklook = lambda init, title: title.encode()  # type: ignore[attr-defined]
    if dies_at is not None:
        mortal = Mortal(dies_at, after=False, die=lambda: os.kill(os.getpid(), signal.SIGKILL))
        for name in WRITES:
            setattr(obstore, name, mortal.wrap(name))
    act(*arguments)


def publish(settings: Settings, forecast: xr.Dataset, scores: xr.Dataset) -> None:
    """Publish a night; drawing its picture is left out."""
    publication.publish(settings, forecast, scores)


def count_writes(act: Callable[[], None]) -> int:
    """Do something here and return the number of obstore's writes."""
    mortal = Mortal(None, after=False, die=lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(obstore, name, mortal.wrap(name))
        act()
    return mortal.writes


def upsert(settings: Settings, day: date) -> None:
    """Add a day to the archive and revise the day before it, as a night does."""
    archive = Archive(settings)
    grid = archive.grid
    days = [day - timedelta(days=1), day] if archive.exists() else [day]
    ocean = xr.DataArray(np.ones(grid.shape, bool), dims=("latitude", "longitude"), coords=grid.coords())
    time = xr.DataArray(np.array(days, "datetime64[ns]"), dims="time")
    kelvin = [kelvin_of(one, is_revised=one < day) for one in days]
    sst = (xr.DataArray(kelvin, dims="time", coords={"time": time}) * ocean).astype("float32")
    per_day = dict.fromkeys(("source_product", "source_version"), ("time", np.array(["P"] * len(days), object)))
    quality = ("time", np.full(len(days), DayQuality.GOOD, "uint8"))
    archive.upsert(xr.Dataset({**dict.fromkeys(FIELDS, sst), **per_day, "quality": quality}), ocean, attribution="A")


def kelvin_of(day: date, *, is_revised: bool) -> float:
    """The temperature of a day, before and after its revision."""
    return 280 + day.toordinal() % 10 + 0.5 * is_revised
