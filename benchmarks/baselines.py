"""The bar: RMSE by lead of persistence, climatology and damped persistence on a record of daily SST.

``python -m benchmarks.baselines PATH.nc`` fits on 1982-2010 and scores every valid day of 2015-2018, all ocean cells
and days pooled with cosine-latitude weights. ``--check`` compares with the bar, which was computed independently on
OSTIA, 35-40 N 40-30 W, and fails where any entry differs by more than 0.001 °C.
"""

import resource
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
import xarray as xr
from scores.continuous import rmse
from scores.functions import create_latitude_weights

from datlstm.baselines import climatology, damped_persistence, fit_damping, persistence
from datlstm.normalise import Normaliser
from datlstm.settings import NormaliserSettings

LEAD_DAYS = 10
TRAINING = slice("1982-01-01", "2010-12-31")
TEST = slice("2015-01-01", "2018-12-31")
SETTINGS = NormaliserSettings()
NO_TREND = NormaliserSettings(minimum_trend_years=1000)
TOLERANCE = 0.001
BAR = pd.DataFrame(
    {
        "persistence": [0.2130, 0.3311, 0.4119, 0.4735, 0.5290, 0.5809, 0.6318, 0.6832, 0.7332, 0.7820],
        "climatology": [0.9518] * LEAD_DAYS,
        "clim + trend": [0.7804] * LEAD_DAYS,
        "anomaly persistence": [0.2068, 0.3150, 0.3824, 0.4272, 0.4634, 0.4936, 0.5212, 0.5480, 0.5719, 0.5932],
        "damped anomaly": [0.2059, 0.3116, 0.3768, 0.4198, 0.4540, 0.4823, 0.5077, 0.5316, 0.5528, 0.5715],
        "damped, clim + trend": [0.2050, 0.3086, 0.3710, 0.4113, 0.4430, 0.4689, 0.4920, 0.5137, 0.5326, 0.5492],
    },
    index=pd.RangeIndex(1, LEAD_DAYS + 1, name="lead (d)"),
)


def read(path: Path, variable: str) -> xr.DataArray:
    """Return ``variable`` of a NetCDF file lazily as (time, latitude, longitude) kelvin, days stamped 00:00."""
    sst = xr.open_dataset(path, engine="h5netcdf", chunks={})[variable]
    short = {"lat": "latitude", "lon": "longitude"}
    sst = sst.rename({name: full for name, full in short.items() if name in sst.dims})
    return sst.assign_coords(time=sst["time"].dt.floor("D"))


def score(forecast: xr.DataArray, sst: xr.DataArray) -> pd.Series:
    """Return the RMSE in °C by lead of a forecast (init_time, lead_time, latitude, longitude) over the test days."""
    days = sst["time"].sel(time=TEST)
    tested = forecast["valid_time"].isin(days)
    truth = sst.sel(time=forecast["valid_time"].where(tested, days[0])).where(tested)
    errors = rmse(
        forecast,
        truth.drop_vars("time"),
        preserve_dims="lead_time",
        weights=create_latitude_weights(sst["latitude"]),
    )
    return pd.Series(errors.values, index=BAR.index)


def bar(sst: xr.DataArray) -> pd.DataFrame:
    """Return the RMSE in °C of every reference forecaster (columns) by lead (rows), fitted on the training years."""
    training = sst.sel(time=TRAINING)
    plain, trended = (Normaliser.fit(training, settings=settings) for settings in (NO_TREND, SETTINGS))
    plain_damping, trended_damping = (fit_damping(sst, fitted, LEAD_DAYS) for fitted in (plain, trended))
    tested = sst.sel(time=TEST).load()
    first, last = pd.Timestamp(TEST.start), pd.Timestamp(TEST.stop)
    initial = sst.sel(time=slice(first - pd.Timedelta(days=LEAD_DAYS), last - pd.Timedelta(days=1))).load()
    initial = initial.rename(time="init_time")
    forecasts = (
        persistence(initial, LEAD_DAYS),
        climatology(initial, plain, LEAD_DAYS),
        climatology(initial, trended, LEAD_DAYS),
        damped_persistence(initial, plain, xr.ones_like(plain_damping), LEAD_DAYS),
        damped_persistence(initial, plain, plain_damping, LEAD_DAYS),
        damped_persistence(initial, trended, trended_damping, LEAD_DAYS),
    )
    return pd.DataFrame({name: score(forecast, tested) for name, forecast in zip(BAR.columns, forecasts, strict=True)})


def markdown(table: pd.DataFrame, decimals: int = 4) -> str:
    """Return a table of numbers as Markdown, the index first."""
    header = [str(table.index.name or ""), *table.columns]
    rows = [[str(label), *(f"{value:.{decimals}f}" for value in values)] for label, *values in table.itertuples()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows))


def main(
    path: Annotated[Path, typer.Argument(help="NetCDF file of daily SST in kelvin, 1982-2018.", exists=True)],
    variable: Annotated[str, typer.Option(help="Name of the SST variable.")] = "analysed_sst",
    check: Annotated[bool, typer.Option("--check", help="Compare with the bar of OSTIA, 35-40 N 40-30 W.")] = False,
) -> None:
    """Print the RMSE in °C of every reference forecaster by lead, then what it took."""
    start = time.perf_counter()
    table = bar(read(path, variable))
    print(markdown(table))
    seconds, memory = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{seconds:.1f} s, peak memory {memory:.0f} MiB")
    if check:
        deviation = (table - BAR).abs().max()
        print("\nDeviation from the bar, whose entries are rounded to 0.0001 °C:\n")
        print(markdown(deviation.to_frame("largest, °C").T, decimals=6))
        raise typer.Exit(code=int(deviation.max() > TOLERANCE))


if __name__ == "__main__":
    typer.run(main)
