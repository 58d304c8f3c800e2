"""The model grid, its ocean mask, and the way of a source field onto it: separable, mask-aware regridding."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from datlstm.blocks import aligned
from datlstm.errors import GridError
from datlstm.settings import Region

Method = Literal["selection", "bilinear", "conservative"]
FloatArray = NDArray[np.float64]

DIMS = ("latitude", "longitude")
# As fractions of a source cell. Sources publish float32 coordinates: on 0.01 degree cells their rounding is 8e-4, so
# neither positions nor weights are known better, and a weight that ties with a threshold on paper must still reach it.
COINCIDENCE = 1e-3
REGULARITY = 1e-2
# A target cell needs this share of its water weight observed, else the day is missing there.
MINIMUM_OBSERVED_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells of equal size in degrees.

    ``latitude`` and ``longitude`` are 1-D float64 cell centres in ascending degrees, rounded to a microdegree so that
    the same region gives the same numbers on every machine. Raises `GridError` when they are not regular and ascending.
    """

    latitude: FloatArray
    longitude: FloatArray

    def __post_init__(self) -> None:
        for name in DIMS:
            # Adding zero turns a rounded -0.0 into 0.0, which prints and therefore hashes alike.
            centres = np.round(_regular_axis(getattr(self, name), f"grid {name}"), 6) + 0.0
            centres.setflags(write=False)
            object.__setattr__(self, name, centres)

    @classmethod
    def from_region(cls, region: Region) -> Self:
        """Return the grid whose cells fill the region's box from its south-west corner."""

        def centres(low: float, high: float) -> FloatArray:
            cells = np.arange(round((high - low) / region.resolution), dtype=np.float64)
            return low + (cells + 0.5) * region.resolution

        return cls(centres(region.south, region.north), centres(region.west, region.east))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells ``(latitude, longitude)``."""
        return self.latitude.size, self.longitude.size

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name this grid: SHA-256 of its coordinates written with six decimals."""
        lines = (name + ":" + ",".join(f"{centre:.6f}" for centre in getattr(self, name)) for name in DIMS)
        return _digest("\n".join(lines).encode())

    def coords(self) -> dict[str, xr.Variable]:
        """Return the CF coordinate variables, ready for ``xr.DataArray(..., coords=grid.coords())``."""
        return {
            name: xr.Variable(name, getattr(self, name), {"standard_name": name, "long_name": name, "units": units})
            for name, units in zip(DIMS, ("degrees_north", "degrees_east"), strict=True)
        }

    def area_weights(self) -> xr.DataArray:
        """Return weights ``(latitude,)`` proportional to cell area: the cosine of latitude."""
        latitude = self.coords()["latitude"]
        weights = np.cos(np.deg2rad(self.latitude))
        return xr.DataArray(weights, dims="latitude", coords={"latitude": latitude}, name="area_weight")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)


def ocean_mask_hash(ocean_mask: xr.DataArray) -> str:
    """Return sixteen hexadecimal digits that name a boolean mask ``(latitude, longitude)``: shape and cells.

    Raises `GridError` for a mask that is not boolean.
    """
    cells = _boolean_cells(ocean_mask)
    return _digest(f"{cells.shape}".encode() + np.packbits(cells).tobytes())


