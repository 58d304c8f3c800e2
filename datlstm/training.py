"""Training on what `prepare` left: `retrain` and `resume` end in a bundle, `train_challenger` in one that is saved."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from threading import Event
from typing import Any

import lightning
import pandas as pd
import torch

from datlstm.bundle import Bundle
from datlstm.calibrating import calibrate
from datlstm.challenger import comparable_champion, with_card
from datlstm.checkpoints import Checkpoints, Progress, Weights
from datlstm.ensemble import Ensemble, anomaly_forecaster, build_members
from datlstm.errors import CheckpointError
from datlstm.fitting import ForecastModule, OnEpoch, fit, lead_weights
from datlstm.grid import Grid
from datlstm.inputs import WIDTH, Record
from datlstm.models import compile_blocks, configure
from datlstm.settings import Recipe, Settings
from datlstm.staged import ROOT_DOCUMENT
from datlstm.store import Store
from datlstm.windows import Periods, Windows, open_training_cube

SCALED_WINDOWS = 512
"""Windows, spread over the training period, from which scales and weights of the loss are taken."""

log = logging.getLogger(__name__)


def retrain(
    settings: Settings,
    cube_path: str,
    baseline_id: str,
    on_epoch: OnEpoch | None = None,
    checkpoints: Checkpoints | None = None,
    stop: Event | None = None,
) -> Bundle:
    """Train the chosen architecture from its initial weights and return it as a bundle, not yet saved.

    ``cube_path`` and ``baseline_id`` are what `prepare` returned. The weights are those of the best validation epoch,
    counting the untrained network, which is damped persistence itself. ``on_epoch`` is told each epoch's number and
    validation loss. Deterministic on the CPU for equal settings, data and thread count.

    With ``checkpoints`` a training that was interrupted before is gone on with, and this one can be; it ends at
    ``stop`` with a `TrainingInterruptedError`. On the CPU the bundle is the same, bit for bit, however often.
    """
    lightning.seed_everything(settings.training.seed, verbose=False)
    baseline = Bundle.load(Store(settings.store), baseline_id)
    config = network_config(settings)
    recipe = effective_recipe(settings, config)
    sizes = (settings.model.input_days, settings.model.lead_days)
    members = build_members(settings.model.name, config, recipe, *sizes)
    blank = replace(baseline, forecaster=settings.model.name, config=config, recipe=recipe)
    cube = open_training_cube(settings, cube_path)
    record = Record.of(cube["anomaly"].load(), cube["sea_ice_fraction"].load())
    training, validation = windows_of(settings, record, cube.indexes["time"])
    model = anomaly_forecaster(members, recipe, baseline.normaliser.ocean_mask, baseline.damping)
    seen = training.starts[training.spread(SCALED_WINDOWS)]
    fit_scales(members, record, seen, sizes[0])
    if settings.training.compile:
        for member in members.each():
            compile_blocks(member.network)
    cells = cell_weights(settings, baseline)
    by_lead = lead_weights(model, record, seen + sizes[0] - 1, cells)
    module = ForecastModule(model, record, cells, by_lead, settings.training, sizes[0])
    initial = module.weights()
    progress = fit(module, training, validation, on_epoch=on_epoch, checkpoints=checkpoints, stop=stop)
    history = {**baseline.training, **_history(progress), "settings": settings.training.model_dump(mode="json")}
    bundle = replace(blank, weights=_better(progress, initial), training=history)
    return calibrate(settings, bundle)


def resume(
    settings: Settings, checkpoints: Checkpoints, on_epoch: OnEpoch | None = None, stop: Event | None = None
) -> Bundle:
    """Go on with the training that checkpoints are of, as it was set up, and return what `retrain` would have returned.

    ``checkpoints`` come from `Checkpoints.newest`. Raises as `retrain`, and `CheckpointError` when the training cube is
    gone.
    """
    told = checkpoints.manifest
    if told.steps:
        log.info("training %s goes on after %d of %d epochs", told.run_id, told.epochs, told.training.epochs)
    if checkpoints.store.read(f"{told.cube_path}/{ROOT_DOCUMENT}") is None:
        raise CheckpointError(
            f"training {told.run_id} can't go on, for its cube {checkpoints.store.url_of(told.cube_path)} is gone: run "
            "`datlstm retrain`"
        )
    return retrain(checkpoints.settings(settings), told.cube_path, told.baseline_id, on_epoch, checkpoints, stop)


def train_challenger(
    settings: Settings, checkpoints: Checkpoints, on_epoch: OnEpoch | None = None, stop: Event | None = None
) -> Bundle:
    """Train, or go on training, what the checkpoints are of; score it, save it, and return it.

    Once it is saved the checkpoints are deleted. Raises as `resume`.
    """
    bundle = resume(settings, checkpoints, on_epoch, stop)
    chosen = checkpoints.settings(settings)
    bundle = with_card(chosen, bundle, comparable_champion(chosen))
    bundle.save(checkpoints.store)
    checkpoints.clear()
    return bundle


def network_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of the chosen architecture: its preset for the region's frames and the options."""
    chosen = settings.model
    height, width = Grid.from_region(settings.region).shape
    forcing = sum(WIDTH[channel] for channel in chosen.recipe.channels)
    return configure(
        chosen.name,
        chosen.preset,
        height=height,
        width=width,
        input_frames=chosen.input_days,
        lead_frames=chosen.lead_days,
        **{**chosen.options.get(chosen.name, {}), "forcing_channels": forcing},
    )


