"""A writer killed around any write, or not alone: every reader sees one whole state, and the next run repairs."""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import obstore
import pytest
import xarray as xr

from datlstm import lease
from datlstm import store as store_module
from datlstm.errors import StoreError
from datlstm.lease import LEASE_SECONDS
from tests.faults.publisher import FIRST, WRITES, Killed, Mortal, check_whole, cube_at, publish

Attempt = Callable[[Callable[[], object], int | None], int]
ROOT = Path(__file__).parents[2]


class Clock:
    """The time as leases read it, which passes faster after a kill."""

    ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease, "now", clock.now)
    return clock


@pytest.fixture(params=["before", pytest.param("after", marks=pytest.mark.long)])
def attempt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """Run something that dies before, or after, its k-th write (None: lives), and return how many it made."""

    def die() -> None:
        raise Killed

    def run(act: Callable[[], object], dies_at: int | None) -> int:
        mortal = Mortal(dies_at, request.param == "after", die)
        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(obstore, name, mortal.wrap(name))
            if dies_at is None:
                act()
            else:
                with pytest.raises(Killed):
                    act()
        return mortal.writes

    return run


def opened(url: str) -> xr.Dataset:
    """Open lazily: what is read, is read later."""
    state = cube_at(url).open()
    assert state is not None
    return state


def has(url: str, day: date) -> bool:
    state = cube_at(url).open()
    return state is not None and day in state["init_time"].values.astype("datetime64[D]").astype(object)


def test_a_first_publication_killed_around_any_write_is_whole_or_not_there_and_the_next_run_completes_it(
    store_url: str, attempt: Attempt, clock: Clock
) -> None:
    writes = attempt(lambda: publish(f"{store_url}/alive", FIRST, "alive"), None)
    outcomes = []
    for k in range(writes):
        url = f"{store_url}/{k}"
        attempt(lambda url=url: publish(url, FIRST, "killed"), k)  # type: ignore[misc]
        clock.ahead += timedelta(seconds=LEASE_SECONDS)
        was_published = has(url, FIRST)
        outcomes.append(was_published)
        during = cube_at(url).open()
        if not was_published:
            publish(url, FIRST, "next")
        check_whole(opened(url), {FIRST: "killed" if was_published else "next"})
        if during is not None:
            check_whole(during, {FIRST: "killed"})
    assert writes >= 10
    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False and outcomes[-1] is True


def test_a_publication_killed_around_any_write_shows_every_reader_a_whole_state_and_the_next_run_repairs(
    store_url: str, attempt: Attempt, clock: Clock
) -> None:
    for url in (store_url, f"{store_url}/alive"):
        publish(url, FIRST, "first")
    writes = attempt(lambda: publish(f"{store_url}/alive", FIRST + timedelta(days=2), "alive"), None)
    published = {FIRST: "first"}
    readers, outcomes = [(opened(store_url), dict(published))], []
    for k in range(writes):
        day = max(published) + timedelta(days=2)
        attempt(lambda day=day: publish(store_url, day, "killed"), k)  # type: ignore[misc]
        outcomes.append(has(store_url, day))
        if outcomes[-1]:
            published[day] = "killed"
        readers.append((opened(store_url), dict(published)))
        clock.ahead += timedelta(seconds=LEASE_SECONDS)
        # Every other time what the killed writer left lies in a gap.
        next_day = day + timedelta(days=2 * (k % 2))
        if next_day not in published:
            publish(store_url, next_day, "next")
            published[next_day] = "next"
        readers.append((opened(store_url), dict(published)))
    for reader, then in readers:
        check_whole(reader, then)
    check_whole(opened(store_url), published)
    assert len(outcomes) >= 10
    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False and outcomes[-1] is True


def test_right_after_a_kill_on_object_storage_the_next_run_is_told_whose_lease_it_waits_for(
    s3_store_url: str, attempt: Attempt, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    publish(s3_store_url, FIRST, "first")
    attempt(lambda: publish(s3_store_url, FIRST + timedelta(days=1), "killed"), 3)
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0)
    with pytest.raises(StoreError, match=r"/c\.zarr is being written by .*, process \d+ \(lease until"):
        publish(s3_store_url, FIRST + timedelta(days=1), "next")
    check_whole(opened(s3_store_url), {FIRST: "first"})


def child(url: str, days: int, model: str, dies_at: int | None, when: str) -> "subprocess.Popen[str]":
    arguments = [url, str(days), model, "none" if dies_at is None else str(dies_at), when]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.publisher", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def killed_for_real(url: str, dies_at: int, when: str, clock: Clock) -> None:
    publish(url, FIRST, "first")
    before = opened(url)
    process = child(url, 1, "killed", dies_at, when)
    process.communicate(timeout=60)
    assert process.returncode == -9
    day = FIRST + timedelta(days=1)
    published = {FIRST: "first"} | ({day: "killed"} if has(url, day) else {})
    during = opened(url)
    clock.ahead += timedelta(seconds=LEASE_SECONDS)
    if day not in published:
        publish(url, day, "next")
    check_whole(opened(url), {day: "next"} | published)
    check_whole(before, {FIRST: "first"})
    check_whole(during, published)


def test_a_process_killed_for_real_leaves_a_whole_state(store_url: str, clock: Clock) -> None:
    killed_for_real(store_url, 3, "after", clock)


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("dies_at", range(9))
def test_a_process_killed_for_real_around_any_write_leaves_a_whole_state(
    store_url: str, clock: Clock, dies_at: int, when: str
) -> None:
    killed_for_real(store_url, dies_at, when, clock)


def test_two_processes_that_publish_at_once_publish_every_init_once_and_readers_see_whole_states(
    store_url: str,
) -> None:
    publish(store_url, FIRST, "first")
    processes = [child(store_url, 3, model, None, "after") for model in ("one", "two")]
    readers: list[xr.Dataset] = []
    while any(process.poll() is None for process in processes):
        readers.append(opened(store_url))
        time.sleep(0.05)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    final = opened(store_url).load()
    models = [str(text).split(" ")[0] for text in final["model_id"].values]
    assert sorted(models) == ["first", *["one"] * 3, *["two"] * 3]
    published = {FIRST + timedelta(days=i): model for i, model in enumerate(models)}
    check_whole(final, published)
    for reader in readers[:: max(1, len(readers) // 20)]:
        size = reader.sizes["init_time"]
        check_whole(reader, dict(list(published.items())[:size]))
