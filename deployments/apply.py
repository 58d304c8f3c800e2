"""Bring a Prefect server to what this folder says: ``python -m deployments.apply``.

Makes the work pools, deploys ``prefect.yaml`` and sets up ``automations.yaml`` on the server of ``PREFECT_API_URL``. It
may be run again at any time, and prints a line for everything with what it did to it.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import typer
import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.filters import AutomationFilter, AutomationFilterTags
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, get_current_settings
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type
from tenacity import AsyncRetrying, RetryError, stop_after_delay, wait_fixed

from datlstm.errors import DatlstmError, DeploymentError

FOLDER = Path(__file__).parent
PROJECT = FOLDER.parent / "prefect.yaml"
TAG = "datlstm"

# Trainings take turns: there is one GPU and one champion.
POOLS: dict[str, int | None] = {"cpu": None, "gpu": 1}
DEFAULT_QUEUE = "default"

# What the server adds to a deployment and changes by itself.
BOOKKEEPING = {"created", "updated", "created_by", "updated_by", "last_polled", "status", "version", "version_id"}

app = typer.Typer(pretty_exceptions_enable=False)

PoolType = Literal["process", "kubernetes"]


async def apply(pool_type: PoolType, notify_block: str | None, wait_seconds: float) -> None:
    """Make pools, deployments and automations what the files say, after the server has answered.

    ``notify_block`` is the block that notifications go to, ``<type>/<name>``; without one the automations that only
    notify are left out. Raises `DeploymentError` when no server answers within ``wait_seconds``, refuses the key, has a
    pool of another type or lacks the block, or when a deployment fails.
    """
    await wait_for_server(wait_seconds)
    async with get_client() as client:
        block_id = await notification_block_id(client, notify_block) if notify_block else None
        for name, limit in POOLS.items():
            say("pool", name, await make_pool(client, name, pool_type, limit))
        before = await read_deployments(client)
        deploy()
        after = await read_deployments(client)
        for name in deployment_names():
            say("deployment", name, change(before.get(name), after[name]))
        await make_automations(client, block_id)


async def wait_for_server(wait_seconds: float) -> None:
    """Return once the server answers and takes the key; raise `DeploymentError` when it does not."""
    url = PREFECT_API_URL.value()
    if not url:
        raise DeploymentError(
            "PREFECT_API_URL is not set: start a server (`prefect server start`) and set it, for example to "
            "http://127.0.0.1:4200/api"
        )
    try:
        async for attempt in AsyncRetrying(stop=stop_after_delay(wait_seconds), wait=wait_fixed(1)):
            with attempt:
                httpx.get(f"{url}/health", timeout=5).raise_for_status()
    except RetryError as error:
        raise DeploymentError(
            f"no Prefect server answers at {url} ({error.last_attempt.exception()}): start it (`prefect server "
            "start`), or set PREFECT_API_URL to where it is"
        ) from error


async def make_pool(client: PrefectClient, name: str, pool_type: PoolType, limit: int | None) -> str:
    """Make or change a work pool and its queue, both with the same limit of runs at a time."""
    template = await job_template(name, pool_type)
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        pool = None
        await client.create_work_pool(
            WorkPoolCreate(name=name, type=pool_type, base_job_template=template, concurrency_limit=limit)
        )
    if pool is not None and pool.type != pool_type:
        raise DeploymentError(
            f"pool {name} is of type {pool.type}, not {pool_type}: give `--pool-type {pool.type}`, or delete it first "
            f"(`prefect work-pool delete {name}`; its runs go with it)"
        )
    await client.update_work_pool(name, WorkPoolUpdate(base_job_template=template, concurrency_limit=limit))
    queue = await client.read_work_queue_by_name(DEFAULT_QUEUE, name)
    await client.update_work_queue(queue.id, concurrency_limit=limit)
    wanted = {"base_job_template": template, "concurrency_limit": limit}
    return change(None if pool is None else pool.model_dump(include=set(wanted)), wanted)


async def job_template(pool: str, pool_type: PoolType) -> dict[str, Any]:
    """Return what the pool makes of a run: this folder's job for Kubernetes, else Prefect's own."""
    if pool_type == "kubernetes":
        return yaml.safe_load((FOLDER / "kubernetes" / "work-pools.yaml").read_text(encoding="utf-8"))[pool]
    template = await get_default_base_job_template_for_infrastructure_type(pool_type)
    assert template is not None, "Prefect ships the template of its own pool type"
    return template


def deployment_names() -> list[str]:
    """Return the deployments of the project's file, each ``<flow>/<deployment>``."""
    deployments = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))["deployments"]
    return [f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}" for entry in deployments]


