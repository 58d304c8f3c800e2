"""`python -m deployments.apply` on a real Prefect server, and what its automations then do to runs that die."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar
from uuid import UUID

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Pending, Running
from typer.testing import CliRunner, Result

from deployments import apply
from deployments.apply import TAG, app, deployment_names, read_automations
from deployments.local.topology import Topology
from tests.listener import Listener

# Deploying imports every flow in a process of its own, and is done twice.
pytestmark = [pytest.mark.usefixtures("server"), pytest.mark.timeout(900)]

T = TypeVar("T")
BLOCK = "custom-webhook/operator"


def ask(question: Callable[[PrefectClient], Coroutine[Any, Any, T]]) -> T:
    async def answer() -> T:
        async with get_client() as client:
            return await question(client)

    return asyncio.run(answer())


def run_apply(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def outcomes(result: Result) -> dict[str, str]:
    """What became of everything, by kind and name."""
    assert result.exit_code == 0, result.output
    lines = [line.rpartition(": ") for line in result.stdout.splitlines()]
    return {" ".join(thing.split()): outcome for thing, _, outcome in lines}


def automations() -> dict[str, Automation]:
    found = ask(lambda client: client.read_automations())
    return {automation.name: automation for automation in found}


class ServerAlone(Topology):
    """Prefect's server on PostgreSQL: on SQLite automations lose events, "database is locked"."""

    def _start(self, stack: ExitStack) -> None:
        self._start_server(stack).wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of these tests' own; gives its pages' address."""
    folder = tmp_path_factory.mktemp("server")
    with ServerAlone(folder, os.environ) as topology:
        key = (folder / "authorisation").read_text()
        # One worker sends all events of a process, to the server for which it was made first.
        EventsWorker.drain_all()
        with temporary_settings({PREFECT_API_URL: f"{topology.ui_url}/api", PREFECT_API_AUTH_STRING: key}):
            yield topology.ui_url
            EventsWorker.drain_all()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def block(server: str, listener: Listener) -> UUID:
    """The operator's notification block."""
    made = CustomWebhookNotificationBlock(
        name="operator", url=listener.url, json_data={"title": "{{subject}}", "text": "{{body}}"}
    )
    return UUID(str(made.save("operator", overwrite=True)))


@pytest.fixture(scope="module")
def applied(block: UUID) -> tuple[dict[str, str], dict[str, str]]:
    """What the first and the second run on a fresh server said."""
    return outcomes(run_apply("--notify-block", BLOCK)), outcomes(run_apply("--notify-block", BLOCK))


