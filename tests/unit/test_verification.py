"""Scores against numbers worked out by hand in numpy."""

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.verification import pooled_rmse, score, valid_truth

DIMS = ("init_time", "lead_time", "latitude", "longitude")
COORDS = {
    "init_time": pd.date_range("2024-01-01", periods=2),
    "lead_time": [1, 2, 3],
    "latitude": [10.0, 40.0, 70.0],
    "longitude": [119.0, 149.0],
}
SHAPE = (2, 3, 3, 2)
WEIGHTS = np.cos(np.deg2rad([10.0, 40.0, 70.0]))[:, None] * np.ones(2)


def field(seed: int, mean: float = 290.0) -> xr.DataArray:
    values = mean + np.random.default_rng(seed).normal(0, 1, SHAPE)
    return xr.DataArray(values, dims=DIMS, coords=COORDS)


def weighted_mean(values: np.ndarray, sample: np.ndarray) -> np.ndarray:
    weights = np.where(sample, WEIGHTS, 0.0)
    return (weights * np.where(sample, values, 0.0)).sum((-2, -1)) / weights.sum((-2, -1))


def test_scores_are_area_weighted_over_the_sample_all_forecasters_share() -> None:
    truth, first, second, climatology = field(1), field(2, 290.3), field(3), field(4)
    truth[0, 0, 0, 0] = np.nan
    first[0, :, 2, 1] = np.nan
    second[1, 1, 1, :] = np.nan
    scored = score({"a": first, "b": second}, truth, climatology)
    sample = truth.notnull().values & first.notnull().values & second.notnull().values
    assert scored["rmse"].dims == scored["n"].dims == ("forecaster", "init_time", "lead_time")
    for name, forecast in (("a", first), ("b", second)):
        own, error = scored.sel(forecaster=name), forecast.values - truth.values
        np.testing.assert_allclose(own["rmse"], np.sqrt(weighted_mean(error**2, sample)), rtol=1e-6)
        np.testing.assert_allclose(own["mae"], weighted_mean(abs(error), sample), rtol=1e-6)
        np.testing.assert_allclose(own["bias"], weighted_mean(error, sample), rtol=1e-5, atol=1e-7)
        f, o = forecast.values - climatology.values, truth.values - climatology.values
        acc = weighted_mean(f * o, sample) / np.sqrt(weighted_mean(f**2, sample) * weighted_mean(o**2, sample))
        np.testing.assert_allclose(own["acc"], acc, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(own["n"], sample.sum((-2, -1)))


def test_a_cell_that_one_forecaster_lacks_counts_for_none() -> None:
    truth, whole, gappy = field(1), field(2), field(3)
    whole[0, 0, 2, 1] = 999.0
    gappy[0, 0, 2, 1] = np.nan
    scored = score({"whole": whole, "gappy": gappy}, truth, field(4))
    assert scored["n"].sel(lead_time=1).isel(init_time=0).values.tolist() == [5, 5]
    assert scored["rmse"].sel(forecaster="whole", lead_time=1).isel(init_time=0) < 10


def test_a_perfect_forecast_has_no_error_and_full_correlation() -> None:
    truth = field(1)
    scored = score({"perfect": truth}, truth, field(4)).isel(forecaster=0)
    for name in ("rmse", "mae", "bias"):
        np.testing.assert_array_equal(scored[name], 0.0)
    np.testing.assert_allclose(scored["acc"], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(scored["n"], 6)


def test_the_bias_is_forecast_minus_truth() -> None:
    scored = score({"warm": field(1) + 0.5}, field(1), field(4))
    np.testing.assert_allclose(scored["bias"], 0.5, rtol=1e-5)


def test_a_high_latitude_error_weighs_less_than_a_low_one() -> None:
    truth = field(1)
    low, high = truth.copy(), truth.copy()
    low[..., 0, :] += 1
    high[..., 2, :] += 1
    scored = score({"low": low, "high": high}, truth, field(4))["rmse"] ** 2
    ratio = scored.sel(forecaster="high") / scored.sel(forecaster="low")
    np.testing.assert_allclose(ratio, np.cos(np.deg2rad(70)) / np.cos(np.deg2rad(10)), rtol=1e-5)


def test_where_there_is_no_truth_there_is_no_score() -> None:
    truth = field(1)
    truth[1, 2] = np.nan
    scored = score({"a": field(2)}, truth, field(4)).isel(forecaster=0)
    absent = scored.isel(init_time=1, lead_time=2)
    assert absent["n"] == 0
    assert all(np.isnan(absent[name]) for name in ("rmse", "mae", "bias", "acc"))
    assert np.isfinite(scored.isel(init_time=0)["acc"]).all()


def test_a_forecast_of_climatology_has_no_correlation() -> None:
    climatology = field(4)
    scored = score({"climatology": climatology}, field(1), climatology)
    assert scored["acc"].isnull().all()
    assert scored["rmse"].notnull().all()


def test_pooling_weights_each_init_by_its_cells_and_skips_those_without() -> None:
    rmse = xr.DataArray([[[1.0, np.nan], [2.0, 5.0], [np.nan, 3.0]]], dims=("forecaster", "init_time", "lead_time"))
    n = xr.DataArray([[[10, 0], [30, 4], [0, 12]]], dims=rmse.dims)
    pooled = pooled_rmse(xr.Dataset({"rmse": rmse, "n": n}))
    np.testing.assert_allclose(pooled[0], [np.sqrt((10 + 30 * 4) / 40), np.sqrt((4 * 25 + 12 * 9) / 16)])


def test_truth_is_the_field_of_the_valid_day_or_absent() -> None:
    days = pd.date_range("2024-01-01", periods=3)
    sst = xr.DataArray([1.0, 2.0, 3.0], dims="time", coords={"time": days})
    inits = xr.DataArray(days[:2], dims="init_time", coords={"init_time": days[:2]})
    valid = inits + xr.DataArray(pd.to_timedelta([1, 2], "D"), dims="lead_time", coords={"lead_time": [1, 2]})
    truth = valid_truth(sst, valid)
    np.testing.assert_array_equal(truth, [[2.0, 3.0], [3.0, np.nan]])
    assert truth.dims == ("init_time", "lead_time")
