"""A change of a Zarr store that becomes visible in one step, by compare-and-set of its root document."""

import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Self

import zarr
from zarr.abc.store import ByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from datlstm.errors import ProductError
from datlstm.store import Store

ROOT_DOCUMENT = "zarr.json"


class StagedZarr(WrapperStore[ZarrStore]):
    """A Zarr v3 store that shows a change in one step: chunks at once, metadata held back, the root document last.

    Readers of consolidated metadata see the whole old state until `commit` replaces the root document, and the whole
    new one after. Metadata is read from the committed root document alone, so what a killed writer left in an array's
    own document is never believed. ``confirm``, as `Store.writer` gives it, is called before every write and raises
    when the right to write was lost. Raises `ProductError` when the root document is damaged.
    """

    def __init__(self, store: Store, path: str, confirm: Callable[[], None]) -> None:
        super().__init__(store.zarr(path))
        self._home = store
        self._root_path = f"{path}/{ROOT_DOCUMENT}"
        self._confirm = confirm
        self._is_behind = False
        self._version: str | None
        root, self._version = store.read_versioned(self._root_path)
        self._documents = {} if root is None else _documents_of(root, store.url_of(self._root_path))

    @property
    def is_empty_store(self) -> bool:
        """Tell whether nothing was ever committed here."""
        return ROOT_DOCUMENT not in self._documents

    def commit(self) -> None:
        """Make the change visible with one write, of the consolidated root document.

        Raises `ConflictError`, with nothing visible, when the root document is no longer the one that was read.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(self)
        self._confirm()
        self._version = self._home.write_if(self._root_path, self._documents[ROOT_DOCUMENT].to_bytes(), self._version)
        self._is_behind = True

    def follow_up(self) -> None:
        """Bring the arrays' own documents up to what was committed, for readers that don't ask the root document."""
        for key, document in self._documents.items() if self._is_behind else ():
            if key != ROOT_DOCUMENT:
                self._confirm()
                sync(self._store.set(key, document))
        self._is_behind = False

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
            self._confirm()
            await self._store.set(key, value)

    async def delete(self, key: str) -> None:
        """Delete a chunk: what a killed writer left where nothing is to be."""
        self._confirm()
        await self._store.delete(key)

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


def _documents_of(root: bytes, place: str) -> dict[str, Buffer]:
    try:
        members = json.loads(root)["consolidated_metadata"]["metadata"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProductError(f"{place} is damaged ({error!r}): restore it from a backup") from error
    make = default_buffer_prototype().buffer.from_bytes
    documents = {f"{name}/{ROOT_DOCUMENT}": make(json.dumps(document).encode()) for name, document in members.items()}
    return {ROOT_DOCUMENT: make(root)} | documents
