"""DatLSTM: a recurrent encoder-decoder whose cells attend inside windows and to deformed key points in turn.

After the published DatLSTM; the deformable attention is that of Xia et al. 2022 (Vision Transformer with Deformable
Attention). Frames are ``(B, channels, height, width)``, tokens ``(B, L, C)``, positions (y, x) with -1 and 1 on the
centres of the first and last token.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Annotated, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datlstm.models.layers import (
    Block,
    CellState,
    GatedCell,
    Grid,
    PatchEmbed,
    PatchExpanding,
    PatchInflate,
    PatchMerging,
    WindowAttention,
    attend,
    check_sequence,
    rollout,
    stage_rates,
)
from datlstm.settings import Frozen, PositiveInt

BIAS_STD = 0.01
"""Spread of the learnt relative biases at the start."""


class Stage(NamedTuple):
    """One cell of the encoder or decoder: its token grid, width, heads, groups and each block's drop-path rate."""

    grid: Grid
    channels: int
    heads: int
    groups: int
    drop_rates: list[float]


class DatLSTMConfig(Frozen):
    """Size and shape of a DatLSTM; the defaults are the published model.

    ``down`` are the encoder's depths from the finest grid to the coarsest; ``up`` the decoder's, **also** from the
    finest to the coarsest, so that the first cell of the decoder has depth ``up[-1]``. ``heads`` and ``groups`` list
    the encoder's cells and then the decoder's in the order they run. ``offset_range`` bounds how many key spacings a
    key may wander; a negative one lets it wander freely inside the map.
    Head ``sigmoid`` gives frames in 0 … 1; ``increment`` adds to the frame that was fed, and starts as persistence.
    ``centred_reference_points`` spreads the keys evenly over the map instead of as published (shifted down and right).
    ``checkpoint_steps`` trades time for memory in training.
    """

    height: PositiveInt
    width: PositiveInt
    forcing_channels: Annotated[int, Field(ge=0)] = 0
    patch: PositiveInt = 2
    embed: PositiveInt = 128
    down: tuple[PositiveInt, ...] = (2, 6)
    up: tuple[PositiveInt, ...] = (6, 2)
    heads: tuple[PositiveInt, ...] = (4, 8, 16, 8)
    groups: tuple[PositiveInt, ...] = (2, 4, 8, 4)
    window: PositiveInt = 4
    key_stride: PositiveInt = 2
    kernel: PositiveInt = 3
    offset_range: float = 2.0
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    head: Literal["sigmoid", "increment"] = "sigmoid"
    centred_reference_points: bool = False
    checkpoint_steps: bool = False

    @model_validator(mode="after")
    def _lists_fit(self) -> Self:
        levels = len(self.down)
        if levels == 0 or len(self.up) != levels:
            raise ValueError(f"down and up need the same number of depths, at least 1; got {self.down} and {self.up}")
        for name, values in (("heads", self.heads), ("groups", self.groups)):
            if len(values) != 2 * levels:
                raise ValueError(f"{name} needs {2 * levels} entries for {levels} levels; got {values}")
        for stage in (*self.encoder_stages(), *self.decoder_stages()):
            if stage.channels % stage.heads or stage.heads % stage.groups:
                raise ValueError(
                    f"a cell of {stage.channels} channels has {stage.heads} heads in {stage.groups} groups; heads must "
                    f"divide channels and groups must divide heads"
                )
        return self

    @property
    def padding(self) -> int:
        """Zeros around the map before the offset convolution."""
        return self.kernel // 2 if self.kernel != self.key_stride else 0

    def encoder_stages(self) -> Iterator[Stage]:
        """Yield the encoder's stages from the finest to the coarsest."""
        rates = stage_rates(self.drop_path, self.down)
        for level in range(len(self.down)):
            yield self._stage(level, level, rates[level])

    def decoder_stages(self) -> Iterator[Stage]:
        """Yield the decoder's stages from the coarsest to the finest; rates fall along a stage's blocks."""
        levels = len(self.up)
        rates = stage_rates(self.drop_path, self.up)
        for position in range(levels):
            yield self._stage(levels - position, levels + position, rates[levels - 1 - position][::-1])

    def grid(self, level: int) -> Grid:
        """Return the token grid after ``level`` mergings, the frame padded so that every stage can be tiled."""
        return self._tokens(self.height, level), self._tokens(self.width, level)

    def _tokens(self, cells: int, level: int) -> int:
        # Two keys at least along each axis: one key has no spacing to scale its offset by.
        fewest = self.key_stride + self.kernel - 2 * self.padding
        unit = self.patch * self.window * 2 ** len(self.down)
        windows = max(ceil(cells / unit), ceil(fewest / self.window))
        return windows * self.window * 2 ** (len(self.down) - level)

    def _stage(self, level: int, position: int, drop_rates: list[float]) -> Stage:
        channels = self.embed * 2**level
        return Stage(self.grid(level), channels, self.heads[position], self.groups[position], drop_rates)


