"""Which product a day should come from, and which days have a better one by now.

``products`` are always best first; ``known`` is `Archive.provenance`. A day that its best product lacks is taken from
the next, or kept as it is, and a note in its version says so: it need not be asked for again.
"""

import re
from collections.abc import Collection
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.archive import Provenance, consecutive
from datlstm.quality import UNUSABLE, DayQuality
from datlstm.sources.product import Product

NOTE = re.compile(r" \(not in [^)]*\)")


def names(products: list[Product]) -> str:
    """Return the products' names for a sentence."""
    return " and ".join(product.name for product in products)


def best_for(day: date, products: list[Product]) -> Product | None:
    """Return the best product that announces a day, or None."""
    return next((product for product in products if product.first_day <= day <= product.last_day), None)


def with_second_choices_noted(given: xr.Dataset, products: list[Product]) -> xr.Dataset:
    """Return a delivery in which the version of a day says when a better product announces the day and lacks it."""
    versions = []
    for day, product, version in zip(
        _days(given), given["source_product"].values, given["source_version"].values, strict=True
    ):
        best = best_for(day, products)
        lacks = best is not None and _rank(str(product), products) > products.index(best)
        versions.append(f"{version}{_note(best)}" if best and lacks else str(version))
    return given.assign(source_version=("time", np.array(versions, dtype=object)))


def not_worse(given: xr.Dataset, known: pd.DataFrame | None, products: list[Product]) -> xr.Dataset:
    """Return a delivery without the days of which the archive has a usable field of a better product."""
    if known is None:
        return given
    usable = _usable(known)
    kept = [
        day not in usable or _rank(usable[day], products) >= _rank(str(product), products)
        for day, product in zip(_days(given), given["source_product"].values, strict=True)
    ]
    return given.isel(time=np.array(kept, bool))


def acceptable(given: xr.Dataset, known: pd.DataFrame | None) -> set[date]:
    """Return the days of a checked delivery but for unusable ones of which the archive keeps a usable field."""
    usable = set() if known is None else _usable(known).keys()
    return {
        day
        for day, flags in zip(_days(given), given["quality"].values, strict=True)
        if not flags & UNUSABLE or day not in usable
    }


def changed_versions(given: xr.Dataset, known: pd.DataFrame | None) -> list[str]:
    """Return a line for each product that comes in another version than the newest day the archive has of it."""
    if known is None:
        return []
    lines = []
    for product in sorted(set(map(str, given["source_product"].values))):
        had = known[known["source_product"] == product]["source_version"]
        comes = str(given["source_version"].values[given["source_product"].values == product][-1])
        if len(had) and _plain(had.iloc[-1]) != _plain(comes):
            lines.append(
                f"{product} comes in version {_plain(comes)}, the archive's newest day of it in "
                f"{_plain(had.iloc[-1])}: look in the provider's notices what changed, and pin dataset_version"
            )
    return lines


def absent_days(
    written: Collection[date],
    known: pd.DataFrame | None,
    first_day: date,
    last_day: date,
    products: list[Product],
) -> dict[date, Provenance]:
    """Return the asked days that the archive goes on lacking from the best product that announces them.

    ``written`` are days about to be stored. A day of which the archive has nothing comes with that product; one of
    which it keeps what it has with the product and version of that, the note added.
    """
    stored = {} if known is None else {row.Index: row for row in known.itertuples() if row.source_product}
    lacking: dict[date, Provenance] = {}
    for day in consecutive(first_day, last_day):
        best, row = best_for(day, products), stored.get(day)
        if best is None or day in written or (row is not None and _has_best_product(row, products)):
            continue
        lacking[day] = (best.name, best.version)
        if row is not None and not int(row.quality) & DayQuality.MISSING:
            lacking[day] = (row.source_product, NOTE.sub("", row.source_version) + _note(best))
    return lacking


def is_finished(known: pd.DataFrame, first_day: date, last_day: date, products: list[Product]) -> bool:
    """Tell whether every day of an interval is stored as well as it can be had, or known to be absent."""
    stored = {row.Index: row for row in known.itertuples()}
    wanted = [day for day in consecutive(first_day, last_day) if best_for(day, products) is not None]
    return all(day in stored and _is_settled(stored[day], products) for day in wanted)


def upgradable(known: pd.DataFrame, products: list[Product], before: date, most_days: int) -> tuple[date, date] | None:
    """Return an interval that begins with the oldest day, of those ``before`` one, that a better product has by now.

    It spans at most ``most_days``. A day that was never asked for is a backfill's to read.
    """
    asked = known[(known["source_product"] != "") & (known.index < before)]
    stale = [row.Index for row in asked.itertuples() if not _has_best_product(row, products)]
    if not stale:
        return None
    limit = stale[0] + timedelta(days=most_days - 1)
    return stale[0], max(day for day in stale if day <= limit)


def _usable(known: pd.DataFrame) -> dict[date, str]:
    return known[(known["quality"].astype(int) & int(UNUSABLE)) == 0]["source_product"].to_dict()


def _is_settled(row: Any, products: list[Product]) -> bool:
    usable_or_absent = not int(row.quality) & int(UNUSABLE & ~DayQuality.MISSING)
    return usable_or_absent and row.source_product != "" and _has_best_product(row, products)


def _has_best_product(row: Any, products: list[Product]) -> bool:
    best = best_for(row.Index, products)
    if best is None or _note(best) in row.source_version:
        return True
    if row.source_product == best.name:
        # A new version of a reprocessed record replaces the old one; what came in near real time is history.
        return best is products[-1] or row.source_version == best.version
    return _rank(row.source_product, products) < products.index(best)


def _rank(name: str, products: list[Product]) -> int:
    return next((place for place, product in enumerate(products) if product.name == name), len(products))


def _plain(version: str) -> str:
    """Return a version as the provider calls it, without what this service noted behind it."""
    return version.split(" ", 1)[0]


def _note(best: Product) -> str:
    return f" (not in {best.name} {best.version})"


def _days(given: xr.Dataset) -> list[date]:
    return list(given["time"].values.astype("datetime64[D]").astype(object))
