"""The normaliser: what it fits, what it refuses, and how it is saved."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.errors import BundleError, GridError, NotEnoughDataError
from datlstm.normalise import Normaliser
from datlstm.settings import NormaliserSettings

SETTINGS = NormaliserSettings(harmonics=2)
LATITUDE = np.array([37.0, 37.25])
LONGITUDE = np.array([119.0, 119.25, 119.5])


def sea(first_day: str = "2001-01-01", days: int = 800, seed: int = 0) -> xr.DataArray:
    """A seasonal cycle of 10 K around 287 K with 0.5 K of noise; the first cell is land."""
    time = pd.date_range(first_day, periods=days)
    noise = np.random.default_rng(seed).normal(0, 0.5, (days, 2, 3))
    season = 10 * np.cos(2 * np.pi * (time.day_of_year.values - 220) / 365.2425)
    field = (287 + season[:, None, None] + noise).astype(np.float32)
    field[:, 0, 0] = np.nan
    coords = {"time": time, "latitude": LATITUDE, "longitude": LONGITUDE}
    return xr.DataArray(field, dims=("time", "latitude", "longitude"), coords=coords, name="sst")


@pytest.fixture(scope="module")
def fitted() -> Normaliser:
    return Normaliser.fit(sea(), settings=SETTINGS)


def test_ocean_is_what_was_fitted_and_land_stays_missing(fitted: Normaliser) -> None:
    assert not fitted.ocean_mask[0, 0]
    assert int(fitted.ocean_mask.sum()) == 5
    assert fitted.to_anomaly(sea())[:, 0, 0].isnull().all()
    assert fitted.climatology(pd.date_range("2031-01-01", periods=2))[:, 0, 0].isnull().all()


def test_scale_is_the_standard_deviation_of_the_training_anomaly(fitted: Normaliser) -> None:
    anomaly = fitted.kelvin_anomaly(sea())
    np.testing.assert_allclose(fitted.scale, np.sqrt((anomaly**2).mean("time")), rtol=1e-9)
    np.testing.assert_allclose(fitted.to_anomaly(sea()).std("time").values.ravel()[1:], 1, rtol=1e-5)


def test_scale_never_falls_below_its_floor() -> None:
    still = xr.full_like(sea(), 285.0)
    assert (Normaliser.fit(still, settings=SETTINGS).scale == SETTINGS.minimum_scale_kelvin).all()


def test_trend_is_fitted_only_when_the_training_period_is_long_enough(fitted: Normaliser) -> None:
    short = NormaliserSettings(harmonics=2, minimum_trend_years=2.0)
    assert not fitted.has_trend
    assert "trend" not in fitted.to_dataset()
    assert Normaliser.fit(sea(), settings=short).has_trend
    assert Normaliser.fit(sea(), settings=short).harmonics == fitted.harmonics == 2


def test_period_is_that_of_the_days_given(fitted: Normaliser) -> None:
    assert (fitted.first_day, fitted.last_day) == (date(2001, 1, 1), date(2003, 3, 11))
    assert fitted.first_day < fitted.reference_day < fitted.last_day


def test_the_hour_of_a_day_plays_no_part(fitted: Normaliser) -> None:
    noon = sea().assign_coords(time=sea()["time"] + pd.Timedelta(hours=12))
    assert Normaliser.fit(noon, settings=SETTINGS).id == fitted.id
    np.testing.assert_array_equal(fitted.climatology(noon["time"]), fitted.climatology(sea()["time"]))


def test_less_than_a_year_is_refused() -> None:
    with pytest.raises(NotEnoughDataError, match="364 training days .* at least one whole year"):
        Normaliser.fit(sea(days=364), settings=SETTINGS)
    assert Normaliser.fit(sea(days=365), settings=SETTINGS).ocean_mask.sum() == 5


def test_a_sea_without_any_observed_cell_is_refused() -> None:
    with pytest.raises(NotEnoughDataError, match="no cell .* 2001-01-01"):
        Normaliser.fit(xr.full_like(sea(), np.nan), settings=SETTINGS)


def test_a_rarely_observed_cell_is_left_out() -> None:
    field = sea()
    field[np.arange(800) % 5 > 0, 1, 1] = np.nan
    mask = Normaliser.fit(field, settings=SETTINGS).ocean_mask
    assert not mask[1, 1]
    assert mask[1, 2]


def test_a_cell_never_observed_in_winter_is_left_out_rather_than_extrapolated() -> None:
    field = sea(days=1500)
    field[:, 1, 1] = field[:, 1, 1].where(~field["time"].dt.month.isin([11, 12, 1, 2, 3]))
    mask = Normaliser.fit(field, settings=NormaliserSettings(harmonics=4)).ocean_mask
    assert not mask[1, 1]
    assert mask[1, 2]


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(GridError, match="give .time, latitude, longitude."):
        Normaliser.fit(sea().rename(latitude="lat"), settings=SETTINGS)


@pytest.mark.parametrize("method", ["to_anomaly", "to_kelvin", "kelvin_anomaly"])
def test_a_field_on_another_grid_is_refused_instead_of_cropped(fitted: Normaliser, method: str) -> None:
    with pytest.raises(GridError, match="longitude of normaliser"):
        getattr(fitted, method)(sea().isel(longitude=slice(2)))


def test_fields_are_float32_and_lazy_where_their_input_is(fitted: Normaliser) -> None:
    lazy = fitted.to_anomaly(sea().chunk(time=100))
    assert lazy.chunksizes["time"][0] == 100
    assert fitted.to_kelvin(lazy).chunks is not None
    assert fitted.to_anomaly(sea()).chunks is None
    assert lazy.dtype == fitted.to_kelvin(lazy).dtype == np.float32
    assert fitted.climatology(pd.date_range("2001", periods=9)).chunks is not None


def test_forecasts_are_normalised_by_their_valid_time(fitted: Normaliser) -> None:
    init_time = xr.DataArray(pd.date_range("2002-07-01", periods=3), dims="init_time")
    lead_time = xr.DataArray(pd.to_timedelta([1, 2], unit="D"), dims="lead_time")
    forecast = xr.DataArray(
        np.full((3, 2, 2, 3), 290, np.float32),
        dims=("init_time", "lead_time", "latitude", "longitude"),
        coords={"latitude": LATITUDE, "longitude": LONGITUDE, "valid_time": init_time + lead_time},
    )
    anomaly = fitted.kelvin_anomaly(forecast)
    expected = 290 - fitted.climatology(pd.DatetimeIndex(["2002-07-03"]))
    assert anomaly.dims == forecast.dims
    np.testing.assert_allclose(anomaly[1, 0], expected[0])
    np.testing.assert_allclose(anomaly[0, 1], expected[0])


@pytest.mark.parametrize("trend_years", [1.0, 10.0])
@pytest.mark.parametrize("form", ["netcdf", "zarr"])
def test_saving_and_loading_returns_the_same_normaliser(tmp_path: Path, form: str, trend_years: float) -> None:
    settings = NormaliserSettings(harmonics=2, minimum_trend_years=trend_years)
    fitted = Normaliser.fit(sea(), settings=settings)
    if form == "netcdf":
        fitted.to_dataset().to_netcdf(tmp_path / "normaliser.nc", engine="h5netcdf")
        saved = xr.load_dataset(tmp_path / "normaliser.nc", engine="h5netcdf")
    else:
        fitted.to_dataset().to_zarr(tmp_path / "normaliser.zarr", consolidated=False)
        saved = xr.open_zarr(tmp_path / "normaliser.zarr", consolidated=False)
    loaded = Normaliser.from_dataset(saved)
    assert loaded.id == fitted.id
    xr.testing.assert_identical(loaded.coefficients, fitted.coefficients)
    xr.testing.assert_identical(loaded.to_dataset(), fitted.to_dataset())


@pytest.mark.parametrize("missing", ["intercept", "sine", "scale"])
def test_a_saved_normaliser_without_a_variable_is_refused(fitted: Normaliser, missing: str) -> None:
    with pytest.raises(BundleError, match=missing):
        Normaliser.from_dataset(fitted.to_dataset().drop_vars(missing))


@pytest.mark.parametrize(
    ("attribute", "value"), [("first_day", "yesterday"), ("harmonics", 1), ("harmonics", 3), ("days_per_year", 365.25)]
)
def test_a_saved_normaliser_with_a_wrong_attribute_is_refused(
    fitted: Normaliser, attribute: str, value: object
) -> None:
    with pytest.raises(BundleError, match="fit and save it again"):
        Normaliser.from_dataset(fitted.to_dataset().assign_attrs({attribute: value}))
