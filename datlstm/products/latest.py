"""``latest.json``: the pointer that names the newest forecast, and what belongs to the night that made it."""

import json
from typing import Literal

import xarray as xr
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from datlstm.errors import ProductError
from datlstm.formats import check_format
from datlstm.ladder import ForecastSource
from datlstm.plots import quicklook_path
from datlstm.products.forecast import FORECAST_PATH, init_day_of
from datlstm.products.netcdf import netcdf_path
from datlstm.products.skill import SKILL_PATH
from datlstm.products.stac import COLLECTION, SKILL_SUMMARY, item_path
from datlstm.settings import Settings
from datlstm.store import Store

FORMAT_VERSION: Literal[1] = 1
LATEST = "latest.json"
PAGE = "site/index.html"


class ForecastPointer(TypedDict):
    """The forecast cube, and its length along ``init_time`` that night."""

    url: str
    inits: int


class SkillPointer(TypedDict):
    """The skill cube, its length along ``scoring`` that night, and the scores in brief."""

    url: str
    scorings: int
    summary: str


class CataloguePointer(TypedDict):
    """The STAC item of the newest forecast, and the collection it is in."""

    item: str
    collection: str


class Latest(TypedDict):
    """What ``latest.json`` holds. ``init_time`` is the last observed day, every reference a URL."""

    format_version: Literal[1]
    region: str
    synthetic: bool
    init_time: str
    model_id: str
    forecast_source: str
    input_age_days: int
    forecast: ForecastPointer
    skill: SkillPointer
    netcdf: str
    quicklook: str
    stac: CataloguePointer
    page: str


def latest(settings: Settings, init: xr.Dataset, inits: int, scorings: int) -> Latest:
    """Return what ``latest.json`` says once ``init``, as `read_init` gives it, is published.

    ``inits`` is the length of the forecast cube along ``init_time``, gaps counted, and ``scorings`` that of the skill
    cube along ``scoring``, 0 before it exists. Both cubes only grow. So a reader who slices them to these lengths has
    exactly the joint state that one night left, whatever was published since:
    ``forecast.isel(init_time=slice(inits))`` and ``skill.isel(scoring=slice(scorings))``.
    """
    day, url_of = init_day_of(init), Store(settings.store).url_of
    return {
        "format_version": FORMAT_VERSION,
        "region": settings.region.name,
        "synthetic": settings.source.is_synthetic,
        "init_time": str(day),
        "model_id": str(init["model_id"].item()),
        "forecast_source": ForecastSource(int(init["forecast_source"])).name.lower(),
        "input_age_days": int(init["input_age_days"]),
        "forecast": {"url": url_of(FORECAST_PATH), "inits": inits},
        "skill": {"url": url_of(SKILL_PATH), "scorings": scorings, "summary": url_of(SKILL_SUMMARY)},
        "netcdf": url_of(netcdf_path(day)),
        "quicklook": url_of(quicklook_path(day)),
        "stac": {"item": url_of(item_path(day)), "collection": url_of(COLLECTION)},
        "page": url_of(PAGE),
    }


def read_latest(store: Store) -> Latest | None:
    """Return what ``latest.json`` says, or None before the first night.

    Raises `ProductError` when it is damaged or of a newer format, `StoreError` when the store can't be read.
    """
    content = store.read(LATEST)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if isinstance(found, dict) and "format_version" in found:
        check_format(found["format_version"], FORMAT_VERSION, store.url_of(LATEST), ProductError)
    try:
        return TypeAdapter(Latest).validate_json(content, strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise ProductError(
            f"{store.url_of(LATEST)} is damaged ({problems}): publish a night again, which writes it anew"
        ) from error
