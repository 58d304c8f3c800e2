"""Fitting a forecaster: the Lightning module, and the loop over epochs that can be stopped and gone on with exactly.

Whatever is drawn at random in an epoch follows from seed, epoch and batch alone, so nothing of it needs to be kept.
"""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, Subset

from datlstm.checkpoints import Checkpoints, Progress, Weights
from datlstm.compute import quiet_lightning, torch_threads
from datlstm.ensemble import AnomalyForecaster
from datlstm.errors import NotEnoughDataError, TrainingInterruptedError
from datlstm.inputs import Record
from datlstm.settings import TrainingSettings
from datlstm.windows import Windows

MONITORED = "validation_loss"
# Of the networks' learning rate: a linear term on features of unit size bears more.
REGRESSION_RATE = 3.0
# Share of the steps in which the learning rate rises; a training of ten or fewer has none.
WARM_UP = 0.1
# Windows that are looked at together before training.
GATHERED = 64
OnEpoch = Callable[[int, float], None]

log = logging.getLogger(__name__)


class Draws(NamedTuple):
    """Of which windows an epoch is made: a share ``replay`` of the first ``known``, the rest of those after them.

    By default of all alike.
    """

    known: int = 0
    replay: float = 0.0


ALL_ALIKE = Draws()


class ForecastModule(lightning.LightningModule):
    """Trains an `AnomalyForecaster`: each member on the weighted mean square error of every frame it estimates.

    ``cell_weights`` are ``(height, width)``: what a cell counts in the error, 0 on land. ``lead_weights`` are
    ``(lead_days,)``; a day before the first lead counts as that. Frames that were not observed do not count. A batch is
    where its windows begin in the record.
    """

    cell_weights: Tensor
    lead_weights: Tensor

    def __init__(
        self,
        model: AnomalyForecaster,
        record: Record,
        cell_weights: Tensor,
        lead_weights: Tensor,
        settings: TrainingSettings,
        input_days: int,
    ) -> None:
        super().__init__()
        self.model, self.record = model, record
        self.settings = settings
        self.input_days = input_days
        self.register_buffer("cell_weights", cell_weights.float())
        self.register_buffer("lead_weights", lead_weights.float())

    def training_step(self, starts: Tensor, batch_index: int) -> Tensor:
        """Return the members' mean loss over every estimated frame of a batch."""
        sign = torch.ones(len(starts), device=self.device)
        if self.settings.sign_flips:
            sign = 2.0 * torch.randint(2, (len(starts),), device=self.device) - 1
        loss = self._loss(*self._estimates_and_truth(starts, sign))
        self.log("training_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, starts: Tensor, batch_index: int) -> None:
        """Log the loss of the members' mean over the forecast frames of a batch."""
        leads = len(self.lead_weights)
        estimates, truth, observed = self._estimates_and_truth(starts, torch.ones(len(starts), device=self.device))
        loss = self._loss(estimates.mean(0, keepdim=True)[:, :, -leads:], truth[:, -leads:], observed[:, -leads:])
        self.log(MONITORED, loss, prog_bar=True, batch_size=len(starts), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW under a one-cycle schedule over the whole training; the regressions learn faster."""
        rate, members = self.settings.learning_rate, self.model.members.each()
        learnt: list[tuple[list[nn.Module], float]] = [
            ([member.network for member in members], rate),
            ([member.regression for member in members if member.regression is not None], REGRESSION_RATE * rate),
        ]
        rates = [own for modules, own in learnt if modules]
        groups = [{"params": list(nn.ModuleList(modules).parameters())} for modules, _ in learnt if modules]
        optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=self.settings.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        warm_up = WARM_UP if WARM_UP * steps > 1 else 0.0
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=warm_up)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def weights(self) -> Weights:
        """Return a copy of the members' weights, on the CPU."""
        plain = torch.contiguous_format
        return {
            name: value.detach().cpu().clone(memory_format=plain)
            for name, value in self.model.members.state_dict().items()
        }

    def _estimates_and_truth(self, starts: Tensor, sign: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.record = self.record.on(self.device)
        days = self.record.gather(starts, self.input_days + len(self.lead_weights)).times(sign)
        estimates = self.model(days.until(self.input_days))
        estimated = slice(-estimates.shape[2], None)
        return estimates, days.frames[:, estimated], days.observed[:, estimated]

    def _loss(self, estimates: Tensor, truth: Tensor, observed: Tensor) -> Tensor:
        before = estimates.shape[2] - len(self.lead_weights)
        by_day = torch.cat([self.lead_weights[:1].expand(before), self.lead_weights])
        return masked_loss(estimates, truth, observed, by_day[:, None, None, None] * self.cell_weights)


def masked_loss(estimates: Tensor, truth: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean square error over observed cells.

    ``estimates`` are ``(…, batch, days, 1, height, width)``, the others may lack what is before the batch; ``weights``
    broadcast to them.
    """
    counted = observed * weights
    square = (counted * (estimates - truth) ** 2).sum((-5, -4, -3, -2, -1))
    return (square / counted.sum().clamp_min(torch.finfo(estimates.dtype).tiny)).mean()


def lead_weights(model: AnomalyForecaster, record: Record, starts: Tensor, cell_weights: Tensor) -> Tensor:
    """Return the inverse mean square error ``(lead_days,)`` of damped persistence over windows, in normalised units."""
    leads = len(model.damping)
    total = torch.zeros(2, leads, dtype=torch.float64)
    for batch in starts.split(GATHERED):
        days = record.gather(batch, leads + 1)
        counted = days.observed[:, 1:] * cell_weights
        square = counted * (model.damped(days.frames[:, :1]) - days.frames[:, 1:]) ** 2
        total += torch.stack([square.sum((0, 2, 3, 4)), counted.sum((0, 2, 3, 4))]).double()
    return torch.where(total[0] > 0, total[1] / total[0], torch.ones(leads)).float()


def fit(
    module: ForecastModule,
    training: Windows,
    validation: Windows,
    *,
    draws: Draws = ALL_ALIKE,
    on_epoch: OnEpoch | None = None,
    checkpoints: Checkpoints | None = None,
    stop: Event | None = None,
) -> Progress:
    """Train a module from where its checkpoints stand, else from its initial weights, and return how it went.

    With ``checkpoints`` one is written at each epoch's end, and where ``stop`` asks to end. Raises
    `TrainingInterruptedError` in that case, `CheckpointError` when another training writes the same ones, and
    `NotEnoughDataError` when no epoch's validation loss was finite.
    """
    chosen = module.settings
    progress = checkpoints.progress() if checkpoints else Progress()
    with TemporaryDirectory(prefix="datlstm-training-") as folder, torch_threads(chosen.threads), _quiet():
        trainer = _trainer(chosen, folder, _callbacks(module, progress, checkpoints, on_epoch, stop, Path(folder)))
        loaders = _loaders(trainer, training, validation, chosen, progress, draws)
        if math.isnan(progress.untrained_loss):
            progress.untrained_loss = trainer.validate(module, loaders[1], verbose=False)[0][MONITORED]
        if not progress.is_trained:
            state = checkpoints.state_file(Path(folder)) if checkpoints else None
            trainer.fit(module, *loaders, ckpt_path=state, weights_only=True)
    if not math.isfinite(progress.best_loss):
        raise NotEnoughDataError("training ended without a finite validation loss: lower training.learning_rate")
    return progress


class EpochSampler(Sampler[int]):
    """Draws windows without replacement, in an order that follows from seed and epoch alone; a share for each device.

    ``resumed`` is an epoch and how many of this device's windows in it have been seen.
    """

    def __init__(
        self,
        size: int,
        count: int,
        seed: int,
        *,
        draws: Draws = ALL_ALIKE,
        share: tuple[int, int] = (0, 1),
        resumed: tuple[int, int] = (0, 0),
    ) -> None:
        replayed = round(count * draws.replay) if draws.known else 0
        self._pools = [(0, draws.known, replayed), (draws.known, size - draws.known, count - replayed)]
        self._count, self._seed = count, seed
        self._share, self._resumed = share, resumed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count // self._share[1]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed_of(self._seed, self._epoch))
        drawn = [_drawn(*pool, generator) for pool in self._pools if pool[-1]]
        order = drawn[0] if len(drawn) == 1 else torch.cat(drawn)[torch.randperm(self._count, generator=generator)]
        rank, devices = self._share
        own = order[rank::devices][: len(self)].tolist()
        yield from own[self._resumed[1] if self._epoch == self._resumed[0] else 0 :]


def _drawn(first: int, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` of ``size`` windows from ``first`` on, each once before any comes twice."""
    rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
    return first + torch.cat(rounds)[:count]


def seed_of(*numbers: int) -> int:
    """Return a seed that follows from numbers, each combination having its own."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _loaders(
    trainer: lightning.Trainer,
    training: Windows,
    validation: Windows,
    chosen: TrainingSettings,
    progress: Progress,
    draws: Draws,
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    sampler = EpochSampler(
        len(training),
        chosen.windows_per_epoch or len(training),
        chosen.seed,
        draws=draws,
        share=(trainer.global_rank, trainer.world_size),
        resumed=(progress.epochs, progress.batches * chosen.batch_size),
    )
    return (
        DataLoader(training, chosen.batch_size, sampler=sampler),
        DataLoader(Subset(validation, validation.spread(chosen.validation_windows)), 2 * chosen.batch_size),
    )


def _callbacks(
    module: ForecastModule,
    progress: Progress,
    checkpoints: Checkpoints | None,
    on_epoch: OnEpoch | None,
    stop: Event | None,
    folder: Path,
) -> list[Callback]:
    chosen = module.settings
    writer = [_CheckpointWriter(progress, checkpoints, stop or Event(), folder)] if checkpoints else []
    # Notes are taken while the average is in the module, before it is taken out again at validation's end; a checkpoint
    # is written when all others have done with the batch or the epoch.
    return [
        _BatchSeeds(chosen.seed),
        _Notes(progress, on_epoch),
        EMAWeightAveraging(decay=chosen.weight_average_decay),
        EarlyStopping(MONITORED, patience=chosen.patience),
        *writer,
    ]


def _trainer(chosen: TrainingSettings, folder: str, callbacks: list[Callback]) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=chosen.accelerator,
        devices=chosen.devices,
        precision=chosen.precision,
        max_epochs=chosen.epochs,
        max_time=None if chosen.maximum_minutes is None else timedelta(minutes=chosen.maximum_minutes),
        gradient_clip_val=1.0,
        default_root_dir=folder,
        callbacks=callbacks,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        # In a log file a bar is thousands of lines; there the epochs are reported one by one.
        enable_progress_bar=sys.stderr.isatty(),
        deterministic="warn",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    with quiet_lightning():
        # It is resumable: the sampler leaves out what has been seen.
        # Of devices that share a training: it costs a copy of small tensors.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        warnings.filterwarnings("ignore", message=".*ended before the epoch ended and your dataloader is not resumable")
        yield


class _BatchSeeds(Callback):
    """Seeds each batch by itself, so that what it draws does not depend on what was drawn before."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(seed_of(self._seed, trainer.global_rank, trainer.current_epoch, batch_idx))


class _Notes(Callback):
    """Notes how far training has come, each epoch's validation loss, and the weights of the best."""

    def __init__(self, progress: Progress, on_epoch: OnEpoch | None) -> None:
        self._progress, self._on_epoch = progress, on_epoch

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, ForecastModule)
        loss = float(trainer.callback_metrics[MONITORED])
        if loss < self._progress.best_loss:
            self._progress.best_weights = pl_module.weights()
        self._progress.validation_losses.append(loss)
        if self._on_epoch is not None and trainer.is_global_zero:
            self._on_epoch(trainer.current_epoch + 1, loss)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._progress.epochs, self._progress.batches = trainer.current_epoch + 1, 0
        self._progress.is_trained = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs


class _CheckpointWriter(Callback):
    """Writes a checkpoint at each epoch's end, and after the batch during which it is asked to stop."""

    def __init__(self, progress: Progress, checkpoints: Checkpoints, stop: Event, folder: Path) -> None:
        self._progress, self._checkpoints = progress, checkpoints
        self._stop, self._path = stop, folder / "written.ckpt"

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.global_step:
            self._checkpoints.save(self._progress, None)
        self._stop_if_asked(trainer)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # After the last batch the epoch's own checkpoint is near.
        if batch_idx + 1 < trainer.num_training_batches and self._is_asked(trainer):
            self._progress.batches = batch_idx + 1
            self._write(trainer)
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._write(trainer)
        self._stop_if_asked(trainer)

    def _write(self, trainer: lightning.Trainer) -> None:
        self._progress.steps = trainer.global_step
        trainer.save_checkpoint(self._path)
        if trainer.is_global_zero:
            self._checkpoints.save(self._progress, self._path)

    def _stop_if_asked(self, trainer: lightning.Trainer) -> None:
        if self._is_asked(trainer):
            done = self._progress
            where = f"after {done.epochs} of {trainer.max_epochs} epochs and {done.batches} batches"
            raise TrainingInterruptedError(
                f"training {self._checkpoints.run_id} was asked to stop and did so {where}, which a checkpoint holds: "
                "go on with `datlstm resume`, or `prefect deployment run retrain/retrain --param resume=true`"
            )

    def _is_asked(self, trainer: lightning.Trainer) -> bool:
        # All devices stop after the same batch, or they would wait for each other.
        return trainer.strategy.reduce_boolean_decision(self._stop.is_set(), all=False)
