"""A writer killed at any instant: readers see the old or the new state, and the next writer puts all right."""

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

from datlstm import daily
from datlstm.archive import Archive
from datlstm.cube import Cube
from datlstm.ingest import backfill, ingest
from datlstm.settings import Settings
from datlstm.sources import open_source
from datlstm.store import Store

PATH = "c.zarr"
FIRST = date(2024, 1, 10)
NEXT = date(2024, 1, 11)
LATER = date(2024, 1, 13)
PER_DAY: dict[str, Any] = {"chunks": (daily.LARGE_CHUNK,)}
FIELD: dict[str, Any] = {"chunks": (1, 3), "_FillValue": np.float32(np.nan), "fill_value": np.float32(np.nan)}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library may catch it."""


class Mortal(WrapperStore[ZarrStore]):
    """A store whose user dies just before a given one of its changes, counted from 0."""

    dies_before: int | None = None
    changes = 0

    def _change(self) -> None:
        if Mortal.changes == Mortal.dies_before:
            raise Killed
        Mortal.changes += 1

    async def set(self, key: str, value: Buffer) -> None:
        self._change()
        await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._change()
        await self._store.set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        self._change()
        await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        self._change()
        await self._store.delete_dir(prefix)


def write(folder: Path, day: date) -> None:
    """Write one init whose every value follows from its day."""
    template = xr.Dataset(
        {
            "sst": ((INIT_TIME, "latitude"), np.zeros((0, 3), "float32")),
            "sst_anomaly": ((INIT_TIME, "latitude"), np.zeros((0, 3), "float32")),
            "model_id": (INIT_TIME, np.array([], np.dtypes.StringDType())),
        },
        {INIT_TIME: np.zeros(0, "datetime64[ns]"), "latitude": np.array([37.0, 38.0, 39.0])},
    )
    encoding: dict[str, dict[str, Any]] = {
        "sst": FIELD,
        "sst_anomaly": FIELD,
        "model_id": PER_DAY,
        INIT_TIME: {**PER_DAY, "units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"},
    }
    fields = {
        "sst": np.full((1, 3), 270 + day.day, "float32"),
        "sst_anomaly": np.full((1, 3), day.day, "float32"),
        "model_id": np.array([f"model-{day}"], np.dtypes.StringDType()),
    }
    Cube(Store(str(folder)), PATH, template, encoding).write(day, fields)


def seen(folder: Path) -> xr.Dataset | None:
    """Return all that a fresh reader sees, None where there is no cube."""
    try:
        return xr.open_zarr(folder / PATH).load()
    except FileNotFoundError:
        return None


def same(one: xr.Dataset | None, other: xr.Dataset | None) -> bool:
    return one is other if one is None or other is None else one.identical(other)


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, date, int | None], int]:
    """Write a day, die before the k-th change of the store (None: live), and return how many changes were made."""
    whole = Store.zarr

    def attempt(folder: Path, day: date, dies_before: int | None) -> int:
        Mortal.changes, Mortal.dies_before = 0, dies_before
        with monkeypatch.context() as patch:
            patch.setattr(Store, "zarr", lambda store, path, **options: Mortal(whole(store, path, **options)))
            if dies_before is None:
                write(folder, day)
            else:
                with pytest.raises(Killed):
                    write(folder, day)
        return Mortal.changes

    return attempt


@pytest.fixture(params=["first", "appended"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store before the write: empty, or with one init."""
    folder = tmp_path / "before"
    folder.mkdir()
    if request.param == "appended":
        write(folder, FIRST)
    return folder


def undisturbed(before: Path, day: date) -> xr.Dataset:
    folder = before.with_name(f"undisturbed-{day}")
    shutil.copytree(before, folder)
    write(folder, day)
    state = seen(folder)
    assert state is not None
    return state


def test_a_killed_publication_is_all_or_nothing_and_a_retry_completes_it(
    before: Path, tmp_path: Path, die: Callable[[Path, date, int | None], int]
) -> None:
    old, new = seen(before), undisturbed(before, NEXT)
    assert not same(old, new)
    shutil.copytree(before, tmp_path / "counted")
    changes = die(tmp_path / "counted", NEXT, None)
    assert changes >= 10
    outcomes = []
    for k in range(changes):
        folder = tmp_path / f"killed-{k}"
        shutil.copytree(before, folder)
        assert die(folder, NEXT, k) == k
        found = seen(folder)
        assert same(found, old) or same(found, new), f"killed before change {k}: {found}"
        outcomes.append(same(found, new))
        write(folder, NEXT)
        assert same(seen(folder), new), f"retried after a kill before change {k}"
    assert outcomes == sorted(outcomes)
    assert not outcomes[0]
    assert outcomes[-1]


def test_a_publication_killed_before_its_commit_leaves_no_trace_in_a_later_one(
    before: Path, tmp_path: Path, die: Callable[[Path, date, int | None], int]
) -> None:
    old, new, later = seen(before), undisturbed(before, NEXT), undisturbed(before, LATER)
    k = 0
    while True:
        folder = tmp_path / f"killed-{k}"
        shutil.copytree(before, folder)
        die(folder, NEXT, k)
        if same(seen(folder), new):
            break
        assert same(seen(folder), old)
        write(folder, LATER)
        assert same(seen(folder), later), f"killed before change {k}"
        k += 1
    assert k >= 5


@pytest.fixture
def killed_at_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Run something and die when it is about to commit to the archive."""

    def attempt(write: Callable[[], object]) -> None:
        def kill(*_: object, **__: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(icechunk.Session, "commit", kill)
            write()

    return attempt


def contents(settings: Settings) -> xr.Dataset:
    return Archive(settings).open().load().drop_vars("ingested_at")


def test_a_night_killed_before_its_commit_never_happened(
    settings: Settings, killed_at_commit: Callable[[Callable[[], object]], None]
) -> None:
    source = open_source(settings)
    ingest(settings, date(2023, 1, 1), date(2023, 1, 3), source)
    old, snapshot = contents(settings), Archive(settings).snapshot_id()
    killed_at_commit(lambda: ingest(settings, date(2023, 1, 2), date(2023, 1, 5), source))
    assert Archive(settings).snapshot_id() == snapshot
    xr.testing.assert_identical(contents(settings), old)
    report = ingest(settings, date(2023, 1, 2), date(2023, 1, 5), source)
    assert report.upsert.added == [date(2023, 1, 4), date(2023, 1, 5)]
    assert report.upsert.unchanged == [date(2023, 1, 2), date(2023, 1, 3)]


def test_the_very_first_write_killed_before_its_commit_leaves_no_archive_and_no_obstacle(
    settings: Settings, killed_at_commit: Callable[[Callable[[], object]], None]
) -> None:
    source = open_source(settings)
    killed_at_commit(lambda: ingest(settings, date(2023, 1, 1), date(2023, 1, 3), source))
    assert not Archive(settings).exists()
    ((_, _, report),) = backfill(settings, date(2023, 1, 1), date(2023, 1, 3), source)
    assert report is not None
    assert len(report.upsert.added) == 3
    assert Archive(settings).exists()
