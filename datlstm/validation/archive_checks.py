"""Checks of the archive as of a day: fresh, without gaps, as complete as before, in range, on the same mask."""

from collections.abc import Iterable
from datetime import date, timedelta

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.archive import LAND, SEA, Archive
from datlstm.bundle import Bundle
from datlstm.errors import NotEnoughDataError
from datlstm.quality import UNUSABLE, DayQuality
from datlstm.registry import champion_id
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.validation.record import Finding, State

# Yesterday's day is there tonight, or a night late.
FRESH_DAYS = 2
# What the months before tell is read from so many windows.
WINDOWS_BEFORE = 3
# As a share of the sea cells: less is no trend.
LEAST_RISE = 0.005
PERSISTENT_DAYS = 14
CELLS = ("latitude", "longitude")
DAYS_TOLD = 5


def archive_freshness(settings: Settings, as_of: date) -> Finding:
    """Tell how old the newest usable day is. Raises `NotEnoughDataError` when there is none before the day."""
    newest = _usable_days(settings, as_of)[-1]
    age, limit = (as_of - newest).days, settings.forecast.maximum_model_age_days
    state: State = "ok" if age <= FRESH_DAYS else "warn" if age <= limit else "breach"
    remedy = "" if state == "ok" else ": run `datlstm nightly`, or look at the source with `datlstm doctor`"
    message = f"the newest usable day is {newest}, {age} days old{remedy}"
    return Finding(name="archive", state=state, message=message, number=age)


def gaps(settings: Settings, as_of: date) -> Finding:
    """Name the days of the window that are absent, unusable or partial, up to the newest usable one.

    It breaches when the newest forecast's input lacks more days than a model may do without.
    """
    usable = _usable_days(settings, as_of)
    window = pd.date_range(max(usable[0], _first(settings, as_of)), usable[-1]).date
    known = Archive(settings).provenance().reindex(window)
    flags = known["quality"].fillna(int(DayQuality.MISSING)).astype(int)
    unusable = (flags & int(UNUSABLE)) != 0
    kinds = {
        "absent": (flags & int(DayQuality.MISSING)) != 0,
        "unusable": unusable & ((flags & int(DayQuality.MISSING)) == 0),
        "partial": ~unusable & ((flags & int(DayQuality.PARTIAL)) != 0),
    }
    found = [f"{told_days(flags.index[days])} {kind}" for kind, days in kinds.items() if days.any()]
    number = int(unusable.sum())
    if not found:
        message = f"no day is absent, unusable or partial in the {len(window)} days to {window[-1]}"
        return Finding(name="gaps", state="ok", message=message, number=number)
    lost = flags.index[unusable]
    again = f": try `datlstm backfill --again --from {lost[0]} --to {lost[-1]}`" if number else ": they are still used"
    lacking = int(unusable.iloc[-settings.model.input_days :].sum())
    state: State = "breach" if lacking > settings.forecast.maximum_missing_inputs else "warn"
    return Finding(name="gaps", state=state, message="; ".join(found) + again, number=number)


def missing_cells(settings: Settings, as_of: date) -> Finding:
    """Compare the share of sea cells that are missing on the window's usable days with that of the months before.

    It warns when the window's median day is worse than nine in ten days before, by `LEAST_RISE` and more.
    """
    first = _first(settings, as_of)
    before = first - timedelta(days=WINDOWS_BEFORE * settings.validation.window_days)
    read = _usable_fields(settings, before, as_of)
    sea = read["mask"] == SEA
    shares = (read["sst"].isnull() & sea).sum(CELLS).compute().to_series() / int(sea.sum())
    recent, past = shares[shares.index >= pd.Timestamp(first)], shares[shares.index < pd.Timestamp(first)]
    if recent.empty:
        raise NotEnoughDataError(f"no usable day between {first} and {as_of}: run `datlstm nightly`")
    usual, typical = (float(past.median()), float(past.quantile(0.9))) if len(past) else (0.0, 0.0)
    has_risen = recent.median() > max(typical, usual + LEAST_RISE)
    message = (
        f"of the sea cells {_percent(recent.mean())} are missing a day, at most {_percent(recent.max())} "
        f"({recent.idxmax():%Y-%m-%d}); in the {len(past)} days before {_percent(past.mean() if len(past) else 0.0)}"
    )
    if has_risen:
        message += ": look at the source for cells that it no longer has"
    return Finding(
        name="missing cells", state="warn" if has_risen else "ok", message=message, number=round(recent.mean(), 6)
    )


