"""A copy of a store holds a whole night at any instant, and a restored store goes on as if nothing had been."""

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from datlstm.archive import Archive
from datlstm.backup import ROOTS, back_up, restore
from datlstm.bundle import Bundle
from datlstm.errors import StoreError
from datlstm.ingest import ingest_night
from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import published_days
from datlstm.registry import champion_id
from datlstm.settings import Settings
from datlstm.sources import open_source
from datlstm.store import Store
from tests.conftest import LAST_DAY
from tests.nights import publish_forecast, publish_pages


@pytest.fixture
def operated(settings: Settings, service_store: Path, tmp_path: Path) -> Settings:
    """A store in operation of the test's own."""
    shutil.copytree(service_store, tmp_path / "store")
    publish_pages(settings)
    return settings


@pytest.fixture
def older() -> Callable[[Path, timedelta], None]:
    """Make every file below a folder look older."""

    def age(folder: Path, by: timedelta) -> None:
        for path in folder.rglob("*"):
            then = path.stat().st_mtime - by.total_seconds()
            os.utime(path, (then, then))

    return age


def night(settings: Settings, days_later: int) -> None:
    day = LAST_DAY + timedelta(days=days_later)
    ingest_night(settings, day, open_source(settings))
    publish_forecast(settings, nightly_forecast(settings, day))
    publish_pages(settings)


def test_a_restored_store_equals_the_lost_one_and_goes_on(operated: Settings, store_url: str, tmp_path: Path) -> None:
    store, copy = Store(operated.store), Store(f"{store_url}-copy")
    back_up(store, copy)
    lost = operated.replace(store=(tmp_path / "again").as_uri())
    restore(copy, Store(lost.store))
    for path in store.list(""):
        if not path.startswith((".locks/", "drafts/")):
            assert Store(lost.store).read(path) == store.read(path), path
    assert Archive(lost).snapshot_id() == Archive(operated).snapshot_id()
    assert Bundle.load(Store(lost.store), str(champion_id(Store(lost.store)))).forecaster == "datlstm"
    night(lost, 3)
    assert published_days(lost)[-1] == LAST_DAY + timedelta(days=2)


def test_a_second_backup_brings_the_copy_to_the_newest_night(operated: Settings, tmp_path: Path) -> None:
    store, copy = Store(operated.store), Store((tmp_path / "copy").as_uri())
    first = back_up(store, copy)
    night(operated, 3)
    second = back_up(store, copy)
    assert second.copied > 0
    assert first.copied + first.unchanged < second.copied + second.unchanged
    copied = operated.replace(store=copy.url)
    assert published_days(copied) == published_days(operated)
    newest, expected = (
        Archive(each).read(LAST_DAY, LAST_DAY + timedelta(days=2))["sst"] for each in (copied, operated)
    )
    np.testing.assert_array_equal(newest, expected)


def test_what_has_not_changed_for_minutes_is_not_copied_again(
    operated: Settings, tmp_path: Path, older: Callable[[Path, timedelta], None]
) -> None:
    store, copy = Store(operated.store), Store((tmp_path / "copy").as_uri())
    older(tmp_path / "store", timedelta(hours=1))
    back_up(store, copy)
    assert back_up(store, copy).copied == 0
    store.write("latest.json", store.read("latest.json") or b"")
    assert back_up(store, copy).copied == 1


def test_a_backup_killed_before_any_root_leaves_a_whole_night_and_the_next_completes_it(
    operated: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, yesterdays = Store(operated.store), Store((tmp_path / "copy").as_uri())
    back_up(store, yesterdays)
    night(operated, 3)
    changed = [root for root in ROOTS if store.read(root) != yesterdays.read(root)]
    assert changed
    write = Store.write
    for root in changed:
        shutil.copytree(tmp_path / "copy", tmp_path / root)
        copy = operated.replace(store=(tmp_path / root).as_uri())

        def killed(self: Store, path: str, content: bytes, copy: str = copy.store, root: str = root) -> None:
            if (self.url, path) == (copy, root):
                raise KeyboardInterrupt
            write(self, path, content)

        monkeypatch.setattr(Store, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            back_up(store, Store(copy.store))
        monkeypatch.setattr(Store, "write", write)
        assert published_days(copy)[0] == LAST_DAY
        assert np.isfinite(nightly_forecast(copy, LAST_DAY + timedelta(days=1)).sst).any()
        back_up(store, Store(copy.store))
        assert published_days(copy) == published_days(operated)


def test_a_part_is_restored_by_itself(operated: Settings, tmp_path: Path) -> None:
    store, copy = Store(operated.store), Store((tmp_path / "copy").as_uri())
    back_up(store, copy)
    shutil.rmtree(tmp_path / "store" / "skill.zarr", ignore_errors=True)
    shutil.rmtree(tmp_path / "store" / "forecast.zarr")
    restore(copy, store, "forecast.zarr")
    assert published_days(operated) == [LAST_DAY]


def test_nothing_is_restored_over_what_is_there(operated: Settings, tmp_path: Path) -> None:
    store, copy = Store(operated.store), Store((tmp_path / "copy").as_uri())
    back_up(store, copy)
    with pytest.raises(StoreError, match="nothing is overwritten"):
        restore(copy, store)
    with pytest.raises(StoreError, match="holds nothing"):
        restore(Store((tmp_path / "nowhere").as_uri()), store)
    with pytest.raises(StoreError, match="its own backup"):
        back_up(store, store)
