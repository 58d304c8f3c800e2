"""The calibration finds the weights and the errors that made a forecast, and keeps what it can't judge."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.calibrating import FOLDS
from datlstm.calibrating import INITS as SAMPLED
from datlstm.calibration import MINIMUM_INITS, SEASONS, calibrated, fit_calibration, season_of

DIMS = ("init_time", "lead_time", "latitude", "longitude")
INITS = pd.date_range("2020-01-01", periods=366)
SHAPE = (len(INITS), 2, 5, 6)
SUMMER = (INITS.month % 12 // 3) == 2
WEIGHTS = xr.DataArray(np.linspace(0.5, 1.5, 30).reshape(5, 6), dims=DIMS[2:])


def field(values: np.ndarray) -> xr.DataArray:
    coords = {"init_time": INITS, "lead_time": [1, 2]}
    return xr.DataArray(np.broadcast_to(values, SHAPE).astype("float32"), coords, DIMS)


def noise(seed: int, size: float = 1.0) -> np.ndarray:
    return size * np.random.default_rng(seed).standard_normal(SHAPE)


def by_season(calibration: xr.Dataset, name: str, season: str) -> list[float]:
    return calibration[name].sel(season=season).values.tolist()


def test_a_blend_of_model_damped_persistence_and_climatology_is_found_by_season() -> None:
    mean, damped = noise(1), noise(2)
    truth = np.where(SUMMER[:, None, None, None], 0.5 * mean + 0.3 * damped, mean) + noise(3, 0.1)
    found = fit_calibration(field(mean), field(0 * mean), field(damped), field(truth), WEIGHTS)
    assert by_season(found, "model_weight", "JJA") == pytest.approx([0.5, 0.5], abs=0.01)
    assert by_season(found, "damped_weight", "JJA") == pytest.approx([0.3, 0.3], abs=0.01)
    assert by_season(found, "model_weight", "SON") == pytest.approx([1.0, 1.0], abs=0.01)
    anomaly, _ = calibrated(found, field(mean), field(0 * mean), field(damped))
    np.testing.assert_allclose(anomaly[SUMMER], (0.5 * mean + 0.3 * damped)[SUMMER], atol=0.1)


def test_weights_are_neither_negative_nor_more_than_one_together() -> None:
    mean, damped = noise(1), noise(2)
    found = fit_calibration(field(mean), field(0 * mean), field(damped), field(2 * mean - damped), WEIGHTS)
    weights = np.stack([found["model_weight"], found["damped_weight"]])
    assert weights.min() >= 0 and weights.sum(0).max() <= 1 + 1e-9


def test_the_expected_error_is_the_error_where_members_differ_more_and_in_rougher_cells() -> None:
    mean = noise(1)
    assert "season" not in calibrated(None, field(mean), field(mean), field(mean))[0].coords
    variance = np.random.default_rng(4).uniform(0.01, 0.2, SHAPE)
    rough = np.linspace(0.1, 1.0, 6)
    truth = mean + np.sqrt(3 * variance) * noise(5)
    found = fit_calibration(field(mean), field(variance), field(0 * mean), field(truth), WEIGHTS)
    assert by_season(found, "variance_factor", "MAM") == pytest.approx([3, 3], rel=0.15)
    _, spread = calibrated(found, field(mean), field(variance), field(0 * mean))
    assert float((spread**2).mean()) == pytest.approx(float(((truth - mean) ** 2).mean()), rel=0.05)
    truth, none = mean + rough * noise(6), field(0 * mean)
    found = fit_calibration(field(mean), none, none, field(truth), WEIGHTS)
    _, spread = calibrated(found, field(mean), none, none)
    np.testing.assert_allclose(spread.mean(DIMS[:3]), rough, rtol=0.1)


def test_the_blend_goes_as_far_from_the_raw_mean_as_there_is_evidence() -> None:
    mean, damped = noise(1), noise(2)
    fields = (field(mean), field(0 * mean), field(damped), field(0.5 * mean + 0.3 * damped), WEIGHTS)
    whole, quarter = fit_calibration(*fields), fit_calibration(*fields, 0.25)
    for name, raw in (("model_weight", 1), ("damped_weight", 0)):
        np.testing.assert_allclose(quarter[name], raw + 0.25 * (whole[name] - raw), atol=1e-9)
    # What is left of the error is expected.
    assert float(quarter["mean_square_error"].mean()) > 10 * float(whole["mean_square_error"].mean())


def test_missing_truth_counts_for_nothing() -> None:
    mean, damped, truth = noise(1), noise(2), noise(3)
    gappy = np.where(np.random.default_rng(7).random(SHAPE) < 0.3, np.nan, truth)
    gappy[:, :, 0, 0] = np.nan
    found = fit_calibration(field(mean), field(0 * mean), field(damped), field(gappy), WEIGHTS)
    assert all(np.isfinite(found[name]).all() for name in found.data_vars)
    other = np.where(np.isnan(gappy), 1e3, mean)
    again = fit_calibration(field(other), field(0 * mean), field(damped), field(gappy), WEIGHTS)
    xr.testing.assert_allclose(found, again)


@pytest.mark.parametrize("first", pd.date_range("2023-01-01", periods=12, freq="MS"))
def test_every_fold_of_a_year_leaves_enough_inits_of_each_season(first: pd.Timestamp) -> None:
    days = pd.date_range(first, periods=366 - 20)
    inits = days[np.unique(np.linspace(0, len(days) - 1, SAMPLED).round().astype(int))]
    season = season_of(xr.DataArray(inits)).values
    for fold in np.array_split(np.arange(len(inits)), FOLDS):
        left = np.bincount(np.delete(season, fold), minlength=len(SEASONS))
        assert left.min() >= MINIMUM_INITS


def test_a_season_with_few_inits_keeps_the_raw_forecast() -> None:
    few = slice(0, 60 + MINIMUM_INITS - 1)
    mean, damped = (field(noise(seed)).isel(init_time=few) for seed in (1, 2))
    found = fit_calibration(mean, 0 * mean, damped, damped, WEIGHTS)
    assert by_season(found, "damped_weight", "DJF") == pytest.approx([1, 1], abs=0.01)
    for season in ("MAM", "JJA", "SON"):
        assert by_season(found, "model_weight", season) == [1, 1]
        assert by_season(found, "damped_weight", season) == [0, 0]
        assert by_season(found, "error_factor", season) == [1, 1]


def test_without_a_calibration_the_forecast_is_the_mean_and_its_error_unknown() -> None:
    mean = field(noise(1))
    anomaly, spread = calibrated(None, mean, mean, mean)
    xr.testing.assert_identical(anomaly, mean)
    assert spread.isnull().all()


def test_seasons_are_those_of_the_init() -> None:
    inits = xr.DataArray(pd.to_datetime(["2020-12-01", "2021-02-28", "2021-03-01", "2021-08-31", "2021-11-30"]))
    assert [SEASONS[place] for place in season_of(inits).values] == ["DJF", "DJF", "MAM", "JJA", "SON"]
