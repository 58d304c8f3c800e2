"""Any architecture, trained and scored on frame sequences under one stated budget."""

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from datlstm.comparison.frame_scores import FrameScores, score
from datlstm.comparison.sequences import FrameTask
from datlstm.compute import quiet_lightning, torch_threads
from datlstm.errors import SettingsError
from datlstm.models import Preset, build, configure
from datlstm.settings import Frozen, PositiveFloat, PositiveInt

COPY = "copy last frame"


class Budget(Frozen):
    """What every architecture gets: Adam at a constant rate for ``steps`` or ``minutes``, whichever ends first.

    ``seed`` sets the initial weights and the order of the training sequences.
    """

    steps: PositiveInt | None = None
    minutes: PositiveFloat | None = None
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-3
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    threads: PositiveInt = 1

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return the budget of these values. Raises `SettingsError` for values that make none."""
        try:
            return cls(**values)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
            raise SettingsError(f"the budget is not valid: {problems}") from error

    def in_words(self) -> str:
        """Return the budget as a table's heading says it."""
        limits = (self.steps and f"{self.steps} steps", self.minutes and f"{self.minutes:g} min")
        effort = " or ".join(limit for limit in limits if limit)
        return f"{effort} of {self.batch_size} sequences, Adam at {self.learning_rate:g}, seed {self.seed}"

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.steps is None and self.minutes is None:
            raise ValueError("training has no end: give --steps, --minutes or both")
        return self


class Row(Frozen):
    """What one architecture was, cost and scored. ``minutes`` are those of its training; a copy has no preset."""

    model: str
    preset: Preset | None
    parameters: int
    steps: int
    minutes: float
    scores: FrameScores


class Comparison(Frozen):
    """All rows of one task, the budget they had, and what to know before comparing them with published ones."""

    task: str
    note: str
    scored_sequences: int
    preset: Preset
    budget: Budget
    rows: tuple[Row, ...]


class FrameModule(lightning.LightningModule):
    """Trains a network on the mean square error of every frame it estimates, the ones it feeds back included."""

    def __init__(self, network: nn.Module, input_frames: int, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.input_frames = input_frames
        self.learning_rate = learning_rate

    def training_step(self, frames: Tensor, batch_index: int) -> Tensor:
        """Return the loss of a batch ``(B, T, C, H, W)``."""
        estimates = self.network(frames[:, : self.input_frames], frames.shape[1] - self.input_frames)
        return F.mse_loss(estimates, frames[:, -estimates.shape[1] :])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def compare(task: FrameTask, names: Iterable[str], preset: Preset, budget: Budget) -> Iterator[Row]:
    """Yield the row of a copy of the last frame, then each architecture's as soon as it is there.

    Raises `SettingsError` as `train_and_score`, for every architecture before the first is trained.
    """
    configurations = {name: network_config(name, preset, task) for name in names}
    yield copy_last_frame(task, budget)
    for name in configurations:
        yield train_and_score(name, preset, task, budget)


def train_and_score(name: str, preset: Preset, task: FrameTask, budget: Budget) -> Row:
    """Train the architecture ``name`` from its initial weights, then score its forecasts in full precision.

    Loss terms that single papers add are left out: all learn from the same loss (Tang et al. 2023). Equal budgets in
    steps give equal rows on the CPU. Raises `SettingsError` for an architecture that does not exist or can't take the
    task's frames, and for an accelerator or precision that this machine has not.
    """
    lightning.seed_everything(budget.seed, verbose=False)
    network = build(name, network_config(name, preset, task))
    module = FrameModule(network, task.input_frames, budget.learning_rate)
    with torch_threads(budget.threads), quiet_lightning():
        trainer = _trainer(budget)
        start = time.perf_counter()
        trainer.fit(module, _training_batches(task, budget))
        minutes = (time.perf_counter() - start) / 60
        scores = score(forecasts(network, task, budget.batch_size, trainer.strategy.root_device))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Row(
        model=name, preset=preset, parameters=parameters, steps=trainer.global_step, minutes=minutes, scores=scores
    )


def copy_last_frame(task: FrameTask, budget: Budget) -> Row:
    """Return the row of the forecast that repeats the newest input frame: a network below it has learnt nothing."""
    known = task.input_frames
    batches = (frames.numpy() for frames in DataLoader(task.scored, budget.batch_size))
    truth = ((np.broadcast_to(b[:, known - 1 : known], b[:, known:].shape), b[:, known:]) for b in batches)
    return Row(model=COPY, preset=None, parameters=0, steps=0, minutes=0.0, scores=score(truth))


def network_config(name: str, preset: Preset, task: FrameTask) -> dict[str, Any]:
    """Return the configuration of an architecture for the frames of a task. Raises `SettingsError`."""
    channels, height, width = task.frame_shape
    return configure(
        name,
        preset,
        height=height,
        width=width,
        input_frames=task.input_frames,
        lead_frames=len(task.train[0]) - task.input_frames,
        frame_channels=channels,
    )


@torch.inference_mode()
def forecasts(
    network: nn.Module, task: FrameTask, batch_size: int, device: torch.device
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield forecasts and truth of the scored sequences by batches ``(B, N, C, H, W)`` float32."""
    network.to(device).eval()
    for frames in DataLoader(task.scored, batch_size):
        leads = frames.shape[1] - task.input_frames
        estimates = network(frames[:, : task.input_frames].to(device), leads)[:, -leads:]
        yield estimates.float().cpu().numpy(), frames[:, -leads:].numpy()


def _training_batches(task: FrameTask, budget: Budget) -> DataLoader[Tensor]:
    # Drawn with replacement: one pass is as long as the budget, however few or endless the sequences are.
    steps = budget.steps or 2**31
    generator = torch.Generator().manual_seed(budget.seed)
    sampler = RandomSampler(task.train, replacement=True, num_samples=steps * budget.batch_size, generator=generator)
    return DataLoader(task.train, budget.batch_size, sampler=sampler)


def _trainer(budget: Budget) -> lightning.Trainer:
    try:
        return lightning.Trainer(
            accelerator=budget.accelerator,
            devices=1,
            precision=budget.precision,
            max_epochs=1,
            max_steps=budget.steps or -1,
            max_time=None if budget.minutes is None else timedelta(minutes=budget.minutes),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            deterministic="warn",
        )
    except MisconfigurationException as error:
        raise SettingsError(
            f"no {budget.accelerator!r} accelerator for precision {budget.precision!r} here ({error}); "
            "choose --accelerator cpu"
        ) from error
