"""One store, its few verbs, its lock, and the staging that shows a Zarr change in one step."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.storage import MemoryStore, WrapperStore

from datlstm import store as store_module
from datlstm.errors import ProductError, StoreError
from datlstm.store import ROOT_DOCUMENT, StagedZarr, Store


class TestLocation:
    def test_a_path_and_its_url_are_the_same_store(self, tmp_path: Path) -> None:
        folder = tmp_path / "a store, # 1"
        by_path, by_url = Store(str(folder)), Store(folder.as_uri() + "/")
        by_path.write("x/y", b"1")
        assert by_url.read("x/y") == b"1"
        assert by_url.url == by_path.url
        assert Path(by_url.location_of("x/y")).read_bytes() == b"1"

    def test_a_relative_path_is_below_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert Store("data").url_of("x") == (tmp_path / "data" / "x").as_uri()

    def test_on_object_storage_an_analyst_gets_the_url(self) -> None:
        store = Store("s3://bucket/some/prefix/")
        assert not store.is_local
        assert (
            store.location_of("forecast.zarr")
            == store.url_of("forecast.zarr")
            == "s3://bucket/some/prefix/forecast.zarr"
        )

    @pytest.mark.parametrize("url", ["s3://key:hunter2@bucket/prefix", "s3://key@bucket", "gs://key:hunter2@bucket"])
    def test_credentials_in_the_url_are_refused_and_not_repeated(self, url: str) -> None:
        with pytest.raises(StoreError, match="carries credentials") as caught:
            Store(url)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        ["gs://bucket/prefix", "file:///", "/", "file://host/path", "s3:///prefix", "s3://bucket/prefix?token=hunter2"],
    )
    def test_any_other_place_is_refused(self, url: str) -> None:
        with pytest.raises(StoreError, match="expected file:///path or s3://bucket/prefix") as caught:
            Store(url)
        assert "hunter2" not in str(caught.value)


class TestObjects:
    @pytest.fixture
    def store(self, store_url: str) -> Store:
        return Store(store_url)

    def test_an_absent_object_reads_as_none(self, store: Store) -> None:
        assert store.read("nothing/here") is None
        assert store.read_json("nothing.json") is None

    def test_an_object_is_replaced_whole(self, store: Store) -> None:
        store.write("x", b"long content")
        store.write("x", b"short")
        assert store.read("x") == b"short"

    def test_json_round_trips_and_is_the_same_bytes_for_the_same_content(self, store: Store) -> None:
        store.write_json("a.json", {"b": [1, None], "a": "渤海"})
        store.write_json("b.json", {"a": "渤海", "b": [1, None]})
        assert store.read_json("a.json") == {"a": "渤海", "b": [1, None]}
        assert store.read("a.json") == store.read("b.json")

    def test_what_is_not_json_is_named(self, store: Store) -> None:
        store.write("a.json", b"{")
        with pytest.raises(StoreError, match="a.json is not JSON"):
            store.read_json("a.json")

    def test_a_listing_is_sorted_deep_and_bounded_by_the_folder(self, store: Store) -> None:
        for path in ("models/b/x", "models/a/y", "models/a.json", "models-old/z"):
            store.write(path, b"")
        assert store.list("models/") == store.list("models") == ["models/a.json", "models/a/y", "models/b/x"]
        assert store.list("absent") == []

    def test_what_the_filesystem_refuses_is_a_store_error_that_names_the_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("a file where the store's folder should be")
        blocked = Store(str(tmp_path / "file" / "store"))
        for attempt in (lambda: blocked.write("x", b""), lambda: blocked.read("x"), lambda: blocked.list("x")):
            with pytest.raises(StoreError, match="file/store"):
                attempt()


class TestLock:
    HOLDER = """
import sys
from datlstm.store import Store
with Store(sys.argv[1]).writer("archive"):
    print("held", flush=True)
    sys.stdin.read()
