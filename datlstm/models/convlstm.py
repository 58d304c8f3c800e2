"""ConvLSTM: stacked long short-term memories whose products are convolutions (Shi et al. 2015, NeurIPS).

The widely used benchmark formulation, that of OpenSTL (Tan et al. 2023): no biases, no peepholes, frames cut into
patches whose cells become channels. What `PredRNN` shares with it lives here too.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from datlstm.models.frames import (
    Grid,
    RecurrentConfig,
    RecurrentNetwork,
    fitting_patch,
    pad_to,
    start_as_persistence,
    with_forcing,
)
from datlstm.models.layers import like
from datlstm.settings import PositiveInt

MapState = tuple[Tensor, Tensor]
"""Hidden map and memory of one cell, each ``(B, channels, h, w)``."""


class ConvLSTMConfig(RecurrentConfig):
    """Size and shape of a ConvLSTM; the defaults are the published benchmark model.

    ``hidden`` lists the channels of the cells, bottom to top. ``layer_norm`` normalises what each convolution of the
    gates returns over channels and space.
    """

    patch: PositiveInt = 4
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128, 128, 128, 128)
    kernel: PositiveInt = 5
    layer_norm: bool = False

    @classmethod
    def operational(cls, height: int, width: int) -> dict[str, Any]:
        """Return two narrow cells on at most 16 patches along the shorter side."""
        small = {"hidden": (32, 32), "kernel": 3, "patch": fitting_patch(height, width)}
        return small | super().operational(height, width)

    @model_validator(mode="after")
    def _kernel_is_centred(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; a convolution that keeps the size of a map needs an odd one")
        return self

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches, the frame padded to whole ones."""
        return -(-self.height // self.patch), -(-self.width // self.patch)


class PatchNetwork(RecurrentNetwork):
    """A stack of convolutional cells between frames cut into patches; children define `climb`."""

    config: ConvLSTMConfig

    def __init__(self, config: ConvLSTMConfig, cells: Sequence[nn.Module]) -> None:
        super().__init__(config)
        self.cells = nn.ModuleList(cells)
        self.readout = nn.Conv2d(config.hidden[-1], config.output_channels * config.patch**2, 1, bias=False)
        start_as_persistence(config.head, self.readout)

    def step(self, frame: Tensor, forcing: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """Return the estimate ``(B, output_channels, H, W)`` of what follows and the new state of all cells."""
        rows, columns = self.config.grid
        padded = pad_to(with_forcing(frame, forcing), (rows * self.config.patch, columns * self.config.patch))
        top, new_state = self.climb(to_patches(padded, self.config.patch), state)
        height, width = self.config.size
        output = from_patches(like(frame, self.readout(top)), self.config.patch)[..., :height, :width]
        return self.config.read(output, frame), new_state

    @abstractmethod
    def climb(self, maps: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run all cells on patches ``(B, C * patch**2, h, w)``; return the top's hidden map and the new state."""


class ConvLSTM(PatchNetwork):
    """The convolutional recurrent forecaster; see `ConvLSTMConfig`."""

    def __init__(self, config: ConvLSTMConfig) -> None:
        super().__init__(config, [ConvLSTMCell(*widths, config) for widths in cell_widths(config)])

    def climb(self, maps: Tensor, state: list[MapState] | None) -> tuple[Tensor, list[MapState]]:
        """Run all cells on patches; each one reads the hidden map of the one below."""
        new_state: list[MapState] = []
        for index, cell in enumerate(self.cells):
            new_state.append(cell(maps, None if state is None else state[index]))
            maps = new_state[-1][0]
        return maps, new_state


class ConvLSTMCell(nn.Module):
    """One cell of ``hidden`` channels on maps of ``inputs`` channels; gates: input, forget, candidate, output."""

    def __init__(self, inputs: int, hidden: int, config: ConvLSTMConfig) -> None:
        super().__init__()
        self.gates = (
            NormedConvolutions((inputs, hidden), 4 * hidden, config)
            if config.layer_norm
            else JoinedConvolution((inputs, hidden), 4 * hidden, config.kernel)
        )

    def forward(self, maps: Tensor, state: MapState | None) -> MapState:
        """Return the new state after ``(B, inputs, h, w)``; no state is zeros."""
        hidden, memory = (None, None) if state is None else state
        admit, forget, candidate, output = like(maps, self.gates(maps, hidden)).chunk(4, dim=1)
        memory = remember(admit, forget, candidate, memory)
        return torch.sigmoid(output) * torch.tanh(memory), memory


class JoinedConvolution(nn.Module):
    """The sum of one bias-free convolution per map, done as a single one over the channels of all maps.

    Each map's part of the weight starts as torch's convolution of that map alone does, as in the published models.
    """

    def __init__(self, inputs: Sequence[int], outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, sum(inputs), kernel, kernel))
        with torch.no_grad():
            for part in self.weight.split_with_sizes(tuple(inputs), dim=1):
                part.copy_(torch.empty_like(part).uniform_(-1, 1) * part[0].numel() ** -0.5)

    def forward(self, first: Tensor, second: Tensor | None) -> Tensor:
        """Return ``(B, outputs, h, w)``; a second map that is none counts as zeros and costs nothing."""
        if second is None:
            return _convolve(first, self.weight[:, : first.shape[1]])
        return _convolve(torch.cat([first, second], dim=1), self.weight)


class NormedConvolution(nn.Module):
    """A bias-free convolution, then layer norm over channels and space with one scale and shift for each element."""

    def __init__(self, inputs: int, outputs: int, config: ConvLSTMConfig) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, config.kernel, padding=config.kernel // 2, bias=False)
        self.norm = nn.LayerNorm((outputs, *config.grid))

    def forward(self, maps: Tensor | None) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, outputs, h, w)``; none, a map of zeros, to the shift alone."""
        return self.norm.bias if maps is None else self.norm(self.convolution(maps))


class NormedConvolutions(nn.Module):
    """The sum of one `NormedConvolution` per map."""

    def __init__(self, inputs: Sequence[int], outputs: int, config: ConvLSTMConfig) -> None:
        super().__init__()
        self.parts = nn.ModuleList(NormedConvolution(channels, outputs, config) for channels in inputs)

    def forward(self, first: Tensor, second: Tensor | None) -> Tensor:
        """Return ``(B, outputs, h, w)``; a second map that is none counts as zeros."""
        return self.parts[0](first) + self.parts[1](second)


def cell_widths(config: ConvLSTMConfig) -> list[tuple[int, int]]:
    """Return the input and hidden channels of each cell, bottom to top."""
    return list(zip((config.step_channels * config.patch**2, *config.hidden[:-1]), config.hidden, strict=True))


def remember(admit: Tensor, forget: Tensor, candidate: Tensor, memory: Tensor | None) -> Tensor:
    """Return the memory after one step of a long short-term memory, its gates given as logits; none is zeros."""
    admitted = torch.sigmoid(admit) * torch.tanh(candidate)
    return admitted if memory is None else torch.addcmul(admitted, torch.sigmoid(forget), memory)


def to_patches(frames: Tensor, patch: int) -> Tensor:
    """Map ``(B, C, H, W)`` to ``(B, patch**2 * C, H / patch, W / patch)``, the frame's channels the fastest."""
    return rearrange(frames, "b c (h p) (w q) -> b (p q c) h w", p=patch, q=patch)


def from_patches(maps: Tensor, patch: int) -> Tensor:
    """Map ``(B, patch**2 * C, h, w)`` back to ``(B, C, h * patch, w * patch)``."""
    return rearrange(maps, "b (p q c) h w -> b c (h p) (w q)", p=patch, q=patch)


def _convolve(maps: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)
