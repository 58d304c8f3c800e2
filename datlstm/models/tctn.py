"""TCTN: a causal transformer over time whose projections are 3-D convolutions (Yang et al. 2021, arXiv 2112.01085).

Every position of the map attends along time only; the convolutions carry what moves across the map. Inside the
network a sequence is ``(B, T, C, h, w)``, one position of ``h * w`` for each patch of the frame.
"""

from typing import Annotated, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from datlstm.models.frames import (
    Grid,
    Head,
    ModelConfig,
    check_sequence,
    fitting_patch,
    pad_to,
    read_out,
    start_as_persistence,
    with_forcing,
)
from datlstm.models.layers import like
from datlstm.settings import PositiveInt

REACH = 2
"""Earlier maps that a causal convolution reads."""

SLOPE = 0.2
"""Slope of the leaky rectifiers below zero."""

WHOLE_CHANNELS = (0, 2)
"""Dimensions that dropout draws along in ``(B, T, C, h, w)``: a channel falls out at all times and places at once."""

WHOLE_KEYS = (0, 2, 4)
"""The same in weights ``(B, positions, heads, queries, keys)``: a head loses a key at all positions and queries."""


class TCTNConfig(ModelConfig):
    """Size and shape of a TCTN; the defaults are the published model.

    ``depth`` is the number of channels. Two quirks of the published model: with ``pooled_norm`` the group norms pool
    over time too, so that an estimate depends on later frames and every new frame runs the whole sequence again;
    without it a norm pools over one map, estimates are causal and a new frame costs one step. With
    ``masks_zero_logits`` a logit that is exactly 0 is taken for a masked one.
    """

    patch: PositiveInt = 4
    depth: PositiveInt = 128
    layers: PositiveInt = 6
    heads: PositiveInt = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    head: Head = "linear"
    pooled_norm: bool = True
    masks_zero_logits: bool = True

    @classmethod
    def operational(cls, height: int, width: int) -> dict[str, Any]:
        """Return two layers on at most 16 patches along the shorter side, causal and without quirks."""
        small = {"depth": 32, "layers": 2, "heads": 2, "dropout": 0.0, "head": "increment"}
        return small | {"patch": fitting_patch(height, width), "pooled_norm": False, "masks_zero_logits": False}

    @model_validator(mode="after")
    def _depth_fits(self) -> Self:
        if self.depth % 2 or self.depth % self.heads:
            raise ValueError(f"depth is {self.depth} with {self.heads} heads; it must be even and heads must divide it")
        return self

    @property
    def padded_size(self) -> Grid:
        """Height and width of the frame padded to whole patches."""
        height, width = (-(-cells // self.patch) * self.patch for cells in self.size)
        return height, width


class WholeDropout(nn.Module):
    """In training zero whole slices of a tensor: one draw for each index along the dimensions ``drawn``."""

    def __init__(self, rate: float, drawn: tuple[int, ...]) -> None:
        super().__init__()
        self.rate, self.drawn = rate, drawn

    def forward(self, values: Tensor) -> Tensor:
        """Return a tensor of the same shape, what is kept scaled by 1 / (1 - rate)."""
        if not self.training or self.rate == 0:
            return values
        sizes = [size if dim in self.drawn else 1 for dim, size in enumerate(values.shape)]
        return values * F.dropout(values.new_ones(sizes), self.rate)


class MapNorm(nn.Module):
    """Group norm of one group, with statistics of each map or, ``pooled``, of the whole sequence of a sample."""

    def __init__(self, channels: int, *, pooled: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.first_pooled = 1 if pooled else 2

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(B, T, C, h, w)`` to the same shape."""
        normed = F.layer_norm(maps, maps.shape[self.first_pooled :])
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class CausalConvolution(nn.Module):
    """A 3 x 3 x 3 convolution over time and map; what it gives at one time reads that time and the two before.

    Three maps at a time are stacked on their channels, oldest first, for a planar convolution: on a CPU two to four
    times as fast as torch's convolution of volumes.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.planar = nn.Conv2d((1 + REACH) * channels, outputs, 3, padding=1)

    def forward(self, maps: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map ``(B, T, channels, h, w)`` to ``(B, T, outputs, h, w)``, and return the last two maps read.

        ``past`` are the two maps before the first, none at the beginning of a sequence.
        """
        times = maps.shape[1]
        before = torch.zeros_like(maps[:, :1]).expand(-1, REACH, -1, -1, -1) if past is None else past
        read = torch.cat([before, maps], dim=1)
        stacked = torch.cat([read[:, first : first + times] for first in range(1 + REACH)], dim=2)
        return self.planar(stacked.flatten(0, 1)).unflatten(0, (-1, times)), read[:, -REACH:]


class AttentionPast(NamedTuple):
    """What attention keeps of earlier times: the last maps of both convolutions, and all keys and values."""

    projected: Tensor | None
    keys: Tensor | None
    values: Tensor | None
    mixed: Tensor | None


class TemporalAttention(nn.Module):
    """Causal attention of every position of the map along its own history."""

    def __init__(self, config: TCTNConfig) -> None:
        super().__init__()
        self.heads, self.masks_zero_logits = config.heads, config.masks_zero_logits
        self.qkv = CausalConvolution(config.depth, 3 * config.depth)
        self.output = CausalConvolution(config.depth, config.depth)
        self.dropout = WholeDropout(config.dropout, WHOLE_KEYS)

    def forward(self, maps: Tensor, past: AttentionPast) -> tuple[Tensor, AttentionPast]:
        """Map ``(B, T, C, h, w)`` to the same shape; returns the new past too."""
        projected, last_projected = self.qkv(maps, past.projected)
        query, key, value = rearrange(projected, "b t (k n d) h w -> k b (h w) n t d", k=3, n=self.heads)
        earlier = 0 if past.keys is None else past.keys.shape[-2]
        code = rearrange(position_code(maps, earlier), "t (n d) -> n t d", n=self.heads)
        keys, values = _append(past.keys, key + code), _append(past.values, value)
        mixed = rearrange(self._attend(query + code, keys, values), "b (h w) n t d -> b t (n d) h w", h=maps.shape[-2])
        output, last_mixed = self.output(mixed, past.mixed)
        return output, AttentionPast(last_projected, keys, values, last_mixed)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        logits = (query * query.shape[-1] ** -0.5) @ keys.mT
        queries, seen = logits.shape[-2:]
        later = logits.new_ones(queries, seen, dtype=torch.bool).triu(seen - queries + 1)
        masked = later | (logits == 0) if self.masks_zero_logits else later
        weights = logits.masked_fill(masked, torch.finfo(logits.dtype).min).softmax(-1).to(values.dtype)
        return self.dropout(weights) @ values


class LayerPast(NamedTuple):
    """What a layer keeps of earlier times; nothing at the beginning of a sequence."""

    attention: AttentionPast = AttentionPast(None, None, None, None)
    widened: Tensor | None = None
    narrowed: Tensor | None = None


class Layer(nn.Module):
    """A pre-norm layer: attention along time, then two causal convolutions."""

    def __init__(self, config: TCTNConfig) -> None:
        super().__init__()
        depth = config.depth
        self.norm1 = MapNorm(depth, pooled=config.pooled_norm)
        self.attention = TemporalAttention(config)
        self.norm2 = MapNorm(depth, pooled=config.pooled_norm)
        self.widen = CausalConvolution(depth, 3 * depth)
        self.narrow = CausalConvolution(3 * depth, depth)
        self.dropout = WholeDropout(config.dropout, WHOLE_CHANNELS)

    def forward(self, maps: Tensor, past: LayerPast) -> tuple[Tensor, LayerPast]:
        """Map ``(B, T, C, h, w)`` to the same shape; returns the new past too."""
        attended, attention = self.attention(self.norm1(maps), past.attention)
        maps = maps + self.dropout(attended)
        wide, widened = self.widen(self.norm2(maps), past.widened)
        narrow, narrowed = self.narrow(self.dropout(F.leaky_relu(wide, SLOPE)), past.narrowed)
        return maps + self.dropout(narrow), LayerPast(attention, widened, narrowed)


class Embedding(nn.Module):
    """Turn the patches of each frame into a map of ``depth`` channels, by a convolution and a second one around it."""

    def __init__(self, config: TCTNConfig) -> None:
        super().__init__()
        self.patch, self.size = config.patch, config.padded_size
        self.wide = nn.Conv2d(config.step_channels * config.patch**2, config.depth, 7, padding=3)
        self.fine = nn.Conv2d(config.depth, config.depth, 5, padding=2)
        self.dropout = WholeDropout(config.dropout, WHOLE_CHANNELS)

    def forward(self, frames: Tensor, forcing: Tensor | None) -> Tensor:
        """Map ``(B, T, C, H, W)`` to ``(B, T, depth, h, w)``."""
        padded = pad_to(with_forcing(frames, forcing), self.size)
        patches = rearrange(padded, "b t c (h p) (w q) -> (b t) (p q c) h w", p=self.patch, q=self.patch)
        wide = F.leaky_relu(self.wide(patches), SLOPE)
        maps = wide + F.leaky_relu(self.fine(wide), SLOPE)
        return like(frames, self.dropout(maps.unflatten(0, frames.shape[:2])))


class TCTN(nn.Module):
    """The forecaster that decodes the whole sequence so far; see `TCTNConfig`."""

    def __init__(self, config: TCTNConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = MapNorm(config.depth, pooled=config.pooled_norm)
        self.last = nn.Conv2d(config.depth, config.frame_channels * config.patch**2, 1, bias=False)
        start_as_persistence(config.head, self.last)

    def forward(self, frames: Tensor, lead_frames: int, forcing: Tensor | None = None) -> Tensor:
        """Forecast ``lead_frames`` frames from ``frames`` ``(B, T, C, H, W)``, the last one the newest.

        ``forcing`` is ``(B, T - 1 + lead_frames, forcing_channels, H, W)``. Returns ``(B, T - 1 + lead_frames, C, H,
        W)``: estimates of frames 2 ... T, then the forecast; where norms are pooled, the last pass makes them all.
        Predictions are fed back with their gradient. Raises `ValueError` for inputs of another shape.
        """
        check_sequence(self.config, frames, lead_frames, forcing)
        fed, estimates = frames, frames[:, :0]
        pasts = [LayerPast()] * len(self.layers)
        for end in range(frames.shape[1], frames.shape[1] + lead_frames):
            start = 0 if self.config.pooled_norm else estimates.shape[1]
            known = None if forcing is None else forcing[:, start:end]
            new, new_pasts = self._decode(fed[:, start:], known, pasts)
            pasts = pasts if self.config.pooled_norm else new_pasts
            estimates = torch.cat([estimates[:, :start], new], dim=1)
            fed = torch.cat([fed, new[:, -1:]], dim=1)
        return estimates

    def _decode(self, frames: Tensor, forcing: Tensor | None, pasts: list[LayerPast]) -> tuple[Tensor, list[LayerPast]]:
        """Return the estimates ``(B, T, C, H, W)`` of the frames after ``frames``, and the new past of each layer."""
        maps = self.embed(frames, forcing)
        new_pasts: list[LayerPast] = []
        for layer, past in zip(self.layers, pasts, strict=True):
            maps, new_past = layer(maps, past)
            new_pasts.append(new_past)
        patches = self.last(self.norm(maps).flatten(0, 1)).unflatten(0, maps.shape[:2])
        patch, (height, width) = self.config.patch, self.config.size
        output = rearrange(patches, "b t (p q c) h w -> b t c (h p) (w q)", p=patch, q=patch)[..., :height, :width]
        return like(frames, read_out(self.config.head, output, frames)), new_pasts


def position_code(maps: Tensor, earlier: int) -> Tensor:
    """Return ``(T, C)``, what is added to queries and keys of ``(B, T, C, h, w)`` after ``earlier`` times.

    Half the sinusoids of Vaswani et al. 2017, all sines before all cosines.
    """
    times, channels = maps.shape[1:3]
    time = torch.arange(earlier, earlier + times, dtype=maps.dtype, device=maps.device)
    even = torch.arange(0, channels, 2, dtype=maps.dtype, device=maps.device)
    angle = time[:, None] / 10000 ** (even / channels)
    return 0.5 * torch.cat([angle.sin(), angle.cos()], dim=-1)


def _append(earlier: Tensor | None, new: Tensor) -> Tensor:
    return new if earlier is None else torch.cat([earlier, new], dim=-2)
