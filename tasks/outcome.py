"""What came of a step that may have failed without stopping the flow."""

from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar, cast

from prefect import Flow, Task
from prefect.states import State

from datlstm.nights import Step

FAILED = "**failed**"

R = TypeVar("R")


@dataclass(frozen=True)
class Done:
    """What a step that did not fail says of itself: a line, what a person should look at, and the draft it left."""

    message: str
    problems: tuple[str, ...] = ()
    draft: str | None = None


@dataclass(frozen=True)
class Attempt(Generic[R]):
    """A step that was run to its end, failed or not, and its seconds."""

    state: State[R]
    seconds: float

    def result(self) -> R | None:
        """Return what the step returned, None when it failed."""
        return self.state.result() if self.state.is_completed() else None

    def check(self) -> R:
        """Return what the step returned. Raises what it raised, if it failed."""
        return self.state.result()


def attempt(step: Task[..., R] | Flow[..., R], *arguments: Any) -> Attempt[R]:
    """Run a step; a failure of it stops nothing."""
    started = monotonic()
    # The type of the call does not tell that it gives a state.
    state = cast(State[R], step(*arguments, return_state=True))
    return Attempt(state, monotonic() - started)


def draft_of(attempted: Attempt[Done]) -> str | None:
    """Return the path of the draft that a step left, None when it failed or left none."""
    done = attempted.result()
    return done.draft if done else None


def step_of(attempted: Attempt[Done]) -> Step:
    """Return what is recorded of a step."""
    seconds, done = round(attempted.seconds, 1), attempted.result()
    if done is None:
        error = attempted.state.result(raise_on_failure=False)
        is_error = isinstance(error, BaseException)
        message = str(error) if is_error and str(error) else attempted.state.message or "no reason is known"
        return Step(state="failed", message=message, error=type(error).__name__ if is_error else None, seconds=seconds)
    message = "; ".join([done.message, *done.problems])
    return Step(state="warn" if done.problems else "ok", message=message, seconds=seconds)


def told(attempted: Attempt[str]) -> str:
    """Return in one line what came of a step, failed or not."""
    return attempted.result() or f"{FAILED}: {attempted.state.message}"
