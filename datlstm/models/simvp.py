"""SimVP: all input frames at once to all output frames, by convolutions alone (Gao et al. 2022, Tan et al. 2022).

An encoder works on each frame, a translator on all frames stacked on their channels, a decoder on each frame again.
The translator's blocks are those of SimVPv2: gated spatiotemporal attention (gSTA).
"""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

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
from datlstm.models.layers import like, stage_rates, stochastic_depth
from datlstm.settings import PositiveInt

GROUPS = 2
"""Groups of the norms in encoder and decoder."""

LAYER_SCALE = 0.01
"""What a block's branches are multiplied with at the start, channel by channel."""

EXPANSION = 8
"""How much wider a block's feed-forward is than the block."""

Norm = Literal["batch", "sample"]


class SimVPConfig(ModelConfig):
    """Size and shape of a SimVP; the defaults are the model published for temperature at two metres.

    ``hidden_spatial`` counts the channels of one frame, ``hidden_temporal`` those of all frames together. Every second
    of the ``spatial_blocks`` halves the map, after ``patch`` x ``patch`` cells became channels. ``norm`` of the
    translator: over the batch as published, or over each sample, whose forecast then depends on nothing but itself
    in training as in use.
    """

    input_frames: PositiveInt
    patch: PositiveInt = 1
    hidden_spatial: PositiveInt = 32
    hidden_temporal: PositiveInt = 256
    spatial_blocks: PositiveInt = 2
    temporal_blocks: Annotated[int, Field(ge=2)] = 8
    spatial_kernel: PositiveInt = 3
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    norm: Norm = "batch"
    head: Head = "linear"

    @classmethod
    def operational(cls, height: int, width: int) -> dict[str, Any]:
        """Return a narrow model on at most 16 patches along the shorter side."""
        small = {"hidden_spatial": 16, "hidden_temporal": 64, "temporal_blocks": 4, "drop_path": 0.0}
        return small | {"patch": fitting_patch(height, width), "norm": "sample", "head": "increment"}

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_spatial % GROUPS:
            raise ValueError(f"hidden_spatial is {self.hidden_spatial}; norms in {GROUPS} groups need an even number")
        if self.spatial_kernel % 2 == 0:
            raise ValueError(f"spatial_kernel is {self.spatial_kernel}; only an odd one has a centre")
        return self

    @property
    def padded_size(self) -> Grid:
        """Height and width of the frame padded to a multiple of the whole stride."""
        stride = self.patch * 2 ** sum(self.halvings)
        height, width = (-(-cells // stride) * stride for cells in self.size)
        return height, width

    @property
    def halvings(self) -> list[bool]:
        """Whether each block of the encoder, in turn, halves the map; the decoder doubles it in reverse order."""
        return [index % 2 == 1 for index in range(self.spatial_blocks)]


class SpatialBlock(nn.Module):
    """A convolution of single frames, group norm and SiLU; it may halve the map or double it."""

    def __init__(
        self, channels: int, outputs: int, kernel: int, *, halves: bool = False, doubles: bool = False
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            channels, outputs * (4 if doubles else 1), kernel, stride=2 if halves else 1, padding=kernel // 2
        )
        self.shuffle = nn.PixelShuffle(2 if doubles else 1)
        self.norm = nn.GroupNorm(GROUPS, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(N, channels, h, w)`` to ``(N, outputs, h, w)``, h and w halved or doubled where asked."""
        return F.silu(self.norm(self.shuffle(self.convolution(maps))))


class GatedAttention(nn.Module):
    """Attention without a softmax: a wide view, by two depthwise convolutions, gates the map, beside a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 1)
        self.near = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.far = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.split = nn.Conv2d(channels, 2 * channels, 1)
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to the same shape."""
        seen, gate = self.split(self.far(self.near(F.gelu(self.enter(maps))))).chunk(2, dim=1)
        return self.leave(torch.sigmoid(gate) * seen) + maps


class TranslatorBlock(nn.Module):
    """A gSTA block: gated attention and a convolutional feed-forward, both pre-norm and scaled; it may change width."""

    def __init__(self, channels: int, outputs: int, norm: Norm, drop_path: float) -> None:
        super().__init__()
        wide = EXPANSION * channels
        self.norm1, self.norm2 = _norm(norm, channels), _norm(norm, channels)
        self.attention = GatedAttention(channels)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(channels, wide, 1),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            nn.GELU(),
            nn.Conv2d(wide, channels, 1),
        )
        self.scale1 = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.scale2 = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.drop_path = stochastic_depth(drop_path)
        self.resize = nn.Conv2d(channels, outputs, 1) if outputs != channels else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(B, channels, h, w)`` to ``(B, outputs, h, w)``."""
        maps = maps + self.drop_path(self.scale1 * self.attention(self.norm1(maps)))
        maps = maps + self.drop_path(self.scale2 * self.feed_forward(self.norm2(maps)))
        return self.resize(maps)


class SimVP(nn.Module):
    """The forecaster that reads ``input_frames`` frames and estimates as many at once; see `SimVPConfig`."""

    def __init__(self, config: SimVPConfig) -> None:
        super().__init__()
        self.config = config
        hidden, kernel, cells = config.hidden_spatial, config.spatial_kernel, config.patch**2
        channels = [config.step_channels * cells] + [hidden] * config.spatial_blocks
        self.encoder = nn.ModuleList(
            SpatialBlock(*pair, kernel, halves=halves)
            for pair, halves in zip(pairwise(channels), config.halvings, strict=True)
        )
        self.translator = nn.Sequential(*_translator(config))
        self.decoder = nn.ModuleList(
            SpatialBlock(hidden, hidden, kernel, doubles=doubles) for doubles in reversed(config.halvings)
        )
        self.last = nn.Conv2d(hidden, config.frame_channels * cells, 1)
        start_as_persistence(config.head, self.last)

    def forward(self, frames: Tensor, lead_frames: int, forcing: Tensor | None = None) -> Tensor:
        """Forecast ``lead_frames`` frames from the last ``input_frames`` of ``frames`` ``(B, T, C, H, W)``.

        ``forcing`` is ``(B, T - 1 + lead_frames, forcing_channels, H, W)``; that of the frames read is read. Returns
        ``(B, lead_frames, C, H, W)``. Leads beyond ``input_frames`` are forecast from forecasts, with their gradient.
        Raises `ValueError` for inputs of another shape and for too few frames.
        """
        check_sequence(self.config, frames, lead_frames, forcing)
        span, start = self.config.input_frames, frames.shape[1] - self.config.input_frames
        if start < 0:
            raise ValueError(f"got {frames.shape[1]} frames; this model reads {span}: give at least as many")
        read = frames[:, start:]
        estimates: list[Tensor] = []
        for done in range(0, lead_frames, span):
            known = None if forcing is None else forcing[:, start + done : start + done + span]
            read = self._translate(read, known, min(span, lead_frames - done))
            estimates.append(read)
        return torch.cat(estimates, dim=1)

    def _translate(self, frames: Tensor, forcing: Tensor | None, leads: int) -> Tensor:
        """Return the estimates ``(B, leads, C, H, W)`` of the frames that follow ``input_frames`` frames."""
        patch, batch = self.config.patch, len(frames)
        padded = pad_to(with_forcing(frames, forcing), self.config.padded_size)
        skip, maps = self._encode(rearrange(padded, "b t c (h p) (w q) -> (b t) (p q c) h w", p=patch, q=patch))
        maps = self.translator(rearrange(maps, "(b t) c h w -> b (t c) h w", b=batch))
        maps = rearrange(maps, "b (t c) h w -> b t c h w", t=self.config.input_frames)
        # Each frame is decoded by itself: those that nobody asked for need not be.
        patches = self._decode(maps[:, :leads].flatten(0, 1), skip.unflatten(0, (batch, -1))[:, :leads].flatten(0, 1))
        height, width = self.config.size
        output = rearrange(patches, "(b t) (p q c) h w -> b t c (h p) (w q)", b=batch, p=patch, q=patch)
        return like(frames, read_out(self.config.head, output[..., :height, :width], frames[:, -1:]))

    def _encode(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the first block gives and what the last one gives."""
        skip = maps = self.encoder[0](maps)
        for block in self.encoder[1:]:
            maps = block(maps)
        return skip, maps

    def _decode(self, maps: Tensor, skip: Tensor) -> Tensor:
        for block in self.decoder[:-1]:
            maps = block(maps)
        return self.last(self.decoder[-1](maps + skip))


def _translator(config: SimVPConfig) -> list[TranslatorBlock]:
    stacked, hidden = config.input_frames * config.hidden_spatial, config.hidden_temporal
    widths = [stacked, *[hidden] * (config.temporal_blocks - 1), stacked]
    (rates,) = stage_rates(config.drop_path, [config.temporal_blocks])
    return [TranslatorBlock(*pair, config.norm, rate) for pair, rate in zip(pairwise(widths), rates, strict=True)]


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(1, channels)
