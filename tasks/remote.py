"""Have a flow run by the workers of a Prefect server."""

from typing import Any, cast

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.utilities.urls import url_for

from datlstm.errors import SettingsError


def start_remotely(deployment: str, **parameters: Any) -> str:
    """Schedule a run of a deployment, ``<flow>/<name>``, now; return its name and where to look at it.

    Raises `SettingsError` when no server is configured or answers, or it does not know the deployment.
    """
    server = PREFECT_API_URL.value()
    if not server:
        raise SettingsError(
            "there is no Prefect server to ask: set PREFECT_API_URL, for example http://127.0.0.1:4200/api, or leave "
            "--remote out"
        )
    try:
        # A run of its own, whose end nobody here waits for.
        run = cast(FlowRun, run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False))
    except ObjectNotFound as error:
        raise SettingsError(
            f"{server} knows no deployment {deployment}: run `python -m deployments.apply` for it"
        ) from error
    except (httpx.HTTPError, RuntimeError) as error:
        raise SettingsError(
            f"{server} did not take the run ({error}): is it the server's URL, and does it run?"
        ) from error
    return f"{run.name}: {url_for(run, url_type='ui') or f'flow run {run.id}'}"
