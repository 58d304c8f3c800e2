"""What came of a step that may have failed without stopping the flow."""

from typing import TypeVar

from prefect.states import State

R = TypeVar("R")


def result_of(state: State[R]) -> R | None:
    """Return what a step returned, None when it failed."""
    return state.result() if state.is_completed() else None


def told(state: State[str]) -> str:
    """Return in one line what came of a step, failed or not."""
    return state.result() if state.is_completed() else f"**failed**: {state.message}"
