"""The catalogue: one STAC 1.1 collection of a region's forecasts, a catalogue a year, an item a forecast.

``stac/collection.json`` names the years, ``stac/<year>/catalog.json`` the year's items, and ``stac/<year>/<init>.json``
is an item, written once. So a night rewrites two small documents, however many years there are. All references are
relative: the catalogue works wherever the store is, from a path, from object storage or from a web server.

Sources: https://github.com/radiantearth/stac-spec (1.1.0), and of its extensions forecast 0.2.0, datacube 2.2.0, file
2.1.0 and zarr 1.1.0, which takes the place of the deprecated xarray-assets.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pystac
import xarray as xr
from pystac.extensions.datacube import DatacubeExtension, Dimension, Variable
from pystac.extensions.file import FileExtension

from datlstm.ladder import ForecastSource
from datlstm.plots import quicklook_path
from datlstm.products.forecast import FORECAST_PATH, INIT_TIME, init_day_of
from datlstm.products.netcdf import WRITTEN_AT, lineage, netcdf_bytes, netcdf_path, utc, valid_period
from datlstm.products.skill import SKILL_PATH
from datlstm.settings import Settings
from datlstm.store import as_json

COLLECTION = "stac/collection.json"
SKILL_SUMMARY = "skill/summary.json"
FORECAST_EXTENSION = "https://stac-extensions.github.io/forecast/v0.2.0/schema.json"
ZARR_EXTENSION = "https://stac-extensions.github.io/zarr/v1.1.0/schema.json"
LICENCE = "CC-BY-4.0"
# Multihash: the function SHA2-256, then the digest's length in bytes.
SHA256_PREFIX = "1220"
SYNTHETIC = "SYNTHETIC sea, not observations"

_PLAIN_ZARR = {"zarr:zarr_format": 3, "zarr:node_type": "group", "zarr:consolidated": True}
ITEM_ASSETS = {
    "forecast": pystac.ItemAssetDefinition.create(
        "Forecast cube (Zarr)",
        "All forecasts of the region; an item's own is `xarray.open_zarr(href).sel(**asset['datlstm:select'])`.",
        pystac.MediaType.VND_ZARR,
        ["data"],
        _PLAIN_ZARR,
    ),
    "netcdf": pystac.ItemAssetDefinition.create(
        "This forecast (NetCDF)", "CF-1.11 and ACDD-1.3.", pystac.MediaType.NETCDF, ["data"]
    ),
    "quicklook": pystac.ItemAssetDefinition.create(
        "Picture", "Temperature and anomaly at several lead days.", pystac.MediaType.PNG, ["overview", "thumbnail"]
    ),
    "skill": pystac.ItemAssetDefinition.create(
        "Skill cube (Zarr)",
        "A log of the scores of all forecasts: of several rows of a valid day the last counts.",
        pystac.MediaType.VND_ZARR,
        ["data"],
        _PLAIN_ZARR,
    ),
    "skill_summary": pystac.ItemAssetDefinition.create(
        "Skill in brief", "Scores over trailing windows of days.", pystac.MediaType.JSON, ["metadata"]
    ),
}
SKILL_ASSETS = {"skill": SKILL_PATH, "skill_summary": SKILL_SUMMARY}


def item_path(init_day: date) -> str:
    """Return the path in the store of one init's item."""
    return f"stac/{init_day.year}/{init_day}.json"


def year_path(year: int) -> str:
    """Return the path in the store of a year's catalogue."""
    return f"stac/{year}/catalog.json"


