"""Every architecture under one budget on one sample, beside the baselines of the verification."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from shutil import copytree
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from rich.console import Console

from datlstm.archive import Archive
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.comparison import sst, sst_table
from datlstm.ensemble import build_members
from datlstm.errors import NotEnoughDataError, SettingsError
from datlstm.forecasting import forecast, reference_forecasts
from datlstm.inputs import FIELDS
from datlstm.models import ARCHITECTURES
from datlstm.models.frames import Head
from datlstm.preparation import prepare
from datlstm.registry import bundle_ids, champion_id
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.training import effective_recipe, network_config
from datlstm.verification import pooled_rmse, score, valid_truth

TEST = (date(2024, 5, 10), date(2024, 5, 20))
BASELINES = ["damped_persistence", "persistence", "climatology"]
NAMES = sorted(ARCHITECTURES)


def small(settings: Settings, **training: Any) -> Settings:
    """Settings of a training of two steps, whose periods end before the test period starts."""
    effort = {"epochs": 1, "windows_per_epoch": 16, "validation_last_day": TEST[0] - timedelta(days=1)}
    return settings.replace(training={**dict(settings.training), **effort, **training})


@pytest.fixture(scope="module")
def compared(settings_file: Path, filled_store: Path, tmp_path_factory: pytest.TempPathFactory) -> sst.Comparison:
    """All architectures on the test period, in a store of their own."""
    folder = copytree(filled_store, tmp_path_factory.mktemp("compared") / "store")
    settings = small(load_settings(str(settings_file)).replace(store=folder.as_uri()))
    return sst.compare(settings, NAMES, TEST, print)


@pytest.fixture
def again(compared: sst.Comparison) -> Settings:
    """The settings of the comparison of all architectures; read its store, don't write it."""
    return compared.settings


@pytest.fixture(scope="module")
def baseline(compared: sst.Comparison) -> Bundle:
    """The damped persistence that all of them were compared with."""
    return Bundle.load(Store(compared.settings.store), prepare(compared.settings)[1])


def refuse(*_: object) -> Bundle:
    raise AssertionError("trained again")


def test_every_architecture_has_a_row_with_finite_scores_and_costs(compared: sst.Comparison) -> None:
    assert [row.forecaster for row in compared.rows] == BASELINES + NAMES
    for row in compared.rows:
        assert row.skill is not None, row.note
        assert len(row.skill.rmse) == 4
        assert np.isfinite([*row.skill.rmse, row.skill.mean, *row.skill.interval]).all()
        assert row.skill.interval[0] <= row.skill.mean <= row.skill.interval[1]
    for row in compared.rows[3:]:
        assert row.cost is not None
        assert row.cost.steps == 2
        assert min(row.cost[:-1]) > 0 and row.cost.bfloat16 >= 0