class Regridder:
    """Brings fields from a source's regular cells onto a `Grid`, counting water cells only.

    A target value is the weighted mean of the finite water source cells under (or around) the target cell. It is NaN
    outside ``ocean_mask``, and where fewer than half of the cell's water weight is finite. So a complete day is
    finite exactly on ``ocean_mask``, and nothing is filled from farther away than the weights reach.

    ``method`` is ``selection`` where target cells are source cells (exact to the bit), ``conservative`` where target
    cells are larger than source cells along either axis (a point between two source centres would leave others
    uncounted), else ``bilinear``. At equal spacing the two weightings agree, so nothing jumps there.

    ``ocean_fraction`` and ``ocean_mask`` are ``(latitude, longitude)``: the share of each target cell's weight that is
    water, and where it reaches ``minimum_ocean_fraction``. Below a fraction of one the value stands for land too.
    """

    grid: Grid
    method: Method
    ocean_fraction: xr.DataArray
    ocean_mask: xr.DataArray

    def __init__(self, source_water: xr.DataArray, grid: Grid, minimum_ocean_fraction: float) -> None:
        """Prepare weights from a source's water mask, bool ``(latitude, longitude)`` with its coordinates.

        Raises `GridError` when the source's coordinates are not regular and ascending, its cells do not cover the
        grid's, or no target cell is ocean.
        """
        if not 0 < minimum_ocean_fraction <= 1:
            raise GridError(f"minimum_ocean_fraction {minimum_ocean_fraction} is not above 0 and at most 1")
        _require_dims(source_water)
        self.grid = grid
        self._source = {name: _regular_axis(source_water[name].to_numpy(), f"source {name}") for name in DIMS}
        self._water = _boolean_cells(source_water)
        for name in DIMS:
            _require_coverage(self._source[name], getattr(grid, name), name)
        self.method = _choose_method(self._source, grid)
        self._weights = {name: WEIGHTS[self.method](self._source[name], getattr(grid, name), name) for name in DIMS}
        fraction = _apply_weights(self._water.astype(np.float64), *self._weights.values())
        self.ocean_fraction = xr.DataArray(fraction, dims=DIMS, coords=grid.coords(), name="ocean_fraction")
        self.ocean_mask = (self.ocean_fraction >= minimum_ocean_fraction * (1 - COINCIDENCE)).rename("ocean_mask")
        if not self.ocean_mask.any():
            raise GridError(
                f"no cell of grid {grid.hash} is ocean: its largest water fraction is {fraction.max():.3f}, below "
                f"{minimum_ocean_fraction}; move the region's box or lower minimum_ocean_fraction"
            )

    def __call__(self, field: xr.DataArray) -> xr.DataArray:
        """Return a floating-point field ``(..., latitude, longitude)`` on the grid, same unit, dtype and attributes.

        Sums are float64. Dask arrays stay lazy. Raises `GridError` for a field on other cells than the water mask's.
        """
        self._require_source_cells(field)
        field = field.transpose(..., *DIMS)
        regridded = self._select(field) if self.method == "selection" else self._average(field)
        return regridded.assign_coords(self.grid.coords())

    def _select(self, field: xr.DataArray) -> xr.DataArray:
        first = {name: int(self._weights[name][0].argmax()) for name in DIMS}
        cells = {name: slice(first[name], first[name] + getattr(self.grid, name).size) for name in DIMS}
        selected = field.isel(cells).assign_coords(self.grid.coords())
        return selected.where(np.isfinite(selected) & self.ocean_mask)

    def _average(self, field: xr.DataArray) -> xr.DataArray:
        whole = field if field.chunks is None else field.chunk(dict.fromkeys(DIMS, -1))
        regridded: xr.DataArray = xr.apply_ufunc(
            _renormalised_mean,
            whole,
            kwargs={
                "water": self._water,
                "ocean_fraction": self.ocean_fraction.to_numpy(),
                "ocean_mask": self.ocean_mask.to_numpy(),
                "latitude_weights": self._weights["latitude"],
                "longitude_weights": self._weights["longitude"],
            },
            input_core_dims=[DIMS],
            output_core_dims=[DIMS],
            exclude_dims=set(DIMS),
            dask="parallelized",
            output_dtypes=[field.dtype],
            dask_gufunc_kwargs={"output_sizes": dict(zip(DIMS, self.grid.shape, strict=True))},
            keep_attrs=True,
        )
        return regridded

    def _require_source_cells(self, field: xr.DataArray) -> None:
        _require_dims(field)
        if not np.issubdtype(field.dtype, np.floating):
            raise GridError(f"field {field.name!r} is {field.dtype} and can't hold missing cells: decode it to float")
        for name, source in self._source.items():
            centres = field[name].to_numpy()
            tolerance = COINCIDENCE * _spacing(source)
            if centres.shape != source.shape or not np.allclose(centres, source, rtol=0, atol=tolerance):
                raise GridError(
                    f"field {field.name!r} has {centres.size} cells of {name} that are not the {source.size} cells of "
                    f"the source's water mask ({source[0]:g} to {source[-1]:g}): build a regridder for its own source"
                )


def _renormalised_mean(
    field: NDArray[Any],
    *,
    water: NDArray[np.bool_],
    ocean_fraction: FloatArray,
    ocean_mask: NDArray[np.bool_],
    latitude_weights: FloatArray,
    longitude_weights: FloatArray,
) -> NDArray[Any]:
    usable = np.isfinite(field) & water
    total = _apply_weights(np.where(usable, field, 0).astype(np.float64), latitude_weights, longitude_weights)
    weight = _apply_weights(usable.astype(np.float64), latitude_weights, longitude_weights)
    finite = ocean_mask & (weight >= MINIMUM_OBSERVED_SHARE * (1 - COINCIDENCE) * ocean_fraction)
    mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=finite)
    return mean.astype(field.dtype)


def _apply_weights(field: FloatArray, latitude_weights: FloatArray, longitude_weights: FloatArray) -> FloatArray:
    # Stacked matmul takes one day at a time, so a day's result does not depend on the chunk it came in.
    by_row, by_column = aligned(latitude_weights), aligned(longitude_weights).T
    weighted: FloatArray = np.matmul(by_row, np.matmul(field, by_column))
    return weighted


