"""The project's own task decorator."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

P = ParamSpec("P")
R = TypeVar("R")


def step(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Declare a task without Prefect's input-hashing cache: a night is idempotent through its stores alone."""
    return task(cache_policy=NO_CACHE, **options)