def effective_recipe(settings: Settings, config: Mapping[str, Any]) -> Recipe:
    """Return the recipe of the settings; a network of a published head, which tells no changes, has no regression."""
    recipe = settings.model.recipe
    return recipe if config["head"] == "increment" else recipe.model_copy(update={"regression": False})


def windows_of(settings: Settings, record: Record, days: pd.DatetimeIndex) -> tuple[Windows, Windows]:
    """Return the training and the validation windows of a record of consecutive days."""
    periods = Periods.of(settings, list(days.date))
    sizes = (settings.model.input_days, settings.model.lead_days, settings.training.maximum_missing_fraction)
    training, validation = (
        Windows(record, ((first - days[0].date()).days, (last - days[0].date()).days), *sizes)
        for first, last in (periods.training, periods.validation)
    )
    return training, validation


def cell_weights(settings: Settings, baseline: Bundle) -> torch.Tensor:
    """Return what each cell counts in a mean square error of normalised anomalies that is to be one of kelvin.

    ``(height, width)`` float32: its area times its squared scale, 0 on land, 1 on average over the sea.
    """
    normaliser = baseline.normaliser
    weights = (Grid.from_region(settings.region).area_weights() * normaliser.scale**2).where(normaliser.ocean_mask)
    return torch.from_numpy((weights / weights.mean()).fillna(0.0).values).float()


def fit_scales(members: Ensemble, record: Record, starts: torch.Tensor, input_days: int) -> None:
    """Set the scales of the members' regressions, where they have one, from windows that begin at ``starts``."""
    regressions = [member.regression for member in members.each() if member.regression is not None]
    if regressions:
        days = record.gather(starts, input_days)
        features = regressions[0].features(days.frames, days.observed)
        for regression in regressions:
            regression.fit_scale(features)


def _better(progress: Progress, initial: Weights) -> Weights:
    log.info("validation loss: untrained network %.4f, best epoch %.4f", progress.untrained_loss, progress.best_loss)
    if progress.best_weights is not None and progress.best_loss < progress.untrained_loss:
        return progress.best_weights
    log.warning("no epoch beat the untrained network, whose weights are kept: train longer or on more data")
    return initial


def _history(progress: Progress) -> dict[str, Any]:
    return {
        "epochs": progress.epochs,
        "untrained_validation_loss": progress.untrained_loss,
        "validation_loss": progress.best_loss,
        "validation_losses": progress.validation_losses,
    }
