"""Logs as JSON lines: one object each, with what is known of the run, from Prefect's loggers and the library's."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datlstm import logs
from datlstm.logs import JsonLines, label

ROOT = Path(__file__).parents[2]
LIBRARY_LINE = """
import logging
from datlstm.logs import label
label(flow_run_name="bohai, night of 2026-08-21", region="bohai", date="2026-08-21")
logging.getLogger("datlstm.ladder").warning("the input is\\n%d days old", 3)
"""
COMMAND = "from datlstm.logs import write_json; write_json()" + LIBRARY_LINE
FLOW_RUN = (
    "import tasks.step"
    + LIBRARY_LINE
    + """
from prefect.logging import get_logger
get_logger("prefect.flow_runs").info("begun", extra={"flow_run_name": "bohai, night of 2026-08-21"})
"""
)


def lines_of(program: str, tmp_path: Path, **variables: str) -> list[dict[str, str]]:
    """What a program of its own writes to standard error."""
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_TO_API_ENABLED": "false", **variables}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, b""), ran.stderr.decode()
    return [json.loads(line) for line in ran.stderr.splitlines()]


def test_a_command_writes_what_the_library_logs_as_one_object_a_line(tmp_path: Path) -> None:
    (line,) = lines_of(COMMAND, tmp_path)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "datlstm.ladder",
        "message": "the input is\n3 days old",
        "flow_run_name": "bohai, night of 2026-08-21",
        "region": "bohai",
        "date": "2026-08-21",
    }


def test_prefect_with_the_shipped_file_writes_its_own_lines_and_the_librarys_alike(tmp_path: Path) -> None:
    shipped = ROOT / "deployments" / "logging-json.yaml"
    variables = {"PREFECT_LOGGING_SETTINGS_PATH": str(shipped), "PREFECT_LOGGING_EXTRA_LOGGERS": "datlstm"}
    library, run = lines_of(FLOW_RUN, tmp_path, **variables)
    assert (library["logger"], library["region"]) == ("datlstm.ladder", "bohai")
    assert (run["message"], run["flow_run_name"]) == ("begun", "bohai, night of 2026-08-21")


def test_an_error_brings_its_traceback_within_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_labels", {})
    label(region="bohai")
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("datlstm", logging.ERROR, __file__, 1, "failed", None, sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    document = json.loads(line)
    assert document["region"] == "bohai"
    assert "ValueError: broken" in document["error"]
