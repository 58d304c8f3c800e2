"""The catalogue: the client's configuration and STAC documents of the datasets, under their real addresses.

Form of the documents: STAC 1.0 (https://github.com/radiantearth/stac-spec) with what the client reads beside it.
"""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from datlstm.synthetic.labels import ATTRIBUTION, VARIABLE_ATTRIBUTES
from datlstm.synthetic.marine_store import arrays
from datlstm.synthetic.marine_store.days import VARIABLES
from datlstm.synthetic.marine_store.world import Dataset, World

CATALOGUE_HOST = "s3.waw3-1.cloudferro.com"
SECOND_CATALOGUE_HOST = "s3.waw4-1.cloudferro.com"
CONFIGURATION_HOST = "stac.marine.copernicus.eu"
CONFIGURATION_ADDRESSES = (
    f"https://{CATALOGUE_HOST}/mdl-metadata/clientsConfigV1.json",
    f"https://{CONFIGURATION_HOST}/clients-config-v1",
)
SERVICES = ("mds", "mds/serverlessNative", "mds/serverlessArco", "mds/serverlessArco/meta")
STAC = {"stac_version": "1.0.0", "stac_extensions": []}
MILLISECONDS_PER_DAY = 86_400_000

Document = dict[str, Any]


def documents(world: World) -> dict[str, Document]:
    """Return every document of the catalogue by its address; the second of the two catalogues is empty."""
    held = dict.fromkeys(CONFIGURATION_ADDRESSES, _configuration())
    for host, datasets in ((CATALOGUE_HOST, world.datasets), (SECOND_CATALOGUE_HOST, ())):
        products = {
            dataset.product_id: [d for d in datasets if d.product_id == dataset.product_id] for dataset in datasets
        }
        held[_id_mapping(host)] = {dataset.dataset_id: dataset.product_id for dataset in datasets}
        held[f"{_stac_root(host)}/catalog.stac.json"] = _catalogue(list(products))
        for product_id, members in products.items():
            held[f"{_stac_root(host)}/{product_id}/product.stac.json"] = _product(product_id, members)
            for dataset in members:
                held[f"{_stac_root(host)}/{product_id}/{_item_path(dataset)}"] = _item(dataset)
    return held


def _stac_root(host: str) -> str:
    return f"https://{host}/mdl-metadata/metadata"


def _id_mapping(host: str) -> str:
    return f"https://{host}/mdl-metadata/dataset_product_id_mapping.json"


def _item_path(dataset: Dataset) -> str:
    return f"{arrays.full_name(dataset)}/dataset.stac.json"


def _configuration() -> Document:
    catalogues = [
        {"stac": f"{_stac_root(host)}/catalog.stac.json", "stacRoot": _stac_root(host), "idMapping": _id_mapping(host)}
        for host in (CATALOGUE_HOST, SECOND_CATALOGUE_HOST)
    ]
    return {"clientVersions": dict.fromkeys(SERVICES, ">=2.0.0"), "catalogues": catalogues}


def _catalogue(product_ids: list[str]) -> Document:
    children = [{"rel": "child", "href": f"{product_id}/product.stac.json"} for product_id in product_ids]
    return STAC | {
        "id": "MDS",
        "type": "Catalog",
        "title": "Synthetic Marine Data Store",
        "description": ATTRIBUTION,
        "links": children,
    }


def _product(product_id: str, datasets: list[Dataset]) -> Document:
    interval = [_iso(min(d.first_day for d in datasets)), _iso(max(_announced_last_day(d) for d in datasets))]
    items = [{"rel": "item", "href": _item_path(dataset), "type": "application/json"} for dataset in datasets]
    return STAC | {
        "id": product_id,
        "type": "Collection",
        "title": f"SYNTHETIC {product_id}",
        "description": ATTRIBUTION,
        "license": "other",
        "providers": [{"name": "none: synthetic", "roles": ["producer"]}],
        "extent": {"spatial": {"bbox": [_bounding_box()]}, "temporal": {"interval": [interval]}},
        "links": items,
        "properties": {"sources": ["synthetic"], "processingLevel": "Level 4"},
    }


def _item(dataset: Dataset) -> Document:
    states = {"admp_updating_start_date": dataset.updating_since, "admp_retired_date": dataset.retired_on}
    return STAC | {
        "id": arrays.full_name(dataset),
        "type": "Feature",
        "collection": dataset.product_id,
        "geometry": None,
        "bbox": _bounding_box(),
        "links": [],
        "properties": {
            "title": dataset.title,
            "datetime": None,
            "start_datetime": _iso(dataset.first_day),
            "end_datetime": _iso(_announced_last_day(dataset)),
            "cube:dimensions": {
                "time": {"type": "temporal", "step": "P1D"},
                "latitude": {"type": "spatial", "axis": "y"},
                "longitude": {"type": "spatial", "axis": "x"},
            },
            "cube:variables": {name: _variable(name) for name in VARIABLES},
            "admp_in_preparation": False,
            **{name: None if day is None else _iso(day) for name, day in states.items()},
        },
        "assets": {layout.asset: _asset(dataset, layout) for layout in arrays.LAYOUTS},
    }


def _variable(name: str) -> Document:
    attributes = VARIABLE_ATTRIBUTES[name]
    return {
        "id": name,
        "dimensions": arrays.DIMS,
        "type": "data",
        "standardName": attributes.get("standard_name"),
        "unit": attributes.get("units"),
    }


def _asset(dataset: Dataset, layout: arrays.Layout) -> Document:
    coordinates = _coordinates(dataset)
    chunk_lengths = dict(zip(arrays.DIMS, layout.chunks, strict=True))
    return {
        "href": f"https://{arrays.ARRAY_HOST}{arrays.root(dataset, layout)}",
        "type": "application/vnd+zarr",
        "roles": ["data"],
        "viewDims": {
            name: {
                "chunkLen": dict.fromkeys(VARIABLES, chunk_lengths[name]),
                "units": units,
                "coords": {"type": "minMaxStep", "min": first, "max": last, "step": step},
            }
            for name, (units, first, last, step) in coordinates.items()
        },
    }


def _coordinates(dataset: Dataset) -> dict[str, tuple[str, float, float, float]]:
    """Return units, first and last value and step of every dimension; time as the catalogue counts it."""
    first, last = (_milliseconds(dataset, day) for day in (dataset.first_day, _announced_last_day(dataset)))
    latitude, longitude = arrays.coordinate("latitude"), arrays.coordinate("longitude")
    degrees = 1 / arrays.CELLS_PER_DEGREE
    return {
        "time": ("milliseconds since 1970-01-01 00:00:00Z (no leap seconds)", first, last, MILLISECONDS_PER_DAY),
        "latitude": ("degrees_north", float(latitude[0]), float(latitude[-1]), degrees),
        "longitude": ("degrees_east", float(longitude[0]), float(longitude[-1]), degrees),
    }


def _bounding_box() -> list[float]:
    edges = (arrays.coordinate(name)[index] for index in (0, -1) for name in ("longitude", "latitude"))
    return [float(np.round(edge, 3)) for edge in edges]


def _announced_last_day(dataset: Dataset) -> date:
    if dataset.announced_last_day is not None:
        return dataset.announced_last_day
    return date.fromordinal(int(arrays.days_on_axis(dataset)[-1]))


def _milliseconds(dataset: Dataset, day: date) -> int:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return round((midnight + dataset.stamp_shift).timestamp() * 1000)


def _iso(day: date) -> str:
    return f"{day}T00:00:00Z"
