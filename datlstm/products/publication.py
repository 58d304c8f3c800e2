"""How a night becomes visible: forecast, scores, picture, catalogue and page, in one publication.

All that is large, or leads nowhere, is written first, where nothing that readers start from leads to it: hidden rows of
both cubes, the init's NetCDF file, picture and catalogue item. Then the few documents that readers start from are
replaced, one write each, without a computation between them, and ``latest.json`` as the last. Because the cubes only
grow, the lengths it names select exactly what was there when it was written: who starts from it sees one night, and all
of it. A publication that was killed is completed by the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import xarray as xr

from datlstm.cube import CubeWriter
from datlstm.errors import ProductError
from datlstm.plots import quicklook, quicklook_path
from datlstm.products.forecast import Outcome, day_of, days_in, forecast_cube, init_in, stage_forecast
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
    """What became visible: what came of the forecast that was given, the newest init, the valid days scored, the page.

    ``forecast`` is None when none was given.
    """

    forecast: Outcome | None
    newest: date
    scored: list[date]
    page: str


def publish(settings: Settings, forecast: xr.Dataset | None, scores: xr.Dataset | None) -> Publication:
    """Publish a drafted forecast and new scores, as far as there are any, and all that is made of them.

    ``forecast`` is what `draft_forecast` gives, ``scores`` what `score` gives. What is there already, byte for byte, is
    not written again. Raises `ProductError` for a refused forecast, for a damaged cube, and when nothing was published
    yet; `StoreError` and `ConflictError` as `Cube.writing`.
    """
    store, cube = Store(settings.store), forecast_cube(settings)
    with cube.writing() as forecasts, skill_cube(settings).writing() as skill:
        outcome, init = (None, None) if forecast is None else stage_forecast(cube, forecasts, forecast)
        days = days_in(forecasts.committed)
        if init is not None and outcome == "published":
            days.append(day_of(init))
        staged = None if scores is None else stage(skill, scores)
        newest = init if init is not None and day_of(init) == days[-1:] else _newest(forecasts, days)
        _write_new(store, _documents_of_init(settings, newest))
        _write_new(store, ...)
        forecasts.commit()
        skill.commit()