@pytest.fixture
def entries(block: UUID, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The file's automations, to be changed by a test, and put right on the server after it."""
    changed = read_automations()
    monkeypatch.setattr(apply, "read_automations", lambda: changed)
    yield changed
    monkeypatch.undo()
    ask(lambda client: apply.make_automations(client, str(block)))


def test_the_first_run_makes_everything_and_the_second_finds_nothing_to_do(
    applied: tuple[dict[str, str], dict[str, str]],
) -> None:
    first, second = applied
    assert {f"deployment {name}" for name in deployment_names()} <= set(first)
    assert {f"automation {entry['name']}" for entry in read_automations()} <= set(first)
    assert set(first.values()) == {"made"}
    assert second == dict.fromkeys(first, "unchanged")


@pytest.mark.usefixtures("applied")
def test_trainings_take_turns_by_pool_and_queue() -> None:
    pool = ask(lambda client: client.read_work_pool("gpu"))
    queue = ask(lambda client: client.read_work_queue_by_name("default", "gpu"))
    assert (pool.type, pool.concurrency_limit, queue.concurrency_limit) == ("process", 1, 1)


@pytest.mark.usefixtures("applied")
def test_notifications_go_to_the_block_that_the_operator_names(block: UUID) -> None:
    told = [
        action for found in automations().values() for action in found.actions if action.type == "send-notification"
    ]
    assert told
    assert {action.block_document_id for action in told} == {block}


@pytest.mark.usefixtures("applied")
def test_without_a_block_what_only_notifies_is_left_out_and_that_is_said(
    entries: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    ask(lambda client: apply.make_automations(client, None))
    assert not [found for found in automations().values() if found.actions[0].type == "send-notification"]
    assert "left out: it notifies, and DATLSTM_NOTIFY__BLOCK names no block" in capsys.readouterr().out


@pytest.mark.usefixtures("applied")
def test_a_changed_automation_keeps_its_id_and_one_that_left_the_file_is_removed(
    block: UUID, entries: list[dict[str, Any]]
) -> None:
    before = automations()
    changed, removed, *others = entries
    changed["description"] = "Told anew."
    entries.remove(removed)
    ask(lambda client: apply.make_automations(client, str(block)))
    after = automations()
    assert after[changed["name"]].description == "Told anew."
    assert set(before) - set(after) == {removed["name"]}
    assert all(after[name].id == before[name].id for name in after)
    assert all(after[other["name"]] == before[other["name"]] for other in others)


@pytest.mark.usefixtures("applied")
def test_an_automation_that_is_switched_off_by_hand_stays_off_and_a_strangers_is_left_alone(
    block: UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = next(iter(automations().values()))
    stranger = AutomationCore(**ours.model_dump(include={"trigger", "actions"}), name="somebody else's")
    identity = ask(lambda client: client.create_automation(stranger))
    ask(lambda client: client.pause_automation(ours.id))
    ask(lambda client: apply.make_automations(client, str(block)))
    assert not automations()[ours.name].enabled
    assert f"{ours.name}: unchanged, switched off" in capsys.readouterr().out
    assert "somebody else's" in automations()
    ask(lambda client: client.resume_automation(ours.id))
    ask(lambda client: client.delete_automation(identity))


@pytest.mark.usefixtures("applied")
def test_an_unknown_block_is_an_error_with_its_remedy() -> None:
    result = run_apply("--notify-block", "slack-webhook/nobody")
    assert result.exit_code == 1
    assert "no block 'slack-webhook/nobody'" in result.stderr and "prefect block ls" in result.stderr


@pytest.mark.usefixtures("applied")
def test_a_pool_of_another_type_is_refused_with_its_remedy() -> None:
    result = run_apply("--pool-type", "kubernetes")
    assert result.exit_code == 1
    assert "pool cpu is of type process, not kubernetes" in result.stderr and "work-pool delete" in result.stderr


@pytest.mark.parametrize(
    ("url", "message"), [("http://127.0.0.1:9/api", "no Prefect server answers"), (None, "PREFECT_API_URL is not set")]
)
def test_without_a_server_it_says_so_after_a_bounded_wait(url: str | None, message: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        result = run_apply("--wait", "0.1")
    assert result.exit_code == 1
    assert message in result.stderr and "prefect server" in result.stderr


@pytest.mark.usefixtures("applied")
def test_a_run_that_dies_unheard_crashes_and_starts_again_three_times_at_most_and_then_somebody_is_told(
    block: UUID, listener: Listener, entries: list[dict[str, Any]], server: str
) -> None:
    zombie = next(entry for entry in entries if entry["trigger"].get("within") == 90)
    zombie["trigger"]["within"] = 10
    ask(lambda client: apply.make_automations(client, str(block)))
    deployment = ask(lambda client: client.read_deployment_by_name("maintenance/maintenance"))
    run = ask(lambda client: client.create_flow_run_from_deployment(deployment.id))
    start(run.id)
    emit_event(
        "prefect.flow-run.heartbeat",
        resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        related=[{"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}],
    )
    assert "starts again" in str(wait_for(run.id, "Scheduled").state)
    for _ in range(2):
        start(run.id)
        ask(lambda client: client.set_flow_run_state(run.id, Crashed()))
        wait_for(run.id, "Scheduled")
    start(run.id)
    ask(lambda client: client.set_flow_run_state(run.id, Crashed()))
    while not listener.asked:
        time.sleep(0.2)
    ((_, told),) = listener.asked
    assert f"{run.name} crashed and is not started again" in told and f"{server}/runs/flow-run/{run.id}" in told
    ended = ask(lambda client: client.read_flow_run(run.id))
    assert (ended.run_count, ended.state_name) == (4, "Crashed")


def start(run_id: UUID) -> None:
    """Do what a worker and its process do to a run."""
    for state in (Pending(), Running()):
        ask(lambda client, state=state: client.set_flow_run_state(run_id, state))  # type: ignore[misc]


def wait_for(run_id: UUID, state_name: str) -> FlowRun:
    """Return a run once it is in a state (or late, which it becomes by itself)."""
    for _ in range(120):
        run = ask(lambda client: client.read_flow_run(run_id))
        if run.state_name == state_name:
            return run
        time.sleep(0.5)
    raise AssertionError(f"still {run.state_name}: {run.state}")
