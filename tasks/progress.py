"""How far long work is, as a progress artifact of its run."""

from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

HUNDRED = 100.0


class Progress:
    """Pieces of work that are done, of ``total``, under the artifact's ``key``; made and moved on within a run."""

    def __init__(self, key: str, description: str, total: int) -> None:
        self._total = max(total, 1)
        self._done = 0
        self._description = description
        # Of the two forms of the function, the one that waits.
        self._id = cast(UUID, create_progress_artifact(0.0, key=key, description=description))

    def advance(self, piece: str) -> None:
        """Tell that a piece is done. A server that does not answer now does not stop the work."""
        self._done += 1
        description = f"{self._description}: {piece} done, {self._done} of {self._total}"
        try:
            update_progress_artifact(self._id, HUNDRED * self._done / self._total, description)
        except (PrefectException, httpx.HTTPError) as error:
            get_run_logger().warning("progress not told (%s): %s", type(error).__name__, description)
