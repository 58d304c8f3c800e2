"""What is derived from a forecast: every value of the three variables, and what a reader is told of them."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.errors import ProductError, SettingsError
from datlstm.grid import Grid
from datlstm.products.derived import OBSERVED_DAYS, DerivedVariable, derive, variables
from datlstm.products.heatwave import DIMS, HeatwaveBaseline
from datlstm.settings import ProductSettings, Settings

INIT = date(2024, 2, 27)
SEA = np.array([[True, True], [True, False]])
LEADS = 6


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Four cells, one of them land."""
    return settings.replace(region=settings.region.model_copy(update={"north": 38.0, "east": 120.0, "resolution": 0.5}))


@pytest.fixture
def hot_above_21(small: Settings) -> HeatwaveBaseline:
    """20 °C is normal all year, and 21 °C the threshold."""
    coords = {"dayofyear": np.arange(1, 367), **Grid.from_region(small.region).coords()}
    field = xr.DataArray(np.where(SEA, np.ones((366, 1, 1)), np.nan), coords, DIMS).astype("float32")
    return HeatwaveBaseline(field * 293.15, field * 294.15, (2000, 2009), "TEST")


def daily(settings: Settings, celsius: list[float], first: str, dimension: str) -> xr.DataArray:
    values = np.where(SEA, np.array(celsius)[:, None, None] + 273.15, np.nan).astype("float32")
    days = pd.date_range(first, periods=len(celsius), unit="ns")
    field = xr.DataArray(values, Grid.from_region(settings.region).coords(), (dimension, "latitude", "longitude"))
    if dimension == "time":
        return field.assign_coords(time=days)
    leads = np.arange(1, len(celsius) + 1, dtype="int32")
    return field.assign_coords(lead_time=leads, valid_time=("lead_time", days), init_time=np.datetime64(INIT, "ns"))


def made(
    settings: Settings, forecast: list[float], observed: list[float], baseline: HeatwaveBaseline | None = None
) -> xr.Dataset:
    """Derive from a series of days in °C, the init the last observed one."""
    first = f"{pd.Timestamp(INIT) - pd.Timedelta(days=len(observed) - 1):%Y-%m-%d}"
    return derive(
        settings,
        daily(settings, forecast, "2024-02-28", "lead_time"),
        daily(settings, observed, first, "time"),
        baseline,
    )


def at_sea(derived: xr.Dataset, name: str) -> list[float]:
    return derived[name].values[:, 0, 0].tolist()


def with_warm(settings: Settings, *warm: float) -> Settings:
    return settings.replace(products=ProductSettings(warm_celsius=warm))


def test_every_variable_is_as_declared(small: Settings, hot_above_21: HeatwaveBaseline) -> None:
    derived = made(small, [20.0] * LEADS, [20.0] * 4, hot_above_21)
    declared = variables(small)
    assert set(derived.data_vars) == set(declared)
    for name, variable in declared.items():
        assert derived[name].dims == ("lead_time", "latitude", "longitude")
        assert derived[name].dtype == variable.dtype
        assert derived[name].attrs == variable.attributes
        on_land = derived[name].values[:, ~SEA]
        np.testing.assert_array_equal(on_land, np.full_like(on_land, variable.fill_value))
        assert not np.isin(derived[name].values[:, SEA], variable.fill_value).any()
    assert set(derived.coords) == {"lead_time", "valid_time", "init_time", "latitude", "longitude"}


def test_observed_and_forecast_days_are_one_run(small: Settings, hot_above_21: HeatwaveBaseline) -> None:
    derived = made(small, [22.5, 23.5, 24.5, 20.0, 22.0, 22.0], [20.0, 20.0, 22.0, 22.0], hot_above_21)
    assert at_sea(derived, "heatwave_category") == [2, 3, 4, 0, 0, 0]
    broken = made(small, [22.5, 23.5, 24.5, 20.0, 22.0, 22.0], [22.0, 22.0, np.nan, 22.0], hot_above_21)
    assert at_sea(broken, "heatwave_category") == [0] * LEADS


def test_a_run_that_the_last_lead_cuts_short_is_no_heatwave(small: Settings, hot_above_21: HeatwaveBaseline) -> None:
    four = made(small, [20.0, 20.0, 21.5, 21.5, 21.5, 21.5], [20.0] * 4, hot_above_21)
    five = made(small, [20.0, 21.5, 21.5, 21.5, 21.5, 21.5], [20.0] * 4, hot_above_21)
    assert at_sea(four, "heatwave_category") == [0] * LEADS
    assert at_sea(five, "heatwave_category") == [0, 1, 1, 1, 1, 1]


def test_more_observed_days_than_needed_change_nothing(small: Settings, hot_above_21: HeatwaveBaseline) -> None:
    forecast, observed = [22.0, 20.0, 22.0, 22.0, 20.0, 20.0], [20.0, 22.0, 22.0, 22.0, 22.0, 22.0]
    xr.testing.assert_identical(
        made(small, forecast, observed, hot_above_21), made(small, forecast, observed[-OBSERVED_DAYS:], hot_above_21)
    )


def test_without_a_baseline_no_category_is_told_and_the_rest_is(small: Settings) -> None:
    derived = made(small, [25.0] * LEADS, [25.0] * 4)
    assert (derived["heatwave_category"] == -1).all()
    assert at_sea(derived, "threshold_flags") == [1] * LEADS


