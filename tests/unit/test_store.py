"""One store, its few verbs, its lock, and its compare-and-set."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datlstm import store as store_module
from datlstm.errors import ConflictError, StoreError
from datlstm.store import Store


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


class TestCompareAndSet:
    def test_an_absent_object_has_no_version(self, store_url: str) -> None:
        assert Store(store_url).read_versioned("x") == (None, None)

    def test_each_write_is_on_condition_of_the_one_before(self, store_url: str) -> None:
        store = Store(store_url)
        first = store.write_if("x", b"1", None)
        assert store.read_versioned("x") == (b"1", first)
        second = store.write_if("x", b"2", first)
        assert store.read_versioned("x") == (b"2", second)

    def test_who_did_not_read_the_newest_writes_nothing(self, store_url: str) -> None:
        store = Store(store_url)
        first = store.write_if("x", b"1", None)
        store.write_if("x", b"2", first)
        for stale in (None, first):
            with pytest.raises(ConflictError, match="/x: another writer was first, and nothing .*: run it again"):
                store.write_if("x", b"3", stale)
        assert store.read("x") == b"2"

    def test_what_was_deleted_meanwhile_is_not_written(self, store_url: str) -> None:
        store = Store(store_url)
        first = store.write_if("x", b"1", None)
        store.delete("x")
        with pytest.raises(StoreError):
            store.write_if("x", b"2", first)
        assert store.read("x") is None

    def test_of_many_writers_at_once_one_wins(self, store_url: str) -> None:
        store = Store(store_url)
        version = store.write_if("x", b"0", None)

        def attempt(content: bytes) -> bytes | None:
            try:
                store.write_if("x", content, version)
            except ConflictError:
                return None
            return content

        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(attempt, [f"{i}".encode() for i in range(1, 9)]))
        (winner,) = filter(None, outcomes)
        assert store.read("x") == winner
