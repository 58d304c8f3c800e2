"""What an operator does and sees, through the server's API alone."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterId,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import LogSort
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from deployments.local.topology import Topology

POLL_SECONDS = 0.5
LOG_LINES = 200


class Operator:
    """Runs of deployments, by their ids; a server that is away is asked again."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client

    def pause_schedules(self) -> None:
        """Leave every night to be asked for."""
        for deployment in self._client.read_deployments():
            self._client.pause_deployment(deployment.id)

    def wait_until_scheduled(self, deployment: str, seconds: float = 60) -> None:
        """Wait until the server has made the next run of a deployment's schedule."""
        found = self._client.read_deployment_by_name(deployment)
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        deadline = time.monotonic() + seconds
        while not self._client.read_flow_runs(deployment_filter=of_it):
            if time.monotonic() > deadline:
                pytest.fail(f"{deployment} was not scheduled within {seconds:g} s")
            time.sleep(POLL_SECONDS)

    def start(self, deployment: str, **parameters: object) -> UUID:
        """Ask for a run of ``<flow>/<deployment>``."""
        found = self._client.read_deployment_by_name(deployment)
        return self._client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def run(self, deployment: str, **parameters: object) -> FlowRun:
        """Ask for a run and return it when it has ended."""
        return self.wait(self.start(deployment, **parameters))

    def wait(self, run: UUID, seconds: float = 240) -> FlowRun:
        """Return a run when it has ended."""
        return self.wait_until(run, lambda state: state.is_final(), seconds)

    def wait_until_completed(self, run: UUID, seconds: float = 480) -> FlowRun:
        """Return a run when it has completed, however often it crashes and is started again before."""

        def is_over(state: State) -> bool:
            return state.is_completed() or state.is_failed() or state.is_cancelled()

        return self.wait_until(run, is_over, seconds)

    def wait_until(self, run: UUID, reached: Callable[[State], bool], seconds: float = 240) -> FlowRun:
        """Return a run when its state is so; fail with its log when that takes too long."""
        deadline = time.monotonic() + seconds
        found: FlowRun | None = None
        while time.monotonic() < deadline:
            try:
                found = self._client.read_flow_run(run)
            except (httpx.TransportError, httpx.HTTPStatusError):
                found = None
            if found is not None and found.state is not None and reached(found.state):
                return found
            time.sleep(POLL_SECONDS)
        said = found and f"{found.name} is {found.state_name}: {self.log(run)}"
        pytest.fail(f"waited {seconds:g} s; {said or 'the server does not answer'}")

    def wait_until_step(self, run: UUID, step: str, seconds: float = 240) -> None:
        """Wait until a step of a run has completed; ``step`` is its task's function."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if any(name.startswith(step) and state == "Completed" for name, state in self.steps(run)):
                return
            time.sleep(POLL_SECONDS / 2)
        pytest.fail(f"{step} did not complete within {seconds:g} s: {self.log(run)}")

    def wait_until_logged(self, run: UUID, line: str, seconds: float = 240) -> None:
        """Wait until a run has logged something."""
        deadline = time.monotonic() + seconds
        while line not in self.log(run):
            if time.monotonic() > deadline:
                pytest.fail(f"{line!r} was not logged within {seconds:g} s: {self.log(run)}")
            time.sleep(POLL_SECONDS)

    def steps(self, run: UUID) -> list[tuple[str, str]]:
        """Return the names and states of a run's steps."""
        of_run = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run]))
        return [(task.name, str(task.state_name)) for task in self._client.read_task_runs(task_run_filter=of_run)]

    def states(self, run: UUID) -> list[str]:
        """Return the names of all states that a run had, oldest first."""
        found = sorted(self._client.read_flow_run_states(run), key=lambda state: state.timestamp)
        return [str(state.name) for state in found]

    def log(self, run: UUID) -> str:
        """Return the newest lines that a run logged."""
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
        found = self._client.read_logs(of_run, limit=LOG_LINES, sort=LogSort.TIMESTAMP_DESC)
        return "\n".join(entry.message for entry in reversed(found))

    def artifact(self, run: UUID, key: str) -> str | None:
        """Return the newest artifact that a run left under a key."""
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        found = [artifact for artifact in self._client.read_artifacts(artifact_filter=of_run) if artifact.key == key]
        newest = max(found, key=lambda artifact: artifact.updated, default=None)  # type: ignore[arg-type,return-value]
        return newest and str(newest.data)

    def cancel(self, run: UUID) -> None:
        """Cancel a run, as the button does."""
        self._client.set_flow_run_state(run, Cancelling())


@contextmanager
def operating(topology: Topology) -> Iterator[Operator]:
    """Be the operator of a topology."""
    variables = topology.environment
    server = {
        PREFECT_API_URL: variables["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: variables["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(server), get_client(sync_client=True) as client:
        yield Operator(client)
