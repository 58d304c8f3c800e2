"""A lease on object storage: one holder at a time, kept while it lives, taken over once it is dead."""

import pickle
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from datlstm import lease
from datlstm import store as store_module
from datlstm.doctor import examine
from datlstm.errors import ConflictError, StoreError
from datlstm.lease import LEASE_SECONDS, MARGIN_SECONDS, RENEW_SECONDS, Claim, check_conditional_writes
from datlstm.settings import Settings
from datlstm.store import LOCK_TIMEOUT_SECONDS, Store

OBJECT = ".leases/cube.json"


class Clock:
    """A clock that tests may move on."""

    ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease, "now", clock.now)
    return clock


@pytest.fixture
def store(s3_store_url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on object storage, whose takers have no patience."""
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0)
    return Store(s3_store_url)


def claim(store: Store) -> Claim:
    content = store.read(OBJECT)
    assert content is not None
    return Claim.model_validate_json(content)


def leave_behind(store: Store, expires_at: datetime) -> None:
    """Leave the lease of a holder that was killed."""
    content = Claim(holder="elsewhere, process 7", key="k", expires_at=expires_at).model_dump_json().encode()
    store.write_if(OBJECT, content, store.read_versioned(OBJECT)[1])


def test_a_second_writer_is_refused_and_told_who_writes_and_until_when(store: Store) -> None:
    with store.writer("cube"):
        held = claim(store)
        with pytest.raises(StoreError) as refused, store.writer("cube"):
            pass
        with store.writer("other"):
            pass
    assert f"/cube is being written by {held.holder} (lease until {held.expires_at:%H:%M:%S} UTC" in str(refused.value)
    assert "wait for it, or stop it, then run this again" in str(refused.value)


def test_a_lease_is_given_back_after_success_and_after_failure(store: Store) -> None:
    with store.writer("cube"):
        pass
    with pytest.raises(RuntimeError, match="inside"), store.writer("cube"):
        raise RuntimeError("inside")
    with store.writer("cube"):
        pass


def test_of_many_writers_one_writes_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 30)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    inside = threading.Lock()

    def write(_: int) -> None:
        with store.writer("cube"):
            assert inside.acquire(blocking=False)
            time.sleep(0.02)
            inside.release()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(8)))


def test_the_lease_of_a_dead_holder_is_taken_over_when_it_ends_and_not_before(store: Store, clock: Clock) -> None:
    leave_behind(store, clock.now() + timedelta(seconds=LEASE_SECONDS))
    with pytest.raises(StoreError, match="written by elsewhere, process 7"), store.writer("cube"):
        pass
    clock.ahead = timedelta(seconds=LEASE_SECONDS)
    with store.writer("cube") as confirm:
        confirm()
        assert claim(store).holder != "elsewhere, process 7"


def test_who_comes_right_after_a_kill_waits_the_lease_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LOCK_TIMEOUT_SECONDS > LEASE_SECONDS > MARGIN_SECONDS + RENEW_SECONDS
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 5)
    leave_behind(store, datetime.now(UTC) + timedelta(seconds=0.5))
    with store.writer("cube") as confirm:
        confirm()


def test_a_living_holder_keeps_its_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    with store.writer("cube") as confirm:
        first = claim(store)
        time.sleep(0.3)
        assert claim(store).expires_at > first.expires_at
        assert claim(store).key == first.key
        confirm()


def test_a_holder_that_slept_writes_no_more_before_another_may_take_over(store: Store, clock: Clock) -> None:
    with store.writer("cube") as confirm:
        clock.ahead = timedelta(seconds=LEASE_SECONDS - MARGIN_SECONDS)
        with pytest.raises(ConflictError, match="/cube: this writer lost its lease .*: run it again"):
            confirm()


def test_a_holder_whose_lease_was_taken_over_says_so_and_leaves_it_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    with store.writer("cube") as confirm:
        while claim(store).key != "k":
            try:
                leave_behind(store, datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS))
            except ConflictError:
                continue
        time.sleep(0.2)
        with pytest.raises(ConflictError, match="lost its lease"):
            confirm()
    assert claim(store).key == "k"
    assert "had passed to another writer" in caplog.text


def test_a_holder_that_cannot_renew_goes_on_until_the_margin_and_warns(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)

    def unreachable(*_: object) -> str:
        raise StoreError("the server does not answer")

    with store.writer("cube") as confirm:
        monkeypatch.setattr(store, "write_if", unreachable)
        time.sleep(0.2)
        confirm()
        clock.ahead = timedelta(seconds=LEASE_SECONDS)
        with pytest.raises(ConflictError, match="lost its lease"):
            confirm()
    assert "was not renewed, trying again: the server does not answer" in caplog.text
    assert "was not given back and ends by itself" in caplog.text


def test_an_answer_lost_on_its_way_is_not_taken_for_another_writer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_if = store.write_if

    def write_and_lose_the_answer(path: str, content: bytes, version: str | None) -> str:
        written = write_if(path, content, version)
        if path == OBJECT:
            raise ConflictError("the client tried again and met its own write")
        return written

    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(store, "write_if", write_and_lose_the_answer)
    with store.writer("cube") as confirm:
        first = claim(store)
        time.sleep(0.2)
        confirm()
        assert claim(store).expires_at > first.expires_at


@pytest.mark.parametrize("content", [b"", b"{}", b'{"holder": 1}'])
def test_what_is_not_a_lease_is_named(store: Store, content: bytes) -> None:
    store.write(OBJECT, content)
    with pytest.raises(StoreError, match=r"/\.leases/cube\.json is not a lease: delete it"), store.writer("cube"):
        pass
    assert store.read(OBJECT) == content


def test_a_proof_of_conditional_writes_leaves_nothing(store_url: str) -> None:
    check_conditional_writes(Store(store_url))
    assert [path for path in Store(store_url).list("") if not path.startswith(".locks/")] == []


class Careless(BaseHTTPRequestHandler):
    """An S3 server that honours none of the conditional headers in ``ignored``."""

    objects: dict[str, bytes]
    ignored: tuple[str, ...]

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        is_there = self.path in self.objects
        refused = (self.headers["If-None-Match"] == "*" and is_there and "If-None-Match" not in self.ignored) or (
            self.headers["If-Match"] is not None and "If-Match" not in self.ignored
        )
        if not refused:
            self.objects[self.path] = content
        self._answer(412 if refused else 200)

    def do_GET(self) -> None:
        self._answer(*((200, self.objects[self.path]) if self.path in self.objects else (404,)))

    def do_POST(self) -> None:
        """Delete several objects."""
        (key,) = re.findall(rb"<Key>.*</Key>", self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(200, b"<DeleteResult><Deleted>" + key + b"</Deleted></DeleteResult>")

    def _answer(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (("ETag", '"e"'), ("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(params=[("If-None-Match", "If-Match"), ("If-None-Match",), ("If-Match",)], ids="+".join)
def careless_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    handler = type("Handler", (Careless,), {"objects": {}, "ignored": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(key, "any")
        yield "s3://bucket/prefix"
        server.shutdown()
        thread.join()


def test_a_server_that_ignores_conditional_writes_gets_no_writer(careless_url: str) -> None:
    for _ in range(2):
        with pytest.raises(StoreError, match="ignores conditional writes"), Store(careless_url).writer("cube"):
            pass


def test_the_doctor_finds_a_server_that_ignores_conditional_writes(careless_url: str, settings: Settings) -> None:
    checks = {check.name: check for check in examine(settings.replace(store=careless_url), datetime.now(UTC).date())}
    assert checks["store"].state == "fail"
    assert "ignores conditional writes" in checks["store"].message


def test_a_copy_of_the_right_to_write_follows_the_renewals_of_the_original(store: Store, clock: Clock) -> None:
    with lease.hold(store, "cube", 0) as confirm:
        copy = pickle.loads(pickle.dumps(confirm))  # noqa: S301, as it reaches a worker of a cluster
        clock.ahead = timedelta(seconds=LEASE_SECONDS - MARGIN_SECONDS + 5)
        original = confirm.__self__  # type: ignore[attr-defined]
        original._renew()
        copy()
        clock.ahead += timedelta(seconds=LEASE_SECONDS)
        with pytest.raises(ConflictError, match="lost its lease"):
            copy()
    leave_behind(store, datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(ConflictError, match="lost its lease"):
        copy()
