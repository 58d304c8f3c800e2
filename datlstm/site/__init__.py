"""What a person opens: the static page of the newest forecast, and the objects beside it that it points to."""

from collections.abc import Mapping, Sequence
from datetime import date

import xarray as xr
from jinja2 import Environment, PackageLoader

from datlstm.errors import ProductError
from datlstm.ladder import ForecastSource
from datlstm.plots import quicklook, quicklook_path
from datlstm.products.forecast import FORECAST_PATH, INIT_TIME, forecast_cube, published_days, read_init
from datlstm.products.latest import LATEST, PAGE, latest
from datlstm.products.netcdf import init_day_of, lineage, netcdf_bytes, netcdf_path
from datlstm.products.outlook import outlook
from datlstm.products.skill import FORECASTERS, SCORING, skill_by_lead, skill_cube
from datlstm.products.stac import COLLECTION, SKILL_SUMMARY, documents, item_path
from datlstm.settings import Settings
from datlstm.store import Store, as_json

SkillTable = Sequence[tuple[str, Sequence[float]]]


def page(settings: Settings, init: xr.Dataset, skill_table: SkillTable, days: Sequence[date]) -> bytes:
    """Return the page of one published init, as `read_init` gives it, as HTML in UTF-8.

    ``skill_table`` has a row per forecaster: its name and its root mean square error by lead, °C, NaN where there is
    none; it is empty before the first score. ``days`` are all init days published. References are relative to `PAGE`.
    """
    day = init_day_of(init)
    paths = {
        "picture": quicklook_path(day),
        "netcdf": netcdf_path(day),
        "item": item_path(day),
        "collection": COLLECTION,
        "skill_summary": SKILL_SUMMARY,
        "latest": LATEST,
    }
    environment = Environment(loader=PackageLoader("datlstm", "site"), autoescape=True, trim_blocks=True)
    return (
        environment.get_template("page.html")
        .render(
            title=title(settings, init),
            init_day=day,
            source=ForecastSource(int(init["forecast_source"])).name.lower().replace("_", " "),
            lineage=lineage(init),
            outlook=outlook(init),
            hrefs={name: f"../{path}" for name, path in paths.items()},
            rows=[(name.replace("_", " "), values) for name, values in skill_table],
            leads=init["lead_time"].values.tolist(),
            count=len(days),
            attribution=init.attrs["acknowledgement"],
            location=Store(settings.store).location_of(FORECAST_PATH),
        )
        .encode()
    )


def title(settings: Settings, init: xr.Dataset) -> str:
    """Return what page and picture of one init are called; a synthetic sea is named one."""
    synthetic = " (SYNTHETIC sea, not observations)" if settings.source.is_synthetic else ""
    return f"{settings.region.title}: forecast from {init_day_of(init)}{synthetic}"


def publish_site(settings: Settings) -> str:
    """Draw the newest published forecast, write page, catalogue and pointer, and return the page's URL.

    What is already there, byte for byte, is not written again. Raises `ProductError` when nothing was published yet.
    """
    days = published_days(settings)
    if not days:
        raise ProductError("nothing is published yet: run `datlstm nightly`")
    init = read_init(settings, days[-1])
    forecasts, scores = forecast_cube(settings).open(), skill_cube(settings).open()
    assert init is not None and forecasts is not None
    scorings = 0 if scores is None else scores.sizes[SCORING]
    store, newest, skill = Store(settings.store), days[-1], skill_by_lead(settings)
    table = [] if skill is None else [(name, skill.sel(forecaster=name).values.tolist()) for name in FORECASTERS]
    present = set(store.list("stac"))
    catalogued = [day for day in days if day == newest or item_path(day) in present]
    _write_new(
        store,
        {
            netcdf_path(newest): netcdf_bytes(init),
            quicklook_path(newest): quicklook(init, title(settings, init)),
            **documents(settings, init, catalogued, scorings),
            PAGE: page(settings, init, table, days),
            LATEST: as_json(latest(settings, init, forecasts.sizes[INIT_TIME], scorings)),
        },
    )
    return store.url_of(PAGE)


def _write_new(store: Store, contents: Mapping[str, bytes]) -> None:
    for path, content in contents.items():
        if store.read(path) != content:
            store.write(path, content)
