"""Forecasts of a bundle: shape, gaps, many inits at once."""

from collections.abc import Callable
from datetime import date

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.errors import NotEnoughDataError
from datlstm.forecasting import BATCH, forecast, reference_forecasts
from datlstm.settings import Settings

INITS = pd.date_range("2024-04-25", periods=BATCH + 4)


@pytest.fixture
def sst(trained: Settings) -> xr.DataArray:
    return Archive(trained).read(date(2024, 4, 20), date(2024, 5, 20))["sst"].load()


def test_a_hindcast_of_many_inits_is_the_forecasts_one_by_one(champion: Bundle, sst: xr.DataArray) -> None:
    together = forecast(champion, sst, INITS)
    one_by_one = xr.concat([forecast(champion, sst, INITS[[i]]) for i in range(len(INITS))], "init_time")
    xr.testing.assert_allclose(together, one_by_one, atol=1e-4, rtol=0)


def test_inits_are_forecast_in_the_order_given(champion: Bundle, sst: xr.DataArray) -> None:
    chosen = INITS[[7, 1, 4]]
    xr.testing.assert_allclose(
        forecast(champion, sst, chosen), forecast(champion, sst, INITS).sel(init_time=chosen), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("make", [lambda bundle: bundle, lambda bundle: bundle.damped()])
def test_a_forecast_has_every_lead_its_valid_times_and_nan_on_land(
    champion: Bundle, sst: xr.DataArray, make: Callable[[Bundle], Bundle]
) -> None:
    made = forecast(make(champion), sst, INITS[:3])
    assert made.dims == ("init_time", "lead_time", "latitude", "longitude")
    assert made.dtype == np.float32
    assert made["lead_time"].values.tolist() == [1, 2, 3, 4]
    for lead in range(1, 5):
        np.testing.assert_array_equal(made["valid_time"].sel(lead_time=lead), INITS[:3] + pd.Timedelta(days=lead))
    assert not champion.normaliser.ocean_mask.all()
    np.testing.assert_array_equal(
        made.notnull(), champion.normaliser.ocean_mask.broadcast_like(made).transpose(*made.dims)
    )


@pytest.mark.parametrize("make", [lambda bundle: bundle, lambda bundle: bundle.damped()])
def test_missing_cells_and_days_of_input_leave_no_gap_in_the_forecast(
    champion: Bundle, sst: xr.DataArray, make: Callable[[Bundle], Bundle]
) -> None:
    gappy = sst.copy()
    gappy.loc[{"time": "2024-04-24"}] = np.nan
    gappy[:, 8:12, 8:12] = np.nan
    made = forecast(make(champion), gappy, INITS[:1]).values[0][:, champion.normaliser.ocean_mask.values]
    assert np.isfinite(made).all()
    whole = forecast(make(champion), sst, INITS[:1]).values[0][:, champion.normaliser.ocean_mask.values]
    assert np.abs(made - whole).max() < 5


def test_damped_persistence_of_a_missing_cell_is_climatology(champion: Bundle, sst: xr.DataArray) -> None:
    gappy = sst.copy()
    gappy[:, 10, 10] = np.nan
    made = forecast(champion.damped(), gappy, INITS[:1])[0, :, 10, 10]
    expected = champion.normaliser.climatology(made["valid_time"])[:, 10, 10]
    np.testing.assert_allclose(made, expected, atol=1e-4)


def test_only_the_input_days_matter(champion: Bundle, sst: xr.DataArray) -> None:
    init, other = INITS[[3]], sst.copy()
    inside = pd.date_range(init[0] - pd.Timedelta(days=champion.input_days - 1), init[0])
    other.values[~np.isin(other["time"].values, inside.values)] = np.nan
    xr.testing.assert_identical(forecast(champion, sst, init), forecast(champion, other, init))


@pytest.mark.parametrize("missing", ["first", "middle", "last"])
def test_an_input_day_absent_from_the_axis_is_refused(champion: Bundle, sst: xr.DataArray, missing: str) -> None:
    inits = pd.DatetimeIndex(["2024-05-01"])
    day = {"first": "2024-04-29", "middle": "2024-04-30", "last": "2024-05-01"}[missing]
    with pytest.raises(NotEnoughDataError, match="need input from 2024-04-29 on"):
        forecast(champion, sst.sel(time=sst["time"] != np.datetime64(day)), inits)


def test_the_baselines_come_on_the_same_inits_and_leads(champion: Bundle, sst: xr.DataArray) -> None:
    made = forecast(champion, sst, INITS[:3])
    references = reference_forecasts(champion, sst, INITS[:3])
    assert list(references) == ["persistence", "climatology", "damped_persistence"]
    for field in references.values():
        assert field.dims == made.dims
        for name in ("init_time", "lead_time", "latitude", "longitude", "valid_time"):
            np.testing.assert_array_equal(field[name], made[name])
    initial = sst.sel(time=INITS[:3])
    np.testing.assert_array_equal(references["persistence"].isel(lead_time=2), initial)
    xr.testing.assert_identical(references["damped_persistence"], forecast(champion.damped(), sst, INITS[:3]))
