"""Marine heatwaves on the region's grid: the climatology and threshold of a baseline, and each day's category.

A day belongs to a heatwave when it is one of at least five consecutive days above the 90th percentile of its time of
year (Hobday et al. 2016, https://doi.org/10.1016/j.pocean.2015.12.014). Its category counts how often the threshold's
distance from the climatology fits into the day's anomaly (Hobday et al. 2018, https://doi.org/10.5670/oceanog.2018.205).
Why this is code of our own, and which object a night uses: docs/decisions/0014.
"""

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from datlstm.archive import SEA, Archive
from datlstm.errors import ConflictError, ProductError
from datlstm.grid import Grid
from datlstm.quality import UNUSABLE
from datlstm.settings import HeatwaveSettings, Settings
from datlstm.store import Store, as_json

FOLDER = "heatwave"
REFERENCES = "https://doi.org/10.1016/j.pocean.2015.12.014, https://doi.org/10.5670/oceanog.2018.205"
CATEGORIES = ("none", "moderate", "strong", "severe", "extreme")
NOT_TOLD = -1
MINIMUM_DURATION_DAYS = 5
PERCENTILE = 0.9
POOLING_HALF_WIDTH_DAYS = 5
SMOOTHING_DAYS = 31
LONGEST_BASELINE_YEARS = 30
# A few lost days leave a year whole; a season without days would bend its climatology.
WHOLE_YEAR_DAYS = 329
# Under ice all days of a season are at the freezing point, and any excess would be hundreds of times the threshold's.
SMALLEST_UNIT_KELVIN = 0.01
DAYS_OF_YEAR = 366
FEBRUARY_29 = 59
DIMS = ("dayofyear", "latitude", "longitude")
BAND_BYTES = 2**28
LONG_NAMES = {"climatology": "mean of the time of year", "threshold": "90th percentile of the time of year"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HeatwaveBaseline:
    """What is normal, and what is hot, on each day of the year.

    ``climatology`` and ``threshold`` are ``(dayofyear, latitude, longitude)`` float32 kelvin, 366 days as in a leap
    year, NaN on land and where the two lie closer than a hundredth of a kelvin. ``years`` are the first and the last
    that were pooled; ``source`` names the products their days came from.
    """

    climatology: xr.DataArray
    threshold: xr.DataArray
    years: tuple[int, int]
    source: str

    @property
    def id(self) -> str:
        """Years, source and contents as a short text: the same fields give the same id."""
        digest = hashlib.sha256(
            Grid(self.climatology["latitude"].values, self.climatology["longitude"].values).hash.encode()
        )
        for field in (self.climatology, self.threshold):
            digest.update(np.ascontiguousarray(field.values, "<f4").tobytes())
        return f"{_text(self.years)}, {self.source}, {digest.hexdigest()[:8]}"

    def save(self, store: Store) -> None:
        """Write the baseline where `load` finds it by its id. Raises `StoreError`."""
        store.write(_path(self.id), self._to_netcdf())

    @classmethod
    def load(cls, store: Store, baseline_id: str) -> Self:
        """Read the baseline of an id and verify its contents.

        Raises `ProductError` when it is absent or damaged.
        """
        place, content = store.url_of(_path(baseline_id)), store.read(_path(baseline_id))
        if content is None:
            raise ProductError(f"no marine heatwave baseline {baseline_id!r} at {place}: restore it from a backup")
        try:
            fields = xr.load_dataset(io.BytesIO(content), engine="h5netcdf")
            years = (int(fields.attrs["first_year"]), int(fields.attrs["last_year"]))
            found = cls(fields["climatology"], fields["threshold"], years, str(fields.attrs["source"]))
            found_id = found.id
        except (OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
            raise ProductError(f"{place} can't be read ({error}): restore it from a backup") from error
        if found_id != baseline_id:
            raise ProductError(f"{place} holds {found_id!r} and not {baseline_id!r}: restore it from a backup")
        return found

    def _to_netcdf(self) -> bytes:
        first, last = self.years
        fields = xr.Dataset(
            {"climatology": self.climatology, "threshold": self.threshold},
            attrs={
                "Conventions": "CF-1.11",
                "title": f"Marine heatwave baseline {_text(self.years)}",
                "source": self.source,
                "history": "written by datlstm",
                "references": REFERENCES,
                "first_year": first,
                "last_year": last,
            },
        )
        encoding: Any = {name: {"zlib": True, "shuffle": True} for name in fields.data_vars}
        encoding |= {name: {"_FillValue": None} for name in fields.coords}
        return bytes(fields.to_netcdf(engine="h5netcdf", encoding=encoding))


def baseline(settings: Settings, init_day: date, snapshot_id: str) -> HeatwaveBaseline | None:
    """Return the baseline of forecasts from ``init_day``, or None, with a warning, when the archive can't carry one.

    The first that was made of some years stands for them, whatever the archive's later revisions. It is made here, from
    the archive state ``snapshot_id``, when there is none or it can't be read. Raises `StoreError`.
    """
    archive, store = Archive(settings), Store(settings.store)
    years = _baseline_years(settings.products.heatwave, archive.usable_days(snapshot_id), init_day)
    if years is None:
        return None
    pointer = f"{FOLDER}/{_text(years)}.json"
    content, version = store.read_versioned(pointer)
    if content is not None:
        try:
            return HeatwaveBaseline.load(store, _pointed(content))
        except ProductError as error:
            log.warning("the marine heatwave baseline is made again, from archive state %s: %s", snapshot_id, error)
    made = compute_baseline(archive, years, snapshot_id)
    made.save(store)
    try:
        store.write_if(pointer, as_json({"id": made.id, "archive_snapshot": snapshot_id}), version)
    except ConflictError:
        return baseline(settings, init_day, snapshot_id)
    return made


def compute_baseline(archive: Archive, years: tuple[int, int], snapshot_id: str) -> HeatwaveBaseline:
    """Return the baseline of all usable days of the years, first and last included.

    Mean and 90th percentile of the days within 5 of each day of the year, 29 February halfway between its neighbours,
    both smoothed over 31 days (Hobday et al. 2016, and the authors' own `marineHeatWaves`). Holds `BAND_BYTES` of SST
    at a time, reading the archive once for each such band of sea cells.
    """
    first, last = years
    days = archive.read(date(first, 1, 1), date(last, 12, 31), snapshot_id)
    sea = np.flatnonzero(days["mask"].values == SEA)
    fields = np.full((2, DAYS_OF_YEAR, days["mask"].size), np.nan, "float32")
    for cells in np.array_split(sea, max(-(-sea.size * days["time"].size * 4 // BAND_BYTES), 1)):
        fields[:, :, cells] = _normal_and_hot(_cell_series(days["sst"], cells), _place_in_year(days.indexes["time"]))
    fields[:, fields[1] - fields[0] < SMALLEST_UNIT_KELVIN] = np.nan
    climatology, threshold = (
        xr.DataArray(
            field.reshape(DAYS_OF_YEAR, *archive.grid.shape),
            dims=DIMS,
            name=name,
            coords={"dayofyear": _day_of_year(), **archive.grid.coords()},
            attrs={"long_name": long_name, "units": "kelvin", "units_metadata": "temperature: on_scale"},
        )
        for field, (name, long_name) in zip(fields, LONG_NAMES.items(), strict=True)
    )
    return HeatwaveBaseline(climatology, threshold, years, _products(archive.open(snapshot_id), years))


def categories(sst: xr.DataArray, baseline: HeatwaveBaseline) -> xr.DataArray:
    """Return the marine heatwave category of each day, int8 like ``sst`` ``(time, latitude, longitude)`` kelvin.

    ``sst`` has every day from its first to its last. A day counts in `CATEGORIES`: 0 outside a heatwave and below the
    threshold, -1 where SST or baseline are missing. What comes before the first day or after the last is not seen: a
    run cut by either end counts with the days that are there. A missing day ends a run. The days, two at most, between
    two heatwaves that Hobday et al. join lie below the threshold, so joining changes the category of no day.
    """
    place = xr.DataArray(_place_in_year(sst.indexes["time"]), dims="time")
    with xr.set_options(arithmetic_join="exact"):
        climatology, threshold = (
            field.isel(dayofyear=place).drop_vars("dayofyear").astype("float64")
            for field in (baseline.climatology, baseline.threshold)
        )
        excess = sst - threshold
        multiple = 1 + excess / (threshold - climatology)
    in_heatwave = _in_long_runs((excess > 0).values)
    category = np.where(in_heatwave, np.floor(multiple).clip(1, len(CATEGORIES) - 1), 0)
    told = np.where(excess.notnull(), category, NOT_TOLD).astype("int8")
    return xr.DataArray(told, dims=excess.dims, coords=excess.coords, name="heatwave_category")


def in_heatwave(sst: xr.DataArray, baseline: HeatwaveBaseline) -> xr.DataArray:
    """Return which days of a series, as for `categories`, are in a marine heatwave: 1 or 0, NaN where it is unknown."""
    category = categories(sst, baseline)
    return (category > 0).astype("float32").where(category != NOT_TOLD)


def _day_of_year() -> xr.Variable:
    attributes = {"long_name": "day of a leap year, 1 March being 61 in every year", "units": "1"}
    return xr.Variable("dayofyear", np.arange(1, DAYS_OF_YEAR + 1, dtype="int32"), attributes)


def _products(stored: xr.Dataset, years: tuple[int, int]) -> str:
    """Return the names of the products that the usable days of the years came from."""
    days = stored[["quality", "source_product"]].sel(time=slice(str(years[0]), str(years[1]))).load()
    usable = (days["quality"].values & UNUSABLE) == 0
    return " + ".join(sorted({str(name) for name in days["source_product"].values[usable]}))


def _in_long_runs(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which days are one of `MINIMUM_DURATION_DAYS` or more consecutive true ones along the first axis."""
    found = np.zeros_like(above)
    n_starts = above.shape[0] - MINIMUM_DURATION_DAYS + 1
    if n_starts > 0:
        starts = sliding_window_view(above, MINIMUM_DURATION_DAYS, axis=0).all(axis=-1)
        for i in range(MINIMUM_DURATION_DAYS):
            found[i : i + n_starts] |= starts
    return found


def _baseline_years(settings: HeatwaveSettings, usable: Sequence[date], init_day: date) -> tuple[int, int] | None:
    """Return the first and the last of consecutive whole years before the init's: a replay must not see its future."""
    count = Counter(day.year for day in usable)
    whole = {year for year, days in count.items() if days >= WHOLE_YEAR_DAYS and year < init_day.year}
    last = settings.last_year or max(whole, default=init_day.year - 1)
    first = settings.first_year or _start_of_run(whole, last)
    years = range(first, last + 1)
    if len(years) >= settings.minimum_years and whole.issuperset(years):
        return first, last
    log.warning(
        "no marine heatwave category is told from %s: its baseline %d-%d has %d whole years in the archive before %d, "
        "and needs all and at least %d: backfill them, or set products.heatwave",
        init_day,
        first,
        last,
        len(whole.intersection(years)),
        init_day.year,
        settings.minimum_years,
    )
    return None


def _start_of_run(whole: set[int], last: int) -> int:
    first = last
    while first - 1 in whole and last - first + 1 < LONGEST_BASELINE_YEARS:
        first -= 1
    return first


def _cell_series(sst: xr.DataArray, cells: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the series ``(cell, time)`` of some cells, counted row by row, reading a year at a time."""
    series = np.empty((cells.size, sst.sizes["time"]), "float32")
    for start in range(0, sst.sizes["time"], 360):
        block = sst.isel(time=slice(start, start + 360)).values
        series[:, start : start + 360] = block.reshape(block.shape[0], -1)[:, cells].T
    return series


def _place_in_year(days: pd.DatetimeIndex) -> NDArray[np.intp]:
    """Return each day's place in a leap year, from 0."""
    after_february = ~days.is_leap_year & (days.day_of_year > FEBRUARY_29)
    return np.asarray(days.day_of_year - 1 + after_february, np.intp)


def _normal_and_hot(series: NDArray[np.float32], place: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return mean and percentile ``(2, day of year, cell)`` of ``(cell, time)``, pooled by ``place`` and smoothed."""
    window = np.arange(-POOLING_HALF_WIDTH_DAYS, POOLING_HALF_WIDTH_DAYS + 1)
    fields = np.empty((2, DAYS_OF_YEAR, series.shape[0]))
    for day in np.delete(np.arange(DAYS_OF_YEAR), FEBRUARY_29):
        pooled = (np.flatnonzero(place == day)[:, None] + window).ravel()
        fields[:, day] = _mean_and_percentile(series[:, pooled[(pooled >= 0) & (pooled < place.size)]])
    fields[:, FEBRUARY_29] = (fields[:, FEBRUARY_29 - 1] + fields[:, FEBRUARY_29 + 1]) / 2
    half = SMOOTHING_DAYS // 2
    around = np.concatenate([fields[:, -half:], fields, fields[:, :half]], axis=1)
    # Added day by day, so that a cell's last bit does not depend on the cells beside it.
    smoothed = np.zeros_like(fields)
    for shift in range(SMOOTHING_DAYS):
        smoothed += around[:, shift : shift + DAYS_OF_YEAR]
    return smoothed / SMOOTHING_DAYS


def _mean_and_percentile(pool: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return mean and percentile ``(2, cell)`` of the finite values of each row, NaN where there is none.

    `numpy.nanpercentile` with its default, linear interpolation, which takes a hundred times as long on these rows.
    """
    # NaN sorts to the end.
    ascending = np.sort(pool, axis=-1).astype("float64")
    number = np.isfinite(ascending).sum(axis=-1)
    rank = PERCENTILE * np.maximum(number - 1, 0)
    lower = np.floor(rank).astype(np.intp)
    upper = np.minimum(lower + 1, np.maximum(number - 1, 0))
    row = np.arange(number.size)
    low, high = ascending[row, lower], ascending[row, upper]
    mean = np.nansum(ascending, axis=-1) / np.where(number, number, np.nan)
    return np.stack([mean, low + (rank - lower) * (high - low)])


def _pointed(content: bytes) -> str:
    try:
        return str(json.loads(content)["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise ProductError(f"its pointer names none ({error})") from error


def _path(baseline_id: str) -> str:
    parts = baseline_id.split(", ")
    return f"{FOLDER}/{parts[0]}-{parts[-1]}.nc"


def _text(years: tuple[int, int]) -> str:
    return f"{years[0]}-{years[1]}"
