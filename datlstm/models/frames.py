"""What every architecture shares: its frame and head, the check of its inputs, and the closed loop of a recurrent one.

A network maps frames ``(B, T, C, H, W)`` to estimates of the last N frames of the ``T - 1 + lead_frames`` that follow
the first, ``(B, N, C, H, W)``: a recurrent one estimates them all, a direct one only the ``lead_frames`` forecast.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datlstm.settings import Frozen, PositiveInt

Grid = tuple[int, int]
"""Rows and columns of a map."""

Head = Literal["sigmoid", "linear", "increment"]
"""How an estimate is read out: in 0 … 1, as it is, or as a change, at first zero, of the newest frame."""


class ModelConfig(Frozen):
    """The frame of a network and how it reads out its estimates; the defaults of every child are the published model.

    ``forcing_channels`` are known in advance for every step, input and forecast alike.
    """

    height: PositiveInt
    width: PositiveInt
    frame_channels: PositiveInt = 1
    forcing_channels: Annotated[int, Field(ge=0)] = 0
    head: Head = "linear"

    @classmethod
    def operational(cls, height: int, width: int) -> dict[str, Any]:
        """Return the options of the operational preset for frames of a size: small, an increment over persistence."""
        return {"head": "increment"}

    @property
    def size(self) -> Grid:
        """Height and width of a frame."""
        return self.height, self.width

    @property
    def step_channels(self) -> int:
        """Channels that a network reads at one step: the frame's, then the forcing's."""
        return self.frame_channels + self.forcing_channels


def fitting_patch(height: int, width: int) -> int:
    """Return the patch that keeps the shorter side at 16 tokens or fewer: cost then hardly grows with the region."""
    return -(-min(height, width) // 16)


class RecurrentConfig(ModelConfig):
    """What every recurrent network is told besides.

    ``direct_leads`` counts the frames that are forecast at once after the last input; with none each frame is fed back
    for the next, as in the published models. ``checkpoint_steps`` trades time for memory in training.
    """

    direct_leads: Annotated[int, Field(ge=0)] = 0
    checkpoint_steps: bool = False

    @property
    def output_channels(self) -> int:
        """Channels that a network reads out at one step: those of all frames that it forecasts at once."""
        return self.frame_channels * max(1, self.direct_leads)

    def read(self, output: Tensor, frame: Tensor) -> Tensor:
        """Turn the output ``(B, output_channels, H, W)`` of a step into estimates of the frames after ``frame``."""
        newest = frame.repeat(1, self.direct_leads, 1, 1) if self.direct_leads > 1 else frame
        return read_out(self.head, output, newest)


class RecurrentNetwork(nn.Module, ABC):
    """A network that reads one frame a step; children define `step`."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, frames: Tensor, lead_frames: int, forcing: Tensor | None = None) -> Tensor:
        """Forecast ``lead_frames`` frames from ``frames`` ``(B, T, C, H, W)``, the last one the newest.

        ``forcing`` is ``(B, T - 1 + lead_frames, forcing_channels, H, W)``. Returns ``(B, T - 1 + lead_frames, C, H,
        W)``: estimates of frames 2 ... T, then the forecast; with ``direct_leads`` the forecast alone, ``(B,
        lead_frames, C, H, W)``. Predictions are fed back with their gradient. Raises `ValueError` for inputs of
        another shape.
        """
        check_sequence(self.config, frames, lead_frames, forcing)
        run = self._all_at_once if self.config.direct_leads else self._one_by_one
        return torch.stack(run(frames, lead_frames, forcing), dim=1)

    @abstractmethod
    def step(self, frame: Tensor, forcing: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """Return the estimate ``(B, output_channels, H, W)`` of what follows ``frame``, and the new state.

        ``forcing`` is ``(B, forcing_channels, H, W)`` or none; no state is the first step's.
        """

    def _one_by_one(self, frames: Tensor, lead_frames: int, forcing: Tensor | None) -> list[Tensor]:
        estimates: list[Tensor] = []
        state: Any = None
        for day in range(frames.shape[1] - 1 + lead_frames):
            frame = frames[:, day] if day < frames.shape[1] else estimates[-1]
            estimate, state = self._stepped(frame, day, forcing, state)
            estimates.append(estimate)
        return estimates

    def _all_at_once(self, frames: Tensor, lead_frames: int, forcing: Tensor | None) -> list[Tensor]:
        known, state = list(frames.unbind(dim=1)), None
        read = 0
        while len(known) < frames.shape[1] + lead_frames:
            for day in range(read, len(known)):
                estimate, state = self._stepped(known[day], day, forcing, state)
            read = len(known)
            known += estimate.unflatten(1, (self.config.direct_leads, -1)).unbind(dim=1)
        return known[frames.shape[1] : frames.shape[1] + lead_frames]

    def _stepped(self, frame: Tensor, day: int, forcing: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        known = None if forcing is None else forcing[:, day]
        if self.config.checkpoint_steps and torch.is_grad_enabled():
            recomputed: tuple[Tensor, Any] = checkpoint(self.step, frame, known, state, use_reentrant=False)
            return recomputed
        return self.step(frame, known, state)


def with_forcing(frame: Tensor, forcing: Tensor | None) -> Tensor:
    """Return the channels of one step ``(B, ..., step_channels, H, W)``."""
    return frame if forcing is None else torch.cat([frame, forcing], dim=-3)


def read_out(head: Head, output: Tensor, newest: Tensor) -> Tensor:
    """Turn a network's output into estimates; both tensors broadcast to ``(B, ..., C, H, W)``."""
    if head == "sigmoid":
        return torch.sigmoid(output)
    return newest + output if head == "increment" else output


def start_as_persistence(head: Head, last_layer: nn.Module) -> None:
    """Zero the last layer of an ``increment`` head, so that the untrained network forecasts the newest frame."""
    if head == "increment":
        for parameter in last_layer.parameters():
            nn.init.zeros_(parameter)


def pad_to(frames: Tensor, size: Grid) -> Tensor:
    """Add zeros below and to the right of ``(..., H, W)`` up to ``size``; a frame of that size is returned as it is."""
    below, right = size[0] - frames.shape[-2], size[1] - frames.shape[-1]
    return F.pad(frames, (0, right, 0, below)) if below or right else frames


def check_sequence(config: ModelConfig, frames: Tensor, lead_frames: int, forcing: Tensor | None) -> None:
    """Raise `ValueError` unless the inputs of a forecast of ``lead_frames`` frames fit a network's configuration."""
    channels, (height, width) = config.frame_channels, config.size
    if frames.dim() != 5 or frames.shape[1] < 1 or tuple(frames.shape[2:]) != (channels, height, width):
        raise ValueError(
            f"frames have shape {tuple(frames.shape)}; "
            f"this model takes (batch, at least 1 frame, {channels}, {height}, {width})"
        )
    if lead_frames < 1:
        raise ValueError(f"lead_frames is {lead_frames}; ask for at least one")
    if forcing is None and config.forcing_channels == 0:
        return
    steps = frames.shape[1] + lead_frames - 1
    expected = (frames.shape[0], steps, config.forcing_channels, height, width)
    if forcing is None or tuple(forcing.shape) != expected:
        got = "no forcing" if forcing is None else f"forcing of shape {tuple(forcing.shape)}"
        raise ValueError(f"got {got}; {steps} steps of this model take {expected}")