class DisplacementBias(nn.Module):
    """A learnt bias per head for the displacement from a query token to a key at any position.

    The table ``(heads, 2h - 1, 2w - 1)`` is read bilinearly, zero outside; a key lies at most ``reach`` (y, x) beyond
    the map's -1 ... 1. All queries of one key see the table shifted by the same fraction of a pixel, so its biases are
    one crop of the table blended by one 2 x 2 stencil: coordinates of (query, key) pairs are never formed.
    """

    lines: Tensor
    half_extent: Tensor
    margin: Tensor
    last: Tensor

    def __init__(self, grid: Grid, heads: int, groups: int, reach: tuple[float, float]) -> None:
        super().__init__()
        rows, columns = grid
        self.grid, self.heads_per_group = grid, heads // groups
        self.table = nn.Parameter(torch.empty(heads, 2 * rows - 1, 2 * columns - 1))
        nn.init.trunc_normal_(self.table, std=BIAS_STD)
        self.margins = tuple(ceil((size - 1) * beyond / 2) + 1 for size, beyond in zip(grid, reach, strict=True))
        height, width = (2 * size - 1 + 2 * margin for size, margin in zip(grid, self.margins, strict=True))
        lines = torch.arange(heads)[:, None, None] * height + torch.arange(rows + 1)
        self.register_buffer("lines", lines, persistent=False)
        self.register_buffer("half_extent", (torch.tensor(grid) - 1) / 2, persistent=False)
        self.register_buffer("margin", torch.tensor(self.margins), persistent=False)
        self.register_buffer("last", torch.tensor([height - rows - 1, width - columns - 1]), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Map key positions ``(B, groups, keys, 2)`` to biases ``(B, heads, h * w, keys)``."""
        batch, _, keys, _ = positions.shape
        corner = (1 - positions) * self.half_extent + self.margin
        corner = corner.repeat_interleave(self.heads_per_group, dim=1)
        pixel = corner.detach().floor()
        crops = self._crops(pixel.long())
        near = torch.stack([pixel + 1 - corner, corner - pixel], dim=-1)
        stencils = near[..., 0, :, None] * near[..., 1, None, :]
        # One convolution with a group per key: its native gradient is twice as fast as that of two interpolations.
        count = stencils[..., 0, 0].numel()
        blended = F.conv2d(crops.view(1, count, *crops.shape[-2:]), stencils.view(count, 1, 2, 2), groups=count)
        return blended.view(batch, -1, keys, self.grid[0] * self.grid[1]).mT

    def _crops(self, pixel: Tensor) -> Tensor:
        """Read ``(h + 1, w + 1)`` table pixels from ``(B, heads, keys, 2)`` upper left corners."""
        horizontal, vertical = self.margins[1], self.margins[0]
        table = F.pad(self.table, (horizontal, horizontal, vertical, vertical))
        segments = table.unfold(2, self.grid[1] + 1, 1)
        # A diverged model has positions that are not numbers; it must give such a loss, not read outside the table.
        row, column = pixel.clamp(min=0).minimum(self.last).unsqueeze(-2).unbind(-1)
        return F.embedding((self.lines + row) * segments.shape[2] + column, segments.flatten(0, 2))


class DeformableAttention(nn.Module):
    """Attention of every token to a coarse grid of keys, each sampled where the queries around it point."""

    reference_points: Tensor
    offset_scale: Tensor

    def __init__(self, stage: Stage, config: DatLSTMConfig) -> None:
        super().__init__()
        channels, self.grid, self.heads, self.groups = stage.channels, stage.grid, stage.heads, stage.groups
        width = channels // stage.groups
        self.offset_range = config.offset_range
        self.query = nn.Linear(channels, channels)
        self.offset_convolution = nn.Conv2d(
            width, width, config.kernel, config.key_stride, config.padding, groups=width
        )
        self.offset_norm = nn.LayerNorm(width)
        self.offset = nn.Linear(width, 2, bias=False)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.output = nn.Linear(channels, channels)
        self._place_keys(config)

    def _place_keys(self, config: DatLSTMConfig) -> None:
        rows, columns = ((size + 2 * config.padding - config.kernel) // config.key_stride + 1 for size in self.grid)
        spacings = torch.tensor([rows - 1, columns - 1])
        extent = torch.tensor([rows, columns]) if config.centred_reference_points else spacings
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        self.register_buffer("reference_points", 2 * (place + 0.5) / extent - 1, persistent=False)
        self.register_buffer("offset_scale", self.offset_range / spacings, persistent=False)
        wander = 1 + max(self.offset_range, 0)
        reach = (wander / (rows - 1), wander / (columns - 1))
        self.relative_bias = DisplacementBias(self.grid, self.heads, self.groups, reach)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, h * w, C)`` to the same shape."""
        query = self.query(tokens)
        positions = self.key_positions(query)
        key_value = self.key_value(self._sample(tokens, positions))
        key, value = rearrange(key_value, "b k (two n d) -> two b n k d", two=2, n=self.heads)
        query = rearrange(query, "b l (n d) -> b n l d", n=self.heads)
        mixed = attend(query, key, value, self.relative_bias(positions))
        return self.output(rearrange(mixed, "b n l d -> b l (n d)"))

    def key_positions(self, query: Tensor) -> Tensor:
        """Map queries ``(B, h * w, C)`` to the positions ``(B, groups, keys, 2)`` of each group's keys."""
        local = self.offset_convolution(self._group_images(query))
        local = rearrange(local, "(b g) c h w -> b g (h w) c", g=self.groups)
        offset = self.offset(F.gelu(self.offset_norm(local)))
        if self.offset_range < 0:
            return (offset + self.reference_points).clamp(-1, 1)
        return torch.tanh(offset) * self.offset_scale + self.reference_points

    def _sample(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Read ``(B, keys, C)`` bilinearly from ``(B, h * w, C)``, zero outside, each group at its own positions."""
        images = self._group_images(tokens).to(positions.dtype)
        points = positions.flatten(0, 1).flip(-1).unsqueeze(1)
        sampled = F.grid_sample(images, points, align_corners=True)
        return rearrange(sampled, "(b g) c 1 k -> b k (g c)", g=self.groups)

    def _group_images(self, tokens: Tensor) -> Tensor:
        return rearrange(tokens, "b (h w) (g c) -> (b g) c h w", h=self.grid[0], g=self.groups)


class DatLSTM(nn.Module):
    """The recurrent forecaster; see `DatLSTMConfig`. A frame of any height and width is padded with zeros inside."""

    def __init__(self, config: DatLSTMConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = list(config.encoder_stages()), list(config.decoder_stages())
        self.embed = PatchEmbed(1 + config.forcing_channels, config.patch, config.embed)
        self.encoder = nn.ModuleList(_cell(stage, config) for stage in encoder)
        self.merging = nn.ModuleList(PatchMerging(stage.grid, stage.channels) for stage in encoder)
        self.decoder = nn.ModuleList(_cell(stage, config) for stage in decoder)
        self.expanding = nn.ModuleList(PatchExpanding(stage.grid, stage.channels) for stage in decoder)
        self.inflate = PatchInflate(config.grid(0), config.patch, config.embed)
        if config.head == "increment":
            for parameter in self.inflate.parameters():
                nn.init.zeros_(parameter)

    def forward(self, frames: Tensor, lead_frames: int, forcing: Tensor | None = None) -> Tensor:
        """Forecast ``lead_frames`` frames from ``frames`` ``(B, T, 1, H, W)``, the last one the newest.

        ``forcing`` ``(B, T - 1 + lead_frames, forcing_channels, H, W)`` is known in advance for every step. Returns
        ``(B, T - 1 + lead_frames, 1, H, W)``: estimates of frames 2 ... T, then the forecast. Predictions are fed back
        with their gradient. Raises `ValueError` for inputs of another shape.
        """
        size = (self.config.height, self.config.width)
        check_sequence(frames, lead_frames, forcing, size=size, forcing_channels=self.config.forcing_channels)
        recompute = self.config.checkpoint_steps and torch.is_grad_enabled()
        return rollout(self._recomputed_step if recompute else self.step, frames, lead_frames, forcing)

    def step(self, frame: Tensor, states: list[CellState] | None) -> tuple[Tensor, list[CellState]]:
        """Return the estimate ``(B, 1, H, W)`` of the next frame and the new states of all cells.

        ``frame`` ``(B, 1 + forcing_channels, H, W)`` holds SST first; ``states`` is none at the first step.
        """
        cells, resamplings = (*self.encoder, *self.decoder), (*self.merging, *self.expanding)
        tokens = self.embed(self._pad(frame))
        given: Sequence[CellState | None] = [None] * len(cells) if states is None else states
        new_states: list[CellState] = []
        for cell, resampling, state in zip(cells, resamplings, given, strict=True):
            new_states.append(cell(tokens, state))
            tokens = resampling(new_states[-1][0])
        change = self.inflate(tokens)[..., : self.config.height, : self.config.width]
        return (torch.sigmoid(change) if self.config.head == "sigmoid" else frame[:, :1] + change), new_states

    def _recomputed_step(self, frame: Tensor, states: list[CellState] | None) -> tuple[Tensor, list[CellState]]:
        return checkpoint(self.step, frame, states, use_reentrant=False)

    def _pad(self, frame: Tensor) -> Tensor:
        height, width = self.inflate.size
        return F.pad(frame, (0, width - self.config.width, 0, height - self.config.height))


def _cell(stage: Stage, config: DatLSTMConfig) -> GatedCell:
    return GatedCell(
        [
            Block(stage.channels, _attention(index, stage, config), mixes=index % 2 == 0, drop_path=rate)
            for index, rate in enumerate(stage.drop_rates)
        ]
    )


def _attention(index: int, stage: Stage, config: DatLSTMConfig) -> nn.Module:
    if index % 2:
        return DeformableAttention(stage, config)
    return WindowAttention(stage.grid, stage.channels, stage.heads, config.window, BIAS_STD)
