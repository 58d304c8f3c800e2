"""What prefect.yaml promises exists: entry points, parameters, pools, schedules."""

import importlib
import inspect
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in PROJECT["deployments"]}


def flow_of(deployment: dict[str, str]):  # type: ignore[no-untyped-def]
    path, name = deployment["entrypoint"].split(":")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_is_named_after_its_flow_and_points_to_it(name: str) -> None:
    assert flow_of(DEPLOYMENTS[name]).name == name


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_parameter_of_a_deployment_is_one_of_the_flow_and_is_described(name: str) -> None:
    flow = flow_of(DEPLOYMENTS[name])
    parameters = inspect.signature(flow.fn).parameters
    assert set(DEPLOYMENTS[name].get("parameters", {})) <= set(parameters)
    described = flow.fn.__doc__.split("Args:")[1]
    assert all(f"{parameter}:" in described for parameter in parameters)


def test_training_goes_to_the_gpu_pool_and_the_rest_to_the_cpu_pool() -> None:
    assert {name: d["work_pool"]["name"] for name, d in DEPLOYMENTS.items()} == {
        "nightly": "cpu",
        "backfill": "cpu",
        "retrain": "gpu",
        "maintenance": "cpu",
    }


def test_the_night_is_scheduled_in_utc_with_a_slug_and_never_overlaps_itself() -> None:
    (schedule,) = DEPLOYMENTS["nightly"]["schedules"]
    assert schedule["timezone"] == "UTC"
    assert schedule["slug"] == "nightly"
    assert all(d["concurrency_limit"]["limit"] == 1 for d in DEPLOYMENTS.values())


def test_maintenance_is_scheduled_once_a_week_in_utc_hours_after_the_night() -> None:
    (schedule,) = DEPLOYMENTS["maintenance"]["schedules"]
    assert (schedule["timezone"], schedule["slug"]) == ("UTC", "maintenance")
    minute, hour, *_, weekday = schedule["cron"].split()
    assert weekday == "0"
    night = DEPLOYMENTS["nightly"]["schedules"][0]["cron"].split()
    assert int(hour) * 60 + int(minute) >= int(night[1]) * 60 + int(night[0]) + 6 * 60
