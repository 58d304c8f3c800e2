"""A daily axis that starts on a fixed day and has a place for every day after it, present or not.

The archive and the published cubes all grow along such an axis, so a day's place follows from its date alone: writing
days in any order, twice, or with gaps gives the same store, and an absent day costs no object.
"""

from collections.abc import Mapping
from datetime import date

import numpy as np
import zarr

EPOCH = date(1970, 1, 1)
DAY_UNITS = "days since 1970-01-01"
SECOND_UNITS = "seconds since 1970-01-01"
LARGE_CHUNK = 4096
"""Days in one object of a per-day scalar: opening decades costs a handful of reads."""


class DailyAxis:
    """The daily dimension of a Zarr group whose first entry is ``first_day`` for ever."""

    def __init__(self, group: zarr.Group, dimension: str) -> None:
        self._group = group
        self.dimension = dimension

    @property
    def first_day(self) -> date:
        """The day at index 0, kept as an attribute of the coordinate so that an empty axis knows it too."""
        return date.fromisoformat(str(self._coordinate.attrs["first_day"]))

    @property
    def size(self) -> int:
        """Number of days on the axis."""
        return self._coordinate.shape[0]

    def index(self, day: date) -> int:
        """Return the place of a day; negative before the first."""
        return (day - self.first_day).days

    def extend(self, last_day: date) -> None:
        """Make room up to and including ``last_day``; an axis never shrinks."""
        old, new = self.size, self.index(last_day) + 1
        if new <= old:
            return
        for _, array in self._group.arrays():
            position = self._position(array)
            if position is not None:
                array.resize((*array.shape[:position], new, *array.shape[position + 1 :]))
        start = (self.first_day - EPOCH).days
        self._coordinate[old:new] = np.arange(start + old, start + new, dtype=self._coordinate.dtype)

    def write(self, day: date, fields: Mapping[str, np.ndarray]) -> None:
        """Write fields that hold consecutive days from ``day`` on along the axis, which must reach that far."""
        first = self.index(day)
        for name, values in fields.items():
            array = self._array(name)
            position = self._position(array) or 0
            array[(slice(None),) * position + (slice(first, first + values.shape[position]),)] = values

    @property
    def _coordinate(self) -> zarr.Array:
        return self._array(self.dimension)

    def _array(self, name: str) -> zarr.Array:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array

    def _position(self, array: zarr.Array) -> int | None:
        names = getattr(array.metadata, "dimension_names", None) or ()
        return names.index(self.dimension) if self.dimension in names else None
