"""The staging of a Zarr store shows a change in one step, to one writer at a time, and believes nothing half-made."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.storage import WrapperStore

from datlstm.errors import ConflictError, ProductError
from datlstm.staged import ROOT_DOCUMENT, StagedZarr
from datlstm.store import Store

PATH = "x.zarr"


class Unlistable(WrapperStore[ZarrStore]):
    """A store that can't be asked what is in it, like a bucket that analysts may read but not list."""

    async def list(self) -> AsyncIterator[str]:
        raise AssertionError("listed")
        yield

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise AssertionError(f"listed {prefix}")
        yield

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise AssertionError(f"listed {prefix}")
        yield

    async def is_empty(self, prefix: str) -> bool:
        raise AssertionError(f"listed {prefix}")


@pytest.fixture
def store(store_url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store whose Zarr stores can't be listed."""
    listable = Store.zarr
    monkeypatch.setattr(Store, "zarr", lambda *place, **options: Unlistable(listable(*place, **options)))
    return Store(store_url)


def nothing_lost() -> None:
    """Stand for a right to write that is not lost."""


def staged_at(store: Store) -> StagedZarr:
    return StagedZarr(store, PATH, nothing_lost)


def stage(staged: StagedZarr, length: int) -> StagedZarr:
    """Write ``x`` with the values 1 … length, all but the commit."""
    if staged.is_empty_store:
        group = zarr.create_group(staged)
        group.create_array("x", shape=(0,), chunks=(2,), dtype="int32", fill_value=0)
    group = zarr.open_group(staged, mode="r+", use_consolidated=False)
    array = group["x"]
    assert isinstance(array, zarr.Array)
    array.resize((length,))
    array[:] = np.arange(1, length + 1)
    group.attrs["length"] = length
    return staged


def committed(staged: StagedZarr, length: int) -> None:
    stage(staged, length).commit()
    staged.follow_up()


def seen(store: Store) -> list[int]:
    """Return what a reader of consolidated metadata sees."""
    group = zarr.open_group(store.zarr(PATH, read_only=True), mode="r", use_consolidated=True)
    values: Any = np.asarray(group["x"][:]).tolist()  # type: ignore[index]
    assert group.attrs["length"] == len(values)
    return values


def test_nothing_is_there_before_the_first_commit(store: Store) -> None:
    staged = stage(staged_at(store), 3)
    assert staged_at(store).is_empty_store
    with pytest.raises(FileNotFoundError):
        seen(store)
    staged.commit()
    assert not staged_at(store).is_empty_store
    assert seen(store) == [1, 2, 3]


def test_a_reader_sees_the_old_whole_state_until_commit(store: Store) -> None:
    stage(staged_at(store), 3).commit()
    staged = stage(staged_at(store), 6)
    assert seen(store) == [1, 2, 3]
    staged.commit()
    assert seen(store) == [1, 2, 3, 4, 5, 6]


def test_one_writer_may_commit_twice(store: Store) -> None:
    staged = stage(staged_at(store), 3)
    staged.commit()
    stage(staged, 5).commit()
    assert seen(store) == [1, 2, 3, 4, 5]


def test_an_abandoned_change_is_gone_for_the_next_writer(store: Store) -> None:
    stage(staged_at(store), 3).commit()
    stage(staged_at(store), 9)
    assert staged_at(store).is_empty_store is False
    resumed = zarr.open_group(staged_at(store), mode="r+", use_consolidated=False)
    assert resumed["x"].shape == (3,)  # type: ignore[union-attr]
    stage(staged_at(store), 4).commit()
    assert seen(store) == [1, 2, 3, 4]


def test_a_first_write_abandoned_before_commit_can_be_made_again(store: Store) -> None:
    stage(staged_at(store), 9)
    stage(staged_at(store), 2).commit()
    assert seen(store) == [1, 2]


def test_of_two_writers_from_the_same_state_the_second_is_refused_and_invisible(store: Store) -> None:
    for lengths in ((3, 4), (5, 6)):
        first, second = staged_at(store), staged_at(store)
        stage(first, lengths[0]).commit()
        stage(second, lengths[1])
        with pytest.raises(ConflictError, match=r"x\.zarr/zarr\.json: another writer was first"):
            second.commit()
        assert seen(store) == list(range(1, lengths[0] + 1))


def test_a_writer_that_lost_its_right_writes_nothing_more(store: Store) -> None:
    stage(staged_at(store), 3).commit()
    written = {path: store.read(path) for path in store.list(PATH)}

    def lost() -> None:
        raise ConflictError("lost")

    with pytest.raises(ConflictError, match="lost"):
        stage(StagedZarr(store, PATH, lost), 6)
    emptied = StagedZarr(store, PATH, lost)
    with pytest.raises(ConflictError, match="lost"):
        zarr.open_group(emptied, mode="r+", use_consolidated=False)["x"][:] = 0  # type: ignore[index]
    with pytest.raises(ConflictError, match="lost"):
        StagedZarr(store, PATH, lost).commit()
    assert {path: store.read(path) for path in store.list(PATH)} == written


def test_stale_array_documents_are_not_believed_and_the_next_change_mends_them(store: Store) -> None:
    committed(staged_at(store), 3)
    stale = store.read(f"{PATH}/x/{ROOT_DOCUMENT}")
    assert stale is not None
    committed(staged_at(store), 6)
    store.write(f"{PATH}/x/{ROOT_DOCUMENT}", stale)
    resumed = zarr.open_group(staged_at(store), mode="r+", use_consolidated=False)
    assert resumed["x"].shape == (6,)  # type: ignore[union-attr]
    assert seen(store) == [1, 2, 3, 4, 5, 6]
    committed(staged_at(store), 7)
    assert zarr.open_array(store.zarr(PATH), path="x", mode="r").shape == (7,)


@pytest.mark.parametrize("damaged", [b"", b"{", b"{}", b'{"consolidated_metadata": null}'])
def test_a_damaged_root_is_refused_by_name_and_not_overwritten(store: Store, damaged: bytes) -> None:
    store.write(f"{PATH}/{ROOT_DOCUMENT}", damaged)
    with pytest.raises(ProductError, match=r"x\.zarr/zarr\.json is damaged .*restore it from a backup"):
        staged_at(store)
    assert store.read(f"{PATH}/{ROOT_DOCUMENT}") == damaged
