"""Waiting for a source: how long, how often, until when, and when not at all."""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from datlstm.errors import GridError, NotYetAvailableError, PermanentSourceError, SourceError, TransientSourceError
from datlstm.patience import JITTER, deadline_of, patiently
from datlstm.settings import RetrySettings

if TYPE_CHECKING:
    from tests.unit.conftest import Clock

RETRY = RetrySettings(attempts=6, first_wait_seconds=30, longest_wait_seconds=240, poll_minutes=15, deadline_hours=12)
TONIGHT = date(2023, 6, 15)
POLL_SECONDS = 15 * 60
DOWN, LATE = TransientSourceError("the line is down"), NotYetAvailableError("not there yet")


def failing(*errors: Exception) -> Callable[[], str]:
    """Return what raises the given errors one by one, and then succeeds."""
    left = list(errors)

    def act() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return act


def always(error: Exception) -> Callable[[], str]:
    def act() -> str:
        raise error

    return act


def test_what_succeeds_is_returned_without_waiting(clock: "Clock") -> None:
    assert patiently(failing(), RETRY, clock.now()) == "done"
    assert clock.waits == []


def test_failures_that_may_pass_are_waited_out_exponentially_up_to_the_longest_wait(clock: "Clock") -> None:
    assert patiently(failing(*[DOWN] * 5), RETRY, clock.now()) == "done"
    for wait, expected in zip(clock.waits, [30, 60, 120, 240, 240], strict=True):
        assert JITTER[0] * expected <= wait <= JITTER[1] * expected


def test_services_that_failed_together_do_not_come_back_together(clock: "Clock") -> None:
    for _ in range(5):
        patiently(failing(DOWN), RETRY, clock.now())
    assert len(set(clock.waits)) == 5


def test_after_as_many_failures_in_a_row_as_there_are_attempts_the_failure_is_raised(clock: "Clock") -> None:
    with pytest.raises(TransientSourceError, match="the line is down"):
        patiently(always(DOWN), RETRY, clock.now())
    assert len(clock.waits) == RETRY.attempts - 1


def test_an_answer_in_between_starts_the_count_of_failures_anew(clock: "Clock") -> None:
    act = failing(*[DOWN] * 5, LATE, *[DOWN] * 5)
    assert patiently(act, RETRY, clock.now() + timedelta(hours=3)) == "done"
    assert clock.waits[5] == POLL_SECONDS
    assert JITTER[0] * 30 <= clock.waits[6] <= JITTER[1] * 30


def test_days_not_there_yet_are_asked_for_until_the_deadline_and_not_past_it(clock: "Clock") -> None:
    deadline = deadline_of(TONIGHT, RETRY)
    with pytest.raises(NotYetAvailableError, match="not there yet"):
        patiently(always(LATE), RETRY, deadline)
    assert clock.waits == [POLL_SECONDS] * 7 * 4
    assert clock.now() == deadline == datetime(2023, 6, 15, 12, tzinfo=UTC)


def test_days_that_come_in_time_are_taken(clock: "Clock") -> None:
    assert patiently(failing(LATE, LATE, LATE), RETRY, deadline_of(TONIGHT, RETRY)) == "done"
    assert clock.waits == [POLL_SECONDS] * 3


@pytest.mark.parametrize("night", [date(2023, 6, 16), date(2024, 1, 1), date(2023, 6, 14), date(1990, 1, 1)])
def test_a_night_to_come_or_gone_is_asked_for_once(clock: "Clock", night: date) -> None:
    with pytest.raises(NotYetAvailableError):
        patiently(always(LATE), RETRY, deadline_of(night, RETRY))
    assert clock.waits == []


def test_a_replayed_night_still_waits_for_the_line_to_come_back(clock: "Clock") -> None:
    assert patiently(failing(DOWN, DOWN), RETRY, deadline_of(date(1990, 1, 1), RETRY)) == "done"
    assert len(clock.waits) == 2


@pytest.mark.parametrize(
    "error",
    [PermanentSourceError("no such dataset"), SourceError("odd"), GridError("elsewhere"), KeyError("a bug")],
    ids=lambda error: type(error).__name__,
)
def test_what_waiting_cannot_mend_is_raised_at_once(clock: "Clock", error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        patiently(failing(DOWN, error), RETRY, clock.now())
    assert raised.value is error
    assert len(clock.waits) == 1


def test_each_wait_is_told_with_its_cause_and_length(clock: "Clock", caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        patiently(failing(LATE, DOWN), RETRY, deadline_of(TONIGHT, RETRY))
    assert caplog.messages == [
        "not there yet. Next attempt in 900 s",
        f"the line is down. Next attempt in {clock.waits[1]:.0f} s",
    ]
