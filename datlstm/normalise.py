"""Anomaly space: a per-cell climatology and scale, fitted on training days only, and the way there and back.

A cell's climatology is least squares on an intercept, harmonics of the year and, where the training period is long
enough to carry one, a linear trend (Wilks, Statistical Methods in the Atmospheric Sciences, 4th ed., ch. 10.4).
Its scale is the standard deviation of what the climatology leaves. Why in this form: docs/decisions/0004.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Self

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from datlstm.blocks import aligned
from datlstm.errors import BundleError, GridError, NotEnoughDataError
from datlstm.settings import NormaliserSettings

DAYS_PER_YEAR = 365.2425
DAYS_PER_DECADE = 10 * DAYS_PER_YEAR
MINIMUM_DAYS = 365
MINIMUM_OBSERVED_DAYS = 183
# Of the smallest eigenvalue of a cell's normal matrix, where 1 is a cell seen on every day of whole years. With four
# harmonics it refuses a gap of over four months every year, or under two years of data below a trend of thirty.
MINIMUM_EIGENVALUE = 1e-3
# Near every SST, so that squares and sums keep their digits.
OFFSET_KELVIN = 290.0
# Fixed blocks make the order of every sum, and so the last bit, independent of how the input is chunked.
BLOCKS = {"time": 360, "latitude": 64, "longitude": 64}
CELLS = ("latitude", "longitude")


@dataclass(frozen=True, eq=False)
class Normaliser:
    """A fitted climatology and scale, to be saved with the model that was trained on it.

    ``coefficients`` (parameter, latitude, longitude) float64 kelvin: intercept, trend per decade if there is one, then
    cosine and sine of each harmonic, counted from the middle of the training period. ``scale`` (latitude, longitude)
    float64 kelvin. Both are NaN where a cell could not be fitted: land, or too rarely observed.
    """

    coefficients: xr.DataArray
    scale: xr.DataArray
    first_day: date
    last_day: date
    has_trend: bool

    @classmethod
    def fit(cls, sst: xr.DataArray, *, settings: NormaliserSettings) -> Self:
        """Fit on every day of ``sst`` (time, latitude, longitude) kelvin, in one lazy pass; give training days only.

        NaN days are left out cell by cell. A cell stays NaN when observed on fewer than 183 days, or so unevenly over
        the year that its coefficients are not determined.
        Raises `NotEnoughDataError` when the days span less than 365 days or no cell can be fitted.
        """
        first_day, last_day = _period(sst)
        has_trend = ((last_day - first_day).days + 1) / DAYS_PER_YEAR >= settings.minimum_trend_years
        design = _design(sst["time"], _middle(first_day, last_day), settings.harmonics, has_trend)
        sums = _accumulate(sst, design)
        coefficients, scale = _solve(sums, _column_sizes(design), settings.minimum_scale_kelvin)
        if not np.isfinite(scale).any():
            raise NotEnoughDataError(
                f"no cell of the sea surface temperature from {first_day} to {last_day} is observed on "
                f"{MINIMUM_OBSERVED_DAYS} days spread over the year; check the mask or give more training days"
            )
        return cls(coefficients, scale, first_day, last_day, has_trend)

    @property
    def ocean_mask(self) -> xr.DataArray:
        """True (latitude, longitude) where the cell was fitted and can be forecast."""
        return self.scale.notnull().rename("ocean_mask")

    @property
    def harmonics(self) -> int:
        """Number of harmonics of the year."""
        return (self.coefficients.sizes["parameter"] - 1 - self.has_trend) // 2

    @property
    def reference_day(self) -> date:
        """Day from which trend and phase are counted: the middle of the training period."""
        return _middle(self.first_day, self.last_day)

    @property
    def id(self) -> str:
        """Twelve hex digits that change with any coefficient, scale, coordinate or attribute, and only then."""
        dataset = self.to_dataset()
        digest = hashlib.sha256(json.dumps(dataset.attrs, sort_keys=True).encode())
        for name in sorted(map(str, dataset.variables)):
            values = np.asarray(dataset[name].values, dtype="<f8")
            digest.update(f"{name}{values.shape}".encode())
            digest.update(np.where(np.isnan(values), np.nan, values).tobytes())
        return digest.hexdigest()[:12]

    def climatology(self, time: xr.DataArray | pd.DatetimeIndex) -> xr.DataArray:
        """Return the climatology of any dates, past or future: (*dims of time, latitude, longitude) kelvin, float64.

        Lazy, in blocks along the first dimension of ``time``. The hour of a date plays no part. NaN where the cell was
        not fitted.
        """
        times = time if isinstance(time, xr.DataArray) else xr.DataArray(time, dims="time", coords={"time": time})
        block = max(1, BLOCKS["time"] // max(1, times[:1].size)) if times.dims else 1
        return self._evaluate(times, dict.fromkeys(times.dims[:1], block))

    def kelvin_anomaly(self, sst: xr.DataArray) -> xr.DataArray:
        """Return ``sst`` (…, latitude, longitude) kelvin minus its climatology, float64 kelvin, lazy where ``sst`` is.

        The dates are the coordinate ``valid_time`` where there is one, else ``time``.
        Raises `GridError` when ``sst`` is on another grid.
        """
        return (sst - self._climatology_of(sst)).rename("sst_anomaly").assign_attrs(units="kelvin")

    def to_anomaly(self, sst: xr.DataArray) -> xr.DataArray:
        """Return (sst - climatology) / scale, dimensionless float32; otherwise as `kelvin_anomaly`."""
        anomaly = (self.kelvin_anomaly(sst) / self.scale).astype(np.float32)
        return anomaly.rename("normalised_anomaly").assign_attrs(units="1")

    def to_kelvin(self, anomaly: xr.DataArray) -> xr.DataArray:
        """Return the float32 kelvin of a normalised anomaly (…, latitude, longitude): the inverse of `to_anomaly`.

        Raises `GridError` when ``anomaly`` is on another grid.
        """
        sst = (anomaly * self.scale + self._climatology_of(anomaly)).astype(np.float32)
        return sst.rename("sst").assign_attrs(units="kelvin")

    def to_dataset(self) -> xr.Dataset:
        """Return all that `from_dataset` needs: coefficients, scale, ocean mask; the periods as attributes."""
        start = 1 + self.has_trend
        fields = {
            "intercept": self.coefficients.isel(parameter=0).assign_attrs(units="kelvin"),
            "cosine": self._harmonic(slice(start, None, 2)),
            "sine": self._harmonic(slice(start + 1, None, 2)),
            "scale": self.scale.assign_attrs(units="kelvin"),
            "ocean_mask": self.ocean_mask,
        }
        if self.has_trend:
            fields["trend"] = self.coefficients.isel(parameter=1).assign_attrs(units="kelvin per decade")
        attributes = {
            "first_day": self.first_day.isoformat(),
            "last_day": self.last_day.isoformat(),
            "reference_day": self.reference_day.isoformat(),
            "days_per_year": DAYS_PER_YEAR,
            "harmonics": self.harmonics,
            "has_trend": int(self.has_trend),
        }
        return xr.Dataset(fields, attrs=attributes)

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> Self:
        """Return the normaliser that `to_dataset` wrote, bit for bit.

        Raises `BundleError` when a variable or attribute is missing or the year has another length.
        """
        try:
            first_day, last_day = (date.fromisoformat(dataset.attrs[name]) for name in ("first_day", "last_day"))
            has_trend = bool(dataset.attrs["has_trend"])
            if dataset.sizes["harmonic"] != dataset.attrs["harmonics"]:
                raise ValueError(f"{dataset.sizes['harmonic']} harmonics, not {dataset.attrs['harmonics']}")
            columns = [dataset[name] for name in ("intercept", "trend")[: 1 + has_trend]]
            for harmonic in range(dataset.sizes["harmonic"]):
                columns += [dataset[name].isel(harmonic=harmonic, drop=True) for name in ("cosine", "sine")]
            coefficients = xr.concat(columns, dim="parameter", combine_attrs="drop").rename("coefficients").load()
            scale = dataset["scale"].drop_attrs(deep=False).load()
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BundleError(
                f"the saved normaliser is incomplete or damaged ({error}); fit and save it again"
            ) from error
        if dataset.attrs.get("days_per_year") != DAYS_PER_YEAR:
            raise BundleError(
                f"the saved normaliser does not count years of {DAYS_PER_YEAR} days; fit and save it again"
            )
        return cls(coefficients, scale, first_day, last_day, has_trend)

    def _harmonic(self, positions: slice) -> xr.DataArray:
        part = self.coefficients.isel(parameter=positions).rename(parameter="harmonic")
        return part.assign_coords(harmonic=np.arange(1, self.harmonics + 1)).assign_attrs(units="kelvin")

    def _climatology_of(self, field: xr.DataArray) -> xr.DataArray:
        for name in ("latitude", "longitude"):
            if name not in field.dims or not np.array_equal(field[name], self.scale[name]):
                raise GridError(
                    f"field {field.name!r} does not have the {name} of normaliser {self.id}; "
                    "regrid the field, or take the normaliser that belongs to its grid"
                )
        times = field["valid_time" if "valid_time" in field.coords else "time"]
        return self._evaluate(times, field.chunksizes)

    def _evaluate(self, times: xr.DataArray, chunks: Mapping[Any, Any]) -> xr.DataArray:
        design = _design(times, self.reference_day, self.harmonics, self.has_trend)
        own = {dim: size for dim, size in chunks.items() if dim in design.dims}
        climatology: xr.DataArray = xr.apply_ufunc(
            _sum_of_terms,
            design.chunk(own) if own else design,
            self.coefficients,
            input_core_dims=[["parameter"], ["parameter"]],
            dask="parallelized",
            output_dtypes=[np.float64],
        )
        return climatology.rename("climatology").assign_attrs(units="kelvin")


def _sum_of_terms(design: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("...p,...p->...", aligned(design), aligned(coefficients)))


def _period(sst: xr.DataArray) -> tuple[date, date]:
    if set(sst.dims) != {"time", "latitude", "longitude"}:
        raise GridError(f"sea surface temperature has dimensions {sst.dims}; give (time, latitude, longitude)")
    days = pd.DatetimeIndex(sst["time"].values).floor("D")
    if days.empty or (days.max() - days.min()).days + 1 < MINIMUM_DAYS:
        raise NotEnoughDataError(
            f"{days.size} training days between {days.min()} and {days.max()} span less than {MINIMUM_DAYS} days, "
            "too short for a climatology; give at least one whole year"
        )
    return days.min().date(), days.max().date()


def _middle(first_day: date, last_day: date) -> date:
    return first_day + timedelta(days=(last_day - first_day).days // 2)


def _design(times: xr.DataArray, reference_day: date, harmonics: int, has_trend: bool) -> xr.DataArray:
    days = ((times.dt.floor("D") - np.datetime64(reference_day, "ns")) / np.timedelta64(1, "D")).values
    columns = [np.ones_like(days)] + [days / DAYS_PER_DECADE] * has_trend
    for harmonic in range(1, harmonics + 1):
        phase = 2 * np.pi * harmonic * days / DAYS_PER_YEAR
        columns += [np.cos(phase), np.sin(phase)]
    return xr.DataArray(np.stack(columns, axis=-1), dims=(*times.dims, "parameter"), coords=times.coords)


def _column_sizes(design: xr.DataArray) -> np.ndarray:
    return np.asarray(np.sqrt((design**2).mean("time")))


def _accumulate(sst: xr.DataArray, design: xr.DataArray) -> xr.Dataset:
    """Return the per-cell sums of the normal equations: X'WX, X'Wy and y'Wy, W being 1 where observed, else 0."""
    departure = (sst.drop_vars(set(sst.coords) - set(sst.dims)).chunk(BLOCKS) - OFFSET_KELVIN).astype(np.float64)
    departure = departure.transpose("time", "latitude", "longitude")
    design = design.drop_vars(set(design.coords) - {"time"}).chunk(time=BLOCKS["time"])
    observed = departure.notnull().astype(np.float64)
    departure = departure.fillna(0.0)
    sums = xr.Dataset(
        {
            "normal": (("parameter", "other", *CELLS), _sums("tp,to,tyx->poyx", design, design, observed)),
            "moments": (("parameter", *CELLS), _sums("tp,tyx->pyx", design, departure)),
            "power": (CELLS, _sums("tyx,tyx->yx", departure, departure)),
        },
        {name: sst[name] for name in CELLS},
    )
    return sums.transpose(*CELLS, "parameter", "other").compute()


