"""The forecaster that is trained: an ensemble between normalised anomalies, around damped persistence."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from datlstm.inputs import RADIANS_PER_DAY, Inputs
from datlstm.models import build
from datlstm.models.frames import ModelConfig
from datlstm.models.regression import Regression
from datlstm.settings import Channel, Recipe

USUAL_CHANGE = 0.2
"""Of a normalised anomaly from one day to the next."""

SIGMOID_REACH = 10.0
"""Largest normalised anomaly that a network with a sigmoid head can tell."""


class Member(nn.Module):
    """What is learnt: a network, and the regression that it adds to where the recipe has one."""

    def __init__(self, network: nn.Module, regression: Regression | None) -> None:
        super().__init__()
        self.network, self.regression = network, regression


class Ensemble(nn.ModuleList):
    """Members of one architecture that differ in their weights."""

    def each(self) -> list[Member]:
        """Return the members."""
        return cast(list[Member], list(self))


class AnomalyForecaster(nn.Module):
    """The members of an ensemble between normalised anomalies, around damped persistence where they tell changes.

    With an ``increment`` head a network changes the newest frame, and its changes are added to damped persistence: what
    damping takes from the newest frame, lead by lead, is taken from the estimates, so that a network that changes
    nothing is the bar. With a ``linear`` head the estimates are the network's own; with a ``sigmoid`` head too, the
    anomalies mapped from +-`SIGMOID_REACH` onto 0 ... 1.

    ``ocean_mask`` is bool ``(height, width)``, ``damping`` float ``(lead_days, height, width)``, ``latitude`` float
    ``(height,)`` degrees. Beside the anomaly, 0 where missing, a network sees ``channels``: ``observed`` (for days to
    come: whether it is sea), ``tendency`` (the change since the day before; for days to come none), ``season`` (cosine
    and sine of the day of the year), ``latitude`` (-1 ... 1 over the grid) and ``ice`` (its fraction; for days to come
    the newest).
    """

    ocean_mask: Tensor
    damping: Tensor
    latitude: Tensor

    def __init__(
        self,
        members: Ensemble,
        channels: Sequence[Channel],
        ocean_mask: Tensor,
        damping: Tensor,
        latitude: Tensor,
    ) -> None:
        super().__init__()
        self.members, self.channels = members, channels
        middle, reach = (latitude.max() + latitude.min()) / 2, (latitude.max() - latitude.min()) / 2
        self.register_buffer("ocean_mask", ocean_mask)
        self.register_buffer("damping", damping.float())
        self.register_buffer("latitude", ((latitude - middle) / reach).float())

    def forward(self, inputs: Inputs) -> Tensor:
        """Return each member's estimates of the last N days, the last lead the last of them.

        The result is ``(members, batch, N, 1, height, width)``. A recurrent network estimates every day from the second
        input on, N = ``input_days - 1 + lead_days``, a direct one the leads alone.
        """
        forcing = self._forcing(inputs)
        features = None
        estimates = []
        for member in self.members.each():
            estimated = self._estimates(member.network, inputs.frames, forcing)
            if member.regression is not None:
                if features is None:
                    features = member.regression.features(inputs.frames, inputs.observed)
                additions = member.regression(features, inputs.phase)
                estimated = estimated + F.pad(additions, (0,) * 6 + (estimated.shape[1] - additions.shape[1], 0))
            estimates.append(estimated)
        return torch.stack(estimates)

    def damped(self, frames: Tensor) -> Tensor:
        """Return damped persistence ``(batch, lead_days, 1, height, width)`` of the newest of ``frames``."""
        return frames[:, -1:] * self.damping[:, None]

    def _estimates(self, network: nn.Module, frames: Tensor, forcing: Tensor | None) -> Tensor:
        leads, head = len(self.damping), cast(ModelConfig, network.config).head
        if head == "sigmoid":
            bounded: Tensor = network(0.5 + frames / (2 * SIGMOID_REACH), leads, forcing)
            return (bounded - 0.5) * (2 * SIGMOID_REACH)
        estimates: Tensor = network(frames, leads, forcing)
        return estimates - self._taken(frames)[:, -estimates.shape[1] :] if head == "increment" else estimates

    def _taken(self, frames: Tensor) -> Tensor:
        """Return what damping takes from each frame a day ahead, and from the newest at every lead."""
        return torch.cat([frames[:, :-1] * (1 - self.damping[0]), frames[:, -1:] - self.damped(frames)], dim=1)

    def _tendency(self, inputs: Inputs) -> Tensor:
        changes = (inputs.frames[:, 1:] - inputs.frames[:, :-1]) * inputs.observed[:, 1:] * inputs.observed[:, :-1]
        return F.pad(changes / USUAL_CHANGE, (0,) * 6 + (1, 0))

    def _forcing(self, inputs: Inputs) -> Tensor | None:
        """Return the channels ``(batch, days, channels, height, width)`` of the inputs and all leads but the last."""
        if not self.channels:
            return None
        batch, days, _, height, width = inputs.frames.shape
        ahead = len(self.damping) - 1
        shape = (batch, days + ahead, -1, height, width)
        angle = inputs.phase[:, None] + RADIANS_PER_DAY * torch.arange(days + ahead, device=inputs.phase.device)
        told = {
            "observed": lambda: torch.cat([inputs.observed, self.ocean_mask.expand(batch, ahead, 1, -1, -1)], dim=1),
            "tendency": lambda: F.pad(self._tendency(inputs), (0,) * 6 + (0, ahead)),
            "season": lambda: torch.stack([angle.cos(), angle.sin()], dim=2)[..., None, None].expand(shape),
            "latitude": lambda: self.latitude[:, None].expand(batch, days + ahead, 1, height, width),
            "ice": lambda: torch.cat([inputs.ice, inputs.ice[:, -1:].expand(-1, ahead, -1, -1, -1)], dim=1),
        }
        return torch.cat([told[channel]().to(inputs.frames.dtype) for channel in self.channels], dim=2)


def anomaly_forecaster(
    members: Ensemble, recipe: Recipe, ocean_mask: xr.DataArray, damping: xr.DataArray
) -> AnomalyForecaster:
    """Return the members between their fitted fields; ``damping`` is NaN on land, where the forecast is masked."""
    kept = torch.from_numpy(damping.fillna(0.0).values)
    latitude = torch.from_numpy(ocean_mask["latitude"].values.copy())
    return AnomalyForecaster(members, recipe.channels, torch.from_numpy(ocean_mask.values), kept, latitude)


def build_members(name: str, config: Mapping[str, Any], recipe: Recipe, input_days: int, lead_days: int) -> Ensemble:
    """Return freshly initialised members, each with weights of its own. Raises as `datlstm.models.build`."""
    return Ensemble(
        Member(build(name, config), Regression(input_days, lead_days) if recipe.regression else None)
        for _ in range(recipe.members)
    )
