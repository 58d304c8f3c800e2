"""The yearly copies for series in time: a finished year of the forecast cube, in chunks that hold all its inits.

``series/<year>.zarr`` has the values of the cube, bit for bit, in tiles of a few cells: a cell's whole year is one
object a variable, where the cube needs one for each init.
"""

from datetime import date
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from datlstm.errors import ProductError
from datlstm.products.forecast import FORECAST_PATH, INIT_TIME, forecast_cube
from datlstm.settings import Settings
from datlstm.staged import ROOT_DOCUMENT, StagedZarr
from datlstm.store import Store

FOLDER = "series"
# What a point is looked at for; with it goes every variable that has no cells. The other fields stay in the cube.
FIELDS = ("sst", "sst_anomaly", "sst_spread", "mask")
TILE = 8
"""Cells of a chunk along latitude and longitude: a year of ten leads is 0.94 MB before compression."""
# Small tiles are less smooth than whole fields; the bits of a place side by side, they are smaller still.
COMPRESSOR = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
Outcome = Literal["published", "unchanged"]


def series_path(year: int) -> str:
    """Return where a year's copy is in the store."""
    return f"{FOLDER}/{year}.zarr"


def series_years(settings: Settings) -> list[int]:
    """Return the years that have a whole copy, ascending."""
    store = Store(settings.store)
    roots = (path for path in store.list(FOLDER) if path.endswith(f".zarr/{ROOT_DOCUMENT}") and path.count("/") == 2)
    return sorted(int(path.split("/")[1].removesuffix(".zarr")) for path in roots)


def due_years(settings: Settings, as_of: date) -> list[int]:
    """Return the years, ascending, that were over before a day, have all their inits, and have no copy yet."""
    days = _init_days(settings)
    if not days:
        return []
    there = series_years(settings)
    years = range(days[0].year, as_of.year)
    return [year for year in years if days[-1] >= date(year, 12, 31) and year not in there]


def write_series(settings: Settings, year: int) -> Outcome:
    """Copy a year of the forecast cube, unless that is done; the copy is not there until it is whole.

    Raises `ProductError` when the cube has no init of that year, or may still get one.
    """
    store = Store(settings.store)
    days = _init_days(settings)
    if not days or not days[0].year <= year or days[-1] < date(year, 12, 31):
        raise ProductError(
            f"{store.url_of(FORECAST_PATH)} does not hold all inits of {year}: run the nights up to the end of the year"
        )
    with store.writer(FOLDER) as confirm:
        staged = StagedZarr(store, series_path(year), confirm)
        if not staged.is_empty_store:
            return "unchanged"
        copy, encoding = _copy(store, year)
        copy.to_zarr(staged, zarr_format=3, consolidated=False, encoding=encoding)
        staged.commit()
        staged.follow_up()
    return "published"


def _init_days(settings: Settings) -> list[date]:
    cube = forecast_cube(settings).open()
    return [] if cube is None else list(cube[INIT_TIME].values.astype("datetime64[D]").astype(object))


def _copy(store: Store, year: int) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """Return a year of the cube as it lies on disk, not decoded, and how its copy is to lie there."""
    source = store.zarr(FORECAST_PATH, read_only=True)
    days = xr.open_zarr(source, chunks=None, decode_timedelta=False)[INIT_TIME].values
    places = np.flatnonzero(days.astype("datetime64[Y]").astype(int) + 1970 == year)
    cube = xr.open_zarr(source, chunks=None, decode_cf=False)
    fields = [
        str(name) for name, variable in cube.variables.items() if name in FIELDS or "latitude" not in variable.dims
    ]
    copy = cube[fields].isel({INIT_TIME: slice(places[0], places[-1] + 1)}).drop_encoding()
    title = f"{cube.attrs['title']}, inits of {year}, in chunks for series in time"
    return copy.assign_attrs(title=title), _encoding(copy, zarr.open_group(source, mode="r"))


def _encoding(copy: xr.Dataset, cube: zarr.Group) -> dict[str, dict[str, Any]]:
    tiles = {"latitude": TILE, "longitude": TILE}
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in copy.variables.items():
        stored = cube[str(name)]
        assert isinstance(stored, zarr.Array)
        sides = tiles if name in FIELDS else {}
        chunks = tuple(
            min(sides.get(str(dim), size), size) for dim, size in zip(variable.dims, variable.shape, strict=True)
        )
        encoding[str(name)] = {"chunks": chunks, "fill_value": stored.fill_value}
        if name in FIELDS:
            encoding[str(name)]["compressors"] = COMPRESSOR
    return encoding
