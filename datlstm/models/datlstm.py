"""DatLSTM: a recurrent encoder-decoder whose cells attend inside windows and to deformed key points in turn.

After the published DatLSTM; the deformable attention is that of Xia et al. 2022 (Vision Transformer with Deformable
Attention). Frames are ``(B, channels, height, width)``, tokens ``(B, L, C)``, positions (y, x) with -1 and 1 on the
centres of the first and last token.
"""

from math import ceil
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import model_validator
from torch import Tensor, nn

from datlstm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, Stage
from datlstm.models.frames import Grid
from datlstm.models.layers import WindowAttention, attend, like
from datlstm.settings import PositiveInt

BIAS_STD = 0.01
"""Spread of the learnt relative biases at the start."""


class DatLSTMConfig(EncoderDecoderConfig):
    """Size and shape of a DatLSTM; the defaults are the published model.

    ``heads`` and ``groups`` list the encoder's cells and then the decoder's in the order they run. ``offset_range``
    bounds how many key spacings a key may wander; a negative one lets it wander freely inside the map.
    ``uncentred_keys`` is a quirk of the published model: its keys lie shifted down and right, the last row and column
    outside the map; without it they are spread evenly.
    """

    heads: tuple[PositiveInt, ...] = (4, 8, 16, 8)
    groups: tuple[PositiveInt, ...] = (2, 4, 8, 4)
    key_stride: PositiveInt = 2
    kernel: PositiveInt = 3
    offset_range: float = 2.0
    uncentred_keys: bool = True

    @classmethod
    def operational(cls, height: int, width: int) -> dict[str, Any]:
        """Return one level of two heads or fewer, keys spread evenly, fitted to frames of a size."""
        return cls.fitted(height, width, heads=(1, 2), groups=(1, 1), uncentred_keys=False)

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        for name, values in (("heads", self.heads), ("groups", self.groups)):
            if len(values) != 2 * len(self.down):
                raise ValueError(f"{name} needs {2 * len(self.down)} entries for {len(self.down)} levels; got {values}")
        for stage in (*self.encoder_stages(), *self.decoder_stages()):
            groups = self.groups[stage.position]
            if stage.channels % stage.heads or stage.heads % groups:
                raise ValueError(
                    f"a cell of {stage.channels} channels has {stage.heads} heads in {groups} groups; heads must "
                    f"divide channels and groups must divide heads"
                )
        return self

    @property
    def padding(self) -> int:
        """Zeros around the map before the offset convolution."""
        return self.kernel // 2 if self.kernel != self.key_stride else 0

    def heads_at(self, position: int) -> int:
        """Return the heads of the cell that runs at ``position``."""
        return self.heads[position]

    def keys(self, size: int) -> int:
        """Return how many keys lie along an axis of ``size`` tokens."""
        return (size + 2 * self.padding - self.kernel) // self.key_stride + 1

    def tiles(self, grid: Grid) -> bool:
        """Whether windows tile a grid and it has two keys along each axis: one has no spacing to scale offsets by."""
        return all(size % self.window == 0 and self.keys(size) >= 2 for size in grid)


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
        corner = (1 - positions) * self.half_extent + self.margin
        corner = corner.repeat_interleave(self.heads_per_group, dim=1)
        pixel = corner.detach().floor()
        near = torch.stack([pixel + 1 - corner, corner - pixel], dim=-1)
        stencils = near[..., 0, :, None] * near[..., 1, None, :]
        # A diverged model has positions that are not numbers; it must give such a loss, not read outside the table.
        place = pixel.long().clamp(min=0).minimum(self.last)
        return self._blended_crops(place, stencils) if torch.is_grad_enabled() else self._bags(place, stencils)

    def _bags(self, place: Tensor, stencils: Tensor) -> Tensor:
        """Blend without a gradient: each line of biases is a weighted sum of four lines of the table."""
        batch, heads, keys = place.shape[:3]
        segments = self._padded_table().unfold(2, self.grid[1], 1)
        stride = segments.shape[2]
        first = (self._lines(place, self.grid[0]) * stride + place[..., 1, None]).transpose(1, 2)
        lines = torch.stack([first, first + 1, first + stride, first + stride + 1], dim=-1)
        weights = stencils.transpose(1, 2).reshape(batch, keys, heads, 1, 4).expand(lines.shape)
        sums = F.embedding_bag(
            lines.view(-1, 4), segments.flatten(0, 2), mode="sum", per_sample_weights=weights.reshape(-1, 4)
        )
        # Turned as one matrix: torch turns a stack of matrices at half the speed.
        biases = sums.view(batch * keys, -1).t().contiguous()
        return biases.view(heads, -1, batch, keys).permute(2, 0, 1, 3)

    def _blended_crops(self, place: Tensor, stencils: Tensor) -> Tensor:
        """Blend by one convolution with a group per key, whose gradient is cheaper than that of the bags."""
        batch, heads, keys = place.shape[:3]
        segments = self._padded_table().unfold(2, self.grid[1] + 1, 1)
        lines = self._lines(place, self.grid[0] + 1) * segments.shape[2] + place[..., 1, None]
        crops = F.embedding(lines, segments.flatten(0, 2))
        count = batch * heads * keys
        blended = F.conv2d(crops.view(1, count, *crops.shape[-2:]), stencils.view(count, 1, 2, 2), groups=count)
        return blended.view(batch, heads, keys, -1).mT

    def _lines(self, place: Tensor, count: int) -> Tensor:
        """Return the table's lines ``(B, heads, keys, count)`` below the upper left corners ``(B, heads, keys, 2)``."""
        return self.lines[..., :count] + place[..., :1]

    def _padded_table(self) -> Tensor:
        vertical, horizontal = self.margins
        return F.pad(self.table, (horizontal, horizontal, vertical, vertical))


class DeformableAttention(nn.Module):
    """Attention of every token to a coarse grid of keys, each sampled where the queries around it point."""

    reference_points: Tensor
    offset_scale: Tensor

    def __init__(self, stage: Stage, config: DatLSTMConfig) -> None:
        super().__init__()
        channels, self.grid, self.heads = stage.channels, stage.grid, stage.heads
        self.groups = config.groups[stage.position]
        width = channels // self.groups
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
        rows, columns = map(config.keys, self.grid)
        spacings = torch.tensor([rows - 1, columns - 1])
        extent = spacings if config.uncentred_keys else torch.tensor([rows, columns])
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
        mixed = attend(query, key, value, self.relative_bias(positions), fused=not torch.is_grad_enabled())
        return self.output(rearrange(mixed, "b n l d -> b l (n d)"))

    def key_positions(self, query: Tensor) -> Tensor:
        """Map queries ``(B, h * w, C)`` to the positions ``(B, groups, keys, 2)`` of each group's keys."""
        # Not in half precision: it can't tell where in a cell a key lies, and is slower in the convolution's gradient.
        with torch.autocast(query.device.type, enabled=False):
            local = self.offset_convolution(like(self.reference_points, self._group_images(query)))
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


class DatLSTM(EncoderDecoder):
    """The recurrent forecaster whose even blocks attend inside windows, odd blocks to deformed keys."""

    def __init__(self, config: DatLSTMConfig) -> None:
        def attention(index: int, stage: Stage) -> nn.Module:
            if index % 2:
                return DeformableAttention(stage, config)
            return WindowAttention(stage.grid, stage.channels, stage.heads, config.window, BIAS_STD)

        super().__init__(config, attention)
