"""Hindcasts: as the nights would have been, where they would have been, and the same however often interrupted."""

import logging
from datetime import date, timedelta
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from datlstm import hindcast as library
from datlstm.archive import Archive
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.cli import app
from datlstm.errors import BundleError, NotEnoughDataError
from datlstm.forecasting import BASELINES, reference_forecasts
from datlstm.hindcast import hindcast, hindcast_cube
from datlstm.ingest import ingest
from datlstm.ladder import ForecastSource, nightly_forecast
from datlstm.products.forecast import forecast_cube
from datlstm.registry import bundle_ids, forecaster
from datlstm.settings import BaselineName, Settings
from datlstm.sources import open_source
from datlstm.store import Store
from tests.conftest import LAST_DAY

FIRST, LAST = LAST_DAY - timedelta(days=9), LAST_DAY


def cube_of(settings: Settings, bundle: Bundle, first: date = FIRST) -> xr.Dataset:
    found = hindcast_cube(settings, bundle.id, first).open()
    assert found is not None
    return found.load().drop_vars("created_at")


@pytest.fixture
def gapped(trained: Settings) -> Settings:
    """A trained store that lacks the first of the five days after its others."""
    ingest(trained, LAST + timedelta(days=2), LAST + timedelta(days=5), open_source(trained))
    return trained


def test_the_cube_has_what_the_nights_would_have_forecast_in_the_form_of_the_forecast_cube(trained: Settings) -> None:
    champion = forecaster(trained, None)
    assert [progress.forecasts for progress in hindcast(trained, champion, FIRST, LAST)] == [10]
    made = cube_of(trained, champion)
    assert made["init_time"].values.astype("datetime64[D]").tolist() == [FIRST + timedelta(days=i) for i in range(10)]
    for init in (FIRST, LAST):
        night = nightly_forecast(trained, init + timedelta(days=1))
        assert night.bundle.id == champion.id
        found = made.sel(init_time=np.datetime64(init, "ns"))
        np.testing.assert_allclose(found["sst"], night.sst, atol=1e-3)
        assert (found["model_id"].item(), int(found["forecast_source"])) == (champion.id, ForecastSource.MODEL)
        assert (found["archive_snapshot"].item(), int(found["input_age_days"])) == (night.snapshot_id, 1)
    ours = hindcast_cube(trained, champion.id, FIRST).structure()
    published = forecast_cube(trained).structure()
    assert ours["consolidated_metadata"] == published["consolidated_metadata"]
    assert ours["attributes"]["id"] == "datlstm-laizhou-hindcast"


def test_interrupted_after_a_commit_and_gone_on_with_it_ends_the_same_on_the_state_that_it_began_with(
    trained: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "INITS_PER_COMMIT", 4)
    whole = trained.replace(store=Path(copytree(trained.store.removeprefix("file://"), tmp_path / "whole")).as_uri())
    champion = forecaster(trained, None)
    assert len(list(hindcast(whole, champion, FIRST, LAST))) == 3
    interrupted = hindcast(trained, champion, FIRST, LAST)
    assert next(interrupted).last_day == FIRST + timedelta(days=3)
    interrupted.close()  # type: ignore[attr-defined]
    ingest(trained, LAST + timedelta(days=1), LAST + timedelta(days=1), open_source(trained))
    assert [progress.forecasts for progress in hindcast(trained, champion, FIRST, LAST)] == [4, 6]
    xr.testing.assert_identical(cube_of(trained, champion), cube_of(whole, champion))
    assert list(hindcast(trained, champion, FIRST, LAST)) == []


def test_a_day_that_a_night_would_not_have_forecast_from_stays_a_gap(gapped: Settings) -> None:
    champion = forecaster(gapped, None)
    strict = gapped.replace(forecast=gapped.forecast.model_copy(update={"maximum_missing_inputs": 0}))
    list(hindcast(strict, champion, LAST, LAST + timedelta(days=5)))
    made = cube_of(strict, champion, LAST)
    assert made["forecast_source"].values.tolist() == [1, 0, 0, 0, 1, 1]
    assert made["n_missing_inputs"].values[[0, 4, 5]].tolist() == [0, 0, 0]
    assert bool(made["sst"].isel(init_time=slice(1, 4)).isnull().all())


