"""The two ARCO stores of a dataset as Zarr version 2 on OSTIA's global grid, of which only the world's box holds data.

Coordinates are float32 as in OSTIA's own files, with time in seconds since 1981 at 00:00 UTC. Storage as documented in
https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html.
"""

import json
from dataclasses import dataclass
from datetime import date
from functools import cache

import numpy as np
from numpy.typing import NDArray

from datlstm.synthetic.bohai import LAND_BIT
from datlstm.synthetic.coast import CELLS_PER_DEGREE, CellBox
from datlstm.synthetic.labels import ENCODING, GLOBAL_ATTRIBUTES, VARIABLE_ATTRIBUTES
from datlstm.synthetic.marine_store.days import CODEC, VARIABLES, Packed, dtype_of, fill_value, packed_days
from datlstm.synthetic.marine_store.world import Dataset, World

ARRAY_HOST = "s3.waw3-1.cloudferro.com"
GLOBE = CellBox(0, 180 * CELLS_PER_DEGREE, 0, 360 * CELLS_PER_DEGREE)
DIMS = ("time", "latitude", "longitude")
TIME_ORIGIN = date(1981, 1, 1)
SECONDS_PER_DAY = 86400
# One chunk holds a century of stamps, so that an axis that grows between two requests still fits its metadata.
TIME_CHUNK = 36525
# The catalogue's name for a dataset that was never issued a second time.
UNVERSIONED = "default"

_COORDINATE_ATTRIBUTES: dict[str, dict[str, object]] = {
    "time": {"standard_name": "time", "units": f"seconds since {TIME_ORIGIN} 00:00:00", "calendar": "standard"},
    "latitude": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
}


@dataclass(frozen=True)
class Layout:
    """One way in which a dataset is cut into chunks: its asset in the catalogue, its bucket, its chunks."""

    asset: str
    bucket: str
    chunks: tuple[int, int, int]


TIME_CHUNKED = Layout("timeChunked", "mdl-arco-time-045", (1, 1024, 1024))
GEO_CHUNKED = Layout("geoChunked", "mdl-arco-geo-045", (1245, 16, 32))
LAYOUTS = (TIME_CHUNKED, GEO_CHUNKED)


def full_name(dataset: Dataset) -> str:
    """Return a dataset's id with its version, as the catalogue and the buckets call it."""
    return dataset.dataset_id if dataset.version == UNVERSIONED else f"{dataset.dataset_id}_{dataset.version}"


def root(dataset: Dataset, layout: Layout) -> str:
    """Return the path of a store on `ARRAY_HOST`, without a slash at its end."""
    return f"/{layout.bucket}/arco/{dataset.product_id}/{full_name(dataset)}/{layout.asset}.zarr"


def days_on_axis(dataset: Dataset) -> NDArray[np.int64]:
    """Return the ordinals of the days that the time axis has, ascending."""
    days = np.arange(dataset.first_day.toordinal(), dataset.last_day.toordinal() + 1)
    return days[~np.isin(days, [day.toordinal() for day in dataset.missing_days])]


def stamps(dataset: Dataset, days: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the time stamps of ordinals of days, in seconds since 1981-01-01."""
    return (days - TIME_ORIGIN.toordinal()) * SECONDS_PER_DAY + int(dataset.stamp_shift.total_seconds())


@cache
def coordinate(name: str) -> NDArray[np.float32]:
    """Return the centres of the globe's cells along ``latitude`` or ``longitude``, ascending degrees."""
    return (GLOBE.latitude if name == "latitude" else GLOBE.longitude).astype(np.float32)


def read(world: World, dataset: Dataset, layout: Layout, key: str) -> bytes | None:
    """Return what a store holds under a key, or None as for any other absent object."""
    name, _, rest = key.rpartition("/")
    if rest.startswith(".z"):
        metadata = _metadata(world, dataset, layout)
        document = _consolidated(metadata) if key == ".zmetadata" else metadata.get(key)
        return None if document is None else json.dumps(document).encode()
    indices = [int(part) for part in rest.split(".") if part.isdecimal()]
    if name in VARIABLES and len(indices) == len(DIMS):
        return _chunk(world, dataset, layout, name, indices)
    if name in DIMS and indices == [0]:
        return bytes(CODEC.encode(_padded_stamps(dataset) if name == "time" else coordinate(name)))
    return None


def _padded_stamps(dataset: Dataset) -> NDArray[np.int64]:
    held = stamps(dataset, days_on_axis(dataset))
    return np.pad(held, (0, TIME_CHUNK - held.size))


def _chunk(world: World, dataset: Dataset, layout: Layout, name: str, indices: list[int]) -> bytes | None:
    start, row, column = (index * size for index, size in zip(indices, layout.chunks, strict=True))
    count, height, width = layout.chunks
    tile = CellBox(row, row + height, column, column + width)
    days = days_on_axis(dataset)[start : start + count]
    common = _intersection(world.box, tile)
    if common is None or not days.size:
        return None
    values = np.full(layout.chunks, fill_value(name), dtype_of(name))
    if name == "mask":
        values[: days.size] = LAND_BIT
    rows, columns = common.within(tile)
    values[: days.size, rows, columns] = packed_days(world, dataset, name, days, *common.within(world.box))
    return _compressed(values)


def _compressed(values: Packed) -> bytes:
    return bytes(CODEC.encode(values))


def _intersection(one: CellBox, other: CellBox) -> CellBox | None:
    south, north = max(one.south, other.south), min(one.north, other.north)
    west, east = max(one.west, other.west), min(one.east, other.east)
    return CellBox(south, north, west, east) if south < north and west < east else None


def _metadata(world: World, dataset: Dataset, layout: Layout) -> dict[str, dict[str, object]]:
    shape = (days_on_axis(dataset).size, *GLOBE.shape)
    documents: dict[str, dict[str, object]] = {".zgroup": {"zarr_format": 2}, ".zattrs": _global(world, dataset)}
    for name in VARIABLES:
        documents[f"{name}/.zarray"] = _array(shape, layout.chunks, dtype_of(name), fill_value(name))
        documents[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": DIMS, **_attributes(name, dataset)}
    for name, size in zip(DIMS, shape, strict=True):
        chunk, dtype = (TIME_CHUNK, np.dtype(np.int64)) if name == "time" else (size, np.dtype(np.float32))
        documents[f"{name}/.zarray"] = _array((size,), (chunk,), dtype, None)
        documents[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": [name], **_COORDINATE_ATTRIBUTES[name]}
    return documents


def _consolidated(metadata: dict[str, dict[str, object]]) -> dict[str, object]:
    return {"zarr_consolidated_format": 1, "metadata": metadata}


def _array(
    shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[np.generic], fill: int | None
) -> dict[str, object]:
    return {
        "zarr_format": 2,
        "shape": shape,
        "chunks": chunks,
        "dtype": dtype.str,
        "compressor": CODEC.get_config(),
        "fill_value": fill,
        "order": "C",
        "filters": None,
    }


def _attributes(name: str, dataset: Dataset) -> dict[str, object]:
    packing = {key: ENCODING[name][key] for key in ("scale_factor", "add_offset") if key in ENCODING[name]}
    if name in dataset.unscaled:
        packing.pop("scale_factor", None)
    described = VARIABLE_ATTRIBUTES[name] | packing
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in described.items()}


def _global(world: World, dataset: Dataset) -> dict[str, object]:
    return GLOBAL_ATTRIBUTES | {
        "title": dataset.title,
        "source_product": f"SYNTHETIC-{dataset.product_id}",
        "source_version": f"SYNTHETIC-{dataset.version}",
        "synthetic_seed": world.seed,
    }