def item(settings: Settings, init: xr.Dataset, scorings: int) -> pystac.Item:
    """Return the item of one published init, as `read_init` gives it.

    ``datetime`` is the first day forecast and ``forecast:reference_datetime`` the init; everything of the init's
    lineage is a property ``datlstm:…``. Without ``scorings``, the length of the skill cube, it has no assets of skill.
    Size and checksum are those of `netcdf_bytes`.
    """
    day, (start, end) = init_day_of(init), valid_period(init)
    made = pystac.Item(
        id=_item_id(settings, day),
        geometry=_box(settings),
        bbox=_bbox(settings),
        datetime=_moment(start),
        start_datetime=_moment(start),
        end_datetime=_moment(end),
        properties=_properties(settings, init),
        stac_extensions=[FORECAST_EXTENSION, ZARR_EXTENSION],
        collection=_collection_id(settings),
    )
    hrefs = {"forecast": FORECAST_PATH, "netcdf": netcdf_path(day), "quicklook": quicklook_path(day)}
    hrefs |= SKILL_ASSETS if scorings else {}
    for name, path in hrefs.items():
        made.add_asset(name, ITEM_ASSETS[name].create_asset(f"../../{path}"))
    made.assets["forecast"].extra_fields["datlstm:select"] = {INIT_TIME: str(day)}
    content = netcdf_bytes(init)
    FileExtension.ext(made.assets["netcdf"], add_if_missing=True).apply(
        size=len(content), checksum=SHA256_PREFIX + hashlib.sha256(content).hexdigest()
    )
    DatacubeExtension.ext(made, add_if_missing=True).apply(_dimensions(init), _variables(init, ()))
    made.add_links(
        [
            _link("root", "../collection.json", pystac.MediaType.JSON),
            _link("parent", "./catalog.json", pystac.MediaType.JSON),
            _link("collection", "../collection.json", pystac.MediaType.JSON),
        ]
    )
    return made


def documents(settings: Settings, init: xr.Dataset, days: Sequence[date], scorings: int) -> dict[str, bytes]:
    """Return what a night writes, by path in the store and in the order to be written: item, year, collection.

    ``init`` is the night's published init, ``days`` are all init days that have an item, ascending, the night's too;
    ``scorings`` is the length of the skill cube, 0 before it exists.
    """
    year = init_day_of(init).year
    written = {
        item_path(init_day_of(init)): item(settings, init, scorings),
        year_path(year): _year(settings, [day for day in days if day.year == year]),
        COLLECTION: _collection(settings, init, days, scorings),
    }
    return {
        path: as_json(made.to_dict(include_self_link=False, transform_hrefs=False)) for path, made in written.items()
    }


def _year(settings: Settings, days: Sequence[date]) -> pystac.Catalog:
    year = days[0].year
    made = pystac.Catalog(
        f"{_collection_id(settings)}-{year}", f"The forecasts from {year}.", _title(settings, f"forecasts of {year}")
    )
    made.clear_links()
    made.add_links(
        [
            _link("root", "../collection.json", pystac.MediaType.JSON),
            _link("parent", "../collection.json", pystac.MediaType.JSON),
            *(_link("item", f"./{day}.json", pystac.MediaType.GEOJSON, f"forecast from {day}") for day in days),
        ]
    )
    return made


def _collection(settings: Settings, init: xr.Dataset, days: Sequence[date], scorings: int) -> pystac.Collection:
    made = pystac.Collection(
        id=_collection_id(settings),
        title=_title(settings, "forecasts"),
        description=f"{init.attrs['summary']}\n\n{init.attrs['acknowledgement']}".strip(),
        extent=_extent(settings, init, days),
        license=LICENCE,
        keywords=[*init.attrs["keywords"].split(", "), *(["synthetic"] if settings.source.is_synthetic else [])],
        providers=_providers(settings),
        stac_extensions=[FORECAST_EXTENSION, ZARR_EXTENSION],
        summaries=pystac.Summaries(
            {"forecast:variable": [init["sst"].attrs["standard_name"]], "forecast:perturbed": [False]}
        ),
        assets=_collection_assets(scorings),
    )
    made.item_assets.update(ITEM_ASSETS)
    init_time = {"type": "temporal", "extent": [utc(np.datetime64(day)) for day in (days[0], days[-1])], "step": "P1D"}
    dimensions = {INIT_TIME: Dimension.from_dict(init_time), **_dimensions(init)}
    DatacubeExtension.ext(made, add_if_missing=True).apply(dimensions, _variables(init, (INIT_TIME,)))
    years = sorted({day.year for day in days})
    made.clear_links()
    made.add_links(
        [
            _link("root", "./collection.json", pystac.MediaType.JSON),
            _link("license", init.attrs["license"], pystac.MediaType.HTML),
            _link("about", "../site/index.html", pystac.MediaType.HTML, "the newest forecast, to look at"),
            *(_link("child", f"./{year}/catalog.json", pystac.MediaType.JSON, str(year)) for year in years),
        ]
    )
    return made


def _collection_assets(scorings: int) -> dict[str, pystac.Asset]:
    shared = {"forecast": FORECAST_PATH} | (SKILL_ASSETS if scorings else {})
    return {name: ITEM_ASSETS[name].create_asset(f"../{path}") for name, path in shared.items()}


