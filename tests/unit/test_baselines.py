"""The reference forecasters and the damping, on fields small enough to know the answer."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.baselines import climatology, damped_persistence, fit_damping, persistence
from datlstm.errors import GridError, NotEnoughDataError
from datlstm.normalise import Normaliser
from datlstm.settings import NormaliserSettings

LEAD_DAYS = 4
SETTINGS = NormaliserSettings(harmonics=1)
DIMS = ("init_time", "lead_time", "latitude", "longitude")


def sea(days: int = 1000, memory: float = 0.8) -> xr.DataArray:
    """AR(1) anomalies about 288 K on 2 x 2 cells; the first cell is land."""
    generator = np.random.default_rng(1)
    field = np.zeros((days, 2, 2))
    for day in range(1, days):
        field[day] = memory * field[day - 1] + generator.normal(0, 0.6, (2, 2))
    field[:, 0, 0] = np.nan
    time = pd.date_range("2001-01-01", periods=days)
    coords = {"time": time, "latitude": [37.0, 37.5], "longitude": [119.0, 119.5]}
    return xr.DataArray((288 + field).astype(np.float32), dims=("time", "latitude", "longitude"), coords=coords)


@pytest.fixture(scope="module")
def normaliser() -> Normaliser:
    return Normaliser.fit(sea(), settings=SETTINGS)


@pytest.fixture(scope="module")
def damping(normaliser: Normaliser) -> xr.DataArray:
    return fit_damping(sea(), normaliser, LEAD_DAYS)


def initial(days: int = 3) -> xr.DataArray:
    return sea()[-days:].rename(time="init_time")


def test_persistence_repeats_the_initial_field_at_every_lead() -> None:
    forecast = persistence(initial(), LEAD_DAYS)
    for lead in range(1, LEAD_DAYS + 1):
        np.testing.assert_array_equal(forecast.sel(lead_time=lead), initial())


def test_persistence_keeps_a_missing_initial_value_missing() -> None:
    gappy = initial()
    gappy[0, 1, 1] = np.nan
    forecast = persistence(gappy, LEAD_DAYS)
    assert forecast[0, :, 1, 1].isnull().all()
    assert forecast[1, :, 1, 1].notnull().all()


def test_every_forecaster_returns_the_same_structure(normaliser: Normaliser, damping: xr.DataArray) -> None:
    for forecast in (
        persistence(initial(), LEAD_DAYS),
        climatology(initial(), normaliser, LEAD_DAYS),
        damped_persistence(initial(), normaliser, damping, LEAD_DAYS),
    ):
        assert forecast.dims == DIMS
        assert forecast.shape == (3, LEAD_DAYS, 2, 2)
        assert forecast.dtype == np.float32
        assert forecast.name == "sst"
        assert forecast.attrs == {"units": "kelvin"}
        assert set(forecast.coords) == {*DIMS, "valid_time"}
        assert forecast["lead_time"].dtype == np.int64
        assert forecast["lead_time"].values.tolist() == [1, 2, 3, 4]
        assert forecast["valid_time"].sel(init_time="2003-09-25", lead_time=3) == np.datetime64("2003-09-28")
        assert forecast[:, :, 0, 0].isnull().all()
        assert forecast.isel(longitude=1).notnull().all()


def test_one_initial_field_gives_the_forecast_it_gives_among_many(
    normaliser: Normaliser, damping: xr.DataArray
) -> None:
    one = damped_persistence(initial()[1], normaliser, damping, LEAD_DAYS)
    assert one.dims == DIMS[1:]
    xr.testing.assert_allclose(one, damped_persistence(initial(), normaliser, damping, LEAD_DAYS)[1], rtol=1e-7)
    assert persistence(initial()[1], LEAD_DAYS).dims == DIMS[1:]


def test_climatology_is_that_of_the_valid_day(normaliser: Normaliser) -> None:
    forecast = climatology(initial(), normaliser, LEAD_DAYS)
    expected = normaliser.climatology(pd.DatetimeIndex(["2003-09-29"]))[0].astype(np.float32)
    np.testing.assert_array_equal(forecast[0, 3], forecast[1, 2])
    np.testing.assert_array_equal(forecast.sel(init_time="2003-09-25", lead_time=4), expected)


def test_damping_of_one_carries_the_anomaly_and_damping_of_zero_is_climatology(
    normaliser: Normaliser, damping: xr.DataArray
) -> None:
    carried = damped_persistence(initial(), normaliser, xr.ones_like(damping), LEAD_DAYS)
    expected = normaliser.kelvin_anomaly(initial().rename(init_time="time")).rename(time="init_time")
    anomaly = normaliser.kelvin_anomaly(carried)
    np.testing.assert_allclose(anomaly, expected.broadcast_like(anomaly).transpose(*DIMS), atol=1e-4)
    forgotten = damped_persistence(initial(), normaliser, xr.zeros_like(damping), LEAD_DAYS)
    xr.testing.assert_equal(forgotten, climatology(initial(), normaliser, LEAD_DAYS))


def test_a_missing_initial_anomaly_is_forecast_as_climatology(normaliser: Normaliser, damping: xr.DataArray) -> None:
    gappy = initial()
    gappy[:, 1, 1] = np.nan
    forecast = damped_persistence(gappy, normaliser, damping, LEAD_DAYS)
    expected = climatology(gappy, normaliser, LEAD_DAYS)
    xr.testing.assert_equal(forecast[..., 1, 1], expected[..., 1, 1])
    assert (forecast[..., 0, 1] != expected[..., 0, 1]).any()


def test_a_forecast_longer_than_the_damping_is_refused(normaliser: Normaliser, damping: xr.DataArray) -> None:
    with pytest.raises(NotEnoughDataError, match="up to 4 days, 5 were asked"):
        damped_persistence(initial(), normaliser, damping, 5)


def test_a_shorter_forecast_is_the_beginning_of_the_longer_one(normaliser: Normaliser, damping: xr.DataArray) -> None:
    longer = damped_persistence(initial(), normaliser, damping, LEAD_DAYS)
    xr.testing.assert_allclose(damped_persistence(initial(), normaliser, damping, 2), longer[:, :2], rtol=1e-7)


def test_an_initial_field_on_another_grid_is_refused(normaliser: Normaliser, damping: xr.DataArray) -> None:
    with pytest.raises(GridError, match="latitude of normaliser"):
        damped_persistence(initial().isel(latitude=[0]), normaliser, damping, LEAD_DAYS)


def test_damping_is_the_regression_of_the_later_anomaly_on_the_earlier(
    normaliser: Normaliser, damping: xr.DataArray
) -> None:
    anomaly = normaliser.kelvin_anomaly(sea())[:, 1, 0].values
    for lead in (1, LEAD_DAYS):
        slope = np.linalg.lstsq(anomaly[:-lead, None], anomaly[lead:], rcond=None)[0][0]
        assert damping.sel(lead_time=lead)[1, 0].item() == pytest.approx(slope, rel=1e-10)


def test_damping_is_missing_on_land_only(damping: xr.DataArray) -> None:
    assert damping.dims == DIMS[1:]
    assert damping[:, 0, 0].isnull().all()
    assert int(damping.notnull().sum()) == 3 * LEAD_DAYS


def test_an_absent_day_counts_like_a_missing_one(normaliser: Normaliser) -> None:
    kept = np.random.default_rng(2).random(1000) > 0.2
    absent = fit_damping(sea()[kept], normaliser, LEAD_DAYS)
    missing = fit_damping(sea().where(xr.DataArray(kept, dims="time")), normaliser, LEAD_DAYS)
    xr.testing.assert_identical(absent, missing)


def test_a_cell_without_a_pair_has_no_memory() -> None:
    field = sea()
    field[::2, 1, 1] = np.nan
    damping = fit_damping(field, Normaliser.fit(field, settings=SETTINGS), 2)
    assert damping.sel(lead_time=1)[1, 1] == 0
    assert damping.sel(lead_time=2)[1, 1] > 0.3


def test_an_anticorrelated_sea_is_damped_to_climatology() -> None:
    field = sea(memory=-0.5)
    damping = fit_damping(field, Normaliser.fit(field, settings=SETTINGS), 1)
    assert (damping.isel(longitude=1) == 0).all()


def test_days_outside_the_training_period_cannot_fit_a_damping(normaliser: Normaliser) -> None:
    later = sea().assign_coords(time=sea()["time"] + pd.Timedelta(days=5000))
    with pytest.raises(NotEnoughDataError, match="0 days between 2001-01-01"):
        fit_damping(later, normaliser, LEAD_DAYS)