"""

    @pytest.fixture
    def holder(self, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        """Another process, holding the archive's lock until it is killed."""
        command = [sys.executable, "-c", self.HOLDER, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
            process.kill()

    def test_a_second_process_is_refused_until_the_first_dies(
        self, holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0.1)
        store = Store(str(tmp_path))
        with pytest.raises(StoreError, match="another process has been writing .*/archive"), store.writer("archive"):
            pass
        with store.writer("forecast.zarr"):
            pass
        holder.kill()
        holder.wait()
        with store.writer("archive"):
            pass

    def test_a_failed_write_gives_the_lock_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0.1)
        store = Store(str(tmp_path))
        with pytest.raises(RuntimeError, match="inside"), store.writer("archive"):
            raise RuntimeError("inside")
        with store.writer("archive"):
            pass

    def test_object_storage_has_no_lock(self) -> None:
        with Store("s3://bucket").writer("archive"), Store("s3://bucket").writer("archive"):
            pass


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


class TestStagedZarr:
    """Each test writes ``x`` of length n with the values 1 … n."""

    @pytest.fixture(params=["memory", "s3"])
    def store(self, request: pytest.FixtureRequest) -> ZarrStore:
        if request.param == "memory":
            return Unlistable(MemoryStore())
        return Unlistable(Store(request.getfixturevalue("s3_store_url")).zarr("x.zarr"))

    @staticmethod
    def stage(store: ZarrStore, length: int) -> StagedZarr:
        """Write everything but the commit."""
        staged = StagedZarr(store)
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

    @staticmethod
    def seen(store: ZarrStore) -> list[int]:
        """Return what a reader of consolidated metadata sees."""
        group = zarr.open_group(store, mode="r", use_consolidated=True)
        values = np.asarray(group["x"][:]).tolist()  # type: ignore[index]
        assert group.attrs["length"] == len(values)
        return values

    def test_nothing_is_there_before_the_first_commit(self, store: ZarrStore) -> None:
        staged = self.stage(store, 3)
        assert StagedZarr(store).is_empty_store
        with pytest.raises(FileNotFoundError):
            zarr.open_group(store, mode="r")
        staged.commit()
        assert not StagedZarr(store).is_empty_store
        assert self.seen(store) == [1, 2, 3]

    def test_a_reader_sees_the_old_whole_state_until_commit(self, store: ZarrStore) -> None:
        self.stage(store, 3).commit()
        staged = self.stage(store, 6)
        assert self.seen(store) == [1, 2, 3]
        staged.commit()
        assert self.seen(store) == [1, 2, 3, 4, 5, 6]

    def test_an_abandoned_change_is_gone_for_the_next_writer(self, store: ZarrStore) -> None:
        self.stage(store, 3).commit()
        self.stage(store, 9)
        assert StagedZarr(store).is_empty_store is False
        resumed = zarr.open_group(StagedZarr(store), mode="r+", use_consolidated=False)
        assert resumed["x"].shape == (3,)  # type: ignore[union-attr]
        self.stage(store, 4).commit()
        assert self.seen(store) == [1, 2, 3, 4]

    def test_a_first_write_abandoned_before_commit_can_be_made_again(self, store: ZarrStore) -> None:
        self.stage(store, 9)
        self.stage(store, 2).commit()
        assert self.seen(store) == [1, 2]

    def test_stale_array_documents_are_not_believed(self, store_url: str) -> None:
        backing = Store(store_url)
        self.stage(backing.zarr("x.zarr"), 3).commit()
        stale = backing.read(f"x.zarr/x/{ROOT_DOCUMENT}")
        assert stale is not None
        self.stage(backing.zarr("x.zarr"), 6).commit()
        backing.write(f"x.zarr/x/{ROOT_DOCUMENT}", stale)
        resumed = zarr.open_group(StagedZarr(backing.zarr("x.zarr")), mode="r+", use_consolidated=False)
        assert resumed["x"].shape == (6,)  # type: ignore[union-attr]
        assert self.seen(backing.zarr("x.zarr")) == [1, 2, 3, 4, 5, 6]
        self.stage(backing.zarr("x.zarr"), 7).commit()
        assert zarr.open_array(backing.zarr("x.zarr"), path="x", mode="r").shape == (7,)

    @pytest.mark.parametrize("damaged", [b"", b"{", b"{}", b'{"consolidated_metadata": null}'])
    def test_a_damaged_root_is_refused_and_not_overwritten(self, store_url: str, damaged: bytes) -> None:
        store = Store(store_url)
        store.write(f"x.zarr/{ROOT_DOCUMENT}", damaged)
        with pytest.raises(ProductError, match="damaged .*restore it from a backup"):
            StagedZarr(store.zarr("x.zarr"))
        assert store.read(f"x.zarr/{ROOT_DOCUMENT}") == damaged
