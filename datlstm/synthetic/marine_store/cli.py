"""``datlstm marine-store …``: the local Marine Data Store, for hands."""

import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from datlstm.errors import DatlstmError, SettingsError

if TYPE_CHECKING:
    from datlstm.synthetic.marine_store.world import World

app = typer.Typer(no_args_is_help=True, help="A local Copernicus Marine Data Store of the synthetic sea.")
errors = Console(stderr=True)


@app.command()
def serve(
    settings: Annotated[
        str | None,
        typer.Option("--settings", "-s", help="A region or a TOML file. Default: DATLSTM_SETTINGS, else bohai."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1. Default: a free one.")] = 0,
    last_day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The newest near-real-time day. Default: yesterday.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where ca.pem is put while the store is served. Default: a temporary folder.")
    ] = None,
) -> None:
    """Serve login, catalogue and data of the synthetic sea to the official client until Ctrl-C."""
    try:
        _serve(settings, port, last_day, folder)
    except DatlstmError as error:
        errors.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


def _serve(name_or_path: str | None, port: int, last_day: datetime | None, folder: Path | None) -> None:
    from datlstm.clock import today
    from datlstm.settings import load_settings
    from datlstm.synthetic.marine_store.server import MarineStore
    from datlstm.synthetic.marine_store.world import ostia_world

    if folder is not None and not folder.is_dir():
        raise SettingsError(f"ca.pem can't be put in {folder}: make that folder first")
    settings = load_settings(name_or_path)
    newest = last_day.date() if last_day else today() - timedelta(days=1)
    world = ostia_world(settings.region, settings.source.synthetic.seed, newest)
    ended = _ended_by_signal()
    try:
        store = MarineStore(world, port=port)
    except OSError as error:
        raise SettingsError(f"the store can't listen on port {port}: {error}; choose another --port") from error
    with store, _put(store.certificate, folder) as certificate:
        _say(name_or_path, store.endpoint, certificate, world)
        ended.wait()


@contextmanager
def _put(certificate: Path, folder: Path | None) -> Iterator[Path]:
    if folder is None:
        yield certificate
        return
    copy = folder.resolve() / certificate.name
    shutil.copyfile(certificate, copy)
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _say(name_or_path: str | None, endpoint: str, certificate: Path, world: "World") -> None:
    variables = {"DATLSTM_SETTINGS": name_or_path} if name_or_path else {}
    variables |= {
        "DATLSTM_SOURCE__KIND": "marine-store",
        "DATLSTM_SOURCE__MARINE_STORE__ENDPOINT": endpoint,
        "DATLSTM_SOURCE__MARINE_STORE__CERTIFICATE": str(certificate),
        "COPERNICUSMARINE_SERVICE_USERNAME": world.username,
        "COPERNICUSMARINE_SERVICE_PASSWORD": world.password,
    }
    for variable, value in variables.items():
        typer.echo(f"export {variable}={shlex.quote(value)}")
    errors.print("Synthetic data under real names. In another shell, give the exports above; Ctrl-C ends the store.")


def _ended_by_signal() -> Event:
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended
