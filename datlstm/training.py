"""Training on what `prepare` left: `retrain` and `resume` end in a bundle, `train_challenger` in one that is saved."""

import logging
from dataclasses import replace
from threading import Event
from typing import Any

import lightning
import torch
import xarray as xr

from datlstm.bundle import Bundle
from datlstm.challenger import comparable_champion
from datlstm.checkpoints import Checkpoints, Progress, Weights
from datlstm.errors import CheckpointError
from datlstm.fitting import ForecastModule, OnEpoch, fit
from datlstm.forecasting import anomaly_forecaster
from datlstm.grid import Grid
from datlstm.models import build, compile_blocks, configure
from datlstm.settings import Settings
from datlstm.staged import ROOT_DOCUMENT
from datlstm.store import Store
from datlstm.verification import skill_card
from datlstm.windows import Periods, Windows, open_training_cube

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
    model = anomaly_forecaster(build(settings.model.name, config), baseline.normaliser.ocean_mask, baseline.damping)
    area = Grid.from_region(settings.region).area_weights() * baseline.normaliser.ocean_mask
    if settings.training.compile:
        compile_blocks(model.network)
    module = ForecastModule(model, torch.from_numpy(area.values), settings.training, settings.model.input_days)
    initial = module.weights()
    windows = _windows(settings, open_training_cube(settings, cube_path))
    progress = fit(module, *windows, on_epoch=on_epoch, checkpoints=checkpoints, stop=stop)
    return Bundle(
        baseline.region,
        settings.model.name,
        settings.model.input_days,
        baseline.normaliser,
        baseline.damping,
        baseline.archive_snapshot,
        config,
        _better(progress, initial),
        {**baseline.training, **_history(progress), "settings": settings.training.model_dump(mode="json")},
    )


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
    bundle = replace(bundle, card=skill_card(chosen, bundle, comparable_champion(chosen)))
    bundle.save(checkpoints.store)
    checkpoints.clear()
    return bundle


def network_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of the chosen architecture: its preset for the region's frames and the options."""
    chosen = settings.model
    height, width = Grid.from_region(settings.region).shape
    return configure(
        chosen.name,
        chosen.preset,
        height=height,
        width=width,
        input_frames=chosen.input_days,
        lead_frames=chosen.lead_days,
        **{**chosen.options.get(chosen.name, {}), "forcing_channels": 1},
    )


def _windows(settings: Settings, anomaly: xr.DataArray) -> tuple[Windows, Windows]:
    days = [time.astype("datetime64[D]").astype(object) for time in anomaly["time"].values]
    periods = Periods.of(settings, days)
    shape = (settings.model.input_days, settings.model.lead_days, settings.training.maximum_missing_fraction)
    training, validation = (
        Windows(anomaly.sel(time=slice(*map(str, period))).load(), *shape) for period in vars(periods).values()
    )
    return training, validation


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
