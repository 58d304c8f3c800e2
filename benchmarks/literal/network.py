"""Blocks, gated cells and the closed loop of DatLSTM and SwinLSTM-D, under the names of the published state dicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.literal.attention import DeformableAttention, ImageWindowAttention, ShiftedWindowAttention
from benchmarks.literal.resampling import PatchEmbed, PatchExpanding, PatchInflate, PatchMerging
from datlstm.models.frames import Grid

DROP_PATH = 0.1

State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Size of a network; the defaults are the published DatLSTM. ``heads`` and ``groups`` count through both halves.

    ``up`` is read from its end, as published.
    """

    height: int = 64
    width: int = 64
    frame_channels: int = 1
    patch: int = 2
    embed: int = 128
    down: tuple[int, ...] = (2, 6)
    up: tuple[int, ...] = (6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 8)
    groups: tuple[int, ...] = (2, 4, 8, 4)
    window: int = 4

    def grid(self, level: int) -> Grid:
        """Return the token grid after ``level`` mergings."""
        return self.height // self.patch // 2**level, self.width // self.patch // 2**level


NamedAttention = tuple[str, nn.Module]
"""A block's attention and its name in the published state dict."""


@dataclass(frozen=True)
class Kind:
    """What tells the two networks apart: their cells' name, and the attention of a block at a position and an index."""

    name: str
    attention: Callable[[Sizes, int, int, Grid, int], NamedAttention]


class DropPath(nn.Module):
    """In training drop a residual branch for a whole sample (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Return ``(B, L, C)``, kept samples scaled up."""
        if self.rate == 0 or not self.training:
            return branch
        keep = 1 - self.rate
        return branch.div(keep) * branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep)


class Mlp(nn.Module):
    """The feed-forward part of a block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens to the same shape."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """A pre-norm transformer block; one that mixes blends a second map into the input of its attention."""

    def __init__(self, grid: Grid, channels: int, attention: NamedAttention, *, mixes: bool, drop_path: float) -> None:
        super().__init__()
        self.grid = grid
        self.attention, module = attention
        self.norm1 = nn.LayerNorm(channels)
        self.add_module(self.attention, module)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)
        if mixes:
            self.red = nn.Linear(2 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, mix: Tensor | None) -> Tensor:
        """Map tokens to the same shape."""
        x = self.norm1(tokens)
        if mix is not None:
            x = self.red(torch.cat([x, self.norm1(mix)], dim=-1))
        x = tokens + self.drop_path(getattr(self, self.attention)(x, self.grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Blocks(nn.Module):
    """The stack of blocks of a cell: the first mixes the hidden map, later even ones the cell's input."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Map tokens to the same shape."""
        x = tokens
        for index, layer in enumerate(self.layers):
            mix = hidden if index == 0 else tokens
            x = layer(x, mix if index % 2 == 0 else None)
        return x


