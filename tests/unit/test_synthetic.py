"""The synthetic Bohai: physical enough to train on, the same on every call, and never taken for an observation."""

from datetime import date
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from datlstm.errors import NotYetAvailableError
from datlstm.settings import Region, Settings, SourceSettings
from datlstm.sources import Source, open_source
from datlstm.sources.product import Product
from datlstm.synthetic import weather
from datlstm.synthetic.basin import basin_of
from datlstm.synthetic.bohai import FIRST_DAY, ostia_dataset
from datlstm.synthetic.climate import background
from datlstm.synthetic.coast import cells_of
from datlstm.synthetic.labels import VERSION
from datlstm.synthetic.source import SyntheticSource

BOHAI = Region(name="bohai", title="Bohai Sea", south=36.8, north=41.6, west=117.4, east=122.2, resolution=0.05)
CENTRE = Region(name="centre", title="Central Bohai", south=38, north=39.2, west=118.8, east=120.2, resolution=0.05)
SEED = 20260101


def celsius(dataset: xr.Dataset) -> xr.DataArray:
    return dataset["analysed_sst"].astype(np.float64) - 273.15


@pytest.fixture(scope="module")
def winter() -> xr.Dataset:
    return ostia_dataset(BOHAI, date(2019, 1, 20), date(2019, 2, 20), SEED).compute()


@pytest.fixture(scope="module")
def summer() -> xr.Dataset:
    return ostia_dataset(BOHAI, date(2019, 7, 20), date(2019, 8, 20), SEED).compute()


@pytest.fixture(scope="module")
def years() -> xr.Dataset:
    return ostia_dataset(CENTRE, date(2011, 1, 1), date(2016, 12, 31), SEED).compute()


@pytest.fixture(scope="module")
def anomaly(years: xr.Dataset) -> xr.DataArray:
    """Anomalies of the central Bohai ``(time, cell)`` against four harmonics and a trend."""
    cells = celsius(years).stack(cell=("latitude", "longitude")).dropna("cell")
    day = np.arange(cells.sizes["time"])
    angles = [2 * np.pi * harmonic * day / 365.2425 for harmonic in range(1, 5)]
    shapes = np.stack([np.ones(day.size), day, *map(np.cos, angles), *map(np.sin, angles)], axis=1)
    return cells.copy(data=cells - shapes @ np.linalg.lstsq(shapes, cells.to_numpy(), rcond=None)[0])


def test_coastline_is_the_real_one(winter: xr.Dataset) -> None:
    water = winter["mask"].isel(time=0) & 1

    def is_water(latitude: float, longitude: float) -> bool:
        return bool(water.sel(latitude=latitude, longitude=longitude, method="nearest"))

    assert is_water(38.6, 119.5) and is_water(40.5, 121.3) and is_water(37.5, 119.5) and is_water(38.5, 121.0)
    assert not is_water(41.4, 118.0) and not is_water(39.0, 121.75) and not is_water(36.9, 119.0)
    assert 3700 < int(water.sum()) < 4000


def test_cells_are_ostias_whatever_the_resolution_of_the_region() -> None:
    coarse = Region(name="coarse", title="", south=38.1, north=39.1, west=119.03, east=119.53, resolution=0.1)

    box = cells_of(coarse)

    assert box.latitude[[0, -1]].tolist() == [38.125, 39.075]
    assert box.longitude[[0, -1]].tolist() == [119.025, 119.525]
    assert np.allclose(np.diff(box.latitude), 0.05)


def test_bohai_is_96_by_96_cells_and_land_is_missing(winter: xr.Dataset) -> None:
    is_water = (winter["mask"] & 1) > 0

    assert winter["analysed_sst"].shape[1:] == (96, 96)
    for name in ("analysed_sst", "analysis_error", "sea_ice_fraction"):
        assert winter[name].dtype == np.float32
        assert bool((winter[name].notnull() == is_water).all())
    assert bool((winter["mask"].where(~is_water, 2) == 2).all())


def test_temperatures_span_the_bohais_range_and_stop_at_freezing(winter: xr.Dataset, summer: xr.Dataset) -> None:
    assert -1.71 < float(celsius(winter).min()) < -1.3
    assert 26 < float(celsius(summer).max()) < 31
    assert 20 < float(celsius(summer).mean()) - float(celsius(winter).mean()) < 27


def test_season_peaks_in_august_and_the_shallow_coast_leads() -> None:
    basin = basin_of(cells_of(BOHAI))
    year = range(date(2019, 1, 1).toordinal(), date(2020, 1, 1).toordinal())

    peak = background(basin, year, SEED).argmax(axis=0)

    coast = peak[basin.water & (basin.coast_km < 12)].mean()
    offshore = peak[basin.water & (basin.coast_km > 45)].mean()
    assert 200 < coast < offshore - 5 < 245


