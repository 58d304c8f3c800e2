"""The step where a near-real-time product follows a reprocessed one: measured on the days both have, stored, applied.

A map for each calendar month, because two analyses of one sea differ by place and season. Why in this form:
docs/decisions/0010.
"""

import calendar
import hashlib
import io
import json
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.errors import ArchiveError, DatlstmError, GridError, NotEnoughDataError, ProductError
from datlstm.formats import check_format
from datlstm.grid import Grid
from datlstm.normalise import BLOCKS
from datlstm.store import Store

FOLDER = "product-step"
CURRENT = f"{FOLDER}/current.json"
FORMAT_VERSION = 1
MONTHS = np.arange(1, 13, dtype="int8")
DIMS = ("month", "latitude", "longitude")
# The mean of 20 independent days keeps 22 % of one day's scatter; fewer would measure weather more than the step.
MINIMUM_DAYS = 20
# Of a kelvin: far finer than the products' own 0.01 K, far coarser than float32 noise.
DECIMALS = 4

_DIFFERENCE = {"units": "kelvin", "units_metadata": "temperature: difference"}
_INTERVAL = "(interval: 1 day comment: days of the calendar month that both products have, of all years)"
_ATTRIBUTES = {
    "product_step": {
        **_DIFFERENCE,
        "long_name": "sea surface temperature of the near-real-time product minus that of the reprocessed one",
        "cell_methods": f"time: mean {_INTERVAL}",
        "ancillary_variables": "standard_deviation n_days",
    },
    "standard_deviation": {
        **_DIFFERENCE,
        "long_name": "standard deviation of the daily differences",
        "cell_methods": f"time: standard_deviation {_INTERVAL}",
    },
    "n_days": {"long_name": "number of days in the mean, in the cell that has most", "units": "1"},
}


