"""From the source into the archive: read days, regrid, check, upsert."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.archive import FIELDS, Archive, UpsertReport, consecutive
from datlstm.best_truth import (
    absent_days,
    acceptable,
    changed_versions,
    is_finished,
    names,
    not_worse,
    upgradable,
    with_second_choices_noted,
)
from datlstm.clock import now
from datlstm.errors import ArchiveError, NotYetAvailableError, TransientSourceError
from datlstm.grid import Regridder
from datlstm.patience import deadline_of, patiently
from datlstm.product_step import ProductStep
from datlstm.quality import DAY, UNUSABLE, DayQuality, check_days, describe
from datlstm.settings import Settings
from datlstm.sources import Source
from datlstm.sources.product import Product
from datlstm.store import Store

WATER_BIT = 1
SUNDAY = 6
PIECE_DAYS = 366
MISDATED_SHARE = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestReport:
    """What came of asking for the days ``first_day`` … ``last_day``.

    ``missing`` are asked days that the archive still lacks in usable form; ``problems`` what an operator should know.
    """

    first_day: date
    last_day: date
    upsert: UpsertReport
    missing: list[date] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the report in one line."""
        done = self.upsert
        counts = f"{len(done.added)} days added, {len(done.revised)} revised, {len(done.unchanged)} unchanged"
        refused = f", {len(done.refused)} refused" if done.refused else ""
        missing = f", {len(self.missing)} missing ({_listed(self.missing)})" if self.missing else ""
        return f"{self.first_day} … {self.last_day}: {counts}{refused}{missing}; snapshot {done.snapshot_id}"


def ingest(settings: Settings, first_day: date, last_day: date, source: Source) -> IngestReport:
    """Bring the days of a closed interval from the source into the archive, in one commit.

    A day of a lesser product never replaces one of a better. Days that the source lacks stay missing, or as they are,
    and are noted. Raises `NotYetAvailableError` when it has none of them, any other `SourceError` of the source,
    `GridError` when it does not cover the region, `ArchiveError` for a refused write.
    """
    archive = Archive(settings)
    given = source.read(first_day, last_day)
    products = source.products()
    known = archive.provenance() if archive.exists() else None
    problems = [*given.attrs["problems"], *changed_versions(given, known)]
    for problem in problems:
        log.warning("%s", problem)
    if known is not None or given.sizes["time"]:
        report = _upsert(settings, given, known, (first_day, last_day), products)
    if given.sizes["time"] == 0:
        raise NotYetAvailableError(
            f"{names(products)} have no whole day in {first_day} … {last_day}: "
            f"{'; '.join(problems) or 'wait for it, or ask for other days'}"
        )
    return IngestReport(first_day, last_day, report, _missing(archive, first_day, last_day), problems)


def ingest_night(settings: Settings, night: date, source: Source) -> IngestReport:
    """Read what a night needs, `ingest_window`, and what became better, `ingest_better`; report the former.

    Raises as they do; what was read before an error stays.
    """
    report = ingest_window(settings, night, source)
    ingest_better(settings, night, source)
    return report


def ingest_window(settings: Settings, night: date, source: Source) -> IngestReport:
    """Read the rolling window before a night and all since the archive's end, in pieces of a year, a commit each.

    A piece of which the source has no day is passed over. Raises `NotYetAvailableError` when that is so of all,
    `ArchiveError` for a night that the archive's first day does not precede, and else as `ingest`.
    """
    first, last = night_window(settings, night)
    if first > last:
        raise ArchiveError(f"the night of {night} needs days before {first}, the archive's first: choose a later night")
    report: IngestReport | None = None
    for start in range(first.toordinal(), last.toordinal() + 1, PIECE_DAYS):
        begin = date.fromordinal(start)
        end = min(last, begin + timedelta(days=PIECE_DAYS - 1))
        try:
            piece = ingest(settings, begin, end, source)
        except NotYetAvailableError as error:
            log.warning("%s", error)
            refusal = error
        else:
            report = piece if report is None else _joined(report, piece)
    if report is None:
        raise refusal
    return replace(report, first_day=first, last_day=last, missing=_missing(Archive(settings), first, last))