def test_strait_has_a_cold_patch_in_summer(summer: xr.Dataset) -> None:
    mean = celsius(summer).mean("time")

    patch = float(mean.sel(latitude=38.55, longitude=121.0, method="nearest"))

    assert 1.5 < float(mean.mean()) - patch < 6


def test_ice_lies_in_the_north_in_winter_only(winter: xr.Dataset, summer: xr.Dataset) -> None:
    frozen = winter["sea_ice_fraction"].max("time") >= 0.15

    assert bool(frozen.sel(latitude=slice(40, None)).any())
    assert not bool(frozen.sel(latitude=slice(None, 38.7)).any())
    assert float(summer["sea_ice_fraction"].max()) == 0
    assert float(winter["sea_ice_fraction"].max()) <= 1


def test_ice_sets_its_bit_beside_the_water_bit_of_the_day(winter: xr.Dataset) -> None:
    assert set(np.unique(winter["mask"])) == {1, 2, 9}
    assert bool(((winter["mask"] & 8 > 0) == (winter["sea_ice_fraction"] >= 0.149)).all())
    assert bool((winter["mask"] & 1 == winter["mask"].isel(time=0) & 1).all())


def test_sea_warms_over_the_decades() -> None:
    basin = basin_of(cells_of(CENTRE))
    early = range(date(1982, 1, 1).toordinal(), date(1992, 1, 1).toordinal(), 73)
    late = range(date(2012, 1, 1).toordinal(), date(2022, 1, 1).toordinal(), 73)

    warming = [background(basin, late, seed).mean() - background(basin, early, seed).mean() for seed in range(8)]

    assert 0.4 < np.mean(warming) < 1.1


def test_anomalies_last_ten_to_twenty_days(anomaly: xr.DataArray) -> None:
    values = anomaly.to_numpy()
    lags = np.array([(values[lag:] * values[:-lag]).mean() for lag in range(1, 40)]) / (values**2).mean()

    assert 10 <= int(np.argmax(lags < np.exp(-1))) + 1 <= 20


def test_anomalies_are_correlated_over_tens_of_kilometres(anomaly: xr.DataArray) -> None:
    local = (anomaly - anomaly.mean("cell")).unstack("cell")

    def correlation(cells_north: int) -> float:
        return float(xr.corr(local, local.shift(latitude=cells_north)))

    assert correlation(2) > 0.85
    assert correlation(14) < np.exp(-1)


def test_days_change_as_much_as_in_shelf_seas_and_never_jump(years: xr.Dataset) -> None:
    change = celsius(years).diff("time")

    assert 0.15 < float(np.sqrt((change**2).mean())) < 0.3
    assert float(abs(change).mean(("latitude", "longitude")).max()) < 2


def test_damped_persistence_can_be_beaten(anomaly: xr.DataArray) -> None:
    values = anomaly.to_numpy()
    now, before, after = values[1:-1], values[:-2], values[2:]
    damped = (after * now).sum() / (now**2).sum()
    error = after - damped * now
    tendency = now - before
    gain = (error * tendency).sum() / (tendency**2).sum()

    assert np.mean((error - gain * tendency) ** 2) < 0.9 * np.mean(error**2)


def test_a_day_is_the_same_to_the_last_bit_in_any_range() -> None:
    alone = ostia_dataset(CENTRE, date(2020, 3, 14), date(2020, 3, 14), SEED).compute()
    long = ostia_dataset(CENTRE, date(2020, 1, 3), date(2020, 4, 9), SEED).compute(scheduler="synchronous")

    xr.testing.assert_identical(alone, long.sel(time=alone["time"]))


def test_another_seed_is_another_sea_on_the_same_coast() -> None:
    day = date(2020, 3, 14)
    one, other = (ostia_dataset(CENTRE, day, day, seed).compute() for seed in (SEED, SEED + 1))

    assert float(np.abs(one["analysed_sst"] - other["analysed_sst"]).mean()) > 0.1
    xr.testing.assert_equal(one["mask"], other["mask"])


def test_blocks_of_days_join_without_a_seam() -> None:
    basin = basin_of(cells_of(CENTRE))
    start = FIRST_DAY.toordinal() + 450 * weather.BLOCK_DAYS

    continued = weather.anomalies(basin, range(start - weather.BLOCK_DAYS, start + 1), SEED)[-1]
    begun = weather.anomalies(basin, range(start, start + 1), SEED)[0]

    assert np.abs(continued - begun)[basin.water].max() < 0.01


def test_a_small_box_shows_nearly_the_same_sea_as_a_large_one(winter: xr.Dataset) -> None:
    small = ostia_dataset(CENTRE, date(2019, 1, 20), date(2019, 2, 20), SEED).compute()

    difference = small["analysed_sst"] - winter["analysed_sst"].sel(small.coords)

    assert float(np.sqrt((difference**2).mean())) < 0.2