@dataclass(frozen=True, eq=False)
class ProductStep:
    """Mean difference near-real-time minus reprocessed, a map for each calendar month: what to subtract.

    ``kelvin`` and ``standard_deviation`` (of the daily differences, for diagnosis) are (month 1 … 12, latitude,
    longitude) float32 kelvin, NaN on land and where a cell has fewer than `MINIMUM_DAYS` days in the month.
    ``n_days`` (month) counts the days in the mean. ``near_real_time`` and ``reprocessed`` name product and version,
    ``first_day`` and ``last_day`` bound the overlap that was used.
    """

    kelvin: xr.DataArray
    standard_deviation: xr.DataArray
    n_days: xr.DataArray
    near_real_time: str
    reprocessed: str
    first_day: date
    last_day: date

    @property
    def grid(self) -> Grid:
        """The grid of the maps."""
        return Grid(self.kelvin["latitude"].values, self.kelvin["longitude"].values)

    @property
    def id(self) -> str:
        """Twelve hex digits that follow from the contents, kelvins counted to the tenth of a millikelvin."""
        digest = hashlib.sha256(json.dumps([self.grid.hash, self._lineage()], sort_keys=True).encode())
        for field in (self.kelvin, self.standard_deviation, self.n_days):
            # Adding zero turns -0.0 into 0.0, and not a number has many bit patterns.
            values = np.round(np.asarray(field.values, "<f8"), DECIMALS) + 0.0
            digest.update(f"{values.shape}".encode() + np.where(np.isnan(values), np.nan, values).tobytes())
        return digest.hexdigest()[:12]

    def at(self, time: pd.DatetimeIndex | xr.DataArray) -> xr.DataArray:
        """Return the step of any dates, past or future: (*dims of time, latitude, longitude) float32 kelvin.

        A month's map holds at its middle; from middle to middle the step goes linearly with the fraction of the month
        that has passed, round the year, so that no day jumps. The hour of a date plays no part.
        """
        times = time if isinstance(time, xr.DataArray) else xr.DataArray(time, dims="time", coords={"time": time})
        # Noon of the day, so that the middle of a month of 31 days is its 16th.
        position = times.dt.month - 1.5 + (times.dt.day - 0.5) / times.dt.days_in_month
        before = np.floor(position).astype(int)
        share = position - before
        maps = self.kelvin.drop_vars("month")
        step = maps.isel(month=before % 12) * (1 - share) + maps.isel(month=(before + 1) % 12) * share
        return step.astype(np.float32).rename("product_step").drop_attrs(deep=False).assign_attrs(_DIFFERENCE)

    def summary(self) -> str:
        """Return one line for a person: area-weighted mean over the year, its range by month, the largest cell."""
        means = self.kelvin.astype(np.float64).weighted(self.grid.area_weights()).mean(DIMS[1:])
        low, high = means[int(np.argmin(means.values))], means[int(np.argmax(means.values))]
        place = np.unravel_index(int(np.nanargmax(abs(self.kelvin.values))), self.kelvin.shape)
        cell = self.kelvin[place]
        return (
            f"{self.near_real_time} minus {self.reprocessed}, {int(self.n_days.sum())} days from {self.first_day} to "
            f"{self.last_day}: mean {float(means.mean()):+.3f} K, by month {_in_words(low)} to {_in_words(high)}; "
            f"largest cell {_in_words(cell)} at {float(cell['latitude']):g}, {float(cell['longitude']):g}"
        )

    def save(self, store: Store) -> str:
        """Write the step as one NetCDF file, make it the current one, and return its id; older ones stay."""
        fields = {"product_step": self.kelvin, "standard_deviation": self.standard_deviation, "n_days": self.n_days}
        dataset = xr.Dataset(fields, attrs=self._global_attributes())
        encoding: Any = {
            **dict.fromkeys(("product_step", "standard_deviation"), {"zlib": True, "_FillValue": np.float32(np.nan)}),
            **dict.fromkeys(DIMS[1:], {"_FillValue": None}),
        }
        store.write(_path(self.id), bytes(dataset.to_netcdf(engine="h5netcdf", encoding=encoding)))
        store.write_json(CURRENT, {"product_step_id": self.id})
        return self.id

    @classmethod
    def load(
        cls, store: Store, *, grid: Grid, near_real_time: str, reprocessed: str, step_id: str | None = None
    ) -> Self | None:
        """Read a step by its id, else the current one, or None before the first was saved.

        Raises `ProductError` when it is damaged, `ArchiveError` when there is none of that id, or it is on another grid
        or of another pair of products and versions.
        """
        chosen = step_id or _current_id(store)
        if chosen is None:
            return None
        step = cls._read(store, chosen)
        if step.grid != grid:
            raise ArchiveError(
                f"product step {chosen} is on grid {step.grid.hash}, not {grid.hash}: use the settings and the store "
                "that belong together, or measure the step on this grid"
            )
        if (step.near_real_time, step.reprocessed) != (near_real_time, reprocessed):
            raise ArchiveError(
                f"product step {chosen} is {step.near_real_time} minus {step.reprocessed}, not {near_real_time} minus "
                f"{reprocessed}: measure the step of this pair, or name the products it was measured with"
            )
        return step

    @classmethod
    def _read(cls, store: Store, step_id: str) -> Self:
        url, content = store.url_of(_path(step_id)), store.read(_path(step_id))
        if content is None:
            raise ArchiveError(f"no product step at {url}: measure it, or restore it from a backup")
        try:
            step = cls._from_dataset(xr.load_dataset(io.BytesIO(content), engine="h5netcdf"))
        except DatlstmError:
            raise
        except Exception as error:  # what the layers below HDF5 raise for damaged bytes has no common root
            raise ProductError(f"{url} is damaged ({error}): measure the step again, or restore it") from error
        if step.id != step_id:
            raise ProductError(f"{url} holds the contents of {step.id}: measure the step again, or restore it")
        return step

    @classmethod
    def _from_dataset(cls, dataset: xr.Dataset) -> Self:
        attributes = dataset.attrs
        found = attributes["format_version"]
        check_format(found, FORMAT_VERSION, "the product step", ProductError, older="measure the step again")
        # The id knows coordinates by what the grid makes of them: nothing else of theirs is taken from the file.
        grid = Grid(dataset["latitude"].values, dataset["longitude"].values)
        dataset = dataset.assign_coords({"month": _month_axis(), **grid.coords()})
        return cls(
            dataset["product_step"],
            dataset["standard_deviation"],
            dataset["n_days"],
            str(attributes["near_real_time"]),
            str(attributes["reprocessed"]),
            date.fromisoformat(attributes["first_day"]),
            date.fromisoformat(attributes["last_day"]),
        )

    def _lineage(self) -> dict[str, str]:
        return {
            "near_real_time": self.near_real_time,
            "reprocessed": self.reprocessed,
            "first_day": self.first_day.isoformat(),
            "last_day": self.last_day.isoformat(),
        }

    def _global_attributes(self) -> dict[str, Any]:
        return {
            "Conventions": "CF-1.11",
            "title": "Step between two sea surface temperature products",
            "source": f"{self.near_real_time} and {self.reprocessed}",
            "comment": (
                "Mean difference near-real-time minus reprocessed for each calendar month. Subtracted from the "
                "near-real-time product, interpolated linearly between the middles of the months, it continues the "
                "reprocessed one."
            ),
            "history": f"measured by datlstm {version('datlstm')}",
            "format_version": FORMAT_VERSION,
            "product_step_id": self.id,
            "grid_hash": self.grid.hash,
            "minimum_days": MINIMUM_DAYS,
            **self._lineage(),
        }


