"""What passes between a client and the store: a request, and an answer with the faults of its way."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One HTTP request as it reached the store; ``host`` without a port, ``path`` decoded and without its query."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, and what the network does to it on its way.

    ``wait_seconds`` pass before its first byte; the body then comes at ``bytes_per_second``, or at once; the
    connection is dropped after ``sent_bytes`` of the body, although its whole length was announced, or never.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/octet-stream"
    wait_seconds: float = 0.0
    bytes_per_second: float | None = None
    sent_bytes: int | None = None
