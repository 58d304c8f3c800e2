"""Logs as one JSON object a line, for machines that collect them.

A worker and its flow runs write them with ``deployments/logging-json.yaml``, commands with ``logs.format = "json"``.
"""

import json
import logging
from datetime import UTC, datetime

RUN_FIELDS = ("flow_run_name", "flow_run_id", "task_run_name")
"""What Prefect's run loggers add to their records."""

_labels: dict[str, str] = {}


class JsonLines(logging.Formatter):
    """Formats a record as one line: ``time``, ``level``, ``logger``, ``message``, and what is known of the run.

    That is `RUN_FIELDS` as far as the record has them, the labels of `label`, and ``error`` with the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_labels,
            **{name: str(getattr(record, name)) for name in RUN_FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


def label(**labels: str) -> None:
    """Add to every later line of this process what run it belongs to, for example region and date."""
    _labels.update(labels)


def write_json() -> None:
    """Let every logger of this process write JSON lines to standard error, Prefect's too once it is imported."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("datlstm").setLevel(logging.INFO)
