"""What automations.yaml watches for and acts on exists: events, flows, deployments, fields; and it can be told of."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.events.schemas.automations import AutomationCore
from prefect.server.events.schemas.automations import Automation
from prefect.server.events.schemas.events import matches as prefect_matches
from prefect.server.schemas import states
from prefect.states import AwaitingConcurrencySlot, Late

from deployments.apply import TAG, deployment_names, read_automations

ROOT = Path(__file__).parents[2]
ANY_ID = str(UUID(int=1))
ENTRIES = {entry["name"]: entry for entry in read_automations()}
STATE_NAMES = {kind.value.capitalize() for kind in states.StateType} | {
    Late().name,
    AwaitingConcurrencySlot().name,
    "Submitting",
    "InfrastructurePending",
    "Retrying",
}


def resolved(entry: dict[str, Any]) -> dict[str, Any]:
    """The automation as the server gets it, with any ids."""
    ids = {"send-notification": {"block_document_id": ANY_ID}, "run-deployment": {"deployment_id": ANY_ID}}
    return {**entry, "actions": [{**action, **ids.get(action["type"], {})} for action in entry["actions"]]}


def specifications(trigger: dict[str, Any]) -> list[dict[str, Any]]:
    related = trigger.get("match_related", [])
    return related if isinstance(related, list) else [related]


@pytest.mark.parametrize("name", ENTRIES)
def test_prefect_takes_every_automation_and_its_templates_and_knows_all_its_fields(name: str) -> None:
    entry = resolved(ENTRIES[name])
    Automation(**entry)
    known = AutomationCore(**entry)
    assert set(entry) <= set(AutomationCore.model_fields)
    assert set(entry["trigger"]) <= set(type(known.trigger).model_fields)
    for given, action in zip(entry["actions"], known.actions, strict=True):
        assert set(given) - {"deployment"} <= set(type(action).model_fields)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_event_that_is_waited_for_is_one_that_is_emitted(name: str) -> None:
    trigger = ENTRIES[name]["trigger"]
    for event in {*trigger["expect"], *trigger.get("after", ())}:
        kind, _, state = event.rpartition(".")
        if kind == "prefect.flow-run":
            assert state in STATE_NAMES | {"heartbeat"}
        else:
            emitting = [path for path in (ROOT / "tasks").glob("*.py") if f'"{event}"' in path.read_text()]
            assert emitting, f"no task emits {event}"


@pytest.mark.parametrize("name", ENTRIES)
def test_every_flow_and_deployment_that_is_named_exists(name: str) -> None:
    entry = ENTRIES[name]
    flows = {deployment.partition("/")[0] for deployment in deployment_names()}
    for specification in specifications(entry["trigger"]):
        if specification["prefect.resource.role"] == "flow":
            named = specification["prefect.resource.name"]
            assert set([named] if isinstance(named, str) else named) <= flows
    assert {action["deployment"] for action in entry["actions"] if "deployment" in action} <= set(deployment_names())


@pytest.mark.parametrize("name", ENTRIES)
def test_only_runs_of_ours_are_touched(name: str) -> None:
    trigger = ENTRIES[name]["trigger"]
    tags = [found.get("prefect.resource.id") for found in specifications(trigger)]
    assert f"prefect.tag.{TAG}" in tags or trigger["match"]["prefect.resource.id"].startswith(f"{TAG}.")


def test_a_crashed_run_is_either_started_again_or_told_of_whatever_its_run_count() -> None:
    crashes = [entry for entry in ENTRIES.values() if entry["trigger"]["expect"] == ["prefect.flow-run.Crashed"]]
    patterns = {entry["actions"][0]["type"]: entry["trigger"]["match"]["prefect.run-count"] for entry in crashes}
    again = [count for count in range(120) if matches(patterns["change-flow-run-state"], count)]
    told = [count for count in range(120) if matches(patterns["send-notification"], count)]
    assert again == [1, 2, 3]
    assert sorted(again + told) == list(range(120))


def matches(patterns: str | list[str], run_count: int) -> bool:
    listed = [patterns] if isinstance(patterns, str) else patterns
    return any(prefect_matches(pattern, str(run_count)) for pattern in listed)


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if "after" in entry["trigger"]])
def test_a_wait_that_has_ended_starts_anew_when_the_run_does(name: str) -> None:
    trigger = ENTRIES[name]["trigger"]
    assert set(trigger["after"]) & set(trigger["expect"])
    if trigger["for_each"] == ["prefect.resource.id"]:
        assert set(trigger["after"]) <= set(trigger["expect"])
