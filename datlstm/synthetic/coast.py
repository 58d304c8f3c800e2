"""OSTIA's 0.05 degree cells and which of them are water, from the real coastline of ``global-land-mask``.

The package's GLOBE mask counts lakes and rivers as land, so a cell is sea (1) or land (2) and OSTIA's lake and river
bits are never set.
"""

import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution

import numpy as np
from numpy.typing import NDArray

from datlstm.settings import Region

CELLS_PER_DEGREE = 20
PIXELS_PER_CELL = 6
PIXELS_PER_DEGREE = CELLS_PER_DEGREE * PIXELS_PER_CELL
MINIMUM_WATER_FRACTION = 0.5
KM_PER_DEGREE = 111.195

_GLOBE_COLUMNS = 360 * PIXELS_PER_DEGREE


@dataclass(frozen=True)
class CellBox:
    """A box of 0.05 degree cells, as numbers of cells from the south pole and from 180 W; ends are exclusive."""

    south: int
    north: int
    west: int
    east: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells ``(latitude, longitude)``."""
        return self.north - self.south, self.east - self.west

    @property
    def latitude(self) -> NDArray[np.float64]:
        """Cell centres in ascending degrees, float64 on the nearest thousandth (…025, …075)."""
        return np.round((np.arange(self.south, self.north) + 0.5) / CELLS_PER_DEGREE - 90, 3)

    @property
    def longitude(self) -> NDArray[np.float64]:
        """Cell centres in ascending degrees -180 … 180, float64 on the nearest thousandth."""
        return np.round((np.arange(self.west, self.east) + 0.5) / CELLS_PER_DEGREE - 180, 3)

    def grown(self, cells: int) -> "CellBox":
        """Return the box with more cells on every side, as far as the globe has them."""
        return CellBox(
            max(self.south - cells, 0),
            min(self.north + cells, 180 * CELLS_PER_DEGREE),
            max(self.west - cells, 0),
            min(self.east + cells, 360 * CELLS_PER_DEGREE),
        )

    def within(self, outer: "CellBox") -> tuple[slice, slice]:
        """Return where this box lies in the rows and columns of one that holds it."""
        return (
            slice(self.south - outer.south, self.north - outer.south),
            slice(self.west - outer.west, self.east - outer.west),
        )


def cells_of(region: Region) -> CellBox:
    """Return the 0.05 degree cells that touch a region's box, whatever the region's own resolution."""

    def first(edge: float, origin: float) -> int:
        return int(np.floor(np.round((edge - origin) * CELLS_PER_DEGREE, 6)))

    def last(edge: float, origin: float) -> int:
        return int(np.ceil(np.round((edge - origin) * CELLS_PER_DEGREE, 6)))

    return CellBox(first(region.south, -90), last(region.north, -90), first(region.west, -180), last(region.east, -180))


def water_fraction(box: CellBox) -> NDArray[np.float64]:
    """Return the share of sea ``(latitude, longitude)`` among the 6 x 6 pixels of 30 arc seconds of each cell."""
    rows = box.shape[0] * PIXELS_PER_CELL
    top = (180 * CELLS_PER_DEGREE - box.north) * PIXELS_PER_CELL
    columns = slice(box.west * PIXELS_PER_CELL, box.east * PIXELS_PER_CELL)
    pixels = _globe_rows(top, rows)[::-1, columns]
    by_cell = pixels.reshape(box.shape[0], PIXELS_PER_CELL, box.shape[1], PIXELS_PER_CELL)
    fraction: NDArray[np.float64] = np.mean(by_cell, axis=(1, 3), dtype=np.float64)
    return fraction


def water_cells(box: CellBox) -> NDArray[np.bool_]:
    """Return which cells ``(latitude, longitude)`` are at least half sea."""
    return water_fraction(box) >= MINIMUM_WATER_FRACTION


def _globe_rows(first: int, count: int) -> NDArray[np.bool_]:
    """Return rows of the global mask counted from the north pole, true at sea.

    The file is streamed, because importing the package would hold its 930 MB in memory for the life of the process.
    """
    path = distribution("global-land-mask").locate_file("global_land_mask/globe_combined_mask_compressed.npz")
    with zipfile.ZipFile(str(path)) as archive, archive.open("mask.npy") as stream:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        stream.seek(stream.tell() + first * _GLOBE_COLUMNS)
        values = stream.read(count * _GLOBE_COLUMNS)
    return np.frombuffer(values, bool).reshape(count, _GLOBE_COLUMNS)