def test_days_are_stamped_at_noon_once_each(winter: xr.Dataset) -> None:
    expected = np.arange("2019-01-20T12", "2019-02-21T12", np.timedelta64(24, "h"), dtype="datetime64[h]")

    assert np.array_equal(winter["time"], expected.astype("datetime64[ns]"))


def test_packing_of_ostia_loses_nothing(winter: xr.Dataset, tmp_path: Path) -> None:
    winter.to_netcdf(tmp_path / "days.nc", engine="h5netcdf")

    with xr.open_dataset(tmp_path / "days.nc", engine="h5netcdf", mask_and_scale=False) as packed:
        assert packed["analysed_sst"].dtype == np.int16 and packed["sea_ice_fraction"].dtype == np.int8
        assert packed["analysed_sst"].attrs["add_offset"] == 273.15
    with xr.open_dataset(tmp_path / "days.nc", engine="h5netcdf") as read:
        xr.testing.assert_allclose(read, winter, atol=1e-4, rtol=0)
        assert np.array_equal(read["mask"], winter["mask"])


def test_everything_says_that_it_is_synthetic(winter: xr.Dataset) -> None:
    read = SyntheticSource(CENTRE, SEED).read(date(2020, 1, 1), date(2020, 1, 2))

    for dataset in (winter, read):
        for key in ("title", "summary", "source", "comment", "attribution", "source_product"):
            assert "synthetic" in dataset.attrs[key].lower(), key
        for name, variable in dataset.variables.items():
            assert "synthetic" in variable.attrs["comment"].lower(), name


def test_source_is_the_one_the_settings_name(tmp_path: Path) -> None:
    settings = Settings(region=CENTRE, store=tmp_path.as_uri(), source=SourceSettings(kind="synthetic"))

    source = open_source(settings)

    assert isinstance(source, Source)
    assert isinstance(source, SyntheticSource)
    assert source.products() == [Product("SYNTHETIC-BOHAI", VERSION, date(1981, 10, 1), date(2100, 1, 1))]


def test_source_gives_the_form_that_every_source_gives() -> None:
    read = SyntheticSource(CENTRE, SEED).read(date(2020, 1, 25), date(2020, 3, 5))

    assert read["sst"].dims == ("time", "latitude", "longitude")
    assert read["sst"].dtype == read["sea_ice_fraction"].dtype == read["analysis_error"].dtype == np.float32
    assert read["analysis_error"].attrs["units"] == "kelvin"
    assert read["mask"].dims == ("latitude", "longitude") and read["mask"].dtype == np.int8
    assert np.array_equal(read["time"], np.arange("2020-01-25", "2020-03-06", dtype="datetime64[D]"))
    assert read["latitude"].values[[0, -1]].tolist() == [37.975, 39.225]
    assert read["longitude"].values[[0, -1]].tolist() == [118.775, 120.225]
    assert bool((read["sst"].notnull() == (read["mask"] & 1 > 0)).all())


def test_every_day_of_the_source_says_that_it_is_synthetic() -> None:
    read = SyntheticSource(CENTRE, SEED).read(date(2020, 1, 25), date(2020, 1, 26))

    assert read["source_product"].to_numpy().tolist() == ["SYNTHETIC-BOHAI", "SYNTHETIC-BOHAI"]
    assert read["source_version"].to_numpy().tolist() == [VERSION, VERSION]
    assert "not an observation" in read.attrs["attribution"]
    assert read.attrs["problems"] == []


def test_source_gives_the_same_numbers_as_the_product() -> None:
    day = date(2020, 1, 25)
    product = ostia_dataset(cells_of(CENTRE).grown(1), day, day, SEED)

    read = SyntheticSource(CENTRE, SEED).read(day, day)

    for name, original in (("sst", "analysed_sst"), ("analysis_error", "analysis_error")):
        assert np.array_equal(read[name], product[original], equal_nan=True)


def test_source_is_lazy_in_chunks_of_thirty_days() -> None:
    read = SyntheticSource(BOHAI, SEED).read(date(1981, 10, 1), date(2021, 9, 30))

    assert isinstance(read["sst"].data, da.Array)
    assert set(read["sst"].chunksizes["time"][:-1]) == {30}


def test_source_leaves_out_days_it_does_not_have_and_says_when_all_are_to_come() -> None:
    source = SyntheticSource(CENTRE, SEED, last_day=date(2020, 1, 10))

    assert source.products()[0].last_day == date(2020, 1, 10)
    assert source.read(date(2020, 1, 8), date(2020, 1, 20)).sizes["time"] == 3
    assert source.read(date(1981, 9, 1), date(1981, 9, 2)).sizes["time"] == 0
    with pytest.raises(NotYetAvailableError, match="2020-01-10"):
        source.read(date(2020, 1, 11), date(2020, 1, 20))
