"""The one place that knows URLs, credentials and filesystems: ``file://`` and ``s3://`` behind the same few verbs.

Object storage takes its credentials and endpoint from the standard AWS variables and nowhere else; without credentials
it is read anonymously.
"""

import json
import os
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

import icechunk
import obstore
import zarr
import zarr.core.sync
from filelock import FileLock, Timeout
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, ObjectStore, S3Store
from zarr.abc.store import ByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import ObjectStore as ZarrObjectStore
from zarr.storage import WrapperStore

from datlstm.errors import ProductError, StoreError
from datlstm.store_errors import NO_SUCH_BUCKET, ExplainedZarr, explained

if TYPE_CHECKING:
    from obstore.store import RetryConfig

LOCK_TIMEOUT_SECONDS = 60
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
ROOT_DOCUMENT = "zarr.json"


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region() -> str:
    # Icechunk would ask the machine's cloud for it, which takes 20 s where there is none.
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _is_anonymous() -> bool:
    return not any(os.environ.get(variable) for variable in CREDENTIALS)


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
            return icechunk.local_filesystem_storage(f"{self._root}/{path}")
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
        with explained(self.url_of(path)):
            try:
                return bytes(obstore.get(self._objects(), path).bytes())
            except (NotFoundError, FileNotFoundError) as error:
                if NO_SUCH_BUCKET in str(error):
                    raise
                return None

    def write(self, path: str, content: bytes) -> None:
        """Write a whole object, atomically. Raises `StoreError`."""
        with explained(self.url_of(path)):
            obstore.put(self._objects(), path, content)

    def read_json(self, path: str) -> Any | None:
        """Return a JSON object, or None when there is none. Raises `StoreError` when it is not JSON."""
        content = self.read(path)
        try:
            return None if content is None else json.loads(content)
        except json.JSONDecodeError as error:
            raise StoreError(f"{self.url_of(path)} is not JSON ({error}): restore it from a backup") from error

    def write_json(self, path: str, document: Any) -> None:
        """Write a JSON object, atomically."""
        self.write(path, json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")

    def delete(self, path: str) -> None:
        """Delete an object."""
        with explained(self.url_of(path)):
            obstore.delete(self._objects(), path)

    def list(self, prefix: str) -> list[str]:
        """Return the paths of all objects below a prefix, sorted."""
        with explained(self.url_of(prefix)):
            pages = obstore.list(self._objects(), prefix=prefix.rstrip("/"))
            return sorted(entry["path"] for page in pages for entry in page)

    @contextmanager
    def writer(self, name: str) -> Iterator[None]:
        """Hold the right to write one of the stores.

        On a filesystem this is a lock that dies with its process. On object storage it is no more than a mark in the
        code: there the archive's commits are conditional, but cubes and pointer rely on one night running at a time,
        which the deployment's concurrency limit sees to. Raises `StoreError` when another process holds the lock.
        """
        if not self.is_local:
            yield
            return
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


class StagedZarr(WrapperStore[ZarrStore]):
    """A Zarr v3 store that shows a change in one step: chunks at once, metadata held back, the root document last.

    Readers of consolidated metadata see the whole old state until `commit` replaces the root document, and the whole
    new one after. Metadata is read from the committed root document alone, so what a killed writer left in an array's
    own document is never believed.
    """

    def __init__(self, store: ZarrStore) -> None:
        super().__init__(store)
        self._documents: dict[str, Buffer] = {}
        root = zarr.core.sync.sync(store.get(ROOT_DOCUMENT, default_buffer_prototype()))
        if root is not None:
            self._documents = _documents_of(root)

    @property
    def is_empty_store(self) -> bool:
        """Tell whether nothing was ever committed here."""
        return ROOT_DOCUMENT not in self._documents

    def commit(self) -> None:
        """Make the change visible: the consolidated root document, then the arrays' own documents."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(self)
        root = self._documents.pop(ROOT_DOCUMENT)
        for key, document in ((ROOT_DOCUMENT, root), *self._documents.items()):
            zarr.core.sync.sync(self._store.set(key, document))
        self._documents[ROOT_DOCUMENT] = root

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return a held-back document, or a chunk from the store."""
        if _is_document(key):
            return self._documents.get(key)
        return await self._store.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Tell whether a document is held back, or a chunk is in the store."""
        return key in self._documents if _is_document(key) else await self._store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Hold a document back, write a chunk at once."""
        if _is_document(key):
            self._documents[key] = value
        else:
            await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """As `set`, unless the key is there."""
        if not await self.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def is_empty(self, prefix: str) -> bool:
        """Tell whether no document is held back under a prefix; chunks of a killed first write don't count."""
        return not any(key.startswith(prefix) for key in self._documents)

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return this store: a second view would not see the documents held back."""
        return self

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the members that the held-back documents name; the store itself is not listed."""
        start = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        for name in {key[len(start) :].split("/")[0] for key in self._documents if key.startswith(start)}:
            yield name


def _is_document(key: str) -> bool:
    return key.rsplit("/", 1)[-1] == ROOT_DOCUMENT


def _documents_of(root: Buffer) -> dict[str, Buffer]:
    try:
        members = json.loads(root.to_bytes())["consolidated_metadata"]["metadata"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProductError(f"a root {ROOT_DOCUMENT} is damaged ({error!r}): restore it from a backup") from error
    make = default_buffer_prototype().buffer.from_bytes
    return {ROOT_DOCUMENT: root} | {f"{n}/{ROOT_DOCUMENT}": make(json.dumps(d).encode()) for n, d in members.items()}
