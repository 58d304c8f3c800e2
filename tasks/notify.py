"""Telling others of a night: the operator through a Prefect block, a dead man's switch over HTTP.

Neither may fail a night or keep it long, and their addresses are secrets: what goes wrong is told without them.
"""

import logging
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from threading import Thread
from typing import Any, cast

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.logging import get_run_logger

from datlstm.night_report import notice
from datlstm.settings import Settings
from datlstm.status import Status

LIMIT_SECONDS = 20.0
SOCKET_SECONDS = 10.0

# Each request is a line with its address at INFO.
for name in ("httpx", "httpcore", "apprise"):
    logging.getLogger(name).setLevel(logging.WARNING)


def tell_others(settings: Settings, status: Status) -> list[str]:
    """Tell of the newest night of a status as the settings say, and return what could not be told, a line each."""
    problems = []
    told, block, heartbeat = notice(status), settings.notify.block, settings.notify.heartbeat_url
    if told is not None and block is not None:
        problems += _within_limit(
            f"notification through block {block!r}: correct it, or notify.block",
            lambda: _notify(block, *told),
        )
    if heartbeat is not None:
        url = heartbeat.get_secret_value().rstrip("/") + ("/fail" if status.nights[0].failed else "")
        problems += _within_limit("heartbeat: correct DATLSTM_NOTIFY__HEARTBEAT_URL", lambda: _ask(url))
    for problem in problems:
        get_run_logger().error("%s", problem)
    return problems


def _notify(slug: str, subject: str, body: str) -> None:
    block: Any = Block.load(slug)
    if not isinstance(block, NotificationBlock):
        raise TypeError("not a notification block")
    # Those of Apprise otherwise fail in silence.
    raising = block.raise_on_failure() if hasattr(block, "raise_on_failure") else nullcontext()
    with raising:
        cast(Any, block).notify(body, subject)


def _ask(url: str) -> None:
    with urllib.request.urlopen(url, timeout=SOCKET_SECONDS):
        pass


def _within_limit(what: str, act: Callable[[], None]) -> list[str]:
    """Run ``act`` for `LIMIT_SECONDS` at most; return nothing when it succeeded, else one line."""
    failures = [f"not sent within {LIMIT_SECONDS:g} s"]

    def run() -> None:
        try:
            act()
        except Exception as error:  # of any kind, and never with its text, which may hold the address
            failures[:] = [_without_address(error)]
        else:
            failures.clear()

    # A pool's thread would keep the process from ending while it hangs.
    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS)
    return [f"{failure} ({what})" for failure in failures[:1]]


def _without_address(error: Exception) -> str:
    response = getattr(error, "response", error)
    status = getattr(response, "status_code", getattr(response, "code", None))
    return f"not sent, {type(error).__name__}" + (f" {status}" if isinstance(status, int) else "")
