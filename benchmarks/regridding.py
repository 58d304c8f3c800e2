"""Regridding the Bohai: speed, error, memory and lost coastal cells beside xarray's linear interpolation.

Run with ``OMP_NUM_THREADS=1 python benchmarks/regridding.py --days 3650``. Both ways take the same numpy array in the
same process, in turns; the best of three counts. The sea is an analytic field on the real coastline.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from global_land_mask import globe
from rich.console import Console
from rich.table import Table

from datlstm.grid import DIMS, Grid, Regridder
from datlstm.settings import Region

SOURCE_RESOLUTION = 0.05
CENTRE = {"latitude": 39.2, "longitude": 119.8}
TARGET_RESOLUTIONS = (0.05, 0.04, 0.1)


@dataclass(frozen=True)
class Result:
    """What one way of regridding costs and gives."""

    seconds: float
    peak_bytes: int
    first_day: xr.DataArray
    error: xr.DataArray


def region(cells: int, resolution: float, margin: int = 0) -> Region:
    """Return a box of ``cells`` source cells a side around the Bohai's centre, widened by ``margin`` cells."""
    half = round((cells / 2 + margin) * SOURCE_RESOLUTION, 6)
    latitude, longitude = CENTRE["latitude"], CENTRE["longitude"]
    return Region(
        name="bohai",
        title="Bohai Sea",
        south=latitude - half,
        north=latitude + half,
        west=longitude - half,
        east=longitude + half,
        resolution=resolution,
    )


def smooth(latitude: xr.DataArray, longitude: xr.DataArray, days: int) -> xr.DataArray:
    """Return an invented sea surface temperature in kelvin, fronts of half a degree that drift eastward."""
    day = xr.DataArray(np.arange(days), dims="time")
    wave = xr.ufuncs.sin(4 * np.pi * (longitude + 0.01 * day)) * xr.ufuncs.cos(4 * np.pi * latitude)
    kelvin: xr.DataArray = 288 + 0.5 * wave - (latitude - CENTRE["latitude"])
    return kelvin.astype("float32").transpose("time", *DIMS)


def real_water(grid: Grid) -> xr.DataArray:
    """Return where the coastline's data set has ocean at the cells' centres."""
    latitude, longitude = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    return xr.DataArray(globe.is_ocean(latitude, longitude), dims=DIMS, coords=grid.coords(), name="water")


def measure(regrid: Callable[[], xr.DataArray], truth: xr.DataArray) -> Result:
    """Return the cost of one way, its first day, and its root mean square error over time in each cell."""
    tracemalloc.start()
    regridded = regrid()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    error = ((regridded - truth) ** 2).mean("time") ** 0.5
    return Result(min(_seconds(regrid) for _ in range(3)), peak, regridded.isel(time=0), error)


def _seconds(regrid: Callable[[], xr.DataArray]) -> float:
    start = time.perf_counter()
    regrid()
    return time.perf_counter() - start


def compare(cells: int, target_resolution: float, days: int) -> tuple[Regridder, Result, Result]:
    """Return the regridder of one case, its result, and linear interpolation's."""
    water = real_water(Grid.from_region(region(cells, SOURCE_RESOLUTION, margin=1)))
    grid = Grid.from_region(region(cells, target_resolution))
    field = smooth(water["latitude"], water["longitude"], days).where(water)
    regridder = Regridder(water, grid, 0.5)
    truth = smooth(regridder.ocean_mask["latitude"], regridder.ocean_mask["longitude"], days)
    ours = measure(lambda: regridder(field), truth)
    linear = measure(lambda: field.interp(grid.coords()), truth)
    return regridder, ours, linear


def row(cells: int, resolution: float, days: int) -> list[str]:
    """Return one case's line of the table; errors are root mean squares over cells in kelvin."""
    regridder, ours, linear = compare(cells, resolution, days)
    coast = regridder.ocean_mask & linear.first_day.isnull()
    open_sea = regridder.ocean_mask & ~coast
    errors = (ours.error.where(open_sea), linear.error.where(open_sea), ours.error.where(coast))
    return [
        f"{cells}² → {regridder.grid.shape[0]}²",
        regridder.method,
        f"{ours.seconds:.2f}",
        f"{linear.seconds:.2f}",
        f"{linear.seconds / ours.seconds:.1f}",
        str(int(regridder.ocean_mask.sum())),
        str(int((regridder.ocean_mask & ours.first_day.isnull()).sum())),
        str(int(coast.sum())),
        *(f"{float((error**2).mean()) ** 0.5:.4f}" for error in errors),
        f"{ours.peak_bytes / 2**20:.0f}",
        f"{linear.peak_bytes / 2**20:.0f}",
    ]


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=3650)
    days = parser.parse_args().days
    speed = ("cells", "method", "s", "interp s", "ratio", "ocean", "lost", "interp lost")
    quality = ("rms", "interp rms", "coast rms", "MiB", "interp MiB")
    table = Table(*speed, *quality, title=f"{days} days of {SOURCE_RESOLUTION} degree cells")
    for cells in (64, 96):
        for resolution in TARGET_RESOLUTIONS:
            table.add_row(*row(cells, resolution, days))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