class Cell(nn.Module):
    """The gated cell of SwinLSTM."""

    def __init__(self, kind: str, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.kind = kind
        self.add_module(kind, Blocks(blocks))

    def forward(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return the output tokens and the new state."""
        if state is None:
            hidden, memory = torch.zeros_like(tokens), torch.zeros_like(tokens)
        else:
            hidden, memory = state
        flow = getattr(self, self.kind)(tokens, hidden)
        gate = torch.sigmoid(flow)
        memory = gate * (memory + torch.tanh(flow))
        hidden = gate * torch.tanh(memory)
        return hidden, (hidden, memory)


class Encoder(nn.Module):
    """Cells on ever coarser grids, each followed by patch merging."""

    def __init__(self, kind: Kind, sizes: Sizes) -> None:
        super().__init__()
        rates = stage_rates(sizes.down)
        self.patch_embed = PatchEmbed(sizes.frame_channels, sizes.patch, sizes.embed)
        self.layers = nn.ModuleList()
        self.downsample = nn.ModuleList()
        for level in range(len(sizes.down)):
            grid, channels = sizes.grid(level), sizes.embed * 2**level
            self.layers.append(cell(kind, sizes, level, level, rates[level]))
            self.downsample.append(PatchMerging(grid, channels))

    def forward(self, frame: Tensor, states: Sequence[State | None]) -> tuple[Tensor, list[State]]:
        """Map a frame ``(B, c, H, W)`` to the coarsest tokens and the cells' new states."""
        x = self.patch_embed(frame)
        new_states = []
        for layer, downsample, state in zip(self.layers, self.downsample, states, strict=True):
            x, new_state = layer(x, state)
            x = downsample(x)
            new_states.append(new_state)
        return x, new_states


class Decoder(nn.Module):
    """Cells on ever finer grids, each followed by patch expanding, then a frame in 0 … 1."""

    def __init__(self, kind: Kind, sizes: Sizes) -> None:
        super().__init__()
        levels = len(sizes.up)
        rates = stage_rates(sizes.up)
        self.layers = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for stage in range(levels):
            level = levels - stage
            grid, channels = sizes.grid(level), sizes.embed * 2**level
            self.layers.append(cell(kind, sizes, levels + stage, level, rates[level - 1][::-1]))
            self.upsample.append(PatchExpanding(grid, channels))
        self.Unembed = PatchInflate(sizes.grid(0), sizes.patch, sizes.embed, sizes.frame_channels)

    def forward(self, tokens: Tensor, states: Sequence[State | None]) -> tuple[Tensor, list[State]]:
        """Map the coarsest tokens to a frame ``(B, c, H, W)`` and the cells' new states."""
        x = tokens
        new_states = []
        for layer, upsample, state in zip(self.layers, self.upsample, states, strict=True):
            x, new_state = layer(x, state)
            x = upsample(x)
            new_states.append(new_state)
        return torch.sigmoid(self.Unembed(x)), new_states


class EncoderDecoder(nn.Module):
    """The recurrent forecaster, run frame by frame on the observed frames and then on its own."""

    def __init__(self, kind: Kind, sizes: Sizes) -> None:
        super().__init__()
        self.Downsample = Encoder(kind, sizes)
        self.Upsample = Decoder(kind, sizes)

    def forward(self, frames: Tensor, lead_frames: int) -> Tensor:
        """Map ``(B, T, c, H, W)`` to estimates ``(B, T - 1 + lead_frames, c, H, W)`` of the frames after the first."""
        down: Sequence[State | None] = [None] * len(self.Downsample.layers)
        up: Sequence[State | None] = [None] * len(self.Upsample.layers)
        outputs: list[Tensor] = []
        for index in range(frames.shape[1] - 1 + lead_frames):
            frame = frames[:, index] if index < frames.shape[1] else outputs[-1]
            x, down = self.Downsample(frame, down)
            x, up = self.Upsample(x, up)
            outputs.append(x)
        return torch.stack(outputs, dim=1)


def stage_rates(depths: Sequence[int]) -> list[list[float]]:
    """Return stochastic-depth rates that rise linearly over all blocks, one list per stage."""
    rates = torch.linspace(0, DROP_PATH, sum(depths)).split(list(depths))
    return [stage.tolist() for stage in rates]


def cell(kind: Kind, sizes: Sizes, position: int, level: int, rates: Sequence[float]) -> Cell:
    """Return the cell at ``position``, counted through encoder and decoder, on the grid of ``level``."""
    grid, channels = sizes.grid(level), sizes.embed * 2**level
    blocks = [
        Block(
            grid,
            channels,
            kind.attention(sizes, position, index, grid, channels),
            mixes=index % 2 == 0,
            drop_path=rate,
        )
        for index, rate in enumerate(rates)
    ]
    return Cell(kind.name, blocks)


def dat_attention(sizes: Sizes, position: int, index: int, grid: Grid, channels: int) -> NamedAttention:
    """Return DatLSTM's attention: windows in even blocks, deformable in odd ones."""
    heads = sizes.heads[position]
    if index % 2 == 0:
        return "window_attn", ImageWindowAttention(channels, heads, sizes.window)
    return "dat_attn", DeformableAttention(grid, channels, heads, sizes.groups[position])


def swin_attention(sizes: Sizes, position: int, index: int, grid: Grid, channels: int) -> NamedAttention:
    """Return SwinLSTM-D's attention: windows, shifted in odd blocks; the decoder has the encoder's heads reversed."""
    heads = (*sizes.heads, *sizes.heads[::-1])[position]
    shift = sizes.window // 2 if index % 2 else 0
    return "attn", ShiftedWindowAttention(grid, channels, heads, sizes.window, shift)


DATLSTM = Kind("Dat", dat_attention)
SWINLSTM_D = Kind("Swin", swin_attention)
