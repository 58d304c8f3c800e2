"""A linear regression of the forecast on anomalies and tendencies at several scales, to which a network adds.

What the last days changed, and at which scale, tells what damped persistence can't: large patches last longer than
small ones, and a change goes on for a day or two. As a linear term it is learnt in minutes, where layers of
normalisation hide amplitudes from a network.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (3, 7, 15)
"""Cells along the side of the boxes whose means part the scales; the map's mean parts off the largest."""

SLOPES = (3, 7)
"""Cells along the side of the boxes over which the newest frame is smoothed before its slopes are taken."""

LAGS = (0, 1, 2, 3, 5, 9)
"""Days before the newest between which tendencies are taken."""

HARMONICS = 3
"""A coefficient's constant, and its cosine and sine of the season."""

STEP = 0.1
"""Of a coefficient's unit: makes the optimiser's step, which knows none, small enough."""


class Regression(nn.Module):
    """Coefficients that are the same everywhere and follow the season, zero at first.

    ``feature_scale`` ``(features,)`` divides the features; `fit_scale` sets it.
    """

    feature_scale: Tensor

    def __init__(self, input_days: int, lead_days: int) -> None:
        super().__init__()
        self.lags = [lag for lag in LAGS if lag < input_days]
        features = len(self.lags) * (len(WIDTHS) + 2) + 2 * len(SLOPES)
        self.register_buffer("feature_scale", torch.ones(features))
        self.coefficients = nn.Conv2d(HARMONICS * features, lead_days, 1)
        for parameter in self.coefficients.parameters():
            nn.init.zeros_(parameter)

    def fit_scale(self, mean_square: Tensor) -> None:
        """Set the scale of each feature from its mean square ``(features,)``."""
        self.feature_scale.copy_(torch.where(mean_square > 0, mean_square.sqrt(), torch.ones_like(mean_square)))

    def features(self, frames: Tensor, observed: Tensor) -> Tensor:
        """Map frames and what was observed, ``(B, days, 1, H, W)``, to unscaled features ``(B, features, H, W)``.

        They are the newest frame and the tendencies before it, each parted into scales by means over observed cells,
        and the slopes of the newest, smoothed, along both axes.
        """
        maps, seen = self._maps(frames[:, :, 0], observed[:, :, 0].to(frames.dtype))
        slopes = [_slopes(_smooth(maps[:, :1], seen[:, :1], width)) * seen[:, :1] for width in SLOPES]
        return torch.cat([*_scales(maps, seen), *slopes], dim=1)

    def forward(self, features: Tensor, phase: Tensor) -> Tensor:
        """Map features, and the season ``(B,)`` in radians, to additions to the leads ``(B, leads, 1, H, W)``."""
        additions: Tensor = self.coefficients(with_season(features / self.feature_scale[:, None, None], phase))
        return STEP * additions.unsqueeze(2)

    def _maps(self, frames: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the newest frame and the tendencies ``(B, lags, H, W)``, and where both their days were observed."""
        days = [(frames[:, -1 - lag], seen[:, -1 - lag]) for lag in self.lags]
        changes = [(new - old, here * there) for (new, here), (old, there) in pairwise(days)]
        maps, seen_maps = (torch.stack(part, dim=1) for part in zip(days[0], *changes, strict=True))
        return maps * seen_maps, seen_maps


def with_season(features: Tensor, phase: Tensor) -> Tensor:
    """Return each feature, and its products with cosine and sine of the season, ``(B, HARMONICS * features, H, W)``."""
    season = torch.stack([torch.ones_like(phase), phase.cos(), phase.sin()], dim=1)
    return (features[:, :, None] * season[:, None, :, None, None]).flatten(1, 2)


def _scales(maps: Tensor, seen: Tensor) -> Iterator[Tensor]:
    """Yield what each mean takes off the one of narrower boxes, 0 where nothing was observed; the sum is ``maps``."""
    current = maps
    for width in WIDTHS:
        smooth = _smooth(maps, seen, width)
        yield (current - smooth) * seen
        current = smooth
    mean = _ratio(maps.mean((-2, -1), keepdim=True), seen.mean((-2, -1), keepdim=True)).expand_as(maps)
    yield (current - mean) * seen
    yield mean


def _slopes(maps: Tensor) -> Tensor:
    """Return the central differences ``(B, 2, H, W)`` of ``(B, 1, H, W)``, one-sided at the edges."""
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    inner = slice(1, -1)
    east = padded[..., inner, 2:] - padded[..., inner, :-2]
    return torch.cat([padded[..., 2:, inner] - padded[..., :-2, inner], east], dim=1)


def _smooth(maps: Tensor, seen: Tensor, width: int) -> Tensor:
    """Return the mean over the observed cells of a box around each cell."""
    sums, counts = (F.avg_pool2d(part, width, stride=1, padding=width // 2) for part in (maps, seen))
    return _ratio(sums, counts)


def _ratio(sums: Tensor, weights: Tensor) -> Tensor:
    return sums / weights.clamp_min(torch.finfo(sums.dtype).tiny)