def _choose_method(source: dict[str, FloatArray], grid: Grid) -> Method:
    target = {name: getattr(grid, name) for name in DIMS}
    if all(_are_source_cells(source[name], target[name]) for name in DIMS):
        return "selection"
    coarser = (_spacing(target[name]) > _spacing(source[name]) * (1 + COINCIDENCE) for name in DIMS)
    return "conservative" if any(coarser) else "bilinear"


def _are_source_cells(source: FloatArray, target: FloatArray) -> bool:
    position = (target - source[0]) / _spacing(source)
    nearest = np.rint(position)
    # Consecutive, not merely coinciding: every third source cell is not the mean of three.
    return bool((np.abs(position - nearest) < COINCIDENCE).all() and (np.diff(nearest) == 1).all())


def _selection_weights(source: FloatArray, target: FloatArray, _: str) -> FloatArray:
    nearest = np.rint((target - source[0]) / _spacing(source))
    weights: FloatArray = (nearest[:, np.newaxis] == np.arange(source.size)).astype(np.float64)
    return weights


def _bilinear_weights(source: FloatArray, target: FloatArray, _: str) -> FloatArray:
    position = np.clip((target - source[0]) / _spacing(source), 0, source.size - 1)
    weights: FloatArray = np.maximum(1 - np.abs(position[:, np.newaxis] - np.arange(source.size)), 0)
    return weights


def _conservative_weights(source: FloatArray, target: FloatArray, name: str) -> FloatArray:
    source_edges, target_edges = _edges(source), _edges(target)
    if name == "latitude":
        # The area between two parallels goes with the sine of latitude.
        source_edges, target_edges = (np.sin(np.deg2rad(np.clip(e, -90, 90))) for e in (source_edges, target_edges))
    upper = np.minimum(target_edges[1:, np.newaxis], source_edges[1:])
    lower = np.maximum(target_edges[:-1, np.newaxis], source_edges[:-1])
    overlap = np.maximum(upper - lower, 0)
    share: FloatArray = overlap / overlap.sum(axis=1, keepdims=True)
    return share


WEIGHTS: dict[Method, Callable[[FloatArray, FloatArray, str], FloatArray]] = {
    "selection": _selection_weights,
    "bilinear": _bilinear_weights,
    "conservative": _conservative_weights,
}


def _regular_axis(values: NDArray[Any], what: str) -> FloatArray:
    centres = np.asarray(values, dtype=np.float64)
    if centres.ndim != 1 or centres.size < 2 or not np.isfinite(centres).all():
        raise GridError(f"{what} of shape {centres.shape} is not a row of at least 2 finite cell centres")
    spacing = _spacing(centres)
    even = centres[0] + spacing * np.arange(centres.size)
    if spacing <= 0 or np.abs(centres - even).max() > REGULARITY * spacing:
        raise GridError(
            f"{what} from {centres[0]:g} to {centres[-1]:g} is not ascending in equal steps: sort it, drop repeated "
            "cells, or choose a source on a regular grid"
        )
    return centres


def _boolean_cells(mask: xr.DataArray) -> NDArray[np.bool_]:
    # A flag variable (1 water, 2 land) or NaN for land would both turn into water by casting.
    if mask.dtype != np.bool_:
        raise GridError(f"mask {mask.name!r} is {mask.dtype}: make it boolean first, for example (mask & 1) == 1")
    cells: NDArray[np.bool_] = mask.transpose(*DIMS).to_numpy()
    return cells


def _require_dims(field: xr.DataArray) -> None:
    missing = [name for name in DIMS if name not in field.dims or name not in field.coords]
    if missing:
        raise GridError(f"field {field.name!r} with dimensions {field.dims} lacks {' and '.join(missing)}: rename them")


def _require_coverage(source: FloatArray, target: FloatArray, name: str) -> None:
    source_edges, target_edges = _edges(source), _edges(target)
    slack = COINCIDENCE * _spacing(source)
    if target_edges[0] < source_edges[0] - slack or target_edges[-1] > source_edges[-1] + slack:
        raise GridError(
            f"source cells span {name} {source_edges[0]:g} to {source_edges[-1]:g}, the grid needs "
            f"{target_edges[0]:g} to {target_edges[-1]:g}: read more of the source or shrink the region's box"
        )


def _spacing(centres: FloatArray) -> float:
    return float(centres[-1] - centres[0]) / (centres.size - 1)


def _edges(centres: FloatArray) -> FloatArray:
    spacing = _spacing(centres)
    edges: FloatArray = centres[0] + spacing * (np.arange(centres.size + 1) - 0.5)
    return edges


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
