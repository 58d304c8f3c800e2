"""The catalogue as a reader of STAC meets it: valid, whole, the same wherever the store is."""

import hashlib
import json
import re
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac
import pytest
import xarray as xr
from pystac.extensions.datacube import DatacubeExtension
from pystac.extensions.file import FileExtension
from pystac.validation import validate_dict

from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import published_days, read_init
from datlstm.products.netcdf import netcdf_bytes
from datlstm.products.stac import COLLECTION, FORECAST_EXTENSION, ZARR_EXTENSION, documents, item, item_path
from datlstm.settings import Settings
from datlstm.store import Store
from tests.derived_fields import LINEAGE, with_derived_fields
from tests.nights import publish_forecast

FIRST, N_INITS, LEADS = date(2024, 5, 20), 6, 4
DAYS = [FIRST + timedelta(days=i) for i in range(N_INITS)]
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
DURATION = re.compile(r"P\d+D")


@pytest.fixture
def init(published: Settings) -> xr.Dataset:
    """A published init with everything that is derived from a forecast."""
    return published_init(published, FIRST)


def published_init(settings: Settings, day: date) -> xr.Dataset:
    found = read_init(settings, day)
    assert found is not None
    return with_derived_fields(found)


def as_dicts(contents: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    return {path: json.loads(content) for path, content in contents.items()}


def published_catalogue(settings: Settings) -> Path:
    """Write a night's objects for every published day, and say where the store is."""
    root = Path(urlsplit(settings.store).path)
    days = published_days(settings)
    for day in days:
        init = published_init(settings, day)
        others = {f"netcdf/{day}.nc": netcdf_bytes(init), f"quicklook/{day}.png": b"", "skill/summary.json": b"{}"}
        for path, content in (others | documents(settings, init, [d for d in days if d <= day], 1)).items():
            Store(settings.store).write(path, content)
    (root / "skill.zarr").mkdir()
    (root / "site").mkdir()
    (root / "site/index.html").touch()
    return root


def test_every_document_is_valid_stac(published: Settings, init: xr.Dataset) -> None:
    made = as_dicts(documents(published, init, DAYS, 1))
    for document in made.values():
        assert document["stac_version"] == "1.1.0"
        (schema,) = validate_dict(document, extensions=[])
        assert document["type"].lower().replace("feature", "item") in schema


def test_a_night_writes_the_item_then_its_year_and_the_collection_last(published: Settings, init: xr.Dataset) -> None:
    made = documents(published, init, DAYS, 1)
    assert list(made) == ["stac/2024/2024-05-20.json", "stac/2024/catalog.json", "stac/collection.json"]


def test_an_item_tells_its_times_as_the_forecast_extension_asks(published: Settings, init: xr.Dataset) -> None:
    properties = item(published, init, 1).to_dict(transform_hrefs=False)["properties"]
    assert properties["forecast:reference_datetime"] == "2024-05-20T00:00:00Z"
    assert properties["datetime"] == properties["start_datetime"] == "2024-05-21T00:00:00Z"
    assert properties["end_datetime"] == "2024-05-24T23:59:59Z"
    assert (properties["forecast:horizon"], properties["forecast:duration"]) == ("P1D", "P4D")
    assert all(RFC_3339.fullmatch(value) for name, value in properties.items() if name.endswith("datetime"))
    assert all(DURATION.fullmatch(properties[f"forecast:{name}"]) for name in ("horizon", "duration"))
    allowed = {"reference_datetime", "horizon", "duration", "variable", "perturbed"}
    assert {name.split(":")[1] for name in properties if name.startswith("forecast:")} <= allowed
    assert RFC_3339.fullmatch(properties["created"])


def test_every_extension_whose_fields_are_used_is_declared(published: Settings, init: xr.Dataset) -> None:
    for document in as_dicts(documents(published, init, DAYS, 1)).values():
        declared = {uri.split("/")[3] for uri in document.get("stac_extensions", [])}
        fields = [*document, *document.get("properties", {}), *document.get("summaries", {})]
        fields += [field for asset in document.get("assets", {}).values() for field in asset]
        used = {field.split(":")[0].replace("cube", "datacube") for field in fields if ":" in field}
        assert used - {"datlstm"} == declared


def test_an_item_carries_how_its_forecast_was_made(published: Settings, init: xr.Dataset) -> None:
    properties = item(published, init, 1).properties
    told = {name.removeprefix("datlstm:"): value for name, value in properties.items() if name.startswith("datlstm:")}
    assert told == {
        **LINEAGE,
        "synthetic": True,
        "forecast_source": "model",
        "model_id": init["model_id"].item(),
        "archive_snapshot": init["archive_snapshot"].item(),
        "input_age_days": 1,
        "n_missing_inputs": 0,
    }


def test_the_cube_is_described_as_it_is(published: Settings, init: xr.Dataset) -> None:
    made = item(published, init, 1)
    cube = DatacubeExtension.ext(made)
    assert cube.variables is not None
    assert cube.dimensions.keys() == {"lead_time", "latitude", "longitude"}
    assert cube.dimensions["lead_time"].to_dict()["values"] == [1, 2, 3, 4]
    latitude = cube.dimensions["latitude"].to_dict()
    assert latitude == {
        "type": "spatial",
        "axis": "y",
        "description": "latitude of cell centres",
        "extent": [37.025, 37.775],
        "step": 0.05,
        "reference_system": 4326,
    }
    fields = {str(name) for name, field in init.data_vars.items() if field.dims}
    assert cube.variables.keys() == fields | {"valid_time"}
    for name, variable in cube.variables.items():
        assert variable.dimensions == list(init[name].dims)
        assert variable.unit == init[name].attrs.get("units")
        assert variable.var_type == ("auxiliary" if name == "valid_time" else "data")
    assert made.bbox == [119.0, 37.0, 119.8, 37.8]


def test_the_collection_describes_the_whole_cube(published: Settings, init: xr.Dataset) -> None:
    collection = pystac.Collection.from_dict(as_dicts(documents(published, init, DAYS, 1))[COLLECTION])
    cube = DatacubeExtension.ext(collection)
    assert cube.variables is not None
    assert cube.dimensions["init_time"].to_dict()["extent"] == ["2024-05-20T00:00:00Z", "2024-05-25T00:00:00Z"]
    assert cube.variables["sst"].dimensions == ["init_time", "lead_time", "latitude", "longitude"]
    assert cube.variables["model_id"].dimensions == ["init_time"]
    (interval,) = collection.extent.temporal.intervals
    assert [str(moment) for moment in interval] == ["2024-05-21 00:00:00+00:00", "2024-05-29 23:59:59+00:00"]
    assert set(collection.item_assets) == set(item(published, init, 1).assets)


def test_size_and_checksum_are_those_of_the_netcdf_file(published: Settings, init: xr.Dataset) -> None:
    file = FileExtension.ext(item(published, init, 1).assets["netcdf"])
    content = netcdf_bytes(init)
    assert file.size == len(content)
    assert file.checksum == "1220" + hashlib.sha256(content).hexdigest()


def test_the_same_night_gives_the_same_bytes(published: Settings, init: xr.Dataset) -> None:
    again = with_derived_fields(published_init(published, FIRST))
    assert documents(published, init, DAYS, 1) == documents(published, again, DAYS, 1)


def test_before_the_first_score_the_collection_has_no_skill(published: Settings, init: xr.Dataset) -> None:
    before, after = (as_dicts(documents(published, init, DAYS, scorings))[COLLECTION] for scorings in (0, 1))
    assert before["assets"].keys() == {"forecast"}
    assert after["assets"].keys() == {"forecast", "skill", "skill_summary"}
    validate_dict(before, extensions=[])


def test_a_synthetic_sea_is_called_one_in_every_title(published: Settings, init: xr.Dataset) -> None:
    real = published.replace(source=published.source.model_copy(update={"kind": "copernicus"}))
    for settings, is_labelled in ((published, True), (real, False)):
        made = as_dicts(documents(settings, init, DAYS, 0))
        titles = [document.get("title") or document["properties"]["title"] for document in made.values()]
        assert ["SYNTHETIC" in title for title in titles] == [is_labelled] * 3
        assert ("synthetic" in made[COLLECTION]["keywords"]) == is_labelled
    assert {provider["name"] for provider in made[COLLECTION]["providers"]} >= {"Copernicus Marine Service"}


def test_from_the_collection_a_reader_gets_to_every_forecast_and_every_object_in_a_store_that_moved(
    published: Settings, tmp_path: Path
) -> None:
    root = shutil.move(published_catalogue(published), tmp_path / "elsewhere")
    collection = pystac.Collection.from_file(str(root / COLLECTION))
    items = list(collection.get_items(recursive=True))
    assert [found.id for found in items] == [f"datlstm-laizhou-{day}" for day in DAYS]
    for found in [collection, *items]:
        for asset in found.assets.values():
            href = asset.get_absolute_href()
            assert href is not None and Path(href).exists() and Path(href).is_relative_to(root)
    for found in items:
        assert found.get_collection() is collection and found.get_root() is collection
        parent = found.get_parent()
        assert parent is not None and parent.get_parent() is collection
    about = collection.get_single_link("about")
    assert about is not None and Path(about.absolute_href).exists()


def test_an_item_tells_xarray_how_to_open_it(published: Settings) -> None:
    root = published_catalogue(published)
    found = pystac.Item.from_file(str(root / item_path(DAYS[2])))
    asset = found.assets["forecast"]
    assert asset.media_type == "application/vnd.zarr"
    assert {FORECAST_EXTENSION, ZARR_EXTENSION} <= set(found.stac_extensions)
    opened = xr.open_zarr(
        str(asset.get_absolute_href()),
        consolidated=asset.extra_fields["zarr:consolidated"],
        zarr_format=asset.extra_fields["zarr:zarr_format"],
        decode_timedelta=False,
    )
    assert asset.extra_fields["zarr:node_type"] == "group"
    with xr.open_dataset(str(found.assets["netcdf"].get_absolute_href()), decode_timedelta=False) as file:
        xr.testing.assert_equal(opened.sel(**asset.extra_fields["datlstm:select"])["sst"].load(), file["sst"])


def test_a_new_year_leaves_the_old_years_catalogue_and_every_item_as_they_were(published: Settings) -> None:
    old = [date(2023, 12, 30), date(2023, 12, 31)]
    made = documents(published, published_init(published, FIRST), [*old, *DAYS], 1)
    assert not [path for path in made if path.startswith("stac/2023")]
    children = [link for link in json.loads(made[COLLECTION])["links"] if link["rel"] == "child"]
    assert [link["href"] for link in children] == ["./2023/catalog.json", "./2024/catalog.json"]
    items = [link["href"] for link in json.loads(made["stac/2024/catalog.json"])["links"] if link["rel"] == "item"]
    assert items == [f"./{day}.json" for day in DAYS]


def test_a_later_night_rewrites_no_item(published: Settings) -> None:
    first = documents(published, published_init(published, DAYS[-1]), DAYS, 1)
    publish_forecast(published, nightly_forecast(published, DAYS[-1] + timedelta(days=2)))
    days = published_days(published)
    later = documents(published, published_init(published, days[-1]), days, 2)
    assert item_path(DAYS[-1]) in first and item_path(DAYS[-1]) not in later