def test_flags_tell_each_temperature_that_is_crossed(small: Settings) -> None:
    derived = made(small, [24.0, 24.01, 28.5, 30.5, -1.8, -1.79], [20.0] * 4)
    assert at_sea(derived, "threshold_flags") == [0, 1, 3, 7, 8, 0]


def test_land_has_no_flag_but_no_forecast(small: Settings) -> None:
    flags = made(small, [25.0] * LEADS, [20.0] * 4)["threshold_flags"]
    assert (flags.values[:, ~SEA] == 64).all()
    assert not (flags.values[:, SEA] & 64).any()


def test_flags_are_named_by_the_settings(small: Settings) -> None:
    attributes = variables(with_warm(small, 26.0, 24.5))["threshold_flags"].attributes
    assert attributes["flag_masks"] == [1, 2, 4, 64]
    assert attributes["flag_meanings"] == "above_26_degC above_24.5_degC at_or_below_freezing no_forecast"
    assert "-1.8 degC" in attributes["comment"]


def test_a_region_may_flag_no_warm_temperature(small: Settings) -> None:
    derived = made(with_warm(small), [-2.0] * LEADS, [20.0] * 4)
    assert at_sea(derived, "threshold_flags") == [1] * LEADS


@pytest.mark.parametrize("warm", [(20.0, 21.0, 22.0, 23.0, 24.0, 25.0), (24.0, 24.0)])
def test_more_warm_temperatures_than_bits_or_one_twice_are_refused(small: Settings, warm: tuple[float, ...]) -> None:
    with pytest.raises(
        SettingsError, match=r"products.warm_celsius has \d temperatures, .*: give at most 5, each once"
    ):
        variables(with_warm(small, *warm))


def test_five_warm_temperatures_fit_into_the_bits(small: Settings) -> None:
    settings = with_warm(small, 20.0, 21.0, 22.0, 23.0, 24.0)
    assert at_sea(made(settings, [25.0, -3.0], [20.0] * 4), "threshold_flags") == [31, 32]
    assert variables(settings)["threshold_flags"].attributes["flag_masks"] == [1, 2, 4, 8, 16, 32, 64]


def test_the_tendency_is_negative_when_the_sea_cools_and_joins_observed_days(small: Settings) -> None:
    derived = made(small, [17.0, 17.0, 17.0, 14.0, 20.0, 17.0], [99.0, 20.0, 18.5, 17.0])
    rates = at_sea(derived, "sst_tendency_3d")
    np.testing.assert_allclose(rates, [-1.0, -0.5, 0.0, -1.0, 1.0, 0.0], atol=2e-5)


def test_the_tendency_is_missing_where_either_day_is(small: Settings) -> None:
    derived = made(small, [17.0, 17.0, np.nan, 14.0, 20.0, 17.0], [20.0, np.nan, 18.5, 17.0])
    assert np.isnan(at_sea(derived, "sst_tendency_3d")).tolist() == [True, False, True, False, False, True]
    assert at_sea(derived, "threshold_flags") == [0, 0, 64, 0, 0, 0]


def test_the_tendency_is_of_the_published_single_precision_values(small: Settings) -> None:
    forecast, observed = (
        daily(small, [20.0] * 4, first, dim) for first, dim in (("2024-02-28", "lead_time"), ("2024-02-24", "time"))
    )
    precise = forecast.astype("float64") + 1e-7
    xr.testing.assert_identical(derive(small, precise, observed, None), derive(small, forecast, observed, None))


@pytest.mark.parametrize("celsius", [[20.0] * (OBSERVED_DAYS - 1), [20.0] * OBSERVED_DAYS])
def test_observed_days_that_do_not_lead_up_to_the_forecast_are_refused(small: Settings, celsius: list[float]) -> None:
    first = "2024-02-25" if len(celsius) < OBSERVED_DAYS else "2024-02-23"
    with pytest.raises(ProductError, match=r"from 2024-02-27 is derived from with the 4 observed days up to it"):
        derive(
            small,
            daily(small, [20.0] * LEADS, "2024-02-28", "lead_time"),
            daily(small, celsius, first, "time"),
            None,
        )


def test_a_reader_is_told_method_baseline_and_that_it_is_no_probability(small: Settings) -> None:
    declared = variables(small)
    assert all("it is no probability" in variable.attributes["comment"] for variable in declared.values())
    category = declared["heatwave_category"].attributes
    assert "heatwave_baseline" in category["comment"] and "10.5670/oceanog.2018.205" in category["references"]
    assert category["flag_meanings"].split() == ["none", "moderate", "strong", "severe", "extreme"]
    assert category["flag_values"] == [0, 1, 2, 3, 4]


def test_a_decoding_reader_gets_missing_categories_as_nan_and_flags_as_integers(
    small: Settings, hot_above_21: HeatwaveBaseline, tmp_path: Path
) -> None:
    derived, declared = made(small, [21.5] * LEADS, [21.5] * 4, hot_above_21), variables(small)
    derived.to_netcdf(tmp_path / "derived.nc", engine="h5netcdf", encoding={n: encoded(v) for n, v in declared.items()})
    with xr.open_dataset(tmp_path / "derived.nc", engine="h5netcdf") as read:
        assert read["heatwave_category"].isnull().values[:, ~SEA].all()
        assert (read["heatwave_category"].values[:, SEA] == 1).all()
        assert read["threshold_flags"].dtype == np.int8
        assert read["sst_tendency_3d"].isnull().values[:, ~SEA].all()


def encoded(variable: DerivedVariable) -> dict[str, object]:
    return {"_FillValue": np.array(variable.fill_value, variable.dtype)[()] if variable.fill_is_missing else None}
