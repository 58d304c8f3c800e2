"""A published cube: plain Zarr v3 that only grows, so that every reader sees one whole state for as long as it reads.

What a reader of any committed state can see never changes value: rows are added at the end of one dimension, and show
up when the root document is replaced. There is therefore no moment at which parts of two states can be read together.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from datlstm.errors import ProductError
from datlstm.formats import check_format
from datlstm.settings import OWN_STORE
from datlstm.staged import ROOT_DOCUMENT, StagedZarr
from datlstm.store import Store

FORMAT = "format_version"
# Of a cube's own attributes, those that may change while it grows: they follow source and release.
LIVING_ATTRIBUTES = ("acknowledgement", "history", FORMAT)


class Cube:
    """One cube under a store.

    ``template`` has the whole structure, with length 0 along the one dimension that grows, and the number of its
    format as the attribute `FORMAT`; ``encoding`` says how it lies on disk.
    """

    def __init__(
        self, store: Store, path: str, template: xr.Dataset, encoding: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._store = store
        self._path = path
        self._template = template
        self._encoding = encoding
        (self.dimension,) = (str(name) for name, size in template.sizes.items() if size == 0)

    @property
    def url(self) -> str:
        """Where the cube is."""
        return self._store.url_of(self._path)

    @property
    def current_format(self) -> int:
        """The format that this release reads and writes."""
        return int(self._template.attrs.get(FORMAT, 1))

    def open(self) -> xr.Dataset | None:
        """Return the published state, lazily, or None before the first write.

        Raises `ProductError` for the cube of another region, or of another format.
        """
        state = self.open_any()
        if state is not None:
            self._check_own(state)
            check_format(self.format_of(state), self.current_format, self.url, ProductError)
        return state

    def open_any(self) -> xr.Dataset | None:
        """Return the published state, lazily, of whatever format it is, or None before the first write."""
        if self._store.read(f"{self._path}/{ROOT_DOCUMENT}") is None:
            return None
        store = self._store.zarr(self._path, read_only=True)
        return xr.open_zarr(store, chunks=None, decode_timedelta=False, zarr_format=3, consolidated=True)

    def format_of(self, state: xr.Dataset) -> Any:
        """Return the format of a published state. One without a number is older than numbers.

        It has this release's format if it has all variables, else the first.
        """
        has_all = self._template.variables.keys() <= state.variables.keys()
        return state.attrs.get(FORMAT, self.current_format if has_all else 1)

    @contextmanager
    def writing(self) -> Iterator["CubeWriter"]:
        """Hold the right to write.

        Raises `StoreError` when another writer doesn't finish.
        """
        with self._store.writer(self._path) as confirm:
            staged = StagedZarr(self._store, self._path, confirm)
            yield CubeWriter(self, staged)
            staged.follow_up()

    def grow(self, staged: StagedZarr, fields: Mapping[str, np.ndarray]) -> int:
        """Write rows that a commit of ``staged`` will show and return their number; see `CubeWriter.stage`."""
        if staged.is_empty_store:
            self._create(staged)
        group = zarr.open_group(staged, mode="r+", use_consolidated=False)
        self._check_structure(group)
        if FORMAT in self._template.attrs:
            group.attrs[FORMAT] = self.current_format
        return self._append(group, fields)

    def restructure(self, staged: StagedZarr, history: str) -> zarr.Group:
        """Give a cube of an earlier format this one's attributes, and its missing arrays, empty; return its group.

        A commit of ``staged`` will show it. Raises `ProductError` when it is another cube even so.
        """
        group = zarr.open_group(staged, mode="r+", use_consolidated=False)
        self._check_own(group)
        fresh = MemoryStore()
        self._create(fresh)
        wanted = zarr.open_group(fresh, mode="r", use_consolidated=False)
        length = next(array.shape[0] for name, array in group.arrays() if name == self.dimension)
        for name, array in wanted.arrays():
            if name in group:
                group[name].attrs.put(array.attrs.asdict())
            else:
                dims = getattr(array.metadata, "dimension_names", None) or ()
                shape = tuple(length if d == self.dimension else n for d, n in zip(dims, array.shape, strict=True))
                add_empty(staged, name, array, shape)
        living = {name: group.attrs[name] for name in LIVING_ATTRIBUTES if name in group.attrs}
        group.attrs.put({**wanted.attrs.asdict(), **living, FORMAT: self.current_format, "history": history})
        group = zarr.open_group(staged, mode="r+", use_consolidated=False)
        self._check_structure(group)
        return group

    def preview(self, fields: Mapping[str, np.ndarray]) -> xr.Dataset:
        """Return the state that a new cube with these rows would show, loaded; nothing is written."""
        store = MemoryStore()
        self._create(store)
        self._append(zarr.open_group(store, mode="r+", use_consolidated=False), fields)
        options: dict[str, Any] = {"chunks": None, "decode_timedelta": False, "zarr_format": 3}
        return xr.open_zarr(store, consolidated=False, **options).load()

    def _append(self, group: zarr.Group, fields: Mapping[str, np.ndarray]) -> int:
        growing = {str(n): array for n, array in self._template.variables.items() if self.dimension in array.dims}
        places = {name: array.dims.index(self.dimension) for name, array in growing.items()}
        added = max(fields[name].shape[place] for name, place in places.items())
        for name, place in places.items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            _append_rows(array, place, fields[name], added)
        return added

    def structure(self) -> dict[str, Any]:
        """Return the metadata that a cube without rows has: the consolidated root document, as JSON."""
        documents: dict[str, Buffer] = {}
        self._create(MemoryStore(documents))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(MemoryStore(documents))
        root: dict[str, Any] = json.loads(documents[ROOT_DOCUMENT].to_bytes())
        return root

    def _create(self, store: StagedZarr | MemoryStore) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            self._template.to_zarr(store, zarr_format=3, consolidated=False, encoding=self._encoding, mode="w-")

    def _check_own(self, state: xr.Dataset | zarr.Group) -> None:
        own, found = (attributes.get("id") for attributes in (self._template.attrs, state.attrs))
        if own is not None and found not in (None, own):
            raise ProductError(f"{self.url} is {found}, not {own}: {OWN_STORE}")

    def _check_structure(self, group: zarr.Group) -> None:
        fresh = MemoryStore()
        self._create(fresh)
        wanted = zarr.open_group(fresh, mode="r", use_consolidated=False)
        found, expected = (dict(map(self._form, cube.arrays())) | _described(cube) for cube in (group, wanted))
        if found != expected:
            drifted = sorted(name for name in found | expected if found.get(name) != expected.get(name))
            raise ProductError(
                f"{self.url} is not built as this code builds it, in {', '.join(drifted)}: "
                "publish to a new store, or go back to the settings that made it"
            )

    def _form(self, named: tuple[str, zarr.Array]) -> tuple[str, tuple[Any, ...]]:
        """Return an array's name and what no row changes of it: of a coordinate the values too."""
        name, array = named
        dims = getattr(array.metadata, "dimension_names", None) or ()
        sizes = [size for dim, size in zip(dims, array.shape, strict=True) if dim != self.dimension]
        values = [] if self.dimension in dims else np.asarray(array[:]).tolist()
        return name, (str(array.dtype), dims, sizes, array.chunks, values, array.attrs.asdict())


