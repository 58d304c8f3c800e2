"""The one place that knows URLs, credentials and filesystems: ``file://`` and ``s3://`` behind the same few verbs.

Object storage takes its credentials and endpoint from the standard AWS variables and nowhere else; without credentials
it is read anonymously.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import icechunk
import obstore
from filelock import FileLock, Timeout
from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError
from obstore.store import LocalStore, ObjectStore, S3Store
from zarr.abc.store import Store as ZarrStore
from zarr.storage import ObjectStore as ZarrObjectStore

from datlstm.errors import ConflictError, StoreError
from datlstm.lease import hold
from datlstm.store_errors import NO_SUCH_BUCKET, ExplainedZarr, explained

if TYPE_CHECKING:
    from obstore.store import RetryConfig

LOCK_TIMEOUT_SECONDS = 90
# Of one request: an outage is told within seconds.
CONNECT_SECONDS = 2
RETRY: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=5)}
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# What Icechunk itself reads first.
ICECHUNK_BRANCH = "refs/branch.main/ref.json"


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region() -> str:
    # Icechunk would ask the machine's cloud for it, which takes 20 s where there is none.
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _is_anonymous() -> bool:
    return not any(os.environ.get(variable) for variable in CREDENTIALS)


@dataclass(frozen=True)
class Entry:
    """An object as a listing tells it: its path in the store, its size in bytes, and when it was written last."""

    path: str
    size: int
    modified_at: datetime


class Store:
    """Everything of one service, under one root URL.

    ``url`` is ``file:///path``, a plain path, or ``s3://bucket/prefix``. Raises `StoreError` for any other scheme and
    for a URL that carries credentials.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else Path(url).expanduser().absolute().as_uri())
        if parts.username or parts.password:
            raise StoreError("the store URL carries credentials: remove them and set AWS_ACCESS_KEY_ID and its like")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.is_local = parts.scheme == "file"
        is_complete = parts.path.strip("/") and not parts.netloc if self.is_local else parts.netloc
        if parts.scheme not in ("file", "s3") or not is_complete or parts.query or parts.fragment:
            raise StoreError(f"store {self.url!r}: expected file:///path or s3://bucket/prefix, and nothing after it")
        self._bucket = parts.netloc
        self._root = unquote(parts.path.rstrip("/")) if self.is_local else parts.path.strip("/")

    def url_of(self, path: str) -> str:
        """Return the URL of something in the store."""
        return f"{self.url}/{path}"

    def location_of(self, path: str) -> str:
        """Return what an analyst gives to ``xarray.open_zarr``: a plain path locally, a URL on object storage."""
        return f"{self._root}/{path}" if self.is_local else self.url_of(path)

    def zarr(self, path: str, *, read_only: bool = False) -> ZarrStore:
        """Return a Zarr store at ``path``."""
        return ExplainedZarr(ZarrObjectStore(self._objects(path), read_only=read_only), self.url_of(path))

    def icechunk(self, path: str) -> icechunk.Storage:
        """Return Icechunk's storage at ``path``. Raises `StoreError` when the store can't be read."""
        if self.is_local:
            folder = Path(self._root, path)
            # Icechunk panics there, with what no `except Exception` catches.
            if blocking := next((place for place in (folder, *folder.parents) if place.is_file()), None):
                raise StoreError(f"{self.url_of(path)}: {blocking} is a file, not a folder: choose another store")
            return icechunk.local_filesystem_storage(str(folder))
        # Icechunk tries ten times, for 20 s, and does not always say what was wrong.
        self.read(f"{path}/{ICECHUNK_BRANCH}")
        endpoint = _endpoint()
        return icechunk.s3_storage(
            bucket=self._bucket,
            prefix=f"{self._root}/{path}".strip("/"),
            region=_region(),
            endpoint_url=endpoint,
            allow_http=bool(endpoint and endpoint.startswith("http://")),
            force_path_style=endpoint is not None,
            anonymous=_is_anonymous(),
            from_env=not _is_anonymous(),
        )

    def read(self, path: str) -> bytes | None:
        """Return a whole object, or None when there is none. Raises `StoreError` when the store can't be read."""
        return self.read_versioned(path)[0]

    def write(self, path: str, content: bytes) -> None:
        """Write a whole object, atomically. Raises `StoreError`."""
        with explained(self.url_of(path)):
            obstore.put(self._objects(), path, content)

    def read_versioned(self, path: str) -> tuple[bytes, str] | tuple[None, None]:
        """Return a whole object and the version that `write_if` asks for, or twice None when there is none.

        Raises `StoreError` when the store can't be read.
        """
        with explained(self.url_of(path)):
            try:
                found = obstore.get(self._objects(), path)
                content = bytes(found.bytes())
            except (NotFoundError, FileNotFoundError) as error:
                if NO_SUCH_BUCKET in str(error):
                    raise
                return None, None
            return content, _digest(content) if self.is_local else str(found.meta["e_tag"])

    def write_if(self, path: str, content: bytes, version: str | None) -> str:
        """Write a whole object if it still has the version that was read (None: if there is none yet).

        Returns the new version. Raises `ConflictError`, with nothing written, when another writer was first.
        """
        with explained(self.url_of(path)):
            try:
                if self.is_local:
                    return self._write_file_if(path, content, version)
                mode: Any = "create" if version is None else {"e_tag": version}
                return str(obstore.put(self._objects(), path, content, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError) as error:
                raise ConflictError(
                    f"{self.url_of(path)}: another writer was first, and nothing of this one is visible: run it again"
                ) from error

    def read_json(self, path: str) -> Any | None:
        """Return a JSON object, or None when there is none. Raises `StoreError` when it is not JSON."""
        content = self.read(path)
        try:
            return None if content is None else json.loads(content)
        except json.JSONDecodeError as error:
            raise StoreError(f"{self.url_of(path)} is not JSON ({error}): restore it from a backup") from error

    def write_json(self, path: str, document: Any) -> None:
        """Write a JSON object, atomically."""
        self.write(path, as_json(document))

    def delete(self, path: str) -> None:
        """Delete an object."""
        with explained(self.url_of(path)):
            obstore.delete(self._objects(), path)

    def move(self, folder: str, to: str, last: str) -> None:
        """Move a folder. Its object ``last`` is what readers look for.

        On a filesystem that is one step. On object storage everything is copied first, ``last`` the last, and then
        deleted, ``last`` the first: killed between, the next call completes it. Raises `StoreError`.
        """
        with explained(self.url_of(folder)):
            if self.is_local:
                Path(self._root, folder).rename(Path(self._root, to))
                return
            objects = self._objects()
            paths = sorted(self.list(folder), key=lambda path: path == f"{folder}/{last}")
            if paths and paths[-1] == f"{folder}/{last}":
                for path in paths:
                    obstore.copy(objects, path, f"{to}/{path.removeprefix(f'{folder}/')}")
            for path in reversed(paths):
                obstore.delete(objects, path)

    def list(self, prefix: str) -> list[str]:
        """Return the paths of all objects below a prefix, sorted."""
        return [entry.path for entry in self.entries(prefix)]

    def entries(self, prefix: str) -> Sequence[Entry]:
        """Return all objects below a prefix with sizes and ages, sorted by path."""
        with explained(self.url_of(prefix)):
            pages = obstore.list(self._objects(), prefix=prefix.rstrip("/"))
            found = [Entry(entry["path"], entry["size"], entry["last_modified"]) for page in pages for entry in page]
        return sorted(found, key=lambda entry: entry.path)

    @contextmanager
    def writer(self, name: str) -> Iterator[Callable[[], None]]:
        """Hold the right to write one of the stores; give a function that raises once the right is lost.

        On a filesystem this is a lock that dies with its process, on object storage a lease (`datlstm.lease`). Raises
        `StoreError` when another writer keeps it for longer than `LOCK_TIMEOUT_SECONDS`, or when the server ignores
        conditional writes.
        """
        if self.is_local:
            with self._file_lock(name):
                yield lambda: None
        else:
            with hold(self, name, LOCK_TIMEOUT_SECONDS) as confirm:
                yield confirm

    @contextmanager
    def _file_lock(self, name: str) -> Iterator[None]:
        folder = Path(self._root) / ".locks"
        with explained(self.url):
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock", timeout=LOCK_TIMEOUT_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"another process has been writing {self.url_of(name)} for over {LOCK_TIMEOUT_SECONDS} s: "
                "wait for it, or stop it, then run this again"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _write_file_if(self, path: str, content: bytes, version: str | None) -> str:
        # A filesystem has no conditional write: comparing and writing are one under a lock of their own.
        with self._file_lock("compare-and-set"):
            if self.read_versioned(path)[1] != version:
                raise PreconditionError(path)
            obstore.put(self._objects(), path, content)
        return _digest(content)

    def _objects(self, path: str = "") -> ObjectStore:
        with explained(self.url):
            if self.is_local:
                return LocalStore(f"{self._root}/{path}".rstrip("/"), mkdir=True)
            endpoint = _endpoint()
            return S3Store(
                self._bucket,
                prefix=f"{self._root}/{path}".strip("/") or None,
                region=_region(),
                skip_signature=_is_anonymous(),
                client_options={
                    "allow_http": bool(endpoint and endpoint.startswith("http://")),
                    "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                },
                retry_config=RETRY,
            )


def as_json(document: Any) -> bytes:
    """Return a document as the bytes it has in a store: the same for the same content."""
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
