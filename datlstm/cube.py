"""A published cube: plain Zarr v3 along a daily axis, whose readers see only whole states."""

import warnings
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import xarray as xr
import zarr

from datlstm.daily import DailyAxis
from datlstm.errors import ProductError
from datlstm.store import ROOT_DOCUMENT, StagedZarr, Store

INIT_TIME = "init_time"


class Cube:
    """One cube under a store, growing along ``init_time``.

    ``template`` has the whole structure with an ``init_time`` of length 0, ``encoding`` how it lies on disk. The axis
    starts on the first day ever written; a day before it is refused, because it would move every chunk.
    """

    def __init__(
        self, store: Store, path: str, template: xr.Dataset, encoding: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._store = store
        self.path = path
        self._template = template
        self._encoding = encoding

    def open(self) -> xr.Dataset | None:
        """Return the published state, lazily, or None before the first write."""
        if self._store.read(f"{self.path}/{ROOT_DOCUMENT}") is None:
            return None
        return xr.open_zarr(self._store.zarr(self.path, read_only=True), chunks=None, decode_timedelta=False)

    def write(self, day: date, fields: Mapping[str, np.ndarray]) -> None:
        """Write consecutive inits from ``day`` on, and show them in one step.

        Raises `ProductError` when the day lies before the cube's first, or the cube on disk has another structure.
        """
        with self._store.writer(self.path):
            staged = StagedZarr(self._store.zarr(self.path))
            if staged.is_empty_store:
                self._create(staged, day)
            group = zarr.open_group(staged, mode="r+", use_consolidated=False)
            self._check_structure(group)
            axis = DailyAxis(group, INIT_TIME)
            first = axis.index(day)
            if first < 0:
                raise ProductError(
                    f"{self._store.url_of(self.path)} starts at {axis.first_day} and can't take {day}: publish earlier "
                    "forecasts to another store"
                )
            count = next(iter(fields.values())).shape[self._template[next(iter(fields))].dims.index(INIT_TIME)]
            committed = axis.size
            axis.extend(date.fromordinal(day.toordinal() + count - 1))
            axis.clear(committed, first)
            axis.write(day, fields)
            staged.commit()

    def _create(self, staged: StagedZarr, first_day: date) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            self._template.to_zarr(staged, zarr_format=3, consolidated=False, encoding=self._encoding, mode="w-")
        zarr.open_group(staged, mode="r+", use_consolidated=False)[INIT_TIME].attrs["first_day"] = first_day.isoformat()

    def _check_structure(self, group: zarr.Group) -> None:
        fresh = StagedZarr(zarr.storage.MemoryStore())
        self._create(fresh, date(2000, 1, 1))
        wanted = zarr.open_group(fresh, mode="r+", use_consolidated=False)
        found, expected = (dict(map(_form, cube.arrays())) for cube in (group, wanted))
        if found != expected:
            drifted = sorted(name for name in found | expected if found.get(name) != expected.get(name))
            raise ProductError(
                f"{self._store.url_of(self.path)} is not built as this code builds it, in {', '.join(drifted)}: "
                "publish to a new store, or go back to the settings that made it"
            )


def _form(named: tuple[str, zarr.Array]) -> tuple[str, tuple[Any, ...]]:
    """Return an array's name and what inits never change of it: of a coordinate the values too."""
    name, array = named
    dims = getattr(array.metadata, "dimension_names", None) or ()
    sizes = [size for dim, size in zip(dims, array.shape, strict=True) if dim != INIT_TIME]
    values = [] if INIT_TIME in dims else np.asarray(array[:]).tolist()
    return name, (str(array.dtype), dims, sizes, array.chunks, values)
