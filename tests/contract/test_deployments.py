"""What prefect.yaml promises exists: entry points, parameters, pools, schedules; and what every file here names."""

import importlib
import inspect
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cronsim import CronSim
from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings
from typer.main import get_command

from datlstm.cli import app
from datlstm.settings import Settings
from deployments.apply import POOLS, PROJECT, TAG, deployment_names

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = {entry["name"]: entry for entry in yaml.safe_load(PROJECT.read_text())["deployments"]}
SCHEDULES = {name: entry["schedules"][0] for name, entry in DEPLOYMENTS.items() if "schedules" in entry}

# Read by Prefect past its settings.
NO_SETTING = {"PREFECT_SERVER_ENCRYPTION_KEY"}
SECRET = re.compile(r"(PASSWORD|SECRET|AUTH_STRING|ENCRYPTION_KEY|ACCESS_KEY)[A-Z_]*\"?\s*[:=][ \t]*(?P<value>\S.*)")


def kept_files() -> list[Path]:
    """The files of ours that people and machines read to run the service; the local stack has its own tests."""
    others = ("local", "regions", "__pycache__", ".env")
    found = [path for path in (ROOT / "deployments").rglob("*") if path.is_file() and path.suffix != ".py"]
    return [PROJECT, *sorted(path for path in found if not set(path.parts) & set(others))]


def flow_of(name: str) -> Any:
    module, _, function = DEPLOYMENTS[name]["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), function)


def prefect_variables(settings: PrefectBaseSettings) -> set[str]:
    """Every variable that Prefect reads a setting from."""
    prefix = settings.model_config["env_prefix"]
    fields = type(settings).model_fields
    choices = [choice for field in fields.values() for choice in getattr(field.validation_alias, "choices", [])]
    aliases = {choice.upper() for choice in choices if isinstance(choice, str)}
    own = {f"{prefix}{name}".upper() for name in fields} | aliases
    nested = (value for _, value in settings if isinstance(value, PrefectBaseSettings))
    return {name.upper() for name in own}.union(*map(prefect_variables, nested))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_an_entry_point_is_a_flow_of_the_installed_package_under_its_own_name(name: str) -> None:
    flow = flow_of(name)
    assert f"{flow.name}/{name}" in deployment_names()
    assert name == flow.name or name.startswith(f"{flow.name}-")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_parameter_of_a_deployment_is_one_of_the_flow_and_is_described(name: str) -> None:
    flow = flow_of(name)
    parameters = inspect.signature(flow.fn).parameters
    flow.validate_parameters(DEPLOYMENTS[name].get("parameters", {}))
    described = flow.fn.__doc__.split("Args:")[1]
    assert all(f"{parameter}:" in described for parameter in parameters)


def test_training_goes_to_the_gpu_pool_and_the_rest_to_the_cpu_pool() -> None:
    pools = {name: entry["work_pool"]["name"] for name, entry in DEPLOYMENTS.items()}
    assert all(pool == ("gpu" if name.startswith("retrain") else "cpu") for name, pool in pools.items())
    assert set(pools.values()) == set(POOLS)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_no_deployment_overlaps_itself_and_none_loses_a_run(name: str) -> None:
    assert DEPLOYMENTS[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_run_sends_heartbeats_and_has_the_tag_that_automations_look_for(name: str) -> None:
    environment = DEPLOYMENTS[name]["work_pool"]["job_variables"]["env"]
    assert int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) == 30
    assert TAG in DEPLOYMENTS[name]["tags"]


def test_schedules_are_in_utc_and_each_has_a_slug_of_its_own() -> None:
    assert {"nightly", "validate", "maintenance"} <= set(SCHEDULES)
    assert all(schedule["timezone"] == "UTC" for schedule in SCHEDULES.values())
    assert len({schedule["slug"] for schedule in SCHEDULES.values()}) == len(SCHEDULES)


def test_validation_and_maintenance_come_hours_after_the_night_which_may_wait_until_noon() -> None:
    hours = {name: due(schedule["cron"]) for name, schedule in SCHEDULES.items()}
    latest_night = Settings.model_fields["source"].default.retry.deadline_hours
    assert hours["nightly"] == 6.5
    assert min(hours["validate"], hours["maintenance"]) > latest_night
    assert SCHEDULES["maintenance"]["cron"].endswith(" 0")


def due(cron: str) -> float:
    """The hour of a day at which a schedule is first due."""
    moment = next(CronSim(cron, datetime(2026, 1, 1)))
    return moment.hour + moment.minute / 60


@pytest.mark.parametrize("path", kept_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_variable_that_a_file_names_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"\b(?:DATLSTM|PREFECT)_[A-Z][A-Z_]*[A-Z]\b", path.read_text()))
    known = prefect_variables(get_current_settings()) | NO_SETTING | {"DATLSTM_SETTINGS"}
    assert {name for name in named if name.startswith("PREFECT_")} <= known
    for name in named - known:
        section, _, key = name.removeprefix("DATLSTM_").lower().partition("__")
        assert section in Settings.model_fields, name
        assert not key or key in Settings.model_fields[section].annotation.model_fields, name  # type: ignore[union-attr]


@pytest.mark.parametrize("path", kept_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_holds_a_secret(path: Path) -> None:
    values = [found["value"].strip() for found in map(SECRET.search, path.read_text().splitlines()) if found]
    assert all(value in ('""', "''") or value.startswith("${") for value in values), values


@pytest.mark.parametrize("path", kept_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_verb_of_ours_that_a_file_names_exists(path: Path) -> None:
    verbs = set(re.findall(r"`datlstm ([a-z-]+)", path.read_text()))
    verbs |= set(re.findall(r"datlstm@([a-z-]+)", path.read_text()))
    assert verbs <= set(get_command(app).commands)  # type: ignore[attr-defined]
