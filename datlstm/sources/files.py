"""NetCDF files and Zarr stores on disk or object storage as a source: one path, a glob, or a URL fsspec knows."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from glob import has_magic

import fsspec
import numpy as np
import xarray as xr
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from datlstm.errors import NotYetAvailableError, PermanentSourceError, TransientSourceError
from datlstm.settings import FilesSource as Options
from datlstm.settings import Region
from datlstm.sources.form import (
    DAYS_PER_CHUNK,
    VariableNames,
    chunked,
    deliver,
    in_kelvin,
    locate,
    refuse_repeated_days,
    water_of,
)

MASK_SAMPLE_DAYS = 366
SMALL_CHUNK_DAYS = 30
ZARR_DOCUMENTS = ("zarr.json", ".zmetadata", ".zgroup")
ENGINE_BY_FIRST_BYTES = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}


@dataclass(frozen=True)
class _Piece:
    """One opened file or store, located but not read."""

    path: str
    located: xr.Dataset

    @property
    def days(self) -> NDArray[np.datetime64]:
        return self.located["time"].to_numpy()


class FilesSource:
    """Days of SST from files that lie somewhere, seen as one record; see `datlstm.sources.Source`.

    Files are opened once, at the first question, and read only where and when asked.
    """

    def __init__(self, region: Region, options: Options) -> None:
        self.product = options.product
        self.version = options.version
        self.attribution = options.attribution
        self._region = region
        self._path = options.path
        self._names = VariableNames(options.variable, options.ice_variable, options.mask_variable)

    def coverage(self) -> tuple[date, date]:
        """Return the first and last calendar day of the record. Raises as `read` does."""
        return self._days[0].astype("datetime64[D]").item(), self._days[-1].astype("datetime64[D]").item()

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of a closed interval that exist, in the form and with the errors of `Source.read`.

        Raises `PermanentSourceError` for absent, unreadable or contradictory files, `GridError` for an uncovered
        region, `NotYetAvailableError` when the record ends before ``first_day``, `TransientSourceError` when object
        storage does not answer.
        """
        if np.datetime64(first_day) > self._days[-1]:
            raise NotYetAvailableError(
                f"{self._path} ends on {self.coverage()[1]}, before {first_day}: add newer files, or ask for older days"
            )
        asked = [piece.located.sel(time=slice(str(first_day), str(last_day))) for piece in self._pieces]
        chosen = [located for located in asked if located.sizes["time"]] or asked[:1]
        return deliver(_joined([in_kelvin(chunked(located)) for located in chosen]), self._water)

    @cached_property
    def _pieces(self) -> list[_Piece]:
        if not self._path:
            raise PermanentSourceError("no files to read: set source.files.path to a path, a glob or a URL")
        with _explained(self._path):
            filesystem, pattern = fsspec.url_to_fs(self._path)
            paths = sorted(filesystem.glob(pattern)) if has_magic(pattern) else [pattern]
        if not paths:
            raise PermanentSourceError(f"no file matches {self._path}: correct source.files.path")
        pieces = [_Piece(path, self._open(filesystem, path)) for path in paths]
        pieces = [_on_cells_of(pieces[0], piece) for piece in pieces]
        return sorted(pieces, key=lambda piece: piece.days[0])

    @cached_property
    def _days(self) -> NDArray[np.datetime64]:
        days = np.sort(np.concatenate([piece.days for piece in self._pieces]))
        refuse_repeated_days(days, self._path)
        return days

    @cached_property
    def _water(self) -> xr.DataArray:
        stride = -(-self._days.size // MASK_SAMPLE_DAYS)
        sample = self._days[::stride]
        waters = []
        for piece in self._pieces:
            positions = np.flatnonzero(np.isin(piece.days, sample))
            if positions.size:
                with _explained(piece.path):
                    waters.append(water_of(piece.located.isel(time=positions)).to_numpy())
        cells = self._pieces[0].located[["latitude", "longitude"]].coords
        return xr.DataArray(np.any(waters, axis=0), cells, ("latitude", "longitude"))

    def _open(self, filesystem: AbstractFileSystem, path: str) -> xr.Dataset:
        with _explained(path):
            if not filesystem.exists(path):
                raise PermanentSourceError(f"{path} does not exist: correct source.files.path")
            dataset = _open_zarr(filesystem, path) if filesystem.isdir(path) else _open_netcdf(filesystem, path)
        located = locate(dataset, self._region, self._names, path)
        if not located.sizes["time"]:
            raise PermanentSourceError(f"{path} holds no day: remove it, or correct source.files.path")
        return located


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
    if first_bytes not in ENGINE_BY_FIRST_BYTES:
        raise PermanentSourceError(f"{path} starts with {first_bytes!r} and is not NetCDF: remove or replace it")
    file = path if isinstance(filesystem, LocalFileSystem) else filesystem.open(path, "rb")
    return xr.open_dataset(file, engine=ENGINE_BY_FIRST_BYTES[first_bytes], decode_timedelta=False)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except PermanentSourceError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise TransientSourceError(f"the storage of {path} does not answer ({error}): try again") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PermanentSourceError(f"{path} can't be read ({error}): remove or replace it") from error
    except Exception as error:
        # Object storage clients have no common root of their errors; what is left here is theirs.
        raise TransientSourceError(f"the storage of {path} fails ({error}): check it and try again") from error


def _on_cells_of(first: _Piece, piece: _Piece) -> _Piece:
    """Return a piece with the very coordinates of the first one, from which it may differ by rounding only."""
    cells = {name: first.located[name] for name in ("latitude", "longitude")}
    for name, expected in cells.items():
        tolerance = 1e-3 * float(expected.diff(name).mean())
        own = piece.located[name]
        if own.shape != expected.shape or not np.allclose(own, expected, rtol=0, atol=tolerance):
            raise PermanentSourceError(
                f"{piece.path} is on other cells of {name} than {first.path}: leave one of them out, or regrid it"
            )
    return _Piece(piece.path, piece.located.assign_coords(cells))


def _joined(pieces: list[xr.Dataset]) -> xr.Dataset:
    if len(pieces) == 1:
        return pieces[0]
    days = xr.concat(pieces, "time", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override")
    order = np.argsort(days["time"].to_numpy(), kind="stable")
    if np.any(np.diff(order) != 1):
        days = days.isel(time=order)
    if len(days.chunks["time"]) * SMALL_CHUNK_DAYS > days.sizes["time"]:
        days = days.chunk(time=DAYS_PER_CHUNK)
    return days
