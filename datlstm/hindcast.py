"""Hindcasts: what a forecaster says on every day of a period, in a cube of the forecast cube's own structure.

Nothing of them is published: no reader starts from them, and nights do not see them.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.archive import Archive, consecutive
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.cube import Cube
from datlstm.errors import NotEnoughDataError
from datlstm.forecasting import BASELINES, probabilistic
from datlstm.grid import Grid
from datlstm.ladder import ForecastSource, NightlyForecast, credible
from datlstm.products.derived import OBSERVED_DAYS
from datlstm.products.forecast import draft_beside, new_days, rows_of
from datlstm.products.structure import INIT_TIME, forecast_encoding, forecast_template
from datlstm.settings import Settings
from datlstm.store import Store

FOLDER = "hindcasts"
INITS_PER_COMMIT = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run of a hindcast has come: the newest day that is done, and how many forecasts it has made."""

    last_day: date
    forecasts: int


def hindcast_cube(settings: Settings, bundle_id: str, first_day: date) -> Cube:
    """Return the cube of a bundle's hindcasts from a day on, as the forecast cube, but for what it is called."""
    grid = Grid.from_region(settings.region)
    template = forecast_template(settings, grid)
    template = template.assign_attrs(
        id=f"{template.attrs['id']}-hindcast",
        title=template.attrs["title"].replace("forecasts", "hindcasts"),
        summary=f"Hindcasts by {bundle_id}, each from the days up to its init_time. {template.attrs['summary']}",
        processing_level="L4 hindcast",
    )
    path = f"{FOLDER}/{bundle_id}-from-{first_day}.zarr"
    return Cube(Store(settings.store), path, template, forecast_encoding(settings, grid))


def hindcast(
    settings: Settings, bundle: Bundle, first_day: date, last_day: date, snapshot_id: str | None = None
) -> Iterator[Progress]:
    """Forecast from every init day of a closed interval, yielding after each commit; what is there is not made again.

    ``bundle`` may be a `Bundle.baseline`, never saved; ``forecast_source`` calls all but damped persistence a model.
    A day has no forecast where a night's ladder would not have let the bundle forecast from it: without truth of its
    own, with too many input days missing, or with a field that is not credible. Heatwave categories are not told. An
    interrupted hindcast goes on from its last commit on the archive state that it began with, which the maintenance
    may have taken away meanwhile; then, and for a state that lacks the period, raises `ArchiveError`. Raises
    `BundleError` for the bundle of another region, `NotEnoughDataError` when no day of the period can be forecast from.
    """
    bundle.check_matches(settings)
    cube, archive = hindcast_cube(settings, bundle.id, first_day), Archive(settings)
    _warn_of_training(bundle, first_day, last_day)
    standing = cube.open()
    if standing is None:
        snapshot_id, begin = snapshot_id or archive.snapshot_id(), first_day
    else:
        snapshot_id = str(standing["archive_snapshot"].values[-1])
        begin = standing[INIT_TIME].values[-1].astype("datetime64[D]").item() + timedelta(days=1)
    inits = _inits(settings, bundle, archive.usable_days(snapshot_id), begin, last_day)
    if not inits and standing is None:
        raise NotEnoughDataError(
            f"{bundle.id} can forecast from no day of {first_day} … {last_day}: backfill the archive, or choose others"
        )
    made = 0
    for run in _runs(inits, INITS_PER_COMMIT):
        drafts = dict(_drafts(settings, bundle, run, snapshot_id))
        for shown in _runs(list(drafts), INITS_PER_COMMIT):
            with cube.writing() as writer:
                rows = rows_of(xr.concat([drafts[day] for day in shown], INIT_TIME))
                writer.stage(rows | {INIT_TIME: new_days(writer, shown[0], shown[-1])})
                writer.commit()
        made += len(drafts)
        yield Progress(run[-1], made)


def _drafts(
    settings: Settings, bundle: Bundle, inits: list[date], snapshot_id: str
) -> Iterator[tuple[date, xr.Dataset]]:
    """Make the forecasts from consecutive days, all at once, and yield those that are credible by their day."""
    reach = timedelta(days=max(bundle.input_days, OBSERVED_DAYS) - 1)
    days = Archive(settings).read(inits[0] - reach, inits[-1], snapshot_id).load()
    made = probabilistic(bundle, days, pd.DatetimeIndex(inits)).isel(lead_time=slice(settings.model.lead_days))
    is_usable = days["sst"].notnull().any(("latitude", "longitude")).values
    is_damped = bundle.forecaster == DAMPED_PERSISTENCE
    source = ForecastSource.DAMPED_PERSISTENCE if is_damped else ForecastSource.MODEL
    for end, init in enumerate(inits, start=reach.days + 1):
        field = made.sel(init_time=np.datetime64(init, "ns"))
        if credible(field["sst"], bundle, settings):
            missing = int((~is_usable[end - bundle.input_days : end]).sum())
            told = NightlyForecast(init, field["sst"], field["sst_spread"], source, bundle, snapshot_id, 1, missing)
            yield init, draft_beside(settings, told, None, days.isel(time=slice(end - OBSERVED_DAYS, end)))


def _inits(settings: Settings, bundle: Bundle, usable: Sequence[date], first_day: date, last_day: date) -> list[date]:
    """Return the days of a closed interval from which a night's ladder would let a bundle forecast."""
    is_model = bundle.forecaster not in BASELINES
    most_missing = settings.forecast.maximum_missing_inputs if is_model else bundle.input_days
    known = set(usable)

    def missing(init: date) -> int:
        return len(set(consecutive(init - timedelta(days=bundle.input_days - 1), init)) - known)

    return [day for day in usable if first_day <= day <= last_day and missing(day) <= most_missing]


def _runs(days: Sequence[date], longest: int) -> Iterator[list[date]]:
    """Cut ascending days into runs of days that follow one another."""
    run: list[date] = []
    for day in days:
        if run and (len(run) == longest or day != run[-1] + timedelta(days=1)):
            yield run
            run = []
        run.append(day)
    if run:
        yield run


def _warn_of_training(bundle: Bundle, first_day: date, last_day: date) -> None:
    first, last = (date.fromisoformat(bundle.training[name]) for name in ("first_day", "last_day"))
    if first <= last_day and first_day <= last:
        log.warning(
            "%s was trained on %s … %s: its hindcasts of these days are better than its forecasts",
            bundle.id,
            first,
            last,
        )
