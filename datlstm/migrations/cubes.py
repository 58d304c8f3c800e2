"""The published cubes' way from earlier formats to this release's."""

from importlib.metadata import version

import numpy as np
import xarray as xr
import zarr

from datlstm.errors import ProductError
from datlstm.formats import check_format
from datlstm.ladder import ForecastSource
from datlstm.products.derived import OBSERVED_DAYS, derive
from datlstm.products.forecast import FORECAST_PATH, forecast_cube
from datlstm.products.skill import SKILL_PATH
from datlstm.products.structure import FORMAT_VERSION, INIT_TIME
from datlstm.settings import Settings
from datlstm.staged import ROOT_DOCUMENT, StagedZarr
from datlstm.store import Store

DERIVED = "variables added, of inits that have no code_version derived from the published sst alone"
ASIDE = "skill-format-1.zarr"


def migrate_forecasts(settings: Settings) -> None:
    """Add to the forecast cube what its format lacks, in one step; what is published stays as it is.

    What follows from the published temperatures alone is derived from them: crossed temperatures, and the tendency
    where both its days are forecast. The tendency of the first leads, heatwave categories, settings, code and spread
    are unknown: they hold what their variables hold for that, and ``history`` says so. Killed at any moment, readers
    see the cube as it was. Raises `ProductError` for a cube that other settings made.
    """
    store, cube = Store(settings.store), forecast_cube(settings)
    with store.writer(FORECAST_PATH) as confirm:
        published = cube.open_any()
        if published is None or cube.format_of(published) == FORMAT_VERSION:
            return
        found = cube.format_of(published)
        check_format(found, FORMAT_VERSION, cube.url, ProductError, older=None)
        history = f"written by datlstm; format {found} brought to {FORMAT_VERSION} by datlstm {version('datlstm')}: "
        history += DERIVED if found == 1 else "spread unknown"
        staged = StagedZarr(store, FORECAST_PATH, confirm)
        group = cube.restructure(staged, history)
        if found == 1:
            _derive_all(settings, published, group)
        staged.commit()
        staged.follow_up()


def _derive_all(settings: Settings, published: xr.Dataset, group: zarr.Group) -> None:
    made = published["forecast_source"].values != ForecastSource.NONE
    for place in np.flatnonzero(made):
        init = published[["sst", "valid_time"]].isel({INIT_TIME: int(place)}).load()
        for name, field in derive(settings, init["sst"], _unobserved(init), None).items():
            array = group[str(name)]
            assert isinstance(array, zarr.Array)
            array[int(place)] = field.values


def _unobserved(init: xr.Dataset) -> xr.DataArray:
    """Return the days before a forecast as days of which nothing is known."""
    last = init[INIT_TIME].values.astype("datetime64[ns]")
    days = last - np.arange(OBSERVED_DAYS)[::-1] * np.timedelta64(1, "D")
    return xr.full_like(init["sst"].isel(lead_time=0, drop=True).reset_coords(drop=True), np.nan).expand_dims(time=days)


def move_skill_aside(settings: Settings) -> None:
    """Move a skill cube of format 1, whose rows this format can't hold, to `ASIDE`; complete a move that was killed.

    Raises `ProductError` when something else is there already.
    """
    store = Store(settings.store)
    with store.writer(SKILL_PATH):
        standing, aside = (store.read(f"{folder}/{ROOT_DOCUMENT}") for folder in (SKILL_PATH, ASIDE))
        if aside is not None and standing is not None and aside != standing:
            raise ProductError(f"{store.url_of(ASIDE)} is there already: move it away, then run this again")
        store.move(SKILL_PATH, ASIDE, ROOT_DOCUMENT)


def is_half_moved(store: Store) -> bool:
    """Tell whether a move of the skill cube was killed when its copy was whole and not all of the cube was gone."""
    is_copied = store.read(f"{ASIDE}/{ROOT_DOCUMENT}") is not None
    return is_copied and store.read(f"{SKILL_PATH}/{ROOT_DOCUMENT}") is None and bool(store.list(SKILL_PATH))
