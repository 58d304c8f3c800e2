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
from datlstm.inputs import FIELDS
from datlstm.settings import Settings

INITS = pd.date_range("2024-04-25", periods=BATCH + 4)


@pytest.fixture
def days(trained: Settings) -> xr.Dataset:
    return Archive(trained).read(date(2024, 4, 20), date(2024, 5, 20))[list(FIELDS)].load()


def test_a_hindcast_of_many_inits_is_the_forecasts_one_by_one(champion: Bundle, days: xr.Dataset) -> None:
    together = forecast(champion, days, INITS)
    one_by_one = xr.concat([forecast(champion, days, INITS[[i]]) for i in range(len(INITS))], "init_time")
    xr.testing.assert_allclose(together, one_by_one, atol=1e-4, rtol=0)


def test_inits_are_forecast_in_the_order_given(champion: Bundle, days: xr.Dataset) -> None:
    chosen = INITS[[7, 1, 4]]
    xr.testing.assert_allclose(
        forecast(champion, days, chosen), forecast(champion, days, INITS).sel(init_time=chosen), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("make", [lambda bundle: bundle, lambda bundle: bundle.damped()])
def test_a_forecast_has_every_lead_its_valid_times_and_nan_on_land(
    champion: Bundle, days: xr.Dataset, make: Callable[[Bundle], Bundle]
) -> None:
    made = forecast(make(champion), days, INITS[:3])
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
    champion: Bundle, days: xr.Dataset, make: Callable[[Bundle], Bundle]
) -> None:
    gappy = days.copy(deep=True)
    gappy["sst"].loc[{"time": "2024-04-24"}] = np.nan
    gappy["sst"][:, 8:12, 8:12] = np.nan
    made = forecast(make(champion), gappy, INITS[:1]).values[0][:, champion.normaliser.ocean_mask.values]
    assert np.isfinite(made).all()
    whole = forecast(make(champion), days, INITS[:1]).values[0][:, champion.normaliser.ocean_mask.values]
    assert np.abs(made - whole).max() < 5


def test_damped_persistence_of_a_missing_cell_is_climatology(champion: Bundle, days: xr.Dataset) -> None:
    gappy = days.copy(deep=True)
    gappy["sst"][:, 10, 10] = np.nan
    made = forecast(champion.damped(), gappy, INITS[:1])[0, :, 10, 10]
    expected = champion.normaliser.climatology(made["valid_time"])[:, 10, 10]
    np.testing.assert_allclose(made, expected, atol=1e-4)


def test_only_the_input_days_matter(champion: Bundle, days: xr.Dataset) -> None:
    init = INITS[[3]]
    inside = pd.date_range(init[0] - pd.Timedelta(days=champion.input_days - 1), init[0])
    other = days.where(days["time"].isin(inside.values))
    xr.testing.assert_identical(forecast(champion, days, init), forecast(champion, other, init))


@pytest.mark.parametrize("missing", ["first", "middle", "last"])
def test_an_input_day_absent_from_the_axis_is_refused(champion: Bundle, days: xr.Dataset, missing: str) -> None:
    inits = pd.DatetimeIndex(["2024-05-01"])
    day = {"first": "2024-04-29", "middle": "2024-04-30", "last": "2024-05-01"}[missing]
    with pytest.raises(NotEnoughDataError, match="need input from 2024-04-29 on"):
        forecast(champion, days.sel(time=days["time"] != np.datetime64(day)), inits)


def test_the_baselines_come_on_the_same_inits_and_leads(champion: Bundle, days: xr.Dataset) -> None:
    made = forecast(champion, days, INITS[:3])
    references = reference_forecasts(champion, days["sst"], INITS[:3])
    assert list(references) == ["persistence", "climatology", "damped_persistence"]
    for field in references.values():
        assert field.dims == made.dims
        for name in ("init_time", "lead_time", "latitude", "longitude", "valid_time"):
            np.testing.assert_array_equal(field[name], made[name])
    initial = days["sst"].sel(time=INITS[:3])
    np.testing.assert_array_equal(references["persistence"].isel(lead_time=2), initial)
    xr.testing.assert_identical(references["damped_persistence"], forecast(champion.damped(), days, INITS[:3]))
