"""Training: the Lightning module and data module, and the verb `retrain` that ends in a bundle."""

import logging
import math
import sys
from collections.abc import Callable
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
import xarray as xr
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from datlstm.archive import Archive
from datlstm.baselines import fit_damping
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.compute import quiet_lightning, torch_threads
from datlstm.errors import NotEnoughDataError
from datlstm.forecasting import AnomalyForecaster, anomaly_forecaster
from datlstm.grid import Grid
from datlstm.models import build, compile_blocks, configure
from datlstm.normalise import Normaliser
from datlstm.settings import Settings, TrainingSettings
from datlstm.store import Store
from datlstm.windows import Periods, Windows, open_training_cube, write_training_cube

MONITORED = "validation_loss"

log = logging.getLogger(__name__)


class ForecastModule(lightning.LightningModule):
    """Trains an `AnomalyForecaster` on the masked, area-weighted mean square error of every frame it estimates.

    ``cell_weights`` are ``(height, width)``: the area of sea cells, 0 on land. Frames that were not observed do not
    count.
    """

    cell_weights: Tensor

    def __init__(
        self, model: AnomalyForecaster, cell_weights: Tensor, settings: TrainingSettings, input_days: int
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.input_days = input_days
        self.register_buffer("cell_weights", cell_weights.float())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss over every estimated frame of a batch."""
        loss = masked_loss(*self._estimates_and_truth(batch), self.cell_weights)
        self.log("training_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Log the loss over the forecast frames of a batch."""
        leads = batch[0].shape[1] - self.input_days
        estimates, truth, observed = (part[:, -leads:] for part in self._estimates_and_truth(batch))
        loss = masked_loss(estimates, truth, observed, self.cell_weights)
        self.log(MONITORED, loss, prog_bar=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """Return AdamW under a one-cycle schedule over the whole training."""
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.settings.learning_rate, weight_decay=1e-2)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.settings.learning_rate, total_steps=steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _estimates_and_truth(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        frames, observed = batch
        estimates = self.model(frames[:, : self.input_days], observed[:, : self.input_days])
        estimated = slice(-estimates.shape[1], None)
        return estimates, frames[:, estimated], observed[:, estimated]


def masked_loss(estimates: Tensor, truth: Tensor, observed: Tensor, cell_weights: Tensor) -> Tensor:
    """Return the weighted mean square error over observed cells, all tensors ``(batch, days, 1, height, width)``."""
    weights = observed * cell_weights
    return (weights * (estimates - truth) ** 2).sum() / weights.sum().clamp_min(torch.finfo(estimates.dtype).tiny)


def prepare(settings: Settings, snapshot_id: str | None = None) -> tuple[str, str]:
    """Fit normaliser and damping on the training period, write the training cube with Dask.

    Returns the cube's path and the id of the damped-persistence bundle that holds what was fitted; it is the ladder's
    fallback as well. Raises `NotEnoughDataError` when the archive is too short.
    """
    archive, store = Archive(settings), Store(settings.store)
    snapshot_id = snapshot_id or archive.snapshot_id()
    periods = Periods.of(settings, archive.usable_days(snapshot_id))
    fitted = fit_baseline(settings, periods.training, snapshot_id)
    bundle_id = fitted.save(store)
    return write_training_cube(settings, fitted.normaliser, periods, snapshot_id), bundle_id


def fit_baseline(settings: Settings, period: tuple[Any, Any], snapshot_id: str) -> Bundle:
    """Return the damped-persistence forecaster fitted on a closed interval of days of an archive snapshot."""
    sst = Archive(settings).read(*period, snapshot_id)["sst"]
    normaliser = Normaliser.fit(sst, settings=settings.normaliser)
    damping = fit_damping(sst, normaliser, settings.model.lead_days)
    training = {"first_day": str(period[0]), "last_day": str(period[1])}
    return Bundle(
        settings.region.name, DAMPED_PERSISTENCE, settings.model.input_days, normaliser, damping, snapshot_id,
        training=training,
    )  # fmt: skip


def retrain(
    settings: Settings, cube_path: str, baseline_id: str, on_epoch: Callable[[int, float], None] | None = None
) -> Bundle:
    """Train the chosen architecture from its initial weights and return it as a bundle, not yet saved.

    ``cube_path`` and ``baseline_id`` are what `prepare` returned. The weights are those of the best validation epoch,
    counting the untrained network, which is damped persistence itself. ``on_epoch`` is told each epoch's number and
    validation loss. Deterministic on the CPU for equal settings, data and thread count.
    """
    lightning.seed_everything(settings.training.seed, verbose=False)
    baseline = Bundle.load(Store(settings.store), baseline_id)
    config = network_config(settings)
    model = anomaly_forecaster(build(settings.model.name, config), baseline.normaliser.ocean_mask, baseline.damping)
    area = Grid.from_region(settings.region).area_weights() * baseline.normaliser.ocean_mask
    if settings.training.compile:
        compile_blocks(model.network)
    module = ForecastModule(model, torch.from_numpy(area.values), settings.training, settings.model.input_days)
    training, validation = _windows(settings, open_training_cube(settings, cube_path))
    history = _fit(module, training, validation, settings, on_epoch)
    return Bundle(
        baseline.region,
        settings.model.name,
        settings.model.input_days,
        baseline.normaliser,
        baseline.damping,
        baseline.archive_snapshot,
        config,
        {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()},
        {**baseline.training, **history, "settings": settings.training.model_dump(mode="json")},
    )


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


def _fit(
    module: ForecastModule,
    training: Windows,
    validation: Windows,
    settings: Settings,
    on_epoch: Callable[[int, float], None] | None,
) -> dict[str, Any]:
    chosen = settings.training
    generator = torch.Generator().manual_seed(chosen.seed)
    sampler = RandomSampler(training, num_samples=chosen.windows_per_epoch, generator=generator)
    loaders = (
        DataLoader(training, chosen.batch_size, sampler=sampler),
        DataLoader(validation.spread(chosen.validation_windows), 2 * chosen.batch_size),
    )
    initial = {name: value.clone() for name, value in module.state_dict().items()}
    with TemporaryDirectory(prefix="datlstm-training-") as folder:
        # A whole checkpoint: the average that was validated is only put into those.
        best = ModelCheckpoint(folder, monitor=MONITORED)
        stop = EarlyStopping(MONITORED, patience=chosen.patience)
        with torch_threads(chosen.threads), quiet_lightning():
            average = EMAWeightAveraging(decay=chosen.weight_average_decay)
            trainer = _trainer(chosen, folder, [average, best, stop, _EpochReport(on_epoch)])
            untrained = trainer.validate(module, loaders[1], verbose=False)[0][MONITORED]
            trainer.fit(module, *loaders)
        score = float(best.best_model_score) if best.best_model_score is not None else math.nan
        if not math.isfinite(score):
            raise NotEnoughDataError("training ended without a finite validation loss: lower training.learning_rate")
        better = score < untrained
        best_state = torch.load(best.best_model_path, weights_only=True, map_location="cpu")["state_dict"]
    module.load_state_dict(best_state if better else initial)
    log.info("validation loss: untrained network %.4f, best epoch %.4f", untrained, score)
    if not better:
        log.warning("no epoch beat the untrained network, whose weights are kept: train longer or on more data")
    return {"epochs": trainer.current_epoch, "untrained_validation_loss": untrained, "validation_loss": score}


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
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        # In a log file a bar is thousands of lines; there the epochs are reported one by one.
        enable_progress_bar=sys.stderr.isatty(),
        deterministic="warn",
    )


class _EpochReport(Callback):
    def __init__(self, on_epoch: Callable[[int, float], None] | None) -> None:
        self._on_epoch = on_epoch

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._on_epoch is not None and trainer.state.fn == "fit":
            self._on_epoch(trainer.current_epoch + 1, float(trainer.callback_metrics[MONITORED]))