def ingest_better(settings: Settings, night: date, source: Source) -> IngestReport | None:
    """Read again, of the days before a night's window, the oldest for which a better product has come out.

    At most ``archive.upgrade_days`` of them; None when there are none. Raises as `ingest`.
    """
    before, _ = night_window(settings, night)
    known, products = Archive(settings).provenance(), source.products()
    while (better := upgradable(known, products, before, settings.archive.upgrade_days)) is not None:
        try:
            report = ingest(settings, *better, source)
        except NotYetAvailableError as error:
            # Days that are announced and do not come must not keep others from their turn.
            log.warning("%s", error)
            known = known[known.index > better[1]]
        else:
            log.info("a better product has come out: %s", report)
            return report
    return None


def patient_ingest(settings: Settings, night: date, source: Source) -> IngestReport:
    """Read what a night needs as `ingest_night`, waiting for a source that fails or has not got the newest day yet.

    Waits as `patiently` does. When the newest day never comes, what did is reported, with the day among the missing.
    """
    reports: list[IngestReport] = []

    def attempt() -> None:
        report = ingest_window(settings, night, source)
        reports.append(report)
        if report.last_day in report.missing:
            raise NotYetAvailableError(f"{report.last_day} is not there yet ({report})")

    try:
        patiently(attempt, settings.source.retry, deadline_of(night, settings.source.retry))
    except NotYetAvailableError:
        if not reports:
            raise
    patiently(partial(ingest_better, settings, night, source), settings.source.retry, now())
    added = [day for report in reports for day in report.upsert.added]
    revised = [day for report in reports for day in report.upsert.revised]
    newest = reports[-1]
    return replace(newest, upsert=replace(newest.upsert, added=added, revised=revised))


def night_window(settings: Settings, night: date) -> tuple[date, date]:
    """Return the first and last day that a night asks for.

    The rolling window ends with the night before or, after an outage, where the last good night ended; days that are
    missing in the weekly window are asked for every night.
    """
    archive = Archive(settings)
    options = settings.archive
    rolling = options.weekly_rolling_days if night.weekday() == SUNDAY else options.rolling_days
    usable = [day for day in archive.usable_days() if day < night] if archive.exists() else []
    if not usable:
        return max(night - timedelta(days=rolling), options.first_day), night - timedelta(days=1)
    first = min(night, usable[-1] + timedelta(days=2)) - timedelta(days=rolling)
    recent = consecutive(max(usable[0], night - timedelta(days=options.weekly_rolling_days)), usable[-1])
    missing = sorted(set(recent) - set(usable))
    return max(min([first, *missing[:1]]), options.first_day), night - timedelta(days=1)


def backfill(
    settings: Settings, first_day: date, last_day: date, source: Source, *, again: bool = False
) -> Iterator[tuple[date, date, IngestReport | None]]:
    """Fill a closed interval in pieces of one calendar year, one commit each, and yield each piece when it is done.

    A piece is finished when each of its days is usable or known to be absent, from the best product that announces it;
    a finished piece is not read (its report is None) unless ``again``, so a killed backfill goes on where it stopped.
    A piece of which the source has no day is skipped with a warning. Raises like `ingest`.
    """
    archive = Archive(settings)
    products = source.products()
    for first, last in yearly_pieces(first_day, last_day):
        report = None
        if again or not archive.exists() or not is_finished(archive.provenance(), first, last, products):
            try:
                report = patiently(partial(ingest, settings, first, last, source), settings.source.retry, now())
            except NotYetAvailableError as error:
                log.warning("%s", error)
        yield first, last, report


def yearly_pieces(first_day: date, last_day: date) -> list[tuple[date, date]]:
    """Cut a closed interval of days at the turns of the years."""
    years = range(first_day.year, last_day.year + 1)
    return [(max(first_day, date(y, 1, 1)), min(last_day, date(y, 12, 31))) for y in years]


def _upsert(
    settings: Settings,
    given: xr.Dataset,
    known: pd.DataFrame | None,
    asked: tuple[date, date],
    products: list[Product],
) -> UpsertReport:
    """Write what is new of a delivery, and note what is lacking of the days that were asked for."""
    archive = Archive(settings)
    chosen = not_worse(with_second_choices_noted(given, products), known, products)
    days, ocean_mask = _on_grid(settings, archive, chosen, products)
    days["quality"] = _quality(archive, days, ocean_mask, settings)
    certain = given.attrs["gaps_are_certain"]
    absent = absent_days(acceptable(days, known), known, *asked, products) if certain else {}
    if days.sizes["time"] == 0 and not absent:
        return UpsertReport(archive.snapshot_id())
    return archive.upsert(days, ocean_mask, attribution=given.attrs["attribution"], absent=absent)