def deploy() -> None:
    """Deploy all that the project's file names, by Prefect's own command."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
    done = subprocess.run(command, cwd=PROJECT.parent, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DeploymentError(f"`prefect deploy --all` in {PROJECT.parent} failed:\n{done.stdout}{done.stderr}")


async def read_deployments(client: PrefectClient) -> dict[str, dict[str, Any]]:
    """Return the server's deployments by name, without what the server keeps for itself."""
    flows = {flow.id: flow.name for flow in await client.read_flows()}
    found = {}
    for deployment in await client.read_deployments():
        content = deployment.model_dump(mode="json", exclude=BOOKKEEPING)
        for schedule in content["schedules"]:
            for name in BOOKKEEPING & schedule.keys():
                del schedule[name]
        found[f"{flows[deployment.flow_id]}/{deployment.name}"] = content
    return found


async def make_automations(client: PrefectClient, block_id: str | None) -> None:
    """Make, change and remove automations until those with our tag are the file's, notifying through the block."""
    ours = AutomationFilter(tags=AutomationFilterTags(all_=[TAG]))
    present = {found.name: found for found in await client.read_automations(automations=ours)}
    for entry in read_automations():
        if block_id is None and any(action["type"] == "send-notification" for action in entry["actions"]):
            say("automation", entry["name"], "left out: it notifies, and DATLSTM_NOTIFY__BLOCK names no block")
            continue
        wanted = AutomationCore(**entry | {"actions": [await resolved(client, a, block_id) for a in entry["actions"]]})
        say("automation", wanted.name, await make_automation(client, wanted, present.pop(wanted.name, None)))
    for name, stale in present.items():
        await client.delete_automation(stale.id)
        say("automation", name, "removed")


def read_automations() -> list[dict[str, Any]]:
    """Return the automations of the file, tagged as ours."""
    entries = yaml.safe_load((FOLDER / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    return [{**entry, "tags": [TAG], "trigger": {"type": "event", **entry["trigger"]}} for entry in entries]


async def resolved(client: PrefectClient, action: dict[str, Any], block_id: str | None) -> dict[str, Any]:
    """Return an action with the ids of what it names."""
    if action["type"] == "send-notification":
        return {**action, "block_document_id": block_id}
    if "deployment" in action:
        target = await client.read_deployment_by_name(action["deployment"])
        return {**{k: v for k, v in action.items() if k != "deployment"}, "deployment_id": target.id}
    return action


async def notification_block_id(client: PrefectClient, slug: str) -> str:
    """Return the id of the block ``<type>/<name>``."""
    block_type, _, name = slug.partition("/")
    try:
        return str((await client.read_block_document_by_name(name, block_type)).id)
    except ObjectNotFound as error:
        raise DeploymentError(
            f"the server has no block {slug!r}, which DATLSTM_NOTIFY__BLOCK names: make it in the UI (Blocks), or name "
            "one of `prefect block ls`"
        ) from error


async def make_automation(client: PrefectClient, wanted: AutomationCore, present: Automation | None) -> str:
    """Make or change one automation. One that was switched off by hand stays off."""
    if present is None:
        await client.create_automation(wanted)
        return "made"
    wanted = wanted.model_copy(update={"enabled": present.enabled})
    is_off = "" if present.enabled else ", switched off"
    if AutomationCore(**present.model_dump()) == wanted:
        return f"unchanged{is_off}"
    # All fields are given, so that one that left the file goes back to its default; the owner can't be changed.
    await client.update_automation(present.id, AutomationCore(**wanted.model_dump(exclude={"owner_resource"})))
    return f"changed{is_off}"


def change(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    """Say what became of something."""
    return "made" if before is None else "unchanged" if before == after else "changed"


def say(kind: str, name: str, outcome: str) -> None:
    """Print a line of the report."""
    typer.echo(f"{kind:<11} {name}: {outcome}")


@app.command()
def main(
    pool_type: Annotated[PoolType, typer.Option(help="What workers start for a run.")] = "process",
    notify_block: Annotated[
        str | None,
        typer.Option(envvar="DATLSTM_NOTIFY__BLOCK", help="Where notifications go, for example slack-webhook/ops."),
    ] = None,
    wait: Annotated[float, typer.Option(help="How many seconds the server may take to answer.")] = 120.0,
) -> None:
    """Make the pools, deployments and automations of this project on the server of PREFECT_API_URL; may be repeated."""
    try:
        asyncio.run(apply(pool_type, notify_block, wait))
    except PrefectHTTPStatusError as error:
        if error.response.status_code != httpx.codes.UNAUTHORIZED:
            raise
        fail(DeploymentError(f"{error.request.url} asks for a key: set PREFECT_API_AUTH_STRING as on the server"))
    except DatlstmError as error:
        fail(error)


def fail(error: DatlstmError) -> None:
    """Print what happened and what to do, and exit with 1."""
    typer.echo(f"{type(error).__name__}: {error}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