def ranges(settings: Settings, as_of: date) -> Finding:
    """Tell whether all fields of the window's usable days are in range, and name days that jump."""
    read = _usable_fields(settings, _first(settings, as_of), as_of).load()
    limits = {
        "sst": (settings.quality.minimum_kelvin, settings.quality.maximum_kelvin),
        "sea_ice_fraction": (0.0, 1.0),
        "analysis_error": (0.0, np.inf),
    }
    outside = []
    for name, (low, high) in limits.items():
        days = read["time"].values[((read[name] < low) | (read[name] > high)).any(CELLS)]
        if days.size:
            outside.append(f"{name} is outside {low:g} … {high:g} on {told_days(_dates(days))}")
    jumps = read["time"].values[(read["quality"].values & int(DayQuality.JUMP)) != 0]
    largest = round(daily_change(read).max(initial=0.0), 3)
    if outside:
        message = "; ".join(outside) + ": look at the source, and read these days again with `datlstm backfill --again`"
        return Finding(name="ranges", state="breach", message=message, number=largest)
    message = f"sst is in {float(read['sst'].min()):.1f} … {float(read['sst'].max()):.1f} K, and changes by at most "
    message += f"{largest:.2f} K from day to day (mean over the sea)"
    if jumps.size:
        message += f"; {told_days(_dates(jumps))} flagged as a jump: compare with the source"
    return Finding(name="ranges", state="warn" if jumps.size else "ok", message=message, number=largest)


def mask(settings: Settings, as_of: date) -> Finding:
    """Count sea cells without and land cells with values lately, and compare the champion's mask with the archive's.

    A sea cell counts when it had values in the window and has none on its last `PERSISTENT_DAYS` usable days. Another
    mask than the champion's breaches.
    """
    read = _usable_fields(settings, _first(settings, as_of), as_of)
    has_value = read["sst"].notnull().compute()
    lately, earlier = (has_value.isel(time=days) for days in (slice(-PERSISTENT_DAYS, None), slice(-PERSISTENT_DAYS)))
    lost = int((earlier.any("time") & ~lately.any("time") & (read["mask"] == SEA)).sum())
    gained = int((lately.any("time") & (read["mask"] == LAND)).sum())
    differing = _differing_from_champion(settings)
    told = {
        f"{lost} sea cells have had no value for {PERSISTENT_DAYS} days": lost,
        f"{gained} land cells have values": gained,
        f"{differing} cells are sea for the champion or for the archive alone: retrain on this archive": differing,
    }
    problems = [text for text, count in told.items() if count]
    number = lost + gained + differing
    if not problems:
        message = "the sea cells are those of the archive's mask and of the champion's"
        return Finding(name="mask", state="ok", message=message, number=number)
    message = "; ".join(problems) + ": look in the provider's notices whether its coast moved"
    return Finding(name="mask", state="breach" if differing else "warn", message=message, number=number)


def daily_change(fields: xr.Dataset) -> np.ndarray:
    """Return the mean over the cells of the size of the change of ``sst`` between consecutive days, kelvin."""
    days = fields["time"].values
    follows = np.diff(days) == np.timedelta64(1, "D")
    change = np.abs(np.diff(fields["sst"].values, axis=0))[follows]
    counted = np.isfinite(change).sum(axis=(1, 2))
    return np.asarray(np.nansum(change, axis=(1, 2))[counted > 0] / counted[counted > 0])


def told_days(days: Iterable[date]) -> str:
    """Return days for a sentence, the first few by name."""
    named = [str(day) for day in days]
    more = f" and {len(named) - DAYS_TOLD} more days" if len(named) > DAYS_TOLD else ""
    return ", ".join(named[:DAYS_TOLD]) + more


def window_fields(settings: Settings, as_of: date) -> xr.Dataset:
    """Return the usable days of the window as stored, lazily."""
    return _usable_fields(settings, _first(settings, as_of), as_of)


def _first(settings: Settings, as_of: date) -> date:
    return as_of - timedelta(days=settings.validation.window_days)


def _usable_days(settings: Settings, as_of: date) -> list[date]:
    usable = [day for day in Archive(settings).usable_days() if day < as_of]
    if not usable:
        raise NotEnoughDataError(f"the archive has no usable day before {as_of}: run `datlstm backfill`")
    return usable


def _usable_fields(settings: Settings, first: date, as_of: date) -> xr.Dataset:
    stored = Archive(settings).open()
    last = as_of - timedelta(days=1)
    days = stored.sel(time=slice(np.datetime64(first, "ns"), np.datetime64(last, "ns")))
    return days.isel(time=(days["quality"].values & int(UNUSABLE)) == 0)


def _differing_from_champion(settings: Settings) -> int:
    store = Store(settings.store)
    chosen = champion_id(store)
    if chosen is None:
        return 0
    champion, archive = Bundle.load(store, chosen).normaliser.ocean_mask, Archive(settings).ocean_mask()
    if champion.shape != archive.shape:
        return int(archive.size)
    return int((champion.values != archive.values).sum())


def _dates(days: np.ndarray) -> list[date]:
    return list(days.astype("datetime64[D]").tolist())


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
