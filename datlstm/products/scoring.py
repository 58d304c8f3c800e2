"""Computing new rows of the skill cube: which valid days are due, and their scores."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.archive import Archive
from datlstm.areas import area_masks, surfaces
from datlstm.bundle import Bundle
from datlstm.clock import now_seconds
from datlstm.day_scores import by_valid_day, init_times, score_days
from datlstm.errors import BundleError
from datlstm.forecasting import reference_forecasts
from datlstm.ladder import ForecastSource
from datlstm.products.basis import Basis, bases
from datlstm.products.forecast import INIT_TIME, forecast_cube
from datlstm.products.skill import (
    BASIS,
    FINAL,
    FORECAST,
    PROVISIONAL,
    SCORING,
    skill_log,
)
from datlstm.quality import UNUSABLE
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.verification import DEFINITIONS_VERSION

# Bounds the memory of a backlog: 200 MB for the Bohai's 96 x 96 cells and ten leads.
BLOCK_DAYS = 10

log = logging.getLogger(__name__)


def score(settings: Settings, forecast_date: date) -> xr.Dataset | None:
    """Return new rows for every day before ``forecast_date`` with truth, or None when the standing ones say it all.

    Rows are ``(scoring, forecaster, area, surface, lead_time)``, days ascending; nothing is written. A day is scored
    when its truth is new or revised, forecasts for it were added, or the definitions changed. Its baselines start from
    what the archive now holds of the init days. Forecasts whose bundle can't be read are left out, with an error in the
    log, and scored once it can. Raises `SettingsError` for a sub-basin without sea, `ProductError` for a cube of an
    earlier release.
    """
    published = _published(settings)
    if not published:
        return None
    archive, rows = Archive(settings), skill_log(settings)
    snapshot = archive.snapshot_id()
    stood = {} if rows is None else bases(rows[list(BASIS)].load())
    wanted = _wanted(settings, archive.provenance(snapshot), published, forecast_date)
    due = {day: basis for day, basis in wanted.items() if basis.adds_to(stood.get(day))}
    bundles = _bundles(settings, {init: published[init] for basis in due.values() for init in basis.inits})
    readable = {init for init, bundle_id in published.items() if bundle_id in bundles}
    due = {day: replace(basis, inits=basis.inits & readable) for day, basis in due.items()}
    due = {day: basis for day, basis in due.items() if basis.inits and basis.adds_to(stood.get(day))}
    if not due:
        return None
    areas = area_masks(settings.region, archive.ocean_mask())
    scored = [_score_block(settings, snapshot, block, published, bundles, areas) for block in _blocks(due)]
    return xr.concat(scored, SCORING).assign(_lineage(settings, due, stood))


def _published(settings: Settings) -> dict[date, str]:
    """Return the bundle of every published init."""
    cube = forecast_cube(settings).open()
    if cube is None:
        return {}
    made = cube[["model_id", "forecast_source"]].load()
    made = made.isel({INIT_TIME: made["forecast_source"].values != ForecastSource.NONE})
    return dict(zip(_days(made[INIT_TIME]), made["model_id"].values.tolist(), strict=True))


def _wanted(
    settings: Settings, provenance: pd.DataFrame, published: Mapping[date, str], forecast_date: date
) -> dict[date, Basis]:
    """Return what the scores of every day before ``forecast_date`` with truth and forecasts should rest on."""
    provenance = provenance[(provenance.index > min(published)) & (provenance.index < forecast_date)]
    known = provenance[(provenance["quality"].astype(int) & int(UNUSABLE)) == 0]
    ingested_at = known["ingested_at"].to_numpy("datetime64[s]")
    wanted = {}
    for row, moment in zip(known.itertuples(), ingested_at, strict=True):
        before = (row.Index - timedelta(days=lead) for lead in range(1, settings.model.lead_days + 1))
        inits = frozenset(init for init in before if init in published)
        if inits:
            wanted[row.Index] = Basis(row.source_product, row.source_version, moment, inits, DEFINITIONS_VERSION)
    return wanted


def _bundles(settings: Settings, inits: Mapping[date, str]) -> dict[str, Bundle]:
    """Return the bundles of inits by id, without those that can't be read."""
    bundles = {}
    for bundle_id in sorted(set(inits.values())):
        try:
            bundles[bundle_id] = Bundle.load(Store(settings.store), bundle_id)
        except BundleError as error:
            lost = sorted(init for init, own in inits.items() if own == bundle_id)
            log.error(
                "the %d forecasts from %s … %s are not scored, for their baselines come from their bundle: %s",
                len(lost),
                lost[0],
                lost[-1],
                error,
            )
    return bundles


