"""Training on what `prepare` left: `retrain` and `resume` end in a bundle, `train_challenger` in one that is saved."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from threading import Event
from typing import Any, Self

import lightning
import pandas as pd
import torch

from datlstm.bundle import Bundle
from datlstm.calibrating import calibrate
from datlstm.challenger import comparable_champion, with_card
from datlstm.checkpoints import Checkpoints, Progress, Weights
from datlstm.ensemble import Ensemble, anomaly_forecaster, build_members
from datlstm.errors import CheckpointError, NotEnoughDataError
from datlstm.fitting import GATHERED, Draws, ForecastModule, OnEpoch, fit, lead_weights
from datlstm.grid import Grid
from datlstm.inputs import WIDTH, Record
from datlstm.models import compile_blocks, configure
from datlstm.settings import Recipe, Settings
from datlstm.staged import ROOT_DOCUMENT
from datlstm.store import Store
from datlstm.windows import Periods, Windows, open_training_cube

SAMPLED_WINDOWS = 512
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
    members = build_members(settings.model.name, config, recipe, settings.model.input_days, settings.model.lead_days)
    untrained = replace(baseline, forecaster=settings.model.name, config=config, recipe=recipe)
    data = TrainingData.open(settings, cube_path, baseline)
    fit_scales(members, data)
    return _trained(settings, untrained, members, data, Draws(), on_epoch, checkpoints, stop)


def finetune(
    settings: Settings,
    cube_path: str,
    base_id: str,
    on_epoch: OnEpoch | None = None,
    checkpoints: Checkpoints | None = None,
    stop: Event | None = None,
) -> Bundle:
    """Train a bundle on, at a low rate, on the days since it was trained among those it knows; return another bundle.

    ``cube_path`` and ``base_id`` are what `prepare_finetuning` returned. Normaliser, damping and architecture are those
    of the base, effort and data those of ``settings.finetuning``; the base itself stays as it is, and its weights are
    kept where no epoch beats them. Raises `NotEnoughDataError` when there are no days since. Else as `retrain`.
    """
    base, chosen = Bundle.load(Store(settings.store), base_id), settings.finetuning
    settings = settings.for_finetuning(base.forecaster, base.input_days, base.lead_days)
    lightning.seed_everything(settings.training.seed, verbose=False)
    data = TrainingData.open(settings, cube_path, base, gap_days=chosen.gap_days)
    known = data.windows_until(date.fromisoformat(base.training["last_day"]))
    recent = len(data.training) - known
    if not recent:
        raise NotEnoughDataError(
            f"{base_id} was trained on days up to {base.training['last_day']}, and no window of newer ones ends "
            f"{chosen.gap_days} days before the validation period: wait for more, or shorten it or the gap"
        )
    count = settings.training.windows_per_epoch or round(recent / max(1 - chosen.replay, 1 / recent))
    training = settings.training.model_copy(update={"windows_per_epoch": count})
    start = replace(base, card={}, calibration=None, archive_snapshot=data.archive_snapshot)
    start = replace(start, training={**_period(data), "base": base_id})
    settings, draws = settings.replace(training=training), Draws(known, chosen.replay)
    return _trained(settings, start, base.members().train(), data, draws, on_epoch, checkpoints, stop)


def resume(
    settings: Settings, checkpoints: Checkpoints, on_epoch: OnEpoch | None = None, stop: Event | None = None
) -> Bundle:
    """Go on with the training that checkpoints are of, as it was set up, and return what it would have returned.

    ``checkpoints`` come from `Checkpoints.newest`. Raises as `retrain` and `finetune`, and `CheckpointError` when the
    training cube is gone.
    """
    told = checkpoints.manifest
    if told.steps:
        log.info("training %s goes on after %d of %d epochs", told.run_id, told.epochs, told.training.epochs)
    if checkpoints.store.read(f"{told.cube_path}/{ROOT_DOCUMENT}") is None:
        raise CheckpointError(
            f"training {told.run_id} can't go on, for its cube {checkpoints.store.url_of(told.cube_path)} is gone: run "
            "`datlstm retrain`"
        )
    verb = retrain if told.finetuning is None else finetune
    return verb(checkpoints.settings(settings), told.cube_path, told.baseline_id, on_epoch, checkpoints, stop)


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


@dataclass(frozen=True)
class TrainingData:
    """A training cube in memory, and the windows of both its periods."""

    record: Record
    training: Windows
    validation: Windows
    days: pd.DatetimeIndex
    input_days: int
    lead_days: int
    archive_snapshot: str
    cells: torch.Tensor

    @classmethod
    def open(cls, settings: Settings, cube_path: str, fitted: Bundle, gap_days: int = 0) -> Self:
        """Read a cube; training windows end ``gap_days`` before the first validation day at the latest.

        ``fitted`` has the normaliser of the cube. Raises `NotEnoughDataError` when a period has no window.
        """
        cube = open_training_cube(settings, cube_path)
        record, days = Record.of(cube["anomaly"].load(), cube["sea_ice_fraction"].load()), cube.indexes["time"]
        periods = Periods.of(settings, list(days.date))
        first_day, chosen = days[0].date(), settings.model
        (first, last), (start, end) = (
            [(day - first_day).days for day in period] for period in (periods.training, periods.validation)
        )
        sizes = (chosen.input_days, chosen.lead_days)
        most_missing = settings.training.maximum_missing_fraction
        training = Windows(record, (first, last - gap_days), *sizes, most_missing)
        validation = Windows(record, (start, end), *sizes, most_missing)
        snapshot = str(cube.attrs["archive_snapshot"])
        return cls(record, training, validation, days, *sizes, snapshot, cell_weights(settings, fitted))

    def sample(self) -> torch.Tensor:
        """Return where some training windows begin, spread over the period."""
        return self.training.starts[self.training.spread(SAMPLED_WINDOWS)]

    def windows_until(self, day: date) -> int:
        """Return how many training windows end on a day or before it."""
        last = (day - self.days[0].date()).days
        return int((self.training.starts + self.input_days + self.lead_days - 1 <= last).sum())


def cell_weights(settings: Settings, baseline: Bundle) -> torch.Tensor:
    """Return what each cell counts in a mean square error of normalised anomalies that is to be one of kelvin.

    ``(height, width)`` float32: its area times its squared scale, 0 on land, 1 on average over the sea.
    """
    normaliser = baseline.normaliser
    weights = (Grid.from_region(settings.region).area_weights() * normaliser.scale**2).where(normaliser.ocean_mask)
    return torch.from_numpy((weights / weights.mean()).fillna(0.0).values).float()


def fit_scales(members: Ensemble, data: TrainingData) -> None:
    """Set the scales of the members' regressions, where they have one, from training windows."""
    regressions = [member.regression for member in members.each() if member.regression is not None]
    if regressions:
        parts = data.sample().split(GATHERED)
        square = torch.zeros_like(regressions[0].feature_scale)
        for starts in parts:
            days = data.record.gather(starts, data.input_days)
            square += regressions[0].features(days.frames, days.observed).square().mean((0, 2, 3)) * len(starts)
        for regression in regressions:
            regression.fit_scale(square / sum(map(len, parts)))


