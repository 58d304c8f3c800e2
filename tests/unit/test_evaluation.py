"""Evaluation: perfect and spoilt forecasts of a real archive have the scores that they must have."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr
from typer.testing import CliRunner

from datlstm.archive import Archive
from datlstm.areas import ALL_SURFACES, REGION
from datlstm.bundle import Bundle
from datlstm.calibrating import cross_fitted
from datlstm.cli import app
from datlstm.comparison.sst import hindcast_scores
from datlstm.errors import NotEnoughDataError
from datlstm.evaluation import BANDS, Forecaster, evaluate, of_bundle
from datlstm.evaluation_report import report
from datlstm.products.heatwave import HeatwaveBaseline
from datlstm.settings import Settings, load_settings
from datlstm.skill_card import by_lead, comparison, skill_card
from datlstm.store import Store
from datlstm.verification import pooled_rmse

PERIOD = (date(2024, 4, 10), date(2024, 5, 25))
WHOLE = {"area": REGION, "surface": ALL_SURFACES}


def truth_forecaster(settings: Settings, change: Callable[[xr.DataArray], xr.DataArray], spread: float) -> Forecaster:
    """Knows the truth, and changes it."""
    sst = Archive(settings).read(date(2024, 3, 1), date(2024, 5, 31))["sst"].load()

    def forecast(days: xr.Dataset, inits: pd.DatetimeIndex) -> xr.Dataset:
        leads = xr.DataArray(np.arange(1, 5), dims="lead_time", coords={"lead_time": np.arange(1, 5)})
        valid = xr.DataArray(inits, dims="init_time", coords={"init_time": inits}) + leads * np.timedelta64(1, "D")
        field = change(sst).reindex(time=np.unique(valid)).ffill("time").sel(time=valid).drop_vars("time")
        field = field.assign_coords(valid_time=valid)
        return xr.Dataset({"sst": field, "sst_spread": xr.full_like(field, spread)})

    return forecast


@pytest.fixture(scope="module")
def daily(settings_file: Path, trained_store: Path, champion: Bundle) -> xr.Dataset:
    trained = load_settings(str(settings_file)).replace(store=trained_store.as_uri())

    def smoothed(sst: xr.DataArray) -> xr.DataArray:
        expected = champion.normaliser.climatology(sst["time"]).transpose(*sst.dims)
        return expected + (sst - expected).rolling(latitude=3, center=True, min_periods=1).mean()

    contenders = {
        "perfect": truth_forecaster(trained, lambda sst: sst, 0.5),
        "warm": truth_forecaster(trained, lambda sst: sst + 0.5, 0.5),
        "smooth": truth_forecaster(trained, smoothed, 1.0),
        "datlstm": of_bundle(champion),
    }
    return evaluate(trained, contenders, champion, PERIOD, Archive(trained).snapshot_id())


def test_a_perfect_forecast_has_no_error_and_a_warm_one_its_bias(daily: xr.Dataset) -> None:
    whole = daily.sel(WHOLE)
    perfect, warm = (whole.sel(forecaster=name) for name in ("perfect", "warm"))
    np.testing.assert_allclose(perfect["rmse"], 0, atol=1e-4)
    np.testing.assert_allclose(warm["bias"], 0.5, atol=1e-3)
    np.testing.assert_allclose(warm["rmse"], 0.5, atol=1e-3)
    np.testing.assert_array_equal(*(daily["n"].sel(forecaster=name) for name in ("perfect", "climatology")))
    assert len(daily["valid_time"]) == 46
    assert set(daily["forecaster"].values) == {
        *("perfect", "warm", "smooth", "datlstm", "persistence", "climatology", "damped_persistence"),
    }


def test_the_crps_is_that_of_a_normal_forecast(daily: xr.Dataset) -> None:
    whole = daily.sel(WHOLE)
    sample = scipy.stats.norm(0.5, 0.5)
    x = np.linspace(-5, 6, 200_001)
    expected = np.trapezoid((sample.cdf(x) - (x >= 0)) ** 2, x)
    np.testing.assert_allclose(whole["crps"].sel(forecaster="warm"), expected, rtol=1e-3)
    np.testing.assert_allclose(whole["spread"].sel(forecaster="warm"), 0.5, rtol=1e-5)
    assert whole["crps"].sel(forecaster="damped_persistence").isnull().all()


def test_a_smoothed_forecast_lacks_gradients_and_short_waves(daily: xr.Dataset) -> None:
    def ratio(name: str, forecaster: str) -> xr.DataArray:
        one = daily.sel(forecaster=forecaster).mean("valid_time")
        return one[name] / one[f"truth_{name}"]

    np.testing.assert_allclose(ratio("gradient", "perfect"), 1, rtol=1e-3)
    np.testing.assert_allclose(ratio("gradient", "warm"), 1, rtol=1e-3)
    assert (ratio("gradient", "smooth") < 0.9).all()
    np.testing.assert_allclose(ratio("power", "perfect"), 1, rtol=1e-3)
    smooth = ratio("power", "smooth").transpose("band", ...)
    assert len(smooth) == len(BANDS) + 1
    assert (smooth.isel(band=-1) < smooth.isel(band=0)).all()


def test_power_is_parseval_s_mean_square(daily: xr.Dataset, trained: Settings, champion: Bundle) -> None:
    sst = Archive(trained).read(*PERIOD)["sst"].load()
    anomaly = sst - champion.normaliser.climatology(sst["time"])
    deviation = (anomaly - anomaly.mean(("latitude", "longitude"))).fillna(0.0)
    expected = (deviation**2).mean(("latitude", "longitude"))
    power = daily["truth_power"].sel(forecaster="perfect").isel(lead_time=0).sum("band")
    np.testing.assert_allclose(power, expected, rtol=1e-3)


def test_scores_are_those_of_the_hindcasts_scored_another_way(
    daily: xr.Dataset, trained: Settings, champion: Bundle
) -> None:
    card = by_lead(daily)["rmse"]
    other = pooled_rmse(hindcast_scores(trained, champion, PERIOD))
    for name in ("datlstm", "persistence", "climatology", "damped_persistence"):
        np.testing.assert_allclose(card[name], other.sel(forecaster=name), rtol=1e-4)


def test_heatwaves_of_the_truth_are_hit_and_an_invented_one_is_a_false_alarm(
    trained: Settings, champion: Bundle
) -> None:
    sst = Archive(trained).read(date(2024, 4, 1), date(2024, 5, 31))["sst"].load()
    ocean = champion.normaliser.ocean_mask
    days = xr.DataArray(np.arange(1, 367, dtype="int32"), dims="dayofyear")
    threshold = (float(sst.min()) - 1 + 0 * sst[0].drop_vars("time")).where(ocean).expand_dims(dayofyear=days)
    always = HeatwaveBaseline(threshold.astype("float32") - 1, threshold.astype("float32"), (2020, 2021), "test")
    never = replace(always, threshold=always.threshold + 100, climatology=always.climatology + 90)
    snapshot = Archive(trained).snapshot_id()
    perfect = {"perfect": truth_forecaster(trained, lambda field: field, 0.5)}
    found = evaluate(trained, perfect, champion, PERIOD, snapshot, always).sel(forecaster="perfect", **WHOLE)
    assert (found["hits"] == found["n"]).all() and not found["misses"].any() and not found["false_alarms"].any()
    hot = {"hot": truth_forecaster(trained, lambda field: field + 200, 0.5)}
    # The first four leads can only be a run of five with a hot day observed, and none was.
    found = evaluate(trained, hot, champion, PERIOD, snapshot, never).sel(forecaster="hot", **WHOLE)
    assert not found["hits"].any() and not found["misses"].any() and not found["false_alarms"].any()


def test_a_period_without_truth_is_refused(trained: Settings, champion: Bundle) -> None:
    with pytest.raises(NotEnoughDataError, match="no forecast of .* can be scored in 2030-01-01 … 2030-01-31"):
        evaluate(trained, {}, champion, (date(2030, 1, 1), date(2030, 1, 31)), Archive(trained).snapshot_id())


def test_a_card_tells_what_the_gate_asks(trained: Settings, champion: Bundle) -> None:
    worse = replace(champion, weights={name: 1.5 * value for name, value in champion.weights.items()})
    card = skill_card(trained, worse, champion)
    assert card["period"] == ["2024-04-02", "2024-05-31"]
    assert card["days"] == 60 and card["days_of_seasons"] == {"DJF": 0, "MAM": 60, "JJA": 0, "SON": 0}
    assert list(card["rmse"]) == ["datlstm", "champion", "persistence", "climatology", "damped_persistence"]
    assert all(len(values) == 4 and np.isfinite(values).all() for values in card["rmse"].values())
    assert card["rmse"]["datlstm"] != card["rmse"]["champion"]
    assert card["champion"] == champion.id
    assert set(card["against"]["champion"]["loss"]) == {"lead", "season", "area"}
    assert list(card["spread"]) == ["datlstm", "champion"]
    assert champion.card["against"]["persistence"]["loss"]["lead"]["1"] == pytest.approx(
        champion.card["rmse"]["datlstm"][0] / champion.card["rmse"]["persistence"][0] - 1, rel=1e-4
    )


def test_a_validation_period_without_an_init_is_refused(trained: Settings, champion: Bundle) -> None:
    greedy = replace(champion, input_days=60)
    short = trained.replace(training=trained.training.model_copy(update={"validation_days": 30}))
    with pytest.raises(NotEnoughDataError, match="no usable init day"):
        skill_card(short, greedy, None)


def test_days_are_forecast_with_a_calibration_that_was_not_fitted_on_them(trained: Settings, champion: Bundle) -> None:
    days = Archive(trained).read(date(2024, 3, 25), date(2024, 5, 31)).load()
    inits = pd.date_range("2024-04-05", "2024-05-25")
    forecast = cross_fitted(trained, champion)
    made, plain = forecast(days, inits), of_bundle(champion)(days, inits)
    assert made["sst"].dims == plain["sst"].dims
    np.testing.assert_array_equal(made["init_time"], inits)
    assert np.abs(made["sst"] - plain["sst"]).max() < 0.3
    assert (made["sst_spread"] != plain["sst_spread"]).any()
    shuffled = forecast(days, inits[[7, 3, 30]])
    np.testing.assert_allclose(shuffled["sst"], made["sst"].sel(init_time=inits[[7, 3, 30]]), atol=1e-4)


def test_a_comparison_of_a_forecaster_with_itself_gains_nothing(daily: xr.Dataset) -> None:
    found = comparison(daily, "datlstm", "datlstm")
    assert found["gain"] == found["low"] == found["high"] == 0 and found["confidence"] is None
    assert set(found["loss"]["lead"].values()) == {0.0}
    assert found["loss"]["season"] == {"MAM": 0.0}


def test_the_report_has_every_part(daily: xr.Dataset, tmp_path: Path) -> None:
    chosen = daily.sel(forecaster=["datlstm", "persistence", "climatology", "damped_persistence"])
    told = report(chosen, "datlstm", "laizhou-datlstm-1", PERIOD)
    for part in (
        "# laizhou-datlstm-1, 2024-04-10 … 2024-05-25",
        "46 valid days",
        "| RMSE °C, datlstm |",
        "| damped persistence |",
        "| MAM, datlstm |",
        "| gradient power over the truth's, datlstm |",
        "| CRPS °C |",
        "| spread over RMSE |",
    ):
        assert part in told


def test_the_command_writes_the_report_of_the_champion(
    trained: Settings, champion: Bundle, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", trained.store)
    path = tmp_path / "report.md"
    options = ["--settings", str(settings_file), "--output", str(path)]
    told = CliRunner().invoke(app, ["evaluate", "--from", "2024-05-01", "--to", "2024-05-20", *options])
    assert told.exit_code == 0, told.output
    assert path.read_text().startswith(f"# {champion.id}, 2024-05-01 … 2024-05-20")
    assert "20 valid days" in told.output
    damped = champion.damped().save(Store(trained.store))
    told = CliRunner().invoke(
        app, ["evaluate", "--from", "2024-05-01", "--to", "2024-05-20", "--bundle", damped, *options]
    )
    assert told.exit_code == 0, told.output
    told = CliRunner().invoke(app, ["evaluate", "--from", "2031-05-01", "--to", "2031-05-20", *options])
    assert told.exit_code == 1
