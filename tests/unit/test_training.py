"""The loss, where training starts, and that two epochs give a bundle that forecasts."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.ensemble import anomaly_forecaster, build_members
from datlstm.errors import BundleError, NotEnoughDataError
from datlstm.fitting import lead_weights, masked_loss
from datlstm.forecasting import forecast, raw_estimates
from datlstm.grid import Grid
from datlstm.inputs import FIELDS, Inputs, Record
from datlstm.preparation import prepare
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.training import TrainingData, cell_weights, network_config, retrain
from datlstm.windows import open_training_cube

INITS = pd.date_range("2024-05-20", periods=3)


def frames(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_weighted_mean_square_error_over_observed_cells() -> None:
    estimates, truth, weights = frames(1), frames(2), frames(3)[0, 0, 0].abs()
    observed = frames(4) > 0
    full = (observed * weights).double()
    expected = float((full * (estimates - truth).double() ** 2).sum() / full.sum())
    assert float(masked_loss(estimates, truth, observed, weights)) == pytest.approx(expected, rel=1e-6)


def test_land_and_unobserved_cells_have_no_part_in_loss_or_gradient() -> None:
    truth, weights, observed = frames(2), torch.ones(4, 5), torch.ones(2, 3, 1, 4, 5, dtype=torch.bool)
    weights[0] = 0
    observed[:, :, :, :, 2] = False
    ignored = ~observed | (weights == 0)
    losses, gradients = [], []
    for disturbance in (0.0, 1e6):
        estimates = (frames(1) + disturbance * ignored).requires_grad_()
        loss = masked_loss(estimates, truth + disturbance * 3 * ignored, observed, weights)
        loss.backward()
        assert estimates.grad is not None
        losses.append(loss.item())
        gradients.append(estimates.grad)
    assert losses[0] == losses[1] > 0
    assert torch.equal(gradients[0], gradients[1])
    assert not gradients[0][ignored.expand_as(gradients[0])].any()


def test_a_batch_in_which_nothing_was_observed_costs_nothing() -> None:
    nothing = torch.zeros(2, 3, 1, 4, 5, dtype=torch.bool)
    assert masked_loss(frames(1), frames(2), nothing, torch.ones(4, 5)).item() == 0.0


def test_an_untrained_network_is_damped_persistence(trained: Settings, champion: Bundle) -> None:
    torch.manual_seed(5)
    recipe = champion.recipe.model_copy(update={"members": 2})
    members = build_members("datlstm", champion.config, recipe, champion.input_days, champion.lead_days)
    untrained = replace(champion, recipe=recipe, weights=members.state_dict(), calibration=None)
    days = Archive(trained).read(date(2024, 5, 10), date(2024, 5, 25))[list(FIELDS)].load()
    made, expected = forecast(untrained, days, INITS), forecast(champion.damped(), days, INITS)
    anomalies = [champion.normaliser.to_anomaly(field) for field in (made, expected)]
    # One unit in the last place of 300 K is 3e-5 K: compared where the network works, before kelvin rounds.
    kelvin_rounding = np.spacing(np.float32(300)) / float(champion.normaliser.scale.min())
    np.testing.assert_allclose(anomalies[0], anomalies[1], atol=1e-6 + kelvin_rounding)


@pytest.mark.parametrize(("direct_leads", "estimated"), [(0, 2 + 4), (4, 4)])
def test_an_untrained_forecaster_damps_every_frame_it_estimates(
    trained: Settings, champion: Bundle, direct_leads: int, estimated: int
) -> None:
    config = {**network_config(trained), "direct_leads": direct_leads}
    members = build_members("datlstm", config, champion.recipe, 3, 4).eval()
    model = anomaly_forecaster(members, champion.recipe, champion.normaliser.ocean_mask, champion.damping)
    inputs = torch.randn(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(7))
    damping = torch.from_numpy(champion.damping.fillna(0.0).values).float()
    warm_up = damping[0] * inputs[:, :2, 0]
    expected = torch.cat([warm_up, damping * inputs[:, 2:3, 0].expand(-1, 4, -1, -1)], dim=1)[:, -estimated:]
    with torch.inference_mode():
        (estimates,) = model(Inputs(inputs, inputs == inputs, torch.zeros_like(inputs), torch.zeros(2)))
    assert estimates.shape == (2, estimated, 1, 16, 16)
    torch.testing.assert_close(estimates[:, :, 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convlstm", {"hidden": [8]}),
        ("datlstm", {"embed": 8, "down": [2], "up": [2], "heads": [1, 2], "groups": [1, 1], "window": 2}),
        ("simvp", {"hidden_spatial": 4, "hidden_temporal": 8, "temporal_blocks": 2}),
        ("tctn", {"depth": 8, "layers": 1}),
    ],
)
def test_a_published_head_learns_and_its_bundle_forecasts(
    trained: Settings, name: str, options: dict[str, Any]
) -> None:
    model = {**dict(trained.model), "name": name, "preset": "reference", "options": {name: options}}
    training = trained.training.model_copy(update={"epochs": 4, "learning_rate": 1e-2})
    settings = trained.replace(model=model, training=training)
    bundle = retrain(settings, *prepare(settings))
    assert bundle.training["validation_loss"] < bundle.training["untrained_validation_loss"]
    store = Store(settings.store)
    days = Archive(settings).read(date(2024, 5, 10), date(2024, 5, 25))[list(FIELDS)].load()
    made = forecast(Bundle.load(store, bundle.save(store)), days, INITS)
    assert np.isfinite(made.values[:, :, bundle.normaliser.ocean_mask.values]).all()


# Torch's compiler imports what torch warns of, and looks at gradients that nobody asked it to look at.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.long
def test_compiled_training_ends_where_plain_training_does(trained: Settings) -> None:
    losses = []
    for compile_it in (False, True):
        training = trained.training.model_copy(update={"compile": compile_it, "epochs": 1, "windows_per_epoch": 16})
        settings = trained.replace(training=training, model={**dict(trained.model), "name": "convlstm"})
        losses.append(retrain(settings, *prepare(settings)).training["validation_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_retraining_on_the_same_data_gives_the_same_bundle(trained: Settings, champion: Bundle) -> None:
    epochs: list[tuple[int, float]] = []
    torch.manual_seed(99)
    again = retrain(trained, *prepare(trained), lambda number, loss: epochs.append((number, loss)))
    assert again.id == champion.id
    assert again.training == champion.training
    assert [number for number, _ in epochs] == [1, 2]
    assert again.training["validation_loss"] == min(loss for _, loss in epochs)


def test_another_seed_gives_another_bundle(trained: Settings, champion: Bundle) -> None:
    seeded = trained.replace(training=trained.training.model_copy(update={"seed": 1, "epochs": 1}))
    assert retrain(seeded, *prepare(seeded)).id != champion.id


def test_leads_that_weigh_alike_give_another_bundle(trained: Settings, champion: Bundle) -> None:
    alike = trained.replace(training=trained.training.model_copy(update={"weigh_leads": False}))
    assert retrain(alike, *prepare(alike)).id != champion.id


def test_two_epochs_beat_the_untrained_network_and_forecast(trained: Settings, champion: Bundle) -> None:
    assert champion.training["epochs"] == 2
    assert champion.training["validation_loss"] < champion.training["untrained_validation_loss"]
    assert (champion.training["first_day"], champion.training["last_day"]) == ("2023-01-01", "2024-04-01")
    made = forecast(champion, Archive(trained).read(date(2024, 5, 10), date(2024, 5, 25))[list(FIELDS)].load(), INITS)
    sea = made.values[:, :, champion.normaliser.ocean_mask.values]
    assert sea.shape[:2] == (3, 4)
    assert np.isfinite(sea).all() and sea.min() > 275 and sea.max() < 305


@pytest.mark.parametrize("steps", [1, 10])
def test_a_training_too_short_for_a_warm_up_has_none(trained: Settings, steps: int) -> None:
    effort = {"epochs": 1, "windows_per_epoch": steps * trained.training.batch_size}
    short = trained.replace(training=trained.training.model_copy(update=effort))
    assert retrain(short, *prepare(short)).training["epochs"] == 1


def test_weights_worse_than_the_untrained_network_are_not_kept(trained: Settings) -> None:
    chosen = {"learning_rate": 0.5, "epochs": 1, "weight_average_decay": 0.0}
    wild = trained.replace(training=trained.training.model_copy(update=chosen))
    bundle = retrain(wild, *prepare(wild))
    assert bundle.training["validation_loss"] > bundle.training["untrained_validation_loss"]
    days = Archive(wild).read(date(2024, 5, 10), date(2024, 5, 25))[list(FIELDS)].load()
    made = forecast(replace(bundle, calibration=None), days, INITS)
    np.testing.assert_allclose(made, forecast(bundle.damped(), days, INITS), atol=1e-4)


def test_preparing_again_gives_the_same_paths(trained: Settings) -> None:
    before = Store(trained.store).list("")
    assert prepare(trained) == prepare(trained)
    assert Store(trained.store).list("") == before


def test_training_refuses_a_short_archive_and_a_bundle_that_is_not_there(trained: Settings) -> None:
    cube, _ = prepare(trained)
    with pytest.raises(BundleError, match="no bundle"):
        retrain(trained, cube, "no-such-bundle")
    short = trained.replace(training=trained.training.model_copy(update={"validation_days": 515}))
    with pytest.raises(NotEnoughDataError, match="training period"):
        prepare(short)


def test_the_weights_kept_are_those_that_were_validated(filled: Settings) -> None:
    cube, baseline = prepare(filled)
    bundle = retrain(filled, cube, baseline)
    data = TrainingData.open(filled, cube, bundle)
    model = anomaly_forecaster(bundle.members(), bundle.recipe, bundle.normaliser.ocean_mask, bundle.damping)
    chosen = data.validation.spread(filled.training.validation_windows)
    days = data.record.gather(data.validation.starts[chosen], 3 + 4)
    with torch.no_grad():
        estimates = model(days.until(3)).mean(0)[:, -4:]
    cells = data.cells
    by_lead = lead_weights(model, data.record, data.sample() + 2, cells)
    loss = masked_loss(estimates, days.frames[:, 3:], days.observed[:, 3:], by_lead[:, None, None, None] * cells)
    kept = min(bundle.training["validation_loss"], bundle.training["untrained_validation_loss"])
    assert float(loss) == pytest.approx(kept, rel=1e-5)


def test_leads_weigh_as_the_inverse_of_what_damped_persistence_errs_there(filled: Settings) -> None:
    cube, baseline = prepare(filled)
    bundle = Bundle.load(Store(filled.store), baseline)
    stored = open_training_cube(filled, cube).load()
    record = Record.of(stored["anomaly"], stored["sea_ice_fraction"])
    members = build_members("datlstm", network_config(filled), filled.model.recipe, 3, 4)
    model = anomaly_forecaster(members, filled.model.recipe, bundle.normaliser.ocean_mask, bundle.damping)
    cells, starts = cell_weights(filled, bundle), torch.arange(5, 105)
    found = lead_weights(model, record, starts, cells)
    anomaly = stored["anomaly"].values
    for lead in range(1, 5):
        error = anomaly[5 + lead : 105 + lead] - bundle.damping[lead - 1].values * anomaly[5:105]
        expected = np.nansum(error**2 * cells.numpy()) / (np.isfinite(error) * cells.numpy()).sum()
        assert float(found[lead - 1]) == pytest.approx(1 / expected, rel=1e-4)
    assert (found.diff() < 0).all()


def test_cells_weigh_as_their_squared_kelvin(filled: Settings) -> None:
    bundle = Bundle.load(Store(filled.store), prepare(filled)[1])
    weights = cell_weights(filled, bundle)
    ocean = torch.from_numpy(bundle.normaliser.ocean_mask.values)
    assert not weights[~ocean].any()
    assert float(weights[ocean].mean()) == pytest.approx(1, rel=1e-5)
    expected = Grid.from_region(filled.region).area_weights() * bundle.normaliser.scale**2
    ratio = weights.numpy() / expected.values
    assert np.nanstd(ratio) < 1e-6 * np.nanmean(ratio)


def test_members_differ_and_the_forecast_is_their_mean(filled: Settings) -> None:
    recipe = filled.model.recipe.model_copy(update={"members": 2})
    several = filled.replace(model=filled.model.model_copy(update={"recipe": recipe}))
    bundle = retrain(several, *prepare(several))
    store = Store(several.store)
    bundle = Bundle.load(store, bundle.save(store))
    days = Archive(several).read(date(2024, 5, 10), date(2024, 5, 25))[list(FIELDS)].load()
    singles = []
    for index in range(2):
        own = {name: value for name, value in bundle.weights.items() if name.startswith(f"{index}.")}
        alone = {f"0.{name.partition('.')[2]}": value for name, value in own.items()}
        one = replace(bundle, recipe=filled.model.recipe, weights=alone)
        singles.append(raw_estimates(one, days, INITS)["mean"])
    together = raw_estimates(bundle, days, INITS)
    np.testing.assert_allclose(together["mean"], (singles[0] + singles[1]) / 2, atol=1e-5)
    np.testing.assert_allclose(together["variance"], (singles[0] - singles[1]) ** 2 / 4, atol=1e-6)
    assert together["variance"].max() > 0
