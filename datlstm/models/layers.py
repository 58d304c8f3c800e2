"""Parts that the gated forecasters share: token maps, attention windows, transformer blocks and the gated cell.

Frames are ``(B, channels, height, width)``. Token maps are ``(B, rows * columns, C)``, row-major: token
``y * columns + x``. Linear and convolution layers keep torch's default initialisation, as the published models do.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from datlstm.models.frames import Grid

CellState = tuple[Tensor, Tensor]
"""Hidden map and memory map of one gated cell, each ``(B, L, C)``."""


class PatchEmbed(nn.Module):
    """Turn frames into tokens: one linear map per patch of ``patch`` x ``patch`` cells, then layer norm."""

    def __init__(self, frame_channels: int, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Linear(frame_channels * patch**2, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, frame: Tensor) -> Tensor:
        """Map ``(B, frame_channels, H, W)`` to ``(B, H/patch * W/patch, channels)``."""
        patches = rearrange(frame, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch)
        return like(frame, self.norm(self.projection(patches)))


class PatchMerging(nn.Module):
    """Halve the grid and double the channels; the 2 x 2 cell is read column by column, as in the published models."""

    def __init__(self, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, h * w, C)`` to ``(B, h/2 * w/2, 2C)``."""
        rows, columns = self.grid
        cells = rearrange(tokens, "b (h p w q) c -> b (h w) (q p c)", h=rows // 2, p=2, w=columns // 2, q=2)
        return like(tokens, self.reduction(self.norm(cells)))


class PatchExpanding(nn.Module):
    """Double the grid and halve the channels."""

    def __init__(self, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.expansion = nn.Linear(channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(channels // 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, h * w, C)`` to ``(B, 2h * 2w, C/2)``."""
        rows, columns = self.grid
        cells = rearrange(self.expansion(tokens), "b (h w) (p q c) -> b (h p w q) c", h=rows, w=columns, p=2, q=2)
        return like(tokens, self.norm(cells))


class PatchInflate(nn.Module):
    """Turn tokens into a frame by a transposed convolution of stride ``patch``, kernel ``2 patch - 1``."""

    def __init__(self, grid: Grid, patch: int, channels: int, frame_channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.size = (grid[0] * patch, grid[1] * patch)
        self.convolution = nn.ConvTranspose2d(
            channels, frame_channels, 2 * patch - 1, stride=patch, padding=patch - 1, output_padding=patch - 1
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, h * w, C)`` to ``(B, frame_channels, h * patch, w * patch)``."""
        # A product and an overlap-add: several times faster on CPU than torch's transposed convolution to one channel.
        kernel, bias = self.convolution.weight, cast(Tensor, self.convolution.bias)
        stamps = (tokens @ kernel.flatten(1)).mT
        frame = F.fold(stamps, self.size, kernel.shape[-2:], padding=self.patch - 1, stride=self.patch)
        return like(tokens, frame + bias.view(-1, 1, 1))


class StochasticDepth(nn.Module):
    """In training drop a residual branch for a whole sample with probability ``rate`` (Huang et al. 2016)."""

    kept_share: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        # A tensor, not a number: compiled code of one block then serves all blocks of its shape.
        self.register_buffer("kept_share", torch.tensor(1 - rate), persistent=False)

    def forward(self, branch: Tensor) -> Tensor:
        """Return ``(B, ...)``, kept samples scaled by 1 / (1 - rate)."""
        if not self.training:
            return branch
        kept = torch.bernoulli(self.kept_share.expand(len(branch), *[1] * (branch.dim() - 1)))
        return branch * (kept / self.kept_share).to(branch.dtype)


class WindowAttention(nn.Module):
    """Self-attention inside windows that tile the grid, with a learnt bias per relative position (Liu et al. 2021).

    A ``shift`` moves the windows down and to the right, around the map's edges; tokens that only the wrap brings into
    one window don't see each other.
    """

    relative_index: Tensor
    separation: Tensor | None

    def __init__(self, grid: Grid, channels: int, heads: int, window: int, bias_std: float, *, shift: int = 0) -> None:
        super().__init__()
        self.grid, self.heads, self.window, self.shift = grid, heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.relative_bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_bias, std=bias_std)
        self.register_buffer("relative_index", relative_position_index(window), persistent=False)
        separation = window_separation(grid, window, shift) if shift else None
        self.register_buffer("separation", separation, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, h * w, C)`` to the same shape."""
        rows, columns = (size // self.window for size in self.grid)
        layout = {"h": rows, "w": columns, "p": self.window, "q": self.window}
        query, key, value = rearrange(
            self._rolled(self.qkv(tokens), -self.shift),
            "b (h p w q) (k n d) -> k b (h w) n (p q) d",
            k=3,
            n=self.heads,
            **layout,
        )
        bias = F.embedding(self.relative_index, self.relative_bias).permute(2, 0, 1)
        if self.separation is not None:
            bias = bias + self.separation
        mixed = attend(query, key, value, bias)
        mixed = rearrange(mixed, "b (h w) n (p q) d -> b (h p w q) (n d)", **layout)
        return self._rolled(self.output(mixed), self.shift)

    def _rolled(self, tokens: Tensor, by: int) -> Tensor:
        if not by:
            return tokens
        return tokens.unflatten(1, self.grid).roll((by, by), (1, 2)).flatten(1, 2)


class Block(nn.Module):
    """A pre-norm transformer block; one that ``mixes`` first blends a second map into the input of its attention."""

    def __init__(self, channels: int, attention: nn.Module, *, mixes: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.reduction = nn.Linear(2 * channels, channels) if mixes else None
        self.attention = attention
        self.norm2 = nn.LayerNorm(channels)
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, tokens: Tensor, mix: Tensor | None) -> Tensor:
        """Map ``(B, L, C)`` to the same shape; only a block that mixes reads ``mix`` ``(B, L, C)``; none is zeros."""
        attended = self.norm1(tokens)
        if self.reduction is not None:
            # The norm of zeros is its bias: one token stands for all.
            mixed = self.norm1.bias.expand_as(attended) if mix is None else self.norm1(mix)
            attended = self.reduction(torch.cat([attended, mixed], dim=-1))
        tokens = tokens + self.drop_path(self.attention(attended))
        return tokens + self.drop_path(self.feed_forward(self.norm2(tokens)))


class GatedCell(nn.Module):
    """The recurrent cell of SwinLSTM (Tang et al. 2023): a stack of blocks drives one gate for input, memory, output.

    Block 0 mixes in the hidden map, every later even block the cell's own input, odd blocks mix nothing.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, tokens: Tensor, state: CellState | None) -> CellState:
        """Return the new state of ``(B, L, C)`` maps; its hidden map is also the cell's output. No state is zeros."""
        flow = tokens
        for index, block in enumerate(self.blocks):
            flow = block(flow, tokens if index else None if state is None else state[0])
        gate, candidate = torch.sigmoid(flow), torch.tanh(flow)
        memory = gate * (candidate if state is None else state[1] + candidate)
        return gate * torch.tanh(memory), memory


def stochastic_depth(rate: float) -> nn.Module:
    """Return what drops a residual branch with probability ``rate``; nothing at all for 0."""
    return StochasticDepth(rate) if rate else nn.Identity()


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *, fused: bool = False) -> Tensor:
    """Return softmax(q k' / sqrt(d) + bias) v for ``(B, ..., queries, d)`` and ``(B, ..., keys, d)``.

    ``bias`` broadcasts to ``(B, ..., queries, keys)``. ``fused`` asks for torch's fused attention, which a GPU always
    gets. On CPU plain products beat it for small windows and wherever the bias is learnt.
    """
    if fused or query.is_cuda:
        return _fused_attention(query, key, value, bias)
    logits = (query * query.shape[-1] ** -0.5) @ key.mT + bias
    return logits.softmax(-1).to(value.dtype) @ value


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    # Kernels take four dimensions; those of a GPU want the bias in the precision of the rest.
    bias = bias.expand(*query.shape[:-1], key.shape[-2])
    if query.is_cuda:
        bias = bias.to(query.dtype)
    queries, keys, values = (part.flatten(0, -4) for part in (query, key, value))
    # Autocast would round the bias on CPU as well, and copy it for that.
    with torch.autocast(query.device.type, enabled=False):
        mixed = F.scaled_dot_product_attention(queries, keys, values, bias.flatten(0, -4))
    return mixed.view(query.shape)


def relative_position_index(window: int) -> Tensor:
    """Return ``(window**2, window**2)`` rows of the bias table for each (query, key) pair inside a window."""
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    displacement = place[:, None] - place[None] + window - 1
    return displacement[..., 0] * (2 * window - 1) + displacement[..., 1]


def window_separation(grid: Grid, window: int, shift: int) -> Tensor:
    """Return ``(windows, 1, window**2, window**2)``: -100 between tokens that only a roll by ``shift`` made neighbours.

    The rolled map falls into 3 x 3 regions, cut one window and one shift before its end.
    """
    rows, columns = (
        (torch.arange(size) >= size - window).long() + (torch.arange(size) >= size - shift).long() for size in grid
    )
    regions = rearrange(3 * rows[:, None] + columns, "(h p) (w q) -> (h w) (p q)", p=window, q=window)
    return -100.0 * (regions[:, None, :, None] != regions[:, None, None, :])


def like(reference: Tensor, tokens: Tensor) -> Tensor:
    """Return ``tokens`` in the dtype of ``reference``: under autocast maps and states must stay in full precision."""
    return tokens.to(reference.dtype)


def stage_rates(largest: float, depths: Sequence[int]) -> list[list[float]]:
    """Return stochastic-depth rates rising linearly from 0 to ``largest`` over all blocks, one list per stage."""
    rates = np.linspace(0, largest, sum(depths)).tolist()
    ends = np.cumsum([0, *depths]).tolist()
    return [rates[first:last] for first, last in pairwise(ends)]
