"""Opening one NetCDF file or Zarr store on any filesystem, with every failure typed: the file's, or its storage's."""

import errno
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import xarray as xr
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from datlstm.errors import DatlstmError, PermanentSourceError, TransientSourceError

ZARR_DOCUMENTS = ("zarr.json", ".zmetadata", ".zgroup")
ENGINE_BY_FIRST_BYTES = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}
# What tells one state of a file from the next, as far as its filesystem knows it.
STATE_KEYS = ("size", "mtime", "ino", "ETag", "etag")
OUT_OF_HANDLES = {errno.EMFILE, errno.ENFILE}
# What object storage says of the object alone; any other number is of the storage, none at all of the content.
OBJECT_ERRNOS = {None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EINVAL}
CONTENT_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    EOFError,
    MemoryError,
    zlib.error,
)


class UnfinishedFileError(TransientSourceError):
    """A file that another program is writing or has replaced: its own fault, but a later run may find it whole."""


def open_stored(filesystem: AbstractFileSystem, path: str) -> xr.Dataset:
    """Return a NetCDF file's or a Zarr store's dataset, decoded lazily, but for spans of time.

    Raises `PermanentSourceError` for an absent path and for what is neither, and as `explained` does.
    """
    with explained(filesystem, path):
        if not filesystem.exists(path):
            raise PermanentSourceError(f"{path} does not exist: correct source.files.path")
        return _open_zarr(filesystem, path) if filesystem.isdir(path) else _open_netcdf(filesystem, path)


def state_of(filesystem: AbstractFileSystem, path: str) -> dict[str, object]:
    """Return what changes when a file is written, replaced or removed; a folder may grow while it is read.

    Raises as `explained` does.
    """
    with explained(filesystem, path):
        try:
            known = filesystem.info(path)
        except FileNotFoundError:
            return {}
    keys = ("type",) if known["type"] == "directory" else STATE_KEYS
    return {key: known[key] for key in keys if key in known}


@contextmanager
def explained(filesystem: AbstractFileSystem, path: str) -> Iterator[None]:
    """Turn any failure to read a path into a typed one that names it.

    Raises `UnfinishedFileError` for a file that its writer has locked, `TransientSourceError` when the storage under
    it fails, else `PermanentSourceError`: then the fault is in the file.
    """
    try:
        yield
    except DatlstmError:
        raise
    except BlockingIOError as error:
        raise UnfinishedFileError(f"{path} is being written by another program: read it again later") from error
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        if _is_of_storage(error, filesystem):
            raise TransientSourceError(f"the storage of {path} fails ({detail}): check it and try again") from error
        raise PermanentSourceError(f"{path} can't be read ({detail}): remove or replace it") from error


def _is_of_storage(error: Exception, filesystem: AbstractFileSystem) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(filesystem, LocalFileSystem):
        return isinstance(error, OSError) and error.errno in OUT_OF_HANDLES
    if isinstance(error, OSError):
        return error.errno not in OBJECT_ERRNOS
    # Object storage clients have no common root of their errors; what no content raises is theirs.
    return not isinstance(error, CONTENT_ERRORS)


def _open_zarr(filesystem: AbstractFileSystem, path: str) -> xr.Dataset:
    documents = {name: f"{path}/{name}" for name in ZARR_DOCUMENTS if filesystem.exists(f"{path}/{name}")}
    if not documents:
        raise PermanentSourceError(f"{path} is a folder but no Zarr store: give a glob such as {path}/*.nc")
    root = json.loads(filesystem.cat(documents["zarr.json"])) if "zarr.json" in documents else {}
    is_consolidated = ".zmetadata" in documents or bool(root.get("consolidated_metadata"))
    url = path if isinstance(filesystem, LocalFileSystem) else filesystem.unstrip_protocol(path)
    return xr.open_dataset(url, engine="zarr", consolidated=is_consolidated, decode_timedelta=False)


def _open_netcdf(filesystem: AbstractFileSystem, path: str) -> xr.Dataset:
    with filesystem.open(path, "rb") as file:
        first_bytes = file.read(4)
    if not first_bytes:
        raise PermanentSourceError(f"{path} is empty: remove or replace it")
    if first_bytes not in ENGINE_BY_FIRST_BYTES:
        raise PermanentSourceError(
            f"{path} starts with {first_bytes!r} and is neither NetCDF-4 nor classic NetCDF: remove or replace it"
        )
    file = path if isinstance(filesystem, LocalFileSystem) else filesystem.open(path, "rb")
    return xr.open_dataset(file, engine=ENGINE_BY_FIRST_BYTES[first_bytes], decode_timedelta=False)