class CubeWriter:
    """The right to write a cube, while `Cube.writing` gives it: rows are staged first, and shown by the commit."""

    def __init__(self, cube: Cube, staged: StagedZarr) -> None:
        self._cube = cube
        self._staged = staged
        self._staged_rows = 0
        self.url = cube.url
        self.committed = cube.open()

    def stage(self, fields: Mapping[str, np.ndarray]) -> None:
        """Write new rows where no reader sees them yet: every array of the growing dimension, encoded as on disk.

        An array with fewer rows than the longest holds the last of them; the rows before are empty. Raises
        `ProductError` when the cube on disk has another structure.
        """
        self._staged_rows = self._cube.grow(self._staged, fields)

    @property
    def length(self) -> int:
        """Number of rows once everything staged is committed."""
        rows = 0 if self.committed is None else self.committed.sizes[self._cube.dimension]
        return rows + self._staged_rows

    def commit(self) -> None:
        """Show what was staged, in one step; nothing when there is nothing.

        Raises `ConflictError`, with nothing visible, when another writer was first.
        """
        if self._staged_rows:
            self._staged.commit()


def add_empty(store: ZarrStore, name: str, form: zarr.Array, shape: tuple[int, ...]) -> None:
    """Add an array of another one's form, in a shape of its own, that has no chunk: all of it is the fill value."""
    document = form.metadata.to_dict() | {"shape": shape}
    metadata = ArrayV3Metadata.from_dict(document)
    (key, content), *_ = metadata.to_buffer_dict(default_buffer_prototype()).items()
    sync(store.set(f"{name}/{key}", content))


def _described(group: zarr.Group) -> dict[str, Any]:
    """Return the attributes of a cube that stay as they are, each under a name of its own."""
    kept = {name: value for name, value in group.attrs.asdict().items() if name not in LIVING_ATTRIBUTES}
    return {f"attribute {name}": value for name, value in kept.items()}


def _append_rows(array: zarr.Array, place: int, rows: np.ndarray, added: int) -> None:
    """Write every new row, empty ones too, for nothing says what a killed writer left there."""
    old = array.shape[place]
    start, stop = old + added - rows.shape[place], old + added
    array.resize((*array.shape[:place], stop, *array.shape[place + 1 :]))
    before = (slice(None),) * place
    if start > old:
        array[(*before, slice(old, start))] = array.fill_value
    array[(*before, slice(start, stop))] = rows