def measure(
    near_real_time: xr.DataArray, reprocessed: xr.DataArray, *, near_real_time_product: str, reprocessed_product: str
) -> ProductStep:
    """Measure the step on the days that both have, cell by cell where both are finite.

    The arrays are (time, latitude, longitude) kelvin on one grid, in memory or lazy, read once in blocks of days; the
    hour of a day plays no part. ``near_real_time_product`` and ``reprocessed_product`` name product and version.
    Raises `NotEnoughDataError` when a calendar month has no cell with `MINIMUM_DAYS` common days, `GridError` when the
    two are on different grids, `ArchiveError` when one has a day twice.
    """
    pair = f"{near_real_time_product} and {reprocessed_product}"
    grids = [_grid_of(field) for field in (near_real_time, reprocessed)]
    if grids[0] != grids[1]:
        raise GridError(f"{pair} are on grids {grids[0].hash} and {grids[1].hash}: regrid both onto the model's")
    fields = [_by_day(field, grids[0]) for field in (near_real_time, reprocessed)]
    common = fields[0].indexes["time"].intersection(fields[1].indexes["time"]).sort_values()
    # Before anything is read, and again with the cells that are missing left out.
    _require_days(np.bincount(common.month, minlength=13)[1:], pair)
    new, old = (field.sel(time=common).chunk(time=BLOCKS["time"]).astype(np.float64) for field in fields)
    sums = _monthly_sums(new - old)
    n_days = sums["count"].max(("latitude", "longitude")).astype("int32")
    _require_days(n_days.values, pair)
    mean = sums["total"] / sums["count"].where(sums["count"] >= MINIMUM_DAYS)
    variance = (sums["square"] / sums["count"] - mean**2).clip(0.0)
    used = common[sums["used"].values]
    return ProductStep(
        _map(mean, "product_step"),
        _map(variance**0.5, "standard_deviation"),
        n_days.rename("n_days").assign_attrs(_ATTRIBUTES["n_days"]),
        near_real_time_product,
        reprocessed_product,
        used[0].date(),
        used[-1].date(),
    )


def _grid_of(field: xr.DataArray) -> Grid:
    if set(field.dims) != {"time", "latitude", "longitude"}:
        raise GridError(f"sea surface temperature has dimensions {field.dims}; give (time, latitude, longitude)")
    return Grid(field["latitude"].values, field["longitude"].values)


def _by_day(field: xr.DataArray, grid: Grid) -> xr.DataArray:
    days = pd.DatetimeIndex(field["time"].values).floor("D")
    if days.has_duplicates:
        twice = days[days.duplicated()][0].date()
        raise ArchiveError(f"sea surface temperature {field.name!r} has {twice} twice: merge its days first")
    plain = field.drop_vars(set(field.coords) - set(field.dims)).drop_attrs()
    return plain.assign_coords({"time": days, **grid.coords()}).transpose("time", "latitude", "longitude")


def _require_days(n_days: np.ndarray, pair: str) -> None:
    short = [f"{_name_of(month)} ({n})" for month, n in zip(MONTHS, n_days, strict=True) if n < MINIMUM_DAYS]
    if short:
        raise NotEnoughDataError(
            f"{pair} have fewer than {MINIMUM_DAYS} days in common in {', '.join(short)}: all twelve months are "
            "needed, so give about a year of days that both cover"
        )


def _monthly_sums(difference: xr.DataArray) -> xr.Dataset:
    """Return per calendar month and cell the count, sum and sum of squares of what is finite, and the days used.

    Float32 temperatures from 256 to 512 K are multiples of 2**-15 K, so these float64 sums are exact: they depend on
    neither the order of the days nor how the input is chunked, and the id of a step is the same on every machine.
    """
    months = xr.DataArray(_month_axis(), coords={"month": _month_axis()})
    in_month = (difference["time"].dt.month == months).astype(np.float64)
    finite: xr.DataArray = xr.ufuncs.isfinite(difference)
    known = difference.where(finite, 0.0)
    sums = {
        "count": xr.dot(in_month, finite.astype(np.float64), dim="time"),
        "total": xr.dot(in_month, known, dim="time"),
        "square": xr.dot(in_month, known**2, dim="time"),
        "used": finite.any(DIMS[1:]),
    }
    return xr.Dataset(sums).transpose(*DIMS, "time").compute()


def _month_axis() -> xr.Variable:
    return xr.Variable("month", MONTHS, {"long_name": "calendar month", "units": "1"})


def _map(values: xr.DataArray, name: str) -> xr.DataArray:
    return values.round(DECIMALS).astype(np.float32).rename(name).assign_attrs(_ATTRIBUTES[name])


def _in_words(kelvin: xr.DataArray) -> str:
    return f"{float(kelvin):+.3f} K ({_name_of(int(kelvin['month']))})"


def _name_of(month: int) -> str:
    return calendar.month_name[month]


def _path(step_id: str) -> str:
    return f"{FOLDER}/{step_id}.nc"


def _current_id(store: Store) -> str | None:
    content = store.read(CURRENT)
    try:
        return None if content is None else str(json.loads(content)["product_step_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ProductError(f"{store.url_of(CURRENT)} names no product step: measure the step again") from error