def _blocks(due: Mapping[date, Basis]) -> Iterator[dict[date, Basis]]:
    """Yield the due days, ascending, in pieces that span at most `BLOCK_DAYS`."""
    block: dict[date, Basis] = {}
    for day in sorted(due):
        if block and (day - min(block)).days >= BLOCK_DAYS:
            yield block
            block = {}
        block[day] = due[day]
    yield block


def _score_block(
    settings: Settings,
    snapshot: str,
    due: Mapping[date, Basis],
    published: Mapping[date, str],
    bundles: Mapping[str, Bundle],
    areas: xr.DataArray,
) -> xr.Dataset:
    """Return the scores of a block of days, with their ``init_time``."""
    days, lead_days = pd.DatetimeIndex(list(due)), settings.model.lead_days
    inits = sorted(frozenset.union(*(basis.inits for basis in due.values())))
    archived = Archive(settings).read(inits[0], days[-1].date(), snapshot)[["sst", "sea_ice_fraction"]].load()
    by_init = _forecasts(settings, {init: published[init] for init in inits}, bundles, archived["sst"])
    truth = archived.sel(time=days).rename(time="valid_time")
    init_time = init_times(truth["valid_time"], lead_days)
    forecasts = {name: by_valid_day(made, init_time) for name, made in by_init.items()}
    samples = areas & surfaces(truth["sea_ice_fraction"])
    scored = score_days(forecasts, truth["sst"], forecasts["climatology"], samples)
    is_scored = init_time.isin(np.array(inits, "datetime64[ns]"))
    return scored.assign_coords(init_time=init_time.where(is_scored)).swap_dims(valid_time=SCORING)


def _forecasts(
    settings: Settings, inits: Mapping[date, str], bundles: Mapping[str, Bundle], sst: xr.DataArray
) -> dict[str, xr.DataArray]:
    """Return what was published and its baselines, by forecaster, ``(init_time, lead_time, latitude, longitude)``."""
    cube = forecast_cube(settings).open()
    assert cube is not None
    days = pd.DatetimeIndex(list(inits))
    made = cube["sst"].sel({INIT_TIME: slice(days[0], days[-1])}).load().sel({INIT_TIME: days})
    references = []
    for bundle_id in sorted(set(inits.values())):
        own = pd.DatetimeIndex([init for init, its in inits.items() if its == bundle_id])
        fields = xr.Dataset(reference_forecasts(bundles[bundle_id], sst, own))
        references.append(fields.sel(lead_time=made["lead_time"]))
    baselines = xr.concat(references, INIT_TIME).sel({INIT_TIME: days})
    return {FORECAST: made, **{str(name): field for name, field in baselines.items()}}


def _lineage(
    settings: Settings, due: Mapping[date, Basis], stood: Mapping[date, Basis]
) -> dict[str, tuple[str, np.ndarray]]:
    """Return what is told of each row beside its scores."""
    rows = [due[day] for day in sorted(due)]
    reasons = [due[day].reason(stood.get(day)) for day in sorted(due)]
    columns = {
        "truth_product": np.array([basis.truth_product for basis in rows], object),
        "truth_version": np.array([basis.truth_version for basis in rows], object),
        "truth_ingested_at": np.array([basis.truth_ingested_at for basis in rows], "datetime64[s]"),
        "definitions_version": np.array([basis.definitions_version for basis in rows], "int16"),
        "status": np.array([FINAL if b.is_final(settings.source) else PROVISIONAL for b in rows], "int8"),
        "reason": np.array(reasons, object),
        "scored_at": np.full(len(rows), now_seconds(), "int64").astype("datetime64[s]"),
    }
    return {name: (SCORING, values) for name, values in columns.items()}


def _days(times: xr.DataArray) -> list[date]:
    return list(times.values.astype("datetime64[D]").tolist())
