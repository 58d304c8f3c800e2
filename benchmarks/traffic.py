"""What a piece of work asks of its store, and where its seconds go.

Requests are counted in this process, where they leave it: those of `obstore`, which Zarr and the service write and read
through, not those that Icechunk makes by itself.
"""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import obstore

VERBS = {
    "put": "PUT",
    "put_async": "PUT",
    "get": "GET",
    "get_async": "GET",
    "get_range_async": "GET",
    "head_async": "HEAD",
    "delete": "DELETE",
    "delete_async": "DELETE",
    "list": "LIST",
    "list_with_delimiter_async": "LIST",
}

Target = tuple[Any, str]
"""An object and the name of its attribute that is called."""


class Request(NamedTuple):
    """One request: its verb, the object, the bytes that it moved, and when it was over, as `time.perf_counter`."""

    verb: str
    path: str
    size: int
    ended_at: float


@contextmanager
def recorded() -> Iterator[list[Request]]:
    """Give a list to which every request of this process is added when it is over, refused ones with size 0."""
    requests: list[Request] = []
    with ExitStack() as stack:
        for name, verb in VERBS.items():
            stack.enter_context(patch.object(obstore, name, _recording(getattr(obstore, name), verb, requests)))
        yield requests


@contextmanager
def clocked(parts: dict[str, Sequence[Target]], clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Give the seconds of a clock spent in the calls of each part, without those of other parts called inside it."""
    seconds: dict[str, float] = defaultdict(float)
    inside = [0.0]
    with ExitStack() as stack:
        for part, targets in parts.items():
            for owner, name in targets:
                stack.enter_context(
                    patch.object(owner, name, _timed(getattr(owner, name), part, clock, seconds, inside))
                )
        yield seconds


def _timed(
    function: Callable[..., Any], part: str, clock: Callable[[], float], seconds: dict[str, float], inside: list[float]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*given: Any, **named: Any) -> Any:
        start = clock()
        inside.append(0.0)
        try:
            return function(*given, **named)
        finally:
            took = clock() - start
            seconds[part] += took - inside.pop()
            inside[-1] += took

    return timed


def _recording(function: Callable[..., Any], verb: str, requests: list[Request]) -> Callable[..., Any]:
    def note(store: Any, given: tuple[Any, ...], answer: Any) -> None:
        path = f"{store.prefix or ''}/{given[0] if given else ''}"
        requests.append(Request(verb, path, _size(verb, given, answer), time.perf_counter()))

    @functools.wraps(function)
    async def asynchronous(store: Any, *given: Any, **named: Any) -> Any:
        answer = None
        try:
            answer = await function(store, *given, **named)
        finally:
            note(store, given, answer)
        return answer

    @functools.wraps(function)
    def synchronous(store: Any, *given: Any, **named: Any) -> Any:
        answer = None
        try:
            answer = function(store, *given, **named)
        finally:
            note(store, given, answer)
        return answer

    # Those written in Rust do not say that they are coroutines.
    return asynchronous if function.__name__.endswith("_async") else synchronous


def _size(verb: str, given: tuple[Any, ...], answer: Any) -> int:
    if answer is None:
        return 0
    if verb == "PUT":
        return memoryview(given[1]).nbytes
    if verb == "GET":
        return int(answer.meta["size"]) if hasattr(answer, "meta") else memoryview(answer).nbytes
    return 0
