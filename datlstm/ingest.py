"""From the source into the archive: read days, regrid, check, upsert."""

import logging
from collections.abc import Iterator
from datetime import date

import numpy as np
import xarray as xr

from datlstm.archive import Archive, UpsertReport, consecutive
from datlstm.errors import NotYetAvailableError
from datlstm.grid import Regridder
from datlstm.quality import DAY, UNUSABLE, check_days, describe
from datlstm.settings import Settings
from datlstm.sources import Source, open_source

WATER_BIT = 1

log = logging.getLogger(__name__)


def ingest(settings: Settings, first_day: date, last_day: date, source: Source | None = None) -> UpsertReport:
    """Bring the days of a closed interval from the source into the archive, in one commit.

    Days that the source lacks stay missing. Raises `NotYetAvailableError` when it has none of them, any other
    `SourceError` of the source, `GridError` when it does not cover the region, `ArchiveError` for a refused write.
    """
    source = source or open_source(settings)
    archive = Archive(settings)
    given = source.read(first_day, last_day)
    if given.sizes["time"] == 0:
        raise NotYetAvailableError(
            f"{source.product} has no day in {first_day} … {last_day}: wait for it, or ask for other days"
        )
    regridder = Regridder(
        (given["mask"] & WATER_BIT).astype(bool), archive.grid, settings.region.minimum_ocean_fraction
    )
    days = xr.Dataset({"sst": regridder(given["sst"])})
    days["sea_ice_fraction"] = (
        regridder(given["sea_ice_fraction"]) if "sea_ice_fraction" in given else xr.full_like(days["sst"], np.nan)
    )
    days = days.load()
    days["quality"] = check_days(days["sst"], regridder.ocean_mask, _day_before(archive, days), settings.quality)
    for day in days["quality"]:
        if day.item():
            level = logging.WARNING if day.item() & UNUSABLE else logging.INFO
            log.log(level, "%s is flagged %s", str(day["time"].values)[:10], describe(day.item()))
    return archive.upsert(
        days,
        regridder.ocean_mask,
        product=source.product,
        version=source.version,
        attribution=source.attribution,
    )


def backfill(settings: Settings, first_day: date, last_day: date) -> Iterator[tuple[date, date, UpsertReport | None]]:
    """Fill a closed interval in pieces of one calendar year, one commit each, and yield each piece when it is done.

    A piece whose days are all usable already is not read again (its report is None), so a killed backfill goes on
    where it stopped. A piece of which the source has no day is skipped with a warning. Raises like `ingest`.
    """
    source = open_source(settings)
    archive = Archive(settings)
    for first, last in yearly_pieces(first_day, last_day):
        have = set(archive.usable_days()) if archive.exists() else set()
        report = None
        if not have.issuperset(consecutive(first, last)):
            try:
                report = ingest(settings, first, last, source)
            except NotYetAvailableError as error:
                log.warning("%s", error)
        yield first, last, report


def yearly_pieces(first_day: date, last_day: date) -> list[tuple[date, date]]:
    """Cut a closed interval of days at the turns of the years."""
    years = range(first_day.year, last_day.year + 1)
    return [(max(first_day, date(y, 1, 1)), min(last_day, date(y, 12, 31))) for y in years]


def _day_before(archive: Archive, days: xr.Dataset) -> xr.DataArray | None:
    if not archive.exists():
        return None
    # As stored, not as usable: the third copy of a stale field must still be seen to repeat the second.
    day = days["time"].values[0] - DAY
    field = archive.open()["sst"].reindex(time=[day]).isel(time=0).load()
    return field if field.notnull().any() else None