def test_baselines_have_the_scores_of_the_verification_and_blocks_of_inits_change_nothing(
    compared: sst.Comparison, again: Settings, baseline: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    inits = pd.date_range(TEST[0] - timedelta(days=4), TEST[1] - timedelta(days=1))
    days = Archive(again).read(TEST[0] - timedelta(days=20), TEST[1])["sst"].load()
    forecasts = reference_forecasts(baseline, days, inits)
    valid_time = forecasts["climatology"]["valid_time"]
    truth = valid_truth(days, valid_time).where(valid_time >= np.datetime64(TEST[0], "ns"))
    expected = pooled_rmse(score(forecasts, truth, forecasts["climatology"]))
    for row in compared.rows[:3]:
        assert row.skill is not None
        np.testing.assert_allclose(row.skill.rmse, expected.sel(forecaster=row.forecaster), rtol=1e-6)
    monkeypatch.setattr(sst, "BLOCK_VALUES", 5 * baseline.damping.size)
    blocks = pooled_rmse(sst.hindcast_scores(again, baseline, TEST))
    np.testing.assert_allclose(blocks.sel(forecaster=BASELINES), expected.sel(forecaster=BASELINES), rtol=1e-6)


def test_the_sample_is_every_forecast_whose_valid_day_lies_in_the_test_period(
    compared: sst.Comparison, again: Settings, baseline: Bundle
) -> None:
    scored = sst.hindcast_scores(again, baseline, TEST)["n"].isel(forecaster=0) > 0
    valid_time = (scored["init_time"] + scored["lead_time"] * np.timedelta64(1, "D")).values.astype("datetime64[D]")
    inside = (valid_time >= np.datetime64(TEST[0])) & (valid_time <= np.datetime64(TEST[1]))
    np.testing.assert_array_equal(scored.transpose("init_time", "lead_time"), inside)
    # Eleven days at each of four leads: the first init is four days before the period, its inputs earlier still.
    assert scored.sum("init_time").values.tolist() == [11] * 4
    assert str(scored["init_time"].values[0])[:10] == "2024-05-06"
    assert (compared.inits, compared.days) == (14, 11)
    assert compared.cells == int(baseline.normaliser.ocean_mask.sum())


def test_models_are_trained_once_for_the_same_conditions(
    compared: sst.Comparison, again: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sst, "retrain", refuse)
    told: list[str] = []
    repeated = sst.compare(again, NAMES[:1], TEST, told.append)
    assert repeated.rows[3].skill == compared.rows[3].skill
    assert "trained before" in told[0]
    with pytest.raises(AssertionError, match="trained again"):
        sst.compare(small(again, seed=1), NAMES[:1], TEST, told.append)


def test_bundles_are_kept_with_a_skill_card_and_none_is_promoted(compared: sst.Comparison, again: Settings) -> None:
    store = Store(again.store)
    trained = [Bundle.load(store, bundle_id) for bundle_id in bundle_ids(store)]
    cards = {bundle.forecaster: bundle.card for bundle in trained if bundle.forecaster != DAMPED_PERSISTENCE}
    assert sorted(cards) == NAMES
    assert all(name in card["rmse"] for name, card in cards.items())
    assert champion_id(store) is None


def test_a_failing_model_has_a_row_with_the_reason_and_does_not_stop_the_others(
    compared: sst.Comparison, again: Settings
) -> None:
    first, second = NAMES[:2]
    options = {**again.model.options, first: {"no_such_option": 1}}
    repeated = sst.compare(again.replace(model={**dict(again.model), "options": options}), [first, second, second])
    failed, fine = repeated.rows[3:]
    assert failed.skill is None and "SettingsError" in failed.note and "no_such_option" in failed.note
    assert fine.skill is not None
    assert failed.note in sst_table.markdown(repeated)


def test_a_diverged_training_is_a_row_too(again: Settings) -> None:
    compared = sst.compare(small(again, learning_rate=1e30), NAMES[:1], TEST)
    assert compared.rows[3].skill is None
    assert "NotEnoughDataError" in compared.rows[3].note and "learning_rate" in compared.rows[3].note


def test_forecasts_that_are_not_finite_are_a_failure_and_not_a_smaller_sample(
    compared: sst.Comparison, again: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gappy(bundle: Bundle, days: xr.DataArray, inits: pd.DatetimeIndex) -> xr.DataArray:
        whole = forecast(bundle, days, inits)
        return whole if bundle.forecaster == DAMPED_PERSISTENCE else whole.where(whole["latitude"] > 37.2)

    monkeypatch.setattr(sst, "forecast", gappy)
    repeated = sst.compare(again, NAMES[:1], TEST)
    assert repeated.rows[:3] == compared.rows[:3]
    assert repeated.rows[3].skill is None
    assert "finite in" in repeated.rows[3].note


def test_without_a_test_period_the_validation_period_is_scored_and_named(again: Settings) -> None:
    compared = sst.compare(again, [])
    assert compared.period == (date(2024, 3, 11), date(2024, 5, 9))
    assert not compared.is_test
    assert "validation, on which the weights were selected: 2024-03-11" in sst_table.conditions(compared)


@pytest.mark.parametrize(
    "period", [(TEST[0] - timedelta(days=1), TEST[1]), (TEST[1], TEST[0])], ids=["selected", "backwards"]
)
def test_days_that_selected_the_weights_and_empty_periods_are_no_test(again: Settings, period: sst.Period) -> None:
    with pytest.raises(SettingsError, match="must follow 2024-05-09"):
        sst.compare(again, [], period)


def test_a_test_period_without_data_is_refused_before_training(again: Settings) -> None:
    with pytest.raises(NotEnoughDataError, match="no forecast"):
        sst.compare(again, NAMES, (date(2025, 1, 1), date(2025, 2, 1)))


def test_an_unknown_architecture_is_refused_before_training(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="no architecture 'nonesuch'"):
        sst.compare(settings, ["nonesuch"])


def test_a_budget_is_minutes_or_whole_epochs_of_steps(settings: Settings) -> None:
    stepped = sst.budgeted(settings, "reference", steps=7).training
    assert (stepped.epochs, stepped.windows_per_epoch, stepped.maximum_minutes) == (2, 4 * 8, None)
    assert sst.budgeted(settings, "reference", steps=1).training.epochs == 1
    timed = sst.budgeted(settings, "reference", minutes=3.0)
    assert timed.training.maximum_minutes == 3.0
    assert timed.model.preset == "reference"
    assert sst.budgeted(settings, "operational").training == settings.training
    with pytest.raises(SettingsError, match="one of them"):
        sst.budgeted(settings, "reference", minutes=3.0, steps=7)
    with pytest.raises(SettingsError, match="positive"):
        sst.budgeted(settings, "reference", minutes=-1.0)


def trial_of(steps: int, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Replace training by ``steps`` optimiser steps of 2 s each and a validation of 6 s; return what it is given."""
    clock = iter([*np.arange(0.0, 2.0 * steps, 2.0), 2.0 * steps + 4.0])
    monkeypatch.setattr(sst.time, "perf_counter", lambda: next(clock))
    given: list[Settings] = []

    def train(settings: Settings, cube: str, baseline: str, on_epoch: Callable[[int, float], None]) -> None:
        given.append(settings)
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        for _ in range(steps):
            optimiser.step()
        on_epoch(1, 0.5)

    monkeypatch.setattr(sst, "retrain", train)
    return given


def test_a_budget_of_minutes_is_filled_by_the_whole_course_of_epochs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = trial_of(5, monkeypatch)
    timed = sst.budgeted(settings, "operational", minutes=2.0)
    paced = sst._paced(timed, ("cube", "baseline"), print).training
    assert trials[0].training.windows_per_epoch == sst.TRIAL_STEPS * 8
    # Two epochs of a minute each: 6 s of validation, the rest steps of 2 s.
    assert (paced.epochs, paced.windows_per_epoch, paced.maximum_minutes) == (2, 27 * 8, 2.0)


def test_validation_takes_at_most_half_of_a_short_budget(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trial_of(5, monkeypatch)
    timed = sst.budgeted(settings, "operational", minutes=0.3)
    paced = sst._paced(timed, ("cube", "baseline"), print).training
    # Two validations of 6 s are more than half of 18 s.
    assert (paced.epochs, paced.windows_per_epoch) == (1, 6 * 8)


def test_too_few_minutes_for_a_trial_are_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trial_of(1, monkeypatch)
    with pytest.raises(SettingsError, match="too few"):
        sst._paced(sst.budgeted(settings, "operational", minutes=2.0), ("cube", "baseline"), print)


def test_skill_is_one_minus_the_ratio_of_mean_squares_averaged_over_leads() -> None:
    generator = np.random.default_rng(0)
    bar = generator.uniform(0.5, 1.5, (60, 2))
    scored = xr.Dataset(
        {
            "rmse": (("forecaster", "init_time", "lead_time"), np.stack([bar, bar * [0.5, 1.0]])),
            "n": (("forecaster", "init_time", "lead_time"), np.full((2, 60, 2), 9)),
        },
        {"forecaster": [DAMPED_PERSISTENCE, "model"]},
    )
    skill = sst.skill(scored, "model")
    assert skill.mean == pytest.approx((0.75 + 0.0) / 2)
    assert skill.interval == pytest.approx((skill.mean, skill.mean))
    assert sst.skill(scored, DAMPED_PERSISTENCE).mean == 0.0


def test_the_table_is_written_for_terminal_and_markdown_with_its_conditions(compared: sst.Comparison) -> None:
    table, text = sst_table.terminal_table(compared), sst_table.markdown(compared)
    assert table.row_count == len(compared.rows) == text.count("\n| ") - 1
    assert "14 inits, 11 valid days" in text and "test 2024-05-10 … 2024-05-20" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    persistence = compared.rows[1].skill
    assert persistence is not None
    console = Console(width=sst_table.TABLE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    for shown in (text, captured.get()):
        assert f"{persistence.rmse[3]:.4f}" in shown and f"{100 * persistence.mean:+.2f}" in shown


def with_head(name: str, head: str, settings: Settings, baseline: Bundle) -> Bundle:
    """A bundle of an untrained architecture."""
    chosen = settings.replace(model={**dict(settings.model), "name": name, "options": {name: {"head": head}}})
    config = network_config(chosen)
    recipe = effective_recipe(chosen, config)
    torch.manual_seed(0)
    members = build_members(name, config, recipe, baseline.input_days, baseline.lead_days)
    return replace(baseline, forecaster=name, config=config, recipe=recipe, weights=members.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_precision_costs_what_bfloat16_loses_and_nothing_where_the_network_says_nothing(
    name: str, again: Settings, baseline: Bundle
) -> None:
    days = Archive(again).read(date(2024, 5, 1), date(2024, 5, 31))[list(FIELDS)].load()
    inits = pd.date_range("2024-05-10", periods=2)
    for head in get_args(Head):
        cost = sst.precision_cost(with_head(name, head, again, baseline), days, inits)
        assert cost.by_lead.dims == ("lead_time",)
        assert cost.overall == pytest.approx(float((cost.by_lead**2).mean() ** 0.5))
        assert 0 < cost.overall < 0.5 or (cost.overall == 0 and head == "increment")
