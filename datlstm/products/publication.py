"""How a night becomes visible: forecast, scores, pictures, catalogue and page, in one publication.

All that is large, or names only itself, is written first, where nothing that readers start from leads to it: hidden
rows of both cubes, the init's NetCDF file, picture and catalogue item. Then the few documents that readers start from
are replaced, one write each, without a computation between them, and ``latest.json`` as the last. Because the cubes
only grow, the lengths it names select exactly what was there when it was written: who starts from it sees one night, and
all of it. A killed publication is completed by the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import xarray as xr

from datlstm.errors import ProductError
from datlstm.products.forecast import Outcome, day_of, forecast_cube, init_of, published_days, stage_forecast
from datlstm.products.skill import skill_cube, stage_scores
from datlstm.settings import Settings
from datlstm.site import PAGE
from datlstm.store import Store


@dataclass(frozen=True)
class Publication:
    """What a publication made visible: what came of the forecast, the valid days scored, the page's URL."""

    forecast: Outcome | None
    scored: list[date]
    page: str


def publish(settings: Settings, forecast: xr.Dataset | None, scores: xr.Dataset | None) -> Publication:
    """Publish a drafted forecast and new scores, as far as there are any, and all that is made of them.

    ``forecast`` is what `draft_forecast` gives, ``scores`` what `score` gives. What is there already, byte for byte, is
    not written again. Raises `ProductError` for a refused forecast, for a damaged cube, and when nothing was published
    yet; `StoreError`, `ConflictError` as `Cube.writing`. Whatever it raises, nothing of the night is visible, or it is
    completed by the next publication.
    """
    store = Store(settings.store)
    with forecast_cube(settings).writing() as forecasts, skill_cube(settings).writing() as skill:
        outcome, standing_init = (None, None) if forecast is None else stage_forecast(forecasts, forecast)
        scored = stage_scores(skill, scores)
        days = published_days(forecasts.committed)
        if outcome == "published":
            days.append(day_of(standing_init))
        if not days:
            raise ProductError("nothing is published yet: run `datlstm nightly`")
        newest = standing_init if days[-1] == day_of(standing_init) else init_of(forecasts.committed, days[-1])
        state = _NewState(store, settings, newest, days, forecasts.length, skill.length)
        for init in (standing_init, newest):
            _write(store, _init_documents(settings, init))
        news = _news(store, _night_documents(...))
        forecasts.commit()
        skill.commit()
        for path, content in news.items():
            store.write(path, content)
    return Publication(outcome, scored, store.url_of(PAGE))


def _news(store: Store, documents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the documents that are not in the store yet, or there with another content."""
    return {path: content for path, content in documents.items() if store.read(path) != content}
