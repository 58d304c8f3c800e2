"""NetCDF files and Zarr stores on disk or object storage as a source: one path, a glob, or a URL fsspec knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, partial
from glob import has_magic
from typing import NoReturn, TypeVar

import fsspec
import numpy as np
import xarray as xr
from fsspec import AbstractFileSystem
from numpy.typing import NDArray

from datlstm.errors import GridError, NotYetAvailableError, PermanentSourceError
from datlstm.settings import FilesSource as Options
from datlstm.settings import Region
from datlstm.sources.form import Provenance, deliver, in_kelvin, locate, refuse_wrong_packing, water_of
from datlstm.sources.names import MASK_NAME, VariableNames
from datlstm.sources.opening import UnfinishedFileError, explained, open_stored, state_of
from datlstm.sources.product import Product

MASK_SAMPLE_DAYS = 366
DAY = np.timedelta64(1, "D")

T = TypeVar("T")
Fault = PermanentSourceError | GridError | UnfinishedFileError
FAULTS = (PermanentSourceError, GridError, UnfinishedFileError)
"""What is wrong with one file; any other error is of all."""


@dataclass(frozen=True)
class _Piece:
    """One opened file or store, located but not read; ``state`` is that of the file when it was opened."""

    filesystem: AbstractFileSystem
    path: str
    state: dict[str, object]
    located: xr.Dataset

    @property
    def days(self) -> NDArray[np.datetime64]:
        return self.located["time"].to_numpy()


@dataclass(frozen=True)
class _Record:
    """Pieces on the same cells, by their first days, and one line for each file left out, by its path."""

    pieces: list[_Piece]
    problems: dict[str, str]

    @property
    def days(self) -> NDArray[np.datetime64]:
        return np.sort(np.concatenate([piece.days for piece in self.pieces]))


class FilesSource:
    """Days of SST from files that lie somewhere, seen as one record; see `datlstm.sources.Source`.

    Files are opened once, at the first question, and read only where and when asked. A file that can't be read, or does
    not fit the others, is left out of what is delivered and named in its ``problems``.
    """

    def __init__(self, region: Region, options: Options) -> None:
        self._provenance = Provenance(options.product, options.version, options.attribution)
        self._region = region
        self._path = options.path
        self._names = VariableNames(options.variable, options.ice_variable, options.mask_variable)

    def products(self) -> list[Product]:
        """Return the one product, with the first and last day of the files that could be opened.

        Raises as `read` does.
        """
        first, last = self._record.days[[0, -1]].astype("datetime64[D]").tolist()
        return [Product(self._provenance.product, self._provenance.version, first, last)]

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of a closed interval that exist, in the form of `Source.read`, already loaded.

        A lazy field would fail later, untyped, or be of another file by then. So ask for as many days as fit in memory.
        Days of a file that can't be read are absent. Raises `PermanentSourceError` when nothing matches the path, when
        two files hold the same day, and when no file is left that can be read; `GridError` when none covers the region;
        `NotYetAvailableError` when the record ends before ``first_day``; `TransientSourceError` when storage does not
        answer, or the only file is being written.
        """
        record = self._record
        if np.datetime64(first_day) > record.days[-1]:
            raise NotYetAvailableError(
                f"{self._path} ends on {np.datetime_as_string(record.days[-1], unit='D')}, before {first_day}: "
                "add newer files, or ask for older days"
            )
        water, water_problems = self._water
        days = slice(np.datetime64(first_day), np.datetime64(last_day))
        asked = [(piece, piece.located.sel(time=days)) for piece in record.pieces]
        read, faults = _attempted(
            {piece.path: partial(_read, piece, part, water) for piece, part in asked if part.sizes["time"]}
        )
        if len(faults) == len(record.pieces):
            _refuse_all(faults, self._path)
        problems = record.problems | water_problems | _lines(faults)
        joined = _joined(read) if read else _without_days(record.pieces[0].located)
        return deliver(joined, water, self._provenance, problems.values())

    @cached_property
    def _record(self) -> _Record:
        filesystem, paths = self._find()
        opened, faults = _attempted({path: partial(self._open, filesystem, path) for path in paths})
        if not opened:
            _refuse_all(faults, self._path)
        pieces, misfits = _on_the_cells_of_most_days(opened)
        _refuse_shared_days(pieces)
        return _Record(sorted(pieces, key=lambda piece: piece.days[0]), _lines(faults) | _lines(misfits))

    @cached_property
    def _water(self) -> tuple[xr.DataArray, dict[str, str]]:
        """Water cells by sampled days of the sound files, bool ``(latitude, longitude)``, and what ailed the others."""
        pieces, days = self._record.pieces, self._record.days
        sample = days[:: -(-days.size // MASK_SAMPLE_DAYS)]
        sampled = [(piece, np.flatnonzero(np.isin(piece.days, sample))) for piece in pieces]
        waters, faults = _attempted(
            {piece.path: partial(_water_in, piece, positions) for piece, positions in sampled if positions.size}
        )
        if not waters:
            _refuse_all(faults, self._path)
        cells = pieces[0].located[["latitude", "longitude"]].coords
        return xr.DataArray(np.any(waters, axis=0), cells, ("latitude", "longitude")), _lines(faults)

    def _find(self) -> tuple[AbstractFileSystem, list[str]]:
        if not self._path:
            raise PermanentSourceError("no files to read: set source.files.path to a path, a glob or a URL")
        try:
            filesystem, pattern = fsspec.url_to_fs(self._path)
        except (ValueError, ImportError) as error:
            raise PermanentSourceError(f"{self._path} names no storage ({error}): correct source.files.path") from error
        with explained(filesystem, self._path):
            paths = sorted(filesystem.glob(pattern)) if has_magic(pattern) else [pattern]
        if not paths:
            raise PermanentSourceError(f"no file matches {self._path}: correct source.files.path")
        return filesystem, paths

    def _open(self, filesystem: AbstractFileSystem, path: str) -> _Piece:
        with explained(filesystem, path):
            state = state_of(filesystem, path)
            located = locate(open_stored(filesystem, path), self._region, self._names, path)
        if not located.sizes["time"]:
            raise PermanentSourceError(f"{path} holds no day: remove it, or correct source.files.path")
        return _Piece(filesystem, path, state, located)


def _read(piece: _Piece, days: xr.Dataset, water: xr.DataArray) -> xr.Dataset:
    """Return days of a piece in kelvin, loaded, one variable after the other because they are decoded to float64."""
    with explained(piece.filesystem, piece.path):
        names = [name for name in days.data_vars if name != MASK_NAME]
        loaded = xr.Dataset({name: in_kelvin(days[[name]].compute())[name].astype(np.float32) for name in names})
    refuse_wrong_packing(loaded["sst"], water, piece.path)
    _refuse_changed(piece)
    return loaded


def _water_in(piece: _Piece, positions: NDArray[np.intp]) -> NDArray[np.bool_]:
    with explained(piece.filesystem, piece.path):
        days = piece.located.isel(time=positions)
        days = days[[MASK_NAME if MASK_NAME in days else "sst"]].compute()
    if "sst" in days:
        anywhere = xr.ones_like(days["sst"].isel(time=0), dtype=bool)
        refuse_wrong_packing(in_kelvin(days)["sst"], anywhere, piece.path)
    _refuse_changed(piece)
    return water_of(days).to_numpy()


def _refuse_changed(piece: _Piece) -> None:
    if state_of(piece.filesystem, piece.path) != piece.state:
        raise UnfinishedFileError(
            f"{piece.path} was written, replaced or removed while it was read: read it again later"
        )


def _attempted(work: Mapping[str, Callable[[], T]]) -> tuple[list[T], dict[str, Fault]]:
    """Do the work on each path and return what came of it, and the faults of the files where it could not be done."""
    done: list[T] = []
    faults: dict[str, Fault] = {}
    for path, attempt in work.items():
        try:
            done.append(attempt())
        except FAULTS as fault:
            faults[path] = fault
    return done, faults


def _refuse_all(faults: Mapping[str, Fault], path: str) -> NoReturn:
    first, *others = faults.values()
    if not others:
        raise first
    raise type(first)(
        f"none of the {len(faults)} files of {path} can be used: {first}; and {len(others)} more"
    ) from first


def _lines(faults: Mapping[str, Fault]) -> dict[str, str]:
    return {path: " ".join(str(fault).split()) for path, fault in faults.items()}


def _on_the_cells_of_most_days(pieces: list[_Piece]) -> tuple[list[_Piece], dict[str, Fault]]:
    """Return the pieces on the cells that most days are on, with identical coordinates, and faults for the others.

    Of cells with as many days, those of more files are taken, then those of the first file.
    """
    groups: list[list[_Piece]] = []
    for piece in pieces:
        group = next((group for group in groups if _differing_axis(group[0], piece) is None), [])
        if not group:
            groups.append(group)
        group.append(piece)
    common = max(groups, key=lambda group: (sum(piece.days.size for piece in group), len(group)))
    faults: dict[str, Fault] = {
        piece.path: PermanentSourceError(
            f"{piece.path} is on other cells of {_differing_axis(common[0], piece)} than {common[0].path}, whose cells "
            "most days are on: leave it out, or regrid it"
        )
        for group in groups
        if group is not common
        for piece in group
    }
    cells = common[0].located[["latitude", "longitude"]].coords
    return [replace(piece, located=piece.located.assign_coords(cells)) for piece in common], faults


def _differing_axis(first: _Piece, piece: _Piece) -> str | None:
    """Return the axis on which two pieces differ by more than rounding, or None."""
    for name in ("latitude", "longitude"):
        expected, own = (p.located[name].to_numpy() for p in (first, piece))
        tolerance = 1e-3 * float(np.diff(expected).mean())
        if own.shape != expected.shape or not np.allclose(own, expected, rtol=0, atol=tolerance):
            return name
    return None


def _refuse_shared_days(pieces: list[_Piece]) -> None:
    days = np.concatenate([piece.days for piece in pieces])
    owners = np.repeat(np.arange(len(pieces)), [piece.days.size for piece in pieces])
    order = np.argsort(days, kind="stable")
    repeats = np.flatnonzero(np.diff(days[order]) < DAY)
    if repeats.size:
        one, other = (pieces[owners[order[repeats[0] + step]]].path for step in (0, 1))
        day = np.datetime_as_string(days[order[repeats[0]]], unit="D")
        raise PermanentSourceError(
            f"{one} and {other} both hold {day}, and {repeats.size - 1} more days are held twice: "
            "leave one of the files out"
        )


def _without_days(located: xr.Dataset) -> xr.Dataset:
    """Return a located dataset's temperature with no day, without touching its file."""
    none = located["sst"].isel(time=slice(0, 0))
    return in_kelvin(none.copy(data=np.empty(none.shape, np.float32)).to_dataset(name="sst"))


def _joined(pieces: list[xr.Dataset]) -> xr.Dataset:
    if len(pieces) == 1:
        return pieces[0]
    days = xr.concat(pieces, "time", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override")
    return days.sortby("time")
