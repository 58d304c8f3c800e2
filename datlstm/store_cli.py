"""``datlstm store …``: copies of a store, and object storage on this machine, for hands."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from datlstm.errors import DatlstmError

BUCKET = "datlstm"
CHECK_SECONDS = 0.2

app = typer.Typer(no_args_is_help=True, help="Back a store up and restore it; serve object storage on this machine.")
errors = Console(stderr=True)


Settings = Annotated[
    str | None, typer.Option("--settings", "-s", help="A region or a TOML file. Default: DATLSTM_SETTINGS, else bohai.")
]


@app.command()
def backup(
    url: Annotated[str, typer.Argument(help="Where the copy is: file:///path or s3://bucket/prefix.")],
    settings: Settings = None,
) -> None:
    """Bring a copy of the region's store up to date; nights may run meanwhile."""
    from datlstm.backup import back_up
    from datlstm.settings import load_settings
    from datlstm.store import Store

    with _told_errors():
        typer.echo(str(back_up(Store(load_settings(settings).store), Store(url))))


@app.command()
def restore(
    url: Annotated[str, typer.Argument(help="Where the copy is.")],
    part: Annotated[str, typer.Argument(help="What to restore, such as archive or forecast.zarr. Default: all.")] = "",
    settings: Settings = None,
) -> None:
    """Copy a backup into the region's store, where there must be nothing yet."""
    from datlstm.backup import restore as restore_from
    from datlstm.settings import load_settings
    from datlstm.store import Store

    with _told_errors():
        typer.echo(str(restore_from(Store(url), Store(load_settings(settings).store), part.strip("/"))))


@app.command()
def serve(
    folder: Annotated[
        Path | None, typer.Option(help="Where the data stay. Default: a temporary folder, gone at the end.")
    ] = None,
    bucket: Annotated[str, typer.Option(help="The bucket that is made.")] = BUCKET,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1. Default: a free one.")] = 0,
) -> None:
    """Serve a bucket over S3 until Ctrl-C, and print the variables that lead the service to it."""
    with _told_errors(), _folder(folder) as chosen:
        _serve(chosen, bucket, port)


def _serve(folder: Path, bucket: str, port: int) -> None:
    from datlstm.store_server import StoreServer

    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with StoreServer(folder, port=port) as server:
        server.make_bucket(bucket)
        for variable, value in {"DATLSTM_STORE": f"s3://{bucket}", **server.environment}.items():
            typer.echo(f"export {variable}={shlex.quote(value)}")
        errors.print("In another shell, give the exports above; Ctrl-C ends the store.")
        while not ended.wait(CHECK_SECONDS):
            server.check()


@contextmanager
def _told_errors() -> Iterator[None]:
    try:
        yield
    except DatlstmError as error:
        errors.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with TemporaryDirectory(prefix="datlstm-store-") as folder:
        yield Path(folder)