def _on_grid(
    settings: Settings, archive: Archive, given: xr.Dataset, products: list[Product]
) -> tuple[xr.Dataset, xr.DataArray]:
    """Return days on the archive's grid with all its fields, and the ocean mask that the source's water makes."""
    water = (given["mask"] & WATER_BIT).astype(bool)
    regridder = Regridder(water, archive.grid, settings.region.minimum_ocean_fraction)
    days = xr.Dataset({name: regridder(given[name]) for name in FIELDS if name in given})
    for name in FIELDS:
        if name not in days:
            days[name] = xr.full_like(days["sst"], np.nan)
    days = days.assign(source_product=given["source_product"], source_version=given["source_version"])
    if settings.source.copernicus.subtract_step and len(products) > 1:
        days = _without_step(settings, days, products)
    days = days.load()
    ocean_mask = archive.ocean_mask() if archive.exists() else regridder.ocean_mask
    return days.assign({name: days[name].where(ocean_mask) for name in FIELDS}), regridder.ocean_mask


def _without_step(settings: Settings, days: xr.Dataset, products: list[Product]) -> xr.Dataset:
    """Take the measured step between the products off the near-real-time days, and say so in their version."""
    reprocessed, near_real_time = (str(product) for product in products)
    step = ProductStep.load(
        Store(settings.store), grid=Archive(settings).grid, near_real_time=near_real_time, reprocessed=reprocessed
    )
    if step is None:
        raise ArchiveError("source.copernicus.subtract_step is set, but no step is stored: run `datlstm product-step`")
    affected = days["source_product"] == products[-1].name
    sst = days["sst"].where(~affected, days["sst"] - step.at(days["time"])).astype("float32")
    version = days["source_version"].where(~affected, days["source_version"] + f" minus step {step.id}")
    return days.assign(sst=sst, source_version=version)


def _quality(archive: Archive, days: xr.Dataset, ocean_mask: xr.DataArray, settings: Settings) -> xr.DataArray:
    stored = None
    if archive.exists() and days.sizes["time"]:
        times = days["time"].values
        around = np.arange(times.min() - DAY, times.max() + 2 * DAY, DAY)
        # As stored, not as usable: the third copy of a stale field must still be seen to repeat the second.
        stored = archive.open()["sst"].reindex(time=around).load()
        ocean_mask = archive.ocean_mask()
    quality = check_days(days["sst"], ocean_mask, stored, settings.quality)
    if stored is not None:
        _require_right_dates(quality, stored)
    for day in quality[quality != 0]:
        level = logging.WARNING if day.item() & UNUSABLE else logging.INFO
        log.log(level, "%s is flagged %s", str(day["time"].values)[:10], describe(day.item()))
    return quality


def _require_right_dates(quality: xr.DataArray, stored: xr.DataArray) -> None:
    """Refuse a delivery whose days, where the archive can tell, are mostly its days beside them."""
    known = stored.sel(time=quality["time"]).notnull().any(("latitude", "longitude"))
    copies = known & ((quality & int(DayQuality.REPEATED)) != 0)
    if int(copies.sum()) > max(1, MISDATED_SHARE * int(known.sum())):
        raise TransientSourceError(
            f"{int(copies.sum())} of {int(known.sum())} known days came as the archive's day beside them, so their "
            "stamps are wrong: nothing was taken; look at the provider's notices if it stays so, and if the archive is "
            "what is wrong, fill a new store"
        )


def _missing(archive: Archive, first_day: date, last_day: date) -> list[date]:
    usable = set(archive.usable_days())
    return [day for day in consecutive(first_day, last_day) if day not in usable]


def _joined(report: IngestReport, piece: IngestReport) -> IngestReport:
    lists = {
        name: getattr(report.upsert, name) + getattr(piece.upsert, name)
        for name in ("added", "revised", "unchanged", "refused", "absent")
    }
    upsert = UpsertReport(piece.upsert.snapshot_id, **lists)
    return replace(
        report,
        last_day=piece.last_day,
        upsert=upsert,
        problems=report.problems + piece.problems,
    )


def _listed(days: list[date], most: int = 5) -> str:
    shown = ", ".join(map(str, days[:most]))
    return shown if len(days) <= most else f"{shown}, …"
