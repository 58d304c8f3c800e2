"""What a forecaster reads: the days of a window, and what is told of them, gathered from a record on one device."""

from typing import Any, NamedTuple, Self

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from datlstm.settings import Channel

DAYS_PER_YEAR = 365.2425
RADIANS_PER_DAY = 2 * np.pi / DAYS_PER_YEAR
FIELDS = ("sst", "sea_ice_fraction")
"""What a forecaster reads of the archive's days."""

WIDTH: dict[Channel, int] = {"observed": 1, "tendency": 1, "season": 2, "latitude": 1, "ice": 1}
"""Channels of a frame that each of a recipe's takes."""


class Inputs(NamedTuple):
    """Consecutive days of several windows.

    ``frames`` float32, the normalised anomaly, 0 where it was not observed; ``observed`` bool; ``ice`` float32, the
    fraction 0 … 1 covered by sea ice: each ``(batch, days, 1, height, width)``. ``phase`` float32 ``(batch,)`` is the
    season of the first day, in radians since a New Year.
    """

    frames: Tensor
    observed: Tensor
    ice: Tensor
    phase: Tensor

    def times(self, sign: Tensor) -> "Inputs":
        """Return the same with the anomalies of each window times a number, ``sign`` ``(batch,)``."""
        return self._replace(frames=self.frames * sign[:, None, None, None, None])

    def until(self, days: int) -> "Inputs":
        """Return the first days alone."""
        return Inputs(self.frames[:, :days], self.observed[:, :days], self.ice[:, :days], self.phase)


class Record:
    """The days of a period as tensors on one device, from which windows are gathered there.

    ``anomaly`` float32 ``(days, height, width)`` is normalised, NaN where missing; ``ice`` uint8, of the same shape, is
    in hundredths; ``phase`` float32 ``(days,)`` as in `Inputs`. Copies of a module share it.
    """

    def __init__(self, anomaly: Tensor, ice: Tensor, phase: Tensor) -> None:
        self.anomaly, self.ice, self.phase = anomaly, ice, phase

    @classmethod
    def of(cls, anomaly: xr.DataArray, ice: xr.DataArray) -> Self:
        """Return the record of normalised anomalies and sea ice fractions ``(time, latitude, longitude)``.

        ``time`` is daily without gaps; where no ice fraction is known there counts as none.
        """
        values = np.ascontiguousarray(anomaly.values, dtype=np.float32)
        hundredths = np.rint(100 * np.nan_to_num(ice.values, nan=0.0).clip(0, 1)).astype(np.uint8)
        days = anomaly["time"].values.astype("datetime64[D]").astype(np.int64)
        phase = (days / DAYS_PER_YEAR % 1 * 2 * np.pi).astype(np.float32)
        return cls(torch.from_numpy(values), torch.from_numpy(hundredths), torch.from_numpy(phase))

    def __len__(self) -> int:
        return len(self.phase)

    def observed_days(self) -> Tensor:
        """Return which days have any observation, bool ``(days,)``."""
        return torch.isfinite(self.anomaly).flatten(1).any(dim=1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def on(self, device: torch.device) -> Self:
        """Return the record on a device."""
        if self.anomaly.device == device:
            return self
        return type(self)(self.anomaly.to(device), self.ice.to(device), self.phase.to(device))

    def gather(self, starts: Tensor, days: int) -> Inputs:
        """Return the windows of so many days that begin at ``starts`` ``(batch,)`` of the record."""
        wanted = starts[:, None] + torch.arange(days, device=starts.device)
        frames = self.anomaly[wanted].unsqueeze(2)
        ice = self.ice[wanted].unsqueeze(2).to(frames.dtype) / 100
        return Inputs(torch.nan_to_num(frames, nan=0.0), torch.isfinite(frames), ice, self.phase[starts])
