"""How a night becomes visible: forecast, scores, picture, catalogue and page, in one publication.

All that is large, or leads nowhere, is written first, where nothing that readers start from leads to it: hidden rows of
both cubes, the init's NetCDF file, picture and catalogue item. Then the few documents that readers start from are
replaced, one write each, without a computation between them, and ``latest.json`` as the last. Because the cubes only
grow, the lengths it names select exactly what was there when it was written: who starts from it sees one night, and all
of it. A publication that was killed is completed by the next.
"""

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

import xarray as xr

from datlstm.errors import ProductError
from datlstm.lineage import record_settings
from datlstm.plots import quicklook, quicklook_path
from datlstm.products.forecast import Outcome, days_in, forecast_cube, init_day_of, init_in, stage_forecast
from datlstm.products.latest import LATEST, PAGE, latest
from datlstm.products.netcdf import netcdf_bytes, netcdf_path
from datlstm.products.skill import FORECASTERS, SCORING, skill_cube, stage, standing
from datlstm.products.skill_summary import skill_by_lead, summary
from datlstm.products.stac import SKILL_SUMMARY, documents, item_path
from datlstm.settings import Settings
from datlstm.site import page, title
from datlstm.store import Store, as_json

Documents = dict[str, bytes]


@dataclass(frozen=True)
class Publication:
    """What became visible: what came of the forecast, None when none was given, newest init, scored days, the page."""

    forecast: Outcome | None
    newest: date
    scored: list[date]
    page: str

    def __str__(self) -> str:
        forecast = f"forecast {self.forecast}" if self.forecast else "no new forecast"
        return f"{forecast}, the newest is from {self.newest}; {len(self.scored)} days scored; {self.page}"


def publish(settings: Settings, forecast: xr.Dataset | None, scores: xr.Dataset | None) -> Publication:
    """Publish a drafted forecast and new scores, as far as there are any, and all that is made of them.

    ``forecast`` is what `draft_forecast` gives, ``scores`` what `score` gives. What is there already, byte for byte, is
    not written again. Raises `ProductError` for a refused forecast, for a damaged cube, and when nothing was published
    yet; `StoreError` and `ConflictError` as `Cube.writing`.
    """
    store, cube = Store(settings.store), forecast_cube(settings)
    with cube.writing() as forecasts, skill_cube(settings).writing() as skill:
        outcome, init = (None, None) if forecast is None else stage_forecast(cube, forecasts, forecast)
        days = days_in(forecasts.committed) + ([init_day_of(init)] if init and outcome == "published" else [])
        if not days:
            raise ProductError("nothing is published yet: run `datlstm nightly`")
        newest = init if init and init_day_of(init) == days[-1] else init_in(forecasts.committed, days[-1])
        assert newest is not None
        staged = None if scores is None else stage(skill, scores)
        log = [rows.load() for rows in (skill.committed, staged) if rows is not None and rows.sizes[SCORING]]
        standing_scores = standing(xr.concat(log, SCORING)) if log else None
        hidden, shown = _documents(settings, newest, days, standing_scores, forecasts.length, skill.length)
        for path, content in _news(store, hidden).items():
            store.write(path, content)
        news = _news(store, shown)
        record_settings(settings)
        forecasts.commit()
        skill.commit()
        for path, content in news.items():
            store.write(path, content)
    scored = [] if staged is None else staged["valid_time"].values.astype("datetime64[D]").tolist()
    return Publication(outcome, days[-1], scored, store.url_of(PAGE))


def _documents(
    settings: Settings, init: xr.Dataset, days: list[date], scores: xr.Dataset | None, inits: int, scorings: int
) -> tuple[Documents, Documents]:
    """Return, by path in the order to be written, what leads nowhere, and what readers start from."""
    day = init_day_of(init)
    catalogue = documents(settings, init, days, scorings)
    skill = None if scores is None else skill_by_lead(scores)
    table = [] if skill is None else [(name, skill.sel(forecaster=name).values.tolist()) for name in FORECASTERS]
    hidden = {
        netcdf_path(day): netcdf_bytes(init),
        quicklook_path(day): quicklook(init, title(settings, init)),
        item_path(day): catalogue.pop(item_path(day)),
    }
    shown = {} if scores is None else {SKILL_SUMMARY: _compact(summary(scores))}
    shown |= catalogue
    shown[PAGE] = page(settings, init, table, days)
    shown[LATEST] = as_json(latest(settings, init, inits, scorings))
    return hidden, shown


def _compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _news(store: Store, documents: Documents) -> Documents:
    """Return those documents that the store has not, or with another content."""
    return {path: content for path, content in documents.items() if store.read(path) != content}
