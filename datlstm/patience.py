"""Waiting for a source: failures that may pass are tried again, days not there yet are asked for until a deadline."""

import logging
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeVar

import tenacity

from datlstm.clock import now
from datlstm.errors import NotYetAvailableError, TransientSourceError
from datlstm.settings import RetrySettings

R = TypeVar("R")

JITTER = (0.75, 1.25)
"""So that many services that failed together do not come back together."""

log = logging.getLogger(__name__)


def deadline_of(night: date, settings: RetrySettings) -> datetime:
    """Return until when a night waits for its days. For a night that has not come there is nothing to wait for."""
    midnight = datetime.combine(night, time.min, UTC)
    return midnight + timedelta(hours=settings.deadline_hours) if midnight <= now() else now()


def patiently(act: Callable[[], R], settings: RetrySettings, deadline: datetime) -> R:
    """Return what ``act`` returns, calling it again as long as that may help.

    After a `TransientSourceError` it waits exponentially longer, give or take a random part, and gives up after
    ``settings.attempts`` of them in a row; after a `NotYetAvailableError` it asks every ``settings.poll_minutes`` and
    gives up when the next time would be past the deadline. Then, and for any other error at once, the error is raised.
    """
    wait = _Wait(settings, deadline)
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((TransientSourceError, NotYetAvailableError)),
        after=wait.count,
        wait=wait.seconds,
        stop=wait.is_over,
        before_sleep=_tell,
        reraise=True,
    )(act)


class _Wait:
    """Counts failures, because polls in between start their count anew."""

    def __init__(self, settings: RetrySettings, deadline: datetime) -> None:
        self._settings = settings
        self._deadline = deadline
        self._failures = 0

    def count(self, state: tenacity.RetryCallState) -> None:
        self._failures = 0 if _is_not_yet(state) else self._failures + 1

    def is_over(self, state: tenacity.RetryCallState) -> bool:
        if _is_not_yet(state):
            return now() + timedelta(minutes=self._settings.poll_minutes) > self._deadline
        return self._failures >= self._settings.attempts

    def seconds(self, state: tenacity.RetryCallState) -> float:
        if _is_not_yet(state):
            return self._settings.poll_minutes * 60
        growing = self._settings.first_wait_seconds * 2.0 ** (self._failures - 1)
        return min(growing, self._settings.longest_wait_seconds) * random.uniform(*JITTER)


def _is_not_yet(state: tenacity.RetryCallState) -> bool:
    return state.outcome is not None and isinstance(state.outcome.exception(), NotYetAvailableError)


def _tell(state: tenacity.RetryCallState) -> None:
    assert state.outcome is not None
    assert state.next_action is not None
    log.warning("%s. Next attempt in %.0f s", state.outcome.exception(), state.next_action.sleep)