def _properties(settings: Settings, init: xr.Dataset) -> dict[str, Any]:
    source = ForecastSource(int(init["forecast_source"])).name.lower()
    return {
        "title": _title(settings, f"forecast from {init_day_of(init)}"),
        "created": utc(init[WRITTEN_AT].values),
        "license": LICENCE,
        "forecast:reference_datetime": utc(init[INIT_TIME].values),
        "forecast:horizon": f"P{int(init['lead_time'][0])}D",
        "forecast:duration": f"P{init.sizes['lead_time']}D",
        "forecast:variable": init["sst"].attrs["standard_name"],
        "forecast:perturbed": False,
        "datlstm:synthetic": settings.source.is_synthetic,
        "datlstm:forecast_source": source,
        **{f"datlstm:{name}": value for name, value in lineage(init).items()},
    }


def _dimensions(init: xr.Dataset) -> dict[str, Dimension]:
    lead = {
        "type": "forecast_period",
        "description": init["lead_time"].attrs["long_name"],
        "values": init["lead_time"].values.tolist(),
        "unit": init["lead_time"].attrs["units"],
    }
    dimensions = {"lead_time": Dimension.from_dict(lead)}
    for name, axis in (("latitude", "y"), ("longitude", "x")):
        centres = init[name].values
        space = {
            "type": "spatial",
            "axis": axis,
            "description": f"{name} of cell centres",
            "extent": [float(centres[0]), float(centres[-1])],
            "step": round(float(centres[1] - centres[0]), 6),
            "reference_system": 4326,
        }
        dimensions[name] = Dimension.from_dict(space)
    return dimensions


def _variables(init: xr.Dataset, before: tuple[str, ...]) -> dict[str, Variable]:
    """Describe every variable, the dimensions ``before`` added in front of its own; one without any is left out."""
    variables = {}
    for name in sorted(map(str, {*init.data_vars, "valid_time"})):
        field = init[name]
        dims = [*before, *map(str, field.dims)]
        if dims:
            described = {
                "dimensions": dims,
                "type": "data" if name in init.data_vars else "auxiliary",
                "description": field.attrs.get("long_name"),
                "unit": field.attrs.get("units"),
            }
            variables[name] = Variable.from_dict({key: value for key, value in described.items() if value is not None})
    return variables


def _extent(settings: Settings, init: xr.Dataset, days: Sequence[date]) -> pystac.Extent:
    first, last = (int(init["lead_time"][place]) for place in (0, -1))
    start = _moment(np.datetime64(days[0] + timedelta(days=first), "s"))
    end = _moment(np.datetime64(days[-1] + timedelta(days=last + 1), "s") - 1)
    return pystac.Extent(pystac.SpatialExtent([_bbox(settings)]), pystac.TemporalExtent([[start, end]]))


def _providers(settings: Settings) -> list[pystac.Provider]:
    roles = pystac.ProviderRole
    ours = pystac.Provider("datlstm forecast service", roles=[roles.PROCESSOR, roles.HOST])
    if settings.source.kind == "copernicus":
        marine = pystac.Provider(
            "Copernicus Marine Service",
            "Of the analyses the forecasts start from.",
            [roles.LICENSOR, roles.PRODUCER],
            "https://marine.copernicus.eu",
        )
        return [marine, ours]
    return [ours]


def _title(settings: Settings, what: str) -> str:
    title = f"{settings.region.title}: sea surface temperature {what}"
    return f"{title} ({SYNTHETIC})" if settings.source.is_synthetic else title


def _collection_id(settings: Settings) -> str:
    return f"datlstm-{settings.region.name}"


def _item_id(settings: Settings, init_day: date) -> str:
    return f"{_collection_id(settings)}-{init_day}"


def _bbox(settings: Settings) -> list[float]:
    region = settings.region
    return [region.west, region.south, region.east, region.north]


def _box(settings: Settings) -> dict[str, Any]:
    west, south, east, north = _bbox(settings)
    return {
        "type": "Polygon",
        "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
    }


def _moment(time: np.datetime64) -> datetime:
    moment: datetime = time.astype("datetime64[s]").item()
    return moment.replace(tzinfo=UTC)


def _link(rel: str, href: str, media_type: str, title: str | None = None) -> pystac.Link:
    return pystac.Link(rel, href, media_type, title)