def test_damped_persistence_forecasts_from_every_day_that_has_truth(gapped: Settings) -> None:
    (name,) = (name for name in bundle_ids(Store(gapped.store)) if DAMPED_PERSISTENCE.replace("_", "-") in name)
    damped = forecaster(gapped, name)
    list(hindcast(gapped, damped, LAST, LAST + timedelta(days=5)))
    made = cube_of(gapped, damped, LAST)
    assert made["forecast_source"].values.tolist() == [2, 0, 2, 2, 2, 2]
    assert made["n_missing_inputs"].values[2:].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("name", BASELINES)
def test_each_baseline_hindcasts_what_models_are_scored_beside(trained: Settings, name: BaselineName) -> None:
    baseline = forecaster(trained, None).baseline(name)
    list(hindcast(trained, baseline, FIRST, LAST))
    made = cube_of(trained, baseline)
    assert set(made["model_id"].values) == {baseline.id}
    assert baseline.id.startswith(f"laizhou-{name.replace('_', '-')}-")
    days = Archive(trained).read(FIRST, LAST)["sst"].load()
    expected = reference_forecasts(baseline, days, made.indexes["init_time"])[name]
    np.testing.assert_allclose(made["sst"], expected, atol=1e-3)
    assert bool(made["sst_spread"].isnull().all())


def test_a_field_that_is_not_credible_is_left_out(trained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    champion, bad = forecaster(trained, None), np.datetime64(FIRST + timedelta(days=2), "ns")

    def made(*arguments: object) -> xr.Dataset:
        fields = real(*arguments)  # type: ignore[arg-type]
        return fields.where(fields["init_time"] != bad, 400.0)

    real = library.probabilistic
    monkeypatch.setattr(library, "probabilistic", made)
    assert list(hindcast(trained, champion, FIRST, LAST))[-1].forecasts == 9
    assert cube_of(trained, champion)["forecast_source"].values.tolist() == [1, 1, 0, *[1] * 7]


def test_days_that_a_bundle_was_trained_on_are_warned_of(trained: Settings, caplog: pytest.LogCaptureFixture) -> None:
    champion = forecaster(trained, None)
    day = date.fromisoformat(champion.training["last_day"])
    with caplog.at_level(logging.WARNING, logger="datlstm.hindcast"):
        list(hindcast(trained, champion, FIRST, FIRST))
        assert not caplog.text
        list(hindcast(trained, champion, day, day))
    assert f"was trained on {champion.training['first_day']} … {day}" in caplog.text


def test_what_can_not_be_is_told(trained: Settings, settings: Settings) -> None:
    champion = forecaster(trained, None)
    with pytest.raises(NotEnoughDataError, match="from no day of 1999-01-01 … 1999-01-31: backfill"):
        list(hindcast(trained, champion, date(1999, 1, 1), date(1999, 1, 31)))
    with pytest.raises(BundleError, match="no champion yet"):
        forecaster(settings, None)
    east = trained.replace(region=trained.region.model_copy(update={"name": "east"}))
    with pytest.raises(BundleError, match="is for region 'laizhou'"):
        list(hindcast(east, champion, FIRST, LAST))


def test_the_command_tells_how_far_it_is_and_where_the_cube_lies(
    trained: Settings, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", trained.store)
    told = CliRunner().invoke(app, ["hindcast", "--from", str(FIRST), "--to", str(LAST), "-s", str(settings_file)])
    assert told.exit_code == 0, told.output
    bundle_id = forecaster(trained, None).id
    assert f"to {LAST}: 10 forecasts made" in told.output
    assert f"hindcasts/{bundle_id}-from-{FIRST}.zarr" in told.output.replace("\n", "")
