"""The synthetic Bohai in OSTIA's form: names, units, masks, noon stamps and packing of the real product."""

from datetime import date

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from datlstm.settings import Region
from datlstm.synthetic.basin import Basin, basin_of
from datlstm.synthetic.climate import background
from datlstm.synthetic.coast import CellBox, cells_of
from datlstm.synthetic.labels import ENCODING, GLOBAL_ATTRIBUTES, VARIABLE_ATTRIBUTES
from datlstm.synthetic.weather import BLOCK_DAYS, anomalies

FloatArray = NDArray[np.float64]
DIMS = ("time", "latitude", "longitude")

# Days are drawn in whole blocks counted from OSTIA's first day, because a matrix product may round differently for
# another number of days: a day is the same to the last bit whatever the range it is asked in.
FIRST_DAY = date(1981, 10, 1)

FREEZING_CELSIUS, FREEZING_SOFTNESS_KELVIN = -1.7, 0.25
ICE_ONSET_CELSIUS, FULL_ICE_CELSIUS = -1.2, -4.5
ICE_LATITUDES = (38.7, 40.0)
# Passive microwave products and navigation call water with 15 % ice ice-covered.
ICE_COVERED_FRACTION = 0.15
WATER_BIT, LAND_BIT, ICE_BIT = 1, 2, 8
ZERO_CELSIUS_KELVIN = 273.15


def ostia_dataset(cells: Region | CellBox, first_day: date, last_day: date, seed: int) -> xr.Dataset:
    """Return days of a closed interval as OSTIA would deliver them, lazily, in chunks of up to 30 days.

    Dims ``(time, latitude, longitude)``: days stamped 12:00 UTC; float64 centres of the 0.05 degree cells that touch
    the region, or of a box of them. ``analysed_sst`` and ``analysis_error`` float32 kelvin on multiples of 0.01 K,
    ``sea_ice_fraction`` float32, NaN on land; ``mask`` int8 with OSTIA's bits (1 water, 2 land, 8 ice), a new one each
    day. The encoding is OSTIA's packing; writing with it loses nothing.
    """
    box = cells_of(cells) if isinstance(cells, Region) else cells
    days = range(first_day.toordinal(), last_day.toordinal() + 1)
    pieces = [_days_of_block(box, block, days, seed) for block in _blocks(days)]
    variables = {}
    for position, name in enumerate(VARIABLE_ATTRIBUTES):
        values = _joined([(fields[position], count) for fields, count in pieces], box, name)
        variables[name] = xr.Variable(DIMS, values, VARIABLE_ATTRIBUTES[name], ENCODING[name])
    return xr.Dataset(variables, _coordinates(box, days), GLOBAL_ATTRIBUTES | {"synthetic_seed": seed})


def land_mask(box: CellBox) -> NDArray[np.int8]:
    """Return OSTIA's bits ``(latitude, longitude)`` that never change: 1 water, 2 land."""
    basin = basin_of(box)
    return np.where(basin.inside(basin.water), WATER_BIT, LAND_BIT).astype(np.int8)


def _blocks(days: range) -> list[range]:
    origin = FIRST_DAY.toordinal()
    first = origin + (days.start - origin) // BLOCK_DAYS * BLOCK_DAYS
    return [range(start, start + BLOCK_DAYS) for start in range(first, days.stop, BLOCK_DAYS)] if days else []


def _days_of_block(box: CellBox, block: range, days: range, seed: int) -> tuple[list[object], int]:
    kept = slice(max(days.start - block.start, 0), min(days.stop, block.stop) - block.start)
    fields = delayed(_block, pure=True, nout=len(VARIABLE_ATTRIBUTES))(box, block, kept, seed)
    return list(fields), kept.stop - kept.start


def _joined(pieces: list[tuple[object, int]], box: CellBox, name: str) -> da.Array:
    dtype = np.int8 if name == "mask" else np.float32
    arrays = [da.empty((0, *box.shape), dtype)] if not pieces else []
    for field, count in pieces:
        arrays.append(da.from_delayed(field, (count, *box.shape), dtype))
    joined: da.Array = da.concatenate(arrays)
    return joined


def _block(box: CellBox, block: range, kept: slice, seed: int) -> tuple[NDArray[np.generic], ...]:
    """Return the variables of some days of a block in the order of `VARIABLE_ATTRIBUTES`."""
    basin = basin_of(box)
    unfrozen = background(basin, block, seed) + anomalies(basin, block, seed)
    water = basin.inside(basin.water)
    ice = np.round(basin.inside(_ice_fraction(basin, unfrozen)), 2)
    mask = np.where(water, WATER_BIT + ICE_BIT * (ice >= ICE_COVERED_FRACTION), LAND_BIT)
    sst = ZERO_CELSIUS_KELVIN + np.round(basin.inside(_freeze(unfrozen)), 2)
    error = np.round(0.22 + 0.25 * basin.inside(np.exp(-basin.coast_km / 25)) + 0.3 * ice, 2)
    measured = (np.where(water, field[kept], np.nan).astype(np.float32) for field in (sst, error, ice))
    return *measured, mask[kept].astype(np.int8)


def _freeze(celsius: FloatArray) -> FloatArray:
    """Bend temperatures to stay above the freezing point of the Bohai, without a corner."""
    excess = (celsius - FREEZING_CELSIUS) / FREEZING_SOFTNESS_KELVIN
    return FREEZING_CELSIUS + FREEZING_SOFTNESS_KELVIN * np.logaddexp(0, excess)


def _ice_fraction(basin: Basin, unfrozen: FloatArray) -> FloatArray:
    """Cold that the water could not take went into ice; the south is too salty for it."""
    cold = np.clip((ICE_ONSET_CELSIUS - unfrozen) / (ICE_ONSET_CELSIUS - FULL_ICE_CELSIUS), 0, 1)
    south, north = ICE_LATITUDES
    return cold * np.clip((basin.latitude - south) / (north - south), 0, 1)


def _coordinates(box: CellBox, days: range) -> dict[str, xr.Variable]:
    midnights = np.asarray([date.fromordinal(day) for day in days], "datetime64[D]")
    times = midnights.astype("datetime64[ns]") + np.timedelta64(12, "h")
    comment = {"comment": "Synthetic record: not an observation's place or time"}
    return {
        "time": xr.Variable(
            "time",
            times,
            {"standard_name": "time", "long_name": "reference time of the synthetic field"} | comment,
            {"units": "seconds since 1981-01-01 00:00:00", "calendar": "standard", "dtype": "int64"},
        ),
        "latitude": xr.Variable(
            "latitude", box.latitude, {"standard_name": "latitude", "units": "degrees_north"} | comment
        ),
        "longitude": xr.Variable(
            "longitude", box.longitude, {"standard_name": "longitude", "units": "degrees_east"} | comment
        ),
    }
