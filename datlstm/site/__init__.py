"""What a person opens: the static page of the newest forecast, which points to all that is published with it."""

from collections.abc import Sequence
from datetime import date

import xarray as xr
from jinja2 import Environment, PackageLoader

from datlstm.ladder import ForecastSource
from datlstm.plots import quicklook_path
from datlstm.products.forecast import FORECAST_PATH, init_day_of
from datlstm.products.latest import LATEST
from datlstm.products.netcdf import lineage, netcdf_path
from datlstm.products.outlook import outlook
from datlstm.products.stac import COLLECTION, SKILL_SUMMARY, item_path
from datlstm.settings import Settings
from datlstm.store import Store

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
