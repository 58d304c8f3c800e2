"""The systemd units are valid, run what exists, and stop as slowly as a training needs."""

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from datlstm.cli import app
from deployments.apply import PROJECT

FOLDER = Path(__file__).parents[2] / "deployments" / "systemd"
UNITS = sorted(FOLDER.iterdir())
PROGRAMS = Path("opt/datlstm/.venv/bin")
BASE_TARGETS = ("basic", "multi-user", "network-online", "shutdown", "sysinit", "timers")


def unit(name: str) -> ConfigParser:
    parsed = ConfigParser(interpolation=None, strict=False, delimiters="=")
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(FOLDER / name)
    return parsed


def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed on this machine")
    installed, own = tmp_path / "etc/systemd/system", tmp_path / "usr/lib/systemd/system"
    shutil.copytree(FOLDER, installed)
    own.mkdir(parents=True)
    for target in BASE_TARGETS:
        (own / f"{target}.target").write_text("[Unit]\nDescription=as every system has it\n")
    (tmp_path / PROGRAMS).mkdir(parents=True)
    for program in ("prefect", "datlstm"):
        (tmp_path / PROGRAMS / program).write_text("#!/bin/sh\n")
        (tmp_path / PROGRAMS / program).chmod(0o755)
    names = [path.name.replace("worker@.", "worker@cpu.").replace("datlstm@.", "datlstm@nightly.") for path in UNITS]
    command = ["systemd-analyze", "verify", f"--root={tmp_path}", *names]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [path.name for path in UNITS if path.suffix == ".service"])
def test_a_unit_runs_without_privileges_on_secrets_from_a_file(name: str) -> None:
    service = unit(name)["Service"]
    assert service["User"] == "datlstm"
    assert service["NoNewPrivileges"] == "yes" and service["ProtectSystem"] == "strict"
    assert service["EnvironmentFile"].startswith("/etc/datlstm/")
    assert service["ExecStart"].split()[0].removeprefix("/") in {f"{PROGRAMS}/prefect", f"{PROGRAMS}/datlstm"}


def test_a_worker_comes_back_and_a_stop_reaches_every_process_and_waits_for_a_checkpoint() -> None:
    service = unit("datlstm-worker@.service")["Service"]
    assert (service["Restart"], service["KillMode"]) == ("always", "control-group")
    assert int(service["TimeoutStopSec"]) >= 120


@pytest.mark.parametrize(
    ("timer", "deployment"), [("nightly", "nightly"), ("validate", "validate"), ("maintain", "maintenance")]
)
def test_the_timers_go_when_the_schedules_do_and_make_up_for_an_outage(timer: str, deployment: str) -> None:
    entries = {entry["name"]: entry for entry in yaml.safe_load(PROJECT.read_text())["deployments"]}
    minute, hour, *_, weekday = entries[deployment]["schedules"][0]["cron"].split()
    calendar = unit(f"datlstm@{timer}.timer")["Timer"]
    day = {"*": "", "0": "Sun "}[weekday]
    assert calendar["OnCalendar"] == f"{day}*-*-* {int(hour):02}:{int(minute):02}:00 UTC"
    assert calendar["Persistent"] == "true"


def test_timers_start_a_verb_of_the_command_line() -> None:
    verbs = [found[1] for path in UNITS if (found := re.fullmatch(r"datlstm@(.+)\.timer", path.name))]
    assert len(verbs) >= 2
    assert set(verbs) <= set(get_command(app).commands)  # type: ignore[attr-defined]