def _sums(subscripts: str, *fields: xr.DataArray) -> da.Array:
    """Return an Einstein sum over the days, ``t``, block by block, with the same bits wherever a block is computed."""
    inputs, output = subscripts.split("->")
    arrays = [part for field, letters in zip(fields, inputs.split(","), strict=True) for part in (field.data, letters)]
    blocks = da.blockwise(
        _sums_of_block, f"{output}t", *arrays, adjust_chunks={"t": 1}, dtype=np.float64, subscripts=subscripts
    )
    total: da.Array = blocks.sum(axis=-1)
    return total


def _sums_of_block(*fields: np.ndarray, subscripts: str) -> np.ndarray:
    return np.asarray(np.einsum(subscripts, *map(aligned, fields), optimize=True))[..., np.newaxis]


def _solve(sums: xr.Dataset, column_sizes: np.ndarray, minimum_scale: float) -> tuple[xr.DataArray, xr.DataArray]:
    """Return coefficients and scale, NaN where the cell's normal matrix does not determine them.

    The sum of squared residuals is y'y - b'X'y: with SST within 20 K of the offset it loses some 1e-11 of a scale that
    the floor keeps above hundredths of a kelvin, so a second pass over the data would buy nothing.
    """
    count = sums["normal"].values[..., 0, 0]
    mean_normal = sums["normal"].values / np.maximum(count, 1)[..., None, None]
    smallest = np.linalg.eigvalsh(mean_normal / np.outer(column_sizes, column_sizes))[..., 0]
    fitted = (count >= MINIMUM_OBSERVED_DAYS) & (smallest >= MINIMUM_EIGENVALUE)
    moments = sums["moments"].values[fitted]
    solution = np.linalg.solve(sums["normal"].values[fitted], moments[..., None])[..., 0]
    residual = np.maximum(sums["power"].values[fitted] - (solution * moments).sum(axis=-1), 0.0)
    coefficients = np.full(sums["moments"].shape, np.nan)
    scale = np.full(count.shape, np.nan)
    solution[:, 0] += OFFSET_KELVIN
    coefficients[fitted] = solution
    scale[fitted] = np.maximum(np.sqrt(residual / count[fitted]), minimum_scale)
    grid = {name: sums[name] for name in ("latitude", "longitude")}
    cells = xr.DataArray(scale, dims=("latitude", "longitude"), coords=grid, name="scale")
    stacked = xr.DataArray(coefficients, dims=("latitude", "longitude", "parameter"), coords=grid, name="coefficients")
    return stacked.transpose("parameter", ...), cells
