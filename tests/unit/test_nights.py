"""The record of a night: when it is replaced, what it says of attempts, and what a row of them tells."""

from datetime import date, timedelta

import pytest

from datlstm.errors import ProductError
from datlstm.nights import Night, Step, failed_in_a_row, needs_of, read_night, recent_nights, save_night, troubled_since
from datlstm.settings import Settings
from datlstm.store import Store
from tests.night_records import NIGHT, failed, night_of

PATH = f"nights/{NIGHT}.json"


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store)


def test_a_record_is_read_back_as_it_was_written(store: Store) -> None:
    assert read_night(store, NIGHT) is None
    night = night_of(ingest=failed(), needs=["ingest: wait"])
    assert save_night(store, night) == night == (read := read_night(store, NIGHT))
    assert read is not None and list(read.steps) == ["ingest", "forecast", "scores", "publish"]


def test_a_good_record_stands_while_the_night_comes_to_the_same_outcome(store: Store) -> None:
    save_night(store, night_of())
    before = store.read(PATH)
    again = night_of(minutes=90, ingest=Step(state="ok", message="0 days added", seconds=1.0))
    assert save_night(store, again) == again
    assert store.read(PATH) == before


@pytest.mark.parametrize(
    "other",
    [
        night_of(scores=failed()),
        night_of(ingest=Step(state="warn", message="nothing new", seconds=1.0)),
        night_of(needs=["champion: none"]),
        night_of().model_copy(update={"forecast": None}),
    ],
    ids=["a step failed", "a step warns", "a person is needed", "no forecast"],
)
def test_another_outcome_replaces_a_good_record_and_counts_from_one(store: Store, other: Night) -> None:
    save_night(store, night_of())
    save_night(store, other)
    assert read_night(store, NIGHT) == other


def test_a_failed_record_is_replaced_by_every_later_run_which_counts_the_attempts(store: Store) -> None:
    save_night(store, night_of(ingest=failed()))
    assert save_night(store, night_of(ingest=failed(), minutes=30)).attempts == 2
    save_night(store, night_of(minutes=60))
    mended = read_night(store, NIGHT)
    assert mended is not None
    assert (mended.state, mended.attempts) == ("ok", 3)


@pytest.mark.parametrize("content", [b"{", b'{"format_version": 2}'], ids=["torn", "another format"])
def test_a_damaged_record_is_named_with_its_remedy_and_mended_by_the_next_run(store: Store, content: bytes) -> None:
    store.write(PATH, content)
    with pytest.raises(ProductError, match=f"{PATH} is damaged or of another format.*: delete it"):
        recent_nights(store, NIGHT)
    save_night(store, night_of())
    assert read_night(store, NIGHT) == night_of()


def test_the_newest_thirty_up_to_a_day_are_read_newest_first(store: Store) -> None:
    days = [NIGHT - timedelta(days=i) for i in range(33)]
    for day in days:
        save_night(store, night_of(day))
    store.write("nights/notes.txt", b"not a night")
    assert [night.night for night in recent_nights(store, NIGHT - timedelta(days=1))] == days[1:31]


def test_a_night_is_as_bad_as_its_worst_step_and_without_forecast_when_that_or_publishing_failed() -> None:
    warned = night_of(ingest=Step(state="warn", message="late", seconds=1.0))
    assert [night.state for night in (night_of(), warned, night_of(scores=failed()))] == ["ok", "warn", "failed"]
    went_out = {name: night_of(**{name: failed()}).went_out for name in ("ingest", "forecast", "scores", "publish")}
    assert went_out == {"ingest": True, "forecast": False, "scores": True, "publish": False}


def row(*bad: bool) -> list[Night]:
    return [night_of(NIGHT - timedelta(days=i), **({"ingest": failed()} if b else {})) for i, b in enumerate(bad)]


def test_failures_in_a_row_end_at_the_first_good_night() -> None:
    assert [failed_in_a_row(row(*bad)) for bad in ((), (False, True), (True, True, False, True))] == [0, 0, 2]


def test_what_may_pass_needs_a_person_from_the_second_night_on() -> None:
    nights = [night_of(NIGHT - timedelta(days=i), ingest=failed(error="TransientSourceError")) for i in range(2)]
    assert needs_of([]) == needs_of(nights[1:]) == []
    assert needs_of(nights) == ["ingest: the server hung: wait (2 nights failed in a row)"]
    assert needs_of([night_of(ingest=failed())]) == ["ingest: the server hung: wait"]


def test_trouble_began_with_the_first_night_of_the_row_that_failed_or_needed_a_person() -> None:
    yesterday = NIGHT - timedelta(days=1)
    assert troubled_since([night_of()]) is None
    nights = [night_of(ingest=failed()), night_of(yesterday, needs=["look"]), night_of(date(2024, 6, 1))]
    assert troubled_since(nights) == yesterday
