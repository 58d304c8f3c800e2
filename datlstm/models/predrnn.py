"""PredRNN: ConvLSTM cells with a second memory that climbs through the stack (Wang et al. 2017, NeurIPS; 2023, TPAMI).

The spatiotemporal memory runs bottom to top within a step, and from the top to the bottom of the next one.
"""

from typing import Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn

from datlstm.models.convlstm import (
    ConvLSTMConfig,
    JoinedConvolution,
    MapState,
    NormedConvolution,
    PatchNetwork,
    cell_widths,
    remember,
)
from datlstm.models.layers import like

FORGET_BIAS = 1.0
"""What both forget gates add to their logits, so that an untrained cell keeps its memories."""

NetworkState = tuple[list[MapState], Tensor]
"""The state of every cell and the climbing memory ``(B, channels, h, w)``."""


class PredRNNConfig(ConvLSTMConfig):
    """Size and shape of a PredRNN, as `ConvLSTMConfig`; all cells are equally wide, for they share one memory."""

    @model_validator(mode="after")
    def _widths_are_equal(self) -> Self:
        if len(set(self.hidden)) > 1:
            raise ValueError(f"hidden is {self.hidden}; the cells share one memory, so all must be equally wide")
        return self


class PredRNN(PatchNetwork):
    """The convolutional recurrent forecaster with a climbing memory; see `PredRNNConfig`."""

    config: PredRNNConfig

    def __init__(self, config: PredRNNConfig) -> None:
        super().__init__(config, [PredRNNCell(*widths, config) for widths in cell_widths(config)])

    def climb(self, maps: Tensor, state: NetworkState | None) -> tuple[Tensor, NetworkState]:
        """Run all cells on patches; each one reads hidden map and climbing memory of the one below."""
        states, climbing = (None, None) if state is None else state
        new_states: list[MapState] = []
        for index, cell in enumerate(self.cells):
            new_state, climbing = cell(maps, None if states is None else states[index], climbing)
            new_states.append(new_state)
            maps = new_state[0]
        return maps, (new_states, cast(Tensor, climbing))


class PredRNNCell(nn.Module):
    """One spatiotemporal cell of ``hidden`` channels on maps of ``inputs`` channels."""

    def __init__(self, inputs: int, hidden: int, config: PredRNNConfig) -> None:
        super().__init__()
        self.gates = (NormedGates if config.layer_norm else JoinedGates)(inputs, hidden, config)
        self.output = (
            NormedConvolution(2 * hidden, hidden, config)
            if config.layer_norm
            else nn.Conv2d(2 * hidden, hidden, config.kernel, padding=config.kernel // 2, bias=False)
        )
        self.reduction = nn.Conv2d(2 * hidden, hidden, 1, bias=False)

    def forward(self, maps: Tensor, state: MapState | None, climbing: Tensor | None) -> tuple[MapState, Tensor]:
        """Return the new state and the new climbing memory after ``(B, inputs, h, w)``; what is none is zeros."""
        hidden, memory = (None, None) if state is None else state
        temporal, spatial = self.gates(maps, hidden, climbing)
        admit, forget, candidate, output = like(maps, temporal).chunk(4, dim=1)
        memory = remember(admit, forget + FORGET_BIAS, candidate, memory)
        admit, forget, candidate = like(maps, spatial).chunk(3, dim=1)
        climbing = remember(admit, forget + FORGET_BIAS, candidate, climbing)
        memories = torch.cat([memory, climbing], dim=1)
        gate = torch.sigmoid(output + like(maps, self.output(memories)))
        return (gate * torch.tanh(like(maps, self.reduction(memories))), memory), climbing


class JoinedGates(nn.Module):
    """Logits of the gates: input, forget, candidate, output of the memory; the first three of the climbing one."""

    def __init__(self, inputs: int, hidden: int, config: PredRNNConfig) -> None:
        super().__init__()
        self.temporal = JoinedConvolution((inputs, hidden), 4 * hidden, config.kernel)
        self.spatial = JoinedConvolution((inputs, hidden), 3 * hidden, config.kernel)

    def forward(self, maps: Tensor, hidden: Tensor | None, climbing: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``(B, 4 * hidden, h, w)`` and ``(B, 3 * hidden, h, w)``."""
        return self.temporal(maps, hidden), self.spatial(maps, climbing)


class NormedGates(nn.Module):
    """The logits of `JoinedGates` with layer norm: what one map gives to all gates is normalised together."""

    def __init__(self, inputs: int, hidden: int, config: PredRNNConfig) -> None:
        super().__init__()
        self.sizes = [4 * hidden, 3 * hidden]
        self.maps = NormedConvolution(inputs, sum(self.sizes), config)
        self.hidden, self.climbing = (NormedConvolution(hidden, size, config) for size in self.sizes)

    def forward(self, maps: Tensor, hidden: Tensor | None, climbing: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``(B, 4 * hidden, h, w)`` and ``(B, 3 * hidden, h, w)``."""
        temporal, spatial = self.maps(maps).split(self.sizes, dim=1)
        return temporal + self.hidden(hidden), spatial + self.climbing(climbing)