def _trained(
    settings: Settings,
    start: Bundle,
    members: Ensemble,
    data: TrainingData,
    draws: Draws,
    on_epoch: OnEpoch | None,
    checkpoints: Checkpoints | None,
    stop: Event | None,
) -> Bundle:
    """Fit the members, and return the bundle to ``start`` from with their best weights, calibrated."""
    model = anomaly_forecaster(members, start.recipe, start.normaliser.ocean_mask, start.damping)
    if settings.training.compile:
        for member in members.each():
            compile_blocks(member.network)
    by_lead = torch.ones(data.lead_days)
    if settings.training.weigh_leads:
        by_lead = lead_weights(model, data.record, data.sample() + data.input_days - 1, data.cells)
    module = ForecastModule(model, data.record, data.cells, by_lead, settings.training, data.input_days)
    initial = module.weights()
    progress = fit(
        module, data.training, data.validation, draws=draws, on_epoch=on_epoch, checkpoints=checkpoints, stop=stop
    )
    history = {**start.training, **_history(progress), "settings": settings.training.model_dump(mode="json")}
    return calibrate(settings, replace(start, weights=_better(progress, initial), training=history))


def _period(data: TrainingData) -> dict[str, str]:
    ends = data.training.starts[[0, -1]] + torch.tensor([0, data.input_days + data.lead_days - 1])
    first, last = (str(data.days[int(place)].date()) for place in ends)
    return {"first_day": first, "last_day": last}


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
