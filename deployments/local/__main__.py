"""``python -m deployments.local``: everything that a night needs, on this machine, until Ctrl-C."""

import logging
import os
import signal
import sys
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

import typer

from datlstm.clock import today
from datlstm.errors import DatlstmError
from datlstm.settings import Settings, load_settings
from datlstm.synthetic.marine_store.world import World, ostia_world
from deployments.local.topology import BUCKET, Topology

CHECK_SECONDS = 1.0

app = typer.Typer(add_completion=False)


@app.command()
def up(
    folder: Annotated[Path, typer.Option(help="Where database, stores and logs stay.")] = Path("local"),
    throw_away: Annotated[bool, typer.Option(help="Take a temporary folder instead, gone at the end.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of Prefect's pages; 0 takes a free one.")] = 4200,
    store_port: Annotated[int, typer.Option(min=0, max=65535, help="Of object storage; 0 takes a free one.")] = 8333,
) -> None:
    """Start database, Prefect server, object storage, workers and data source on loopback, until Ctrl-C."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("deployments").setLevel(logging.INFO)
    try:
        settings = load_settings()
        with ExitStack() as stack:
            chosen = Path(stack.enter_context(TemporaryDirectory(prefix="datlstm-"))) if throw_away else folder
            typer.echo(f"Starting everything in {chosen} (half a minute) …")
            topology = Topology(chosen, os.environ, _world(settings), server_port=port, store_port=store_port)
            stack.enter_context(topology)
            _say(topology)
            _run_until_told_to_end(topology, settings)
    except DatlstmError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)


def _world(settings: Settings) -> World | None:
    if settings.source.kind != "marine-store" or settings.source.marine_store.endpoint:
        return None
    return ostia_world(settings.region, settings.source.synthetic.seed, _newest_day())


def _newest_day() -> date:
    return today() - timedelta(days=1)


def _run_until_told_to_end(topology: Topology, settings: Settings) -> None:
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    shown = _newest_day()
    while not ended.wait(CHECK_SECONDS):
        if topology.marine is not None and shown != _newest_day():
            shown = _newest_day()
            topology.marine.world = ostia_world(settings.region, settings.source.synthetic.seed, shown)


def _say(topology: Topology) -> None:
    endpoint = topology.storage.server.endpoint
    typer.echo(f"""
Prefect   {topology.ui_url} (asks for PREFECT_API_AUTH_STRING of the file below)
Store     s3://{BUCKET} at {endpoint}, to be read without keys
Logs      {topology.folder / "log"}

In another shell, in the project's folder with its environment's programs on the PATH:

  . {topology.folder / "env"}
  prefect deployment run nightly/nightly --param bootstrap=true     # the first night fills the archive and trains
  prefect deployment run retrain/retrain
  datlstm doctor

Ctrl-C stops everything; the next start goes on with the same data.""")


if __name__ == "__main__":
    app()
