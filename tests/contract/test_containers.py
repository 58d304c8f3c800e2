"""Images and compose file hold to their schemas and rules, as far as that shows without a container engine."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.apply import POOLS

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deployments" / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile*"))
COMPOSE = ROOT / "deployments" / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
SCRIPTS = Path(sysconfig.get_path("scripts"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with their arguments, each on one line."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


def commands() -> list[list[str]]:
    """Every command that an image or a service of ours runs, those of workers once."""
    ours = [s["command"] for s in SERVICES.values() if s["image"].startswith("datlstm:") and "command" in s]
    ours += [json.loads(rest) for path in DOCKERFILES for word, rest in instructions(path) if word == "CMD"]
    return [list(words) for words in sorted({tuple(word for word in command if word not in POOLS) for command in ours})]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_breaks_no_rule_of_hadolint(path: Path) -> None:
    done = subprocess.run([SCRIPTS / "hadolint", "--no-color", path], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_nobody_special_in_exec_form_and_adds_nothing_from_the_network(path: Path) -> None:
    found = instructions(path)
    words = [word for word, _ in found]
    assert [rest for word, rest in found if word == "USER"][-1] == "10001"
    assert "ADD" not in words
    assert all(rest.startswith("[") for word, rest in found if word in ("CMD", "ENTRYPOINT"))
    assert all("--no-cache-dir" in rest for word, rest in found if word == "RUN" and "pip install" in rest)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_copies_exists_and_reaches_the_builder(path: Path) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in let_in)
    for word, rest in instructions(path):
        if word == "COPY":
            assert all(source == "." or source in let_in for source in rest.split()[:-1])


def test_both_images_have_the_same_torch_which_is_the_tested_one() -> None:
    tested = re.search(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tested is not None
    assert re.findall(r"torch==([\d.]+)\+cu\d+", (DOCKER / "Dockerfile.gpu").read_text()) == [tested[1]]


def test_the_compose_file_follows_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_pinned_image_restarts_and_waits_for_services_that_can_say_they_are_ready(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":(?!latest)[\w.-]+$", service["image"])
    assert service["restart"] in ("unless-stopped", "on-failure:3")
    for other, how in service.get("depends_on", {}).items():
        assert how["condition"] in ("service_healthy", "service_completed_successfully")
        assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


def test_workers_start_after_the_deployments_are_made_and_have_the_time_to_save_a_checkpoint() -> None:
    workers = {name: service for name, service in SERVICES.items() if name.startswith("worker-")}
    assert set(workers) == {"worker-cpu", "worker-gpu"}
    for service in workers.values():
        assert service["depends_on"]["setup"] == {"condition": "service_completed_successfully"}
        assert service["stop_grace_period"] == "2m"
    (device,) = workers["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_every_variable_that_compose_asks_for_is_in_the_example_and_git_leaves_the_filled_in_one_out() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))
    environments = [service.get("environment", {}) for service in SERVICES.values()]
    passed = {name for environment in environments for name, value in environment.items() if value is None}
    example = (ROOT / "deployments" / ".env.example").read_text()
    offered = set(re.findall(r"^(?:# )?([A-Z_]+)=", example, re.MULTILINE))
    assert asked | passed <= offered
    assert offered <= asked | passed | {"COMPOSE_PROFILES"}
    assert "/deployments/.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "deployments/.env" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_and_option_exists(command: list[str]) -> None:
    if command[0] == "prefect":
        options = [word for word in command if word.startswith("--")]
        verbs = command[: next(at for at, word in enumerate(command) if word.startswith("--"))]
        environment = {**os.environ, "COLUMNS": "200"}
        shown = subprocess.run(
            [sys.executable, "-m", *verbs, "--help"], capture_output=True, text=True, env=environment, timeout=120
        )
        assert shown.returncode == 0
        assert all(option in shown.stdout for option in options)
    else:
        assert command == ["python", "-m", "deployments.apply"]


def test_a_stopped_container_ends_when_a_training_in_a_process_group_of_its_own_has_saved(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    training = f"trap 'sleep 0.5; echo yes > {saved}; exit' TERM; echo > {tmp_path}/ready; while :; do sleep 0.1; done"
    worker = f'setsid sh -c "{training}" & exec sleep 60'
    # A process namespace of its own, with an init: what the script ends is all in there.
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]
    init = f"sh {DOCKER}/stop-together.sh sh -c '{worker.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}' & "
    init += 'trap "kill -TERM $!" TERM; wait; wait'
    if subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a process namespace")
    process = subprocess.Popen([*container, init])
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), 15)
    process.wait(20)
    assert saved.read_text() == "yes\n"
