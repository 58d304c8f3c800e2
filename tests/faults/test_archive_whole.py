"""The archive's writer killed at any object of its commit: readers see the old state or the new, never a mixture."""

import time
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from datlstm.archive import Archive
from datlstm.lease import LEASE_SECONDS
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.store_server import StoreServer
from tests.faults.killing_proxy import When, killing_proxy
from tests.faults.victims import kelvin_of, start, upsert

FIRST = date(2023, 1, 10)
Kill = Callable[[Callable[[], BaseProcess]], None]
WHENS: tuple[When, ...] = ("before", "after")


def check_whole(archive: Archive, newest: date, snapshot_id: str | None = None) -> None:
    """Assert that a state is what nights up to this one make: all days there, all but the newest revised."""
    days = [FIRST + timedelta(days=i) for i in range((newest - FIRST).days + 1)]
    sst = archive.read(FIRST, newest + timedelta(days=1), snapshot_id)["sst"].load()
    kelvin = [kelvin_of(day, is_revised=day < newest) for day in days]
    expected = np.broadcast_to(np.array([*kelvin, np.nan], "float32")[:, None, None], sst.shape)
    np.testing.assert_array_equal(sst.values, expected)
    assert archive.usable_days(snapshot_id) == days


def survive(settings: Settings, kills: list[Kill]) -> list[bool]:
    """Kill one night after the other, each made up for by the next run; return which had committed before they died."""
    archive, ahead = Archive(settings), timedelta()
    upsert(settings, FIRST)
    newest, committed = FIRST, []
    for kill in kills:
        night = newest + timedelta(days=1)
        before = archive.snapshot_id()
        kill(partial(start, upsert, ahead, settings, night))
        during = archive.snapshot_id()
        committed.append(during != before)
        check_whole(archive, night if committed[-1] else newest, during)
        check_whole(archive, newest, before)
        ahead += timedelta(seconds=LEASE_SECONDS)
        repair = start(upsert, ahead, settings, night)
        repair.join(60)
        assert repair.exitcode == 0
        check_whole(archive, night)
        newest = night
    return committed


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.long)])
def test_on_object_storage_killed_before_and_after_object_writes(
    every: int, settings: Settings, s3_server: StoreServer, s3_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.replace(store=s3_store_url)
    with killing_proxy(s3_server.environment["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        upsert(settings.replace(store=f"{s3_store_url}/alive"), FIRST)
        proxy.arm(None, "before")
        upsert(settings.replace(store=f"{s3_store_url}/alive"), FIRST + timedelta(days=1))
        writes = len(proxy.writes)
        assert writes >= 8

        def kill(begin: Callable[[], BaseProcess], k: int, when: When) -> None:
            proxy.arm(k, when)
            victim = begin()
            proxy.aim(victim.pid or 0)
            victim.join(60)
            assert victim.exitcode == -9
            proxy.arm(None, "before")

        moments = [(k, when) for k in range(writes) for when in WHENS][::every]
        committed = survive(settings, [partial(kill, k=k, when=when) for k, when in moments])
    assert committed == sorted(committed)
    assert committed[0] is False and committed[-1] is True


def test_on_files_killed_as_soon_as_any_number_of_objects_is_there(settings: Settings, tmp_path: Path) -> None:
    folder = Path(Store(settings.store).location_of("archive"))

    def objects() -> int:
        return sum(1 for path in folder.rglob("*") if path.is_file())

    def kill(begin: Callable[[], BaseProcess], new: int) -> None:
        standing = objects()
        victim = begin()
        while victim.is_alive() and objects() < standing + new:
            time.sleep(0.0002)
        victim.kill()
        victim.join(60)

    survive(settings, [partial(kill, new=new) for new in range(1, 9)])
