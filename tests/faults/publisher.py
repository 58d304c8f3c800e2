"""A small cube whose every value follows from its day, and a writer of it that can be killed around any write."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from functools import wraps
from typing import Any

import numpy as np
import obstore
import xarray as xr

from datlstm import daily
from datlstm.cube import Cube
from datlstm.errors import ProductError
from datlstm.store import Store

INIT_TIME = "init_time"
FIRST = date(2024, 1, 10)
PER_DAY: dict[str, Any] = {"chunks": (daily.LARGE_CHUNK,)}
FIELD: dict[str, Any] = {"chunks": (1, 3), "_FillValue": np.float32(np.nan), "fill_value": np.float32(np.nan)}
TEMPLATE = xr.Dataset(
    {
        "sst": ((INIT_TIME, "latitude"), np.zeros((0, 3), "float32")),
        "sst_anomaly": ((INIT_TIME, "latitude"), np.zeros((0, 3), "float32")),
        "model_id": (INIT_TIME, np.array([], np.dtypes.StringDType())),
    },
    {INIT_TIME: np.zeros(0, "datetime64[ns]"), "latitude": np.array([37.0, 38.0, 39.0])},
)
ENCODING: dict[str, dict[str, Any]] = {
    "sst": FIELD,
    "sst_anomaly": FIELD,
    "model_id": PER_DAY,
    INIT_TIME: {**PER_DAY, "units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"},
}
WRITES = ("put", "put_async", "delete", "delete_async")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library may catch it."""


class Mortal:
    """Counts the writes of this process, and makes the one numbered ``dies_at`` the last; none ever comes after."""

    def __init__(self, dies_at: int | None, after: bool, die: Callable[[], None]) -> None:
        self._dies_at = dies_at
        self._after = after
        self._die = die
        self._is_dead = False
        self.writes = 0

    def before(self) -> None:
        if self._is_dead or (self._dies_at is not None and self.writes >= self._dies_at and not self._after):
            self._end()

    def done(self) -> None:
        self.writes += 1
        if self._dies_at is not None and self.writes > self._dies_at and self._after:
            self._end()

    def _end(self) -> None:
        self._is_dead = True
        self._die()

    def wrap(self, name: str) -> Callable[..., Any]:
        """Return obstore's function ``name`` as this mortal calls it."""
        whole = getattr(obstore, name)

        @wraps(whole)
        def act(*arguments: Any, **options: Any) -> Any:
            self.before()
            result = whole(*arguments, **options)
            self.done()
            return result

        @wraps(whole)
        async def act_later(*arguments: Any, **options: Any) -> Any:
            self.before()
            result = await whole(*arguments, **options)
            self.done()
            return result

        return act_later if name.endswith("_async") else act


def cube_at(url: str) -> Cube:
    return Cube(Store(url), "c.zarr", TEMPLATE, ENCODING)


def publish(url: str, day: date, model: str) -> None:
    """Publish one init after a gap, if need be, as the service does: never twice, never before the newest."""
    with cube_at(url).writing() as writer:
        newest = None if writer.committed is None else days_of(writer.committed)[-1]
        if newest is not None and day <= newest:
            raise ProductError(f"{newest} is there")
        first = day if newest is None else newest + timedelta(days=1)
        writer.stage(
            {
                INIT_TIME: np.arange((first - daily.EPOCH).days, (day - daily.EPOCH).days + 1, dtype="int32"),
                "sst": np.full((1, 3), 270 + day.toordinal() % 1000, "float32"),
                "sst_anomaly": np.full((1, 3), day.toordinal() % 1000, "float32"),
                "model_id": np.array([f"{model} {day}"], np.dtypes.StringDType()),
            }
        )
        writer.commit()


def days_of(state: xr.Dataset) -> list[date]:
    return list(state[INIT_TIME].values.astype("datetime64[D]").astype(object))


def check_whole(state: xr.Dataset, published: dict[date, str]) -> None:
    """Assert that a state is what publishing these days, with these models, makes; nothing more and nothing less."""
    days = [min(published) + timedelta(days=i) for i in range((max(published) - min(published)).days + 1)]
    assert days_of(state) == days
    values = np.array([270 + day.toordinal() % 1000 if day in published else np.nan for day in days])
    np.testing.assert_array_equal(state["sst"].values, np.repeat(values[:, None], 3, axis=1))
    np.testing.assert_array_equal(state["sst_anomaly"].values, np.repeat(values[:, None] - 270, 3, axis=1))
    assert state["model_id"].values.tolist() == [f"{published[day]} {day}" if day in published else "" for day in days]


def main(url: str, days: str, model: str, dies_at: str, when: str) -> None:
    """Publish so many days, each after the newest; die by SIGKILL around a write, or live when ``dies_at`` is none."""
    mortal = Mortal(
        None if dies_at == "none" else int(dies_at), when == "after", lambda: os.kill(os.getpid(), signal.SIGKILL)
    )
    for name in WRITES:
        setattr(obstore, name, mortal.wrap(name))
    for _ in range(int(days)):
        published = False
        while not published:
            state = cube_at(url).open()
            with suppress(ProductError):
                publish(url, FIRST if state is None else days_of(state)[-1] + timedelta(days=1), model)
                published = True


if __name__ == "__main__":
    main(*sys.argv[1:])
