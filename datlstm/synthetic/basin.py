"""The still shape of the synthetic sea: coast, depth, tidal mixing and the gyre that carries anomalies."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from datlstm.synthetic.coast import CELLS_PER_DEGREE, KM_PER_DEGREE, CellBox, water_cells

FloatArray = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

# The sea is worked out this far beyond the cells that are asked for, so that their coast and inflow hardly depend on
# where the box ends.
PADDING_CELLS = 12
COAST_PADDING_CELLS = 40

CENTRE_LATITUDE, CENTRE_LONGITUDE = 39.0, 120.0
SMALLEST_COASTLINE_CELLS = 40
SHALLOWEST_METRES, DEEPEST_METRES, SHELF_WIDTH_KM = 8.0, 28.0, 35.0
GYRE_KM_PER_DAY, GYRE_WIDTH_KM = 10.0, 45.0
STRAIT_LATITUDE, STRAIT_LONGITUDE = 38.55, 121.0
STRAIT_ALONG_KM, STRAIT_ACROSS_KM, FRONT_SHARPNESS = 58.0, 34.0, 0.35


@dataclass(frozen=True, eq=False)
class Basin:
    """The sea under a box of cells and its padding.

    Arrays are ``(latitude, longitude)`` over ``padded``, on land too: ``water`` bool, ``x_km`` and ``y_km`` distances
    from 39 N 120 E in a plane that is true there, ``coast_km`` the distance to the mainland, ``depth_metres`` a proxy
    that follows from it, ``tidal_mixing`` 0 … 1 around the Bohai Strait. ``transport`` moves a flattened field by one
    day of the gyre.
    """

    box: CellBox
    padded: CellBox
    latitude: FloatArray
    water: NDArray[np.bool_]
    x_km: FloatArray
    y_km: FloatArray
    coast_km: FloatArray
    depth_metres: FloatArray
    tidal_mixing: FloatArray
    transport: sparse.csr_array

    def inside(self, field: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the part of a padded field, its last two axes, that lies in the box."""
        rows, columns = self.box.within(self.padded)
        return field[..., rows, columns]


@lru_cache(maxsize=8)
def basin_of(box: CellBox) -> Basin:
    """Return the sea under a box; reading its coastline takes about a second the first time."""
    padded = box.grown(PADDING_CELLS)
    wide = box.grown(COAST_PADDING_CELLS)
    wide_water, wide_coast_km = _coast(wide)
    water, coast_km = wide_water[padded.within(wide)], wide_coast_km[padded.within(wide)]
    latitude, longitude = np.meshgrid(padded.latitude, padded.longitude, indexing="ij")
    mixing = _tidal_mixing(padded)
    depth = SHALLOWEST_METRES + (DEEPEST_METRES - SHALLOWEST_METRES) * (1 - np.exp(-coast_km / SHELF_WIDTH_KM))
    return Basin(
        box=box,
        padded=padded,
        latitude=latitude,
        water=water,
        x_km=(longitude - CENTRE_LONGITUDE) * KM_PER_DEGREE * np.cos(np.deg2rad(CENTRE_LATITUDE)),
        y_km=(latitude - CENTRE_LATITUDE) * KM_PER_DEGREE,
        coast_km=coast_km,
        depth_metres=depth + 10 * mixing,
        tidal_mixing=mixing,
        transport=_one_day_of_gyre(coast_km, padded),
    )


def _coast(box: CellBox) -> tuple[NDArray[np.bool_], FloatArray]:
    """Return water cells and a smooth distance to the coast of the mainland in kilometres.

    Small islands have shallows too narrow for these cells. Smoothing takes the creases out of the distance where it is
    equally far to two shores.
    """
    water = water_cells(box)
    labels, _ = ndimage.label(~water)
    mainland = np.bincount(labels.ravel(), minlength=1) >= SMALLEST_COASTLINE_CELLS
    mainland[0] = False
    cell_km = KM_PER_DEGREE / CELLS_PER_DEGREE, _km_per_degree_of_longitude(box) / CELLS_PER_DEGREE
    if not mainland.any():
        return water, np.full(box.shape, 5 * SHELF_WIDTH_KM)
    distance = ndimage.distance_transform_edt(~mainland[labels], sampling=cell_km)
    return water, ndimage.gaussian_filter(distance, sigma=2.0, mode="nearest")


def _km_per_degree_of_longitude(box: CellBox) -> float:
    return KM_PER_DEGREE * float(np.cos(np.deg2rad(box.latitude.mean())))


def _tidal_mixing(box: CellBox) -> FloatArray:
    x = (box.longitude - STRAIT_LONGITUDE) * KM_PER_DEGREE * np.cos(np.deg2rad(STRAIT_LATITUDE))
    y = (box.latitude - STRAIT_LATITUDE) * KM_PER_DEGREE
    # The deep channel, and the tongue of cold water in it, point to the north-west.
    along, across = (x[None, :] - y[:, None]) / np.sqrt(2), (x[None, :] + y[:, None]) / np.sqrt(2)
    radius = np.hypot(along / STRAIT_ALONG_KM, across / STRAIT_ACROSS_KM)
    mixing: FloatArray = 0.5 * (1 - np.tanh((radius - 1) / FRONT_SHARPNESS))
    return mixing


def _one_day_of_gyre(coast_km: FloatArray, box: CellBox) -> sparse.csr_array:
    """Return the matrix that carries a flattened field along the gyre for a day.

    The flow follows the coast anticlockwise, fastest near it, and crosses no shore because its stream function is a
    function of the distance to the coast. Each cell takes the bilinear value of where its water was a day before
    (semi-Lagrangian advection: Staniforth and Côté 1991, doi:10.1175/1520-0493(1991)119<2206:SLISFA>2.0.CO;2).
    """
    dy, dx = KM_PER_DEGREE / CELLS_PER_DEGREE, _km_per_degree_of_longitude(box) / CELLS_PER_DEGREE
    stream = -GYRE_KM_PER_DAY * GYRE_WIDTH_KM * (1 - np.exp(-coast_km / GYRE_WIDTH_KM))
    northward, eastward = np.gradient(stream, dx, axis=1) / dy, -np.gradient(stream, dy, axis=0) / dx
    rows, columns = np.indices(box.shape, dtype=np.float64)
    middle = rows - 0.5 * northward, columns - 0.5 * eastward
    northward, eastward = (ndimage.map_coordinates(c, middle, order=1, mode="nearest") for c in (northward, eastward))
    return _bilinear(rows - northward, columns - eastward, box.shape)


def _bilinear(rows: FloatArray, columns: FloatArray, shape: tuple[int, int]) -> sparse.csr_array:
    row = np.clip(rows.ravel(), 0, shape[0] - 1)
    column = np.clip(columns.ravel(), 0, shape[1] - 1)
    low_row = np.minimum(row.astype(np.intp), shape[0] - 2)
    low_column = np.minimum(column.astype(np.intp), shape[1] - 2)
    row_share, column_share = row - low_row, column - low_column
    weights, sources = [], []
    for up in (0, 1):
        for right in (0, 1):
            weights.append(np.abs(1 - up - row_share) * np.abs(1 - right - column_share))
            sources.append((low_row + up) * shape[1] + low_column + right)
    targets = np.tile(np.arange(row.size), 4)
    matrix = sparse.coo_array((np.concatenate(weights), (targets, np.concatenate(sources))), shape=(row.size, row.size))
    return matrix.tocsr()
