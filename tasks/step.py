"""The project's own task decorator."""

import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from datlstm.settings import Settings

# Prefect hands on what the library logs (PREFECT_LOGGING_EXTRA_LOGGERS), but for what its level leaves out.
logging.getLogger("datlstm").setLevel(logging.INFO)

P = ParamSpec("P")
R = TypeVar("R")


def step(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Declare a task of which Prefect caches and stores nothing: a night is idempotent through its stores alone."""
    return task(cache_policy=NO_CACHE, persist_result=False, **options)


def artifact_key(name: str, settings: Settings) -> str:
    """Return the key of an artifact of a region: those of one key are one history to Prefect."""
    return f"{name}-{settings.region.name}"
