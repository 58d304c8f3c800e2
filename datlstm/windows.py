"""From the archive to tensors: training periods, the normalised training cube, and windows gathered from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import Dataset, Subset

from datlstm.archive import Archive
from datlstm.errors import NotEnoughDataError, ProductError
from datlstm.formats import check_format
from datlstm.normalise import Normaliser
from datlstm.settings import Settings
from datlstm.staged import StagedZarr
from datlstm.store import Store

CUBE_CHUNK_DAYS = 360
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Periods:
    """Closed intervals of days: all days of a training window lie in the first, of a validation window in the second.

    Because whole windows stay inside, no day is seen by both, whatever the window's length.
    """

    training: tuple[date, date]
    validation: tuple[date, date]

    @classmethod
    def of(cls, settings: Settings, usable_days: Sequence[date]) -> "Periods":
        """Return the periods the settings name, or derive from the archive's usable days what they leave open.

        Raises `NotEnoughDataError` when a period is too short for one window.
        """
        chosen = settings.training
        if not usable_days:
            raise NotEnoughDataError("the archive has no usable day: run a backfill before training")
        first = chosen.first_day or usable_days[0]
        end = chosen.validation_last_day or usable_days[-1]
        last = chosen.last_day or end - timedelta(days=chosen.validation_days)
        periods = cls((first, last), (last + timedelta(days=1), end))
        length = settings.model.input_days + settings.model.lead_days
        for name, (start, stop) in vars(periods).items():
            if (stop - start).days + 1 < length:
                raise NotEnoughDataError(
                    f"the {name} period {start} … {stop} is shorter than one window of {length} days: backfill more "
                    "days or move the training section's dates"
                )
        return periods


def write_training_cube(settings: Settings, normaliser: Normaliser, periods: Periods, snapshot_id: str) -> str:
    """Write the normalised anomaly of both periods with Dask, and return its path in the store.

    ``anomaly(time, latitude, longitude)`` float32, dimensionless, NaN where missing or land. The path names the
    normaliser, the snapshot and the last day, so an existing cube is the wanted one; it becomes visible only when it is
    whole.
    """
    first, last = periods.training[0], periods.validation[1]
    path = f"training/{normaliser.id}-{snapshot_id[:8]}-{last:%Y%m%d}.zarr"
    store = Store(settings.store)
    with store.writer("training") as confirm:
        staged = StagedZarr(store, path, confirm)
        if staged.is_empty_store:
            anomaly = normaliser.to_anomaly(Archive(settings).read(first, last, snapshot_id)["sst"])
            cube = anomaly.chunk(time=CUBE_CHUNK_DAYS, latitude=-1, longitude=-1).to_dataset(name="anomaly")
            nan = np.float32(np.nan)
            cube.drop_encoding().drop_attrs(deep=False).assign_attrs(format_version=FORMAT_VERSION).to_zarr(
                staged, zarr_format=3, consolidated=False, encoding={"anomaly": {"_FillValue": nan, "fill_value": nan}}
            )
            staged.commit()
            staged.follow_up()
    return path


def open_training_cube(settings: Settings, path: str) -> xr.DataArray:
    """Return the normalised anomaly ``(time, latitude, longitude)`` of a training cube, lazily.

    Raises `ProductError` for one that another release wrote in another format.
    """
    store = Store(settings.store)
    cube = xr.open_zarr(store.zarr(path, read_only=True))
    found = cube.attrs.get("format_version", 1)
    check_format(found, FORMAT_VERSION, store.url_of(path), ProductError, older="delete it, and train again")
    return cube["anomaly"]


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """All admissible windows of a period, gathered from one tensor that holds the whole period.

    An item is ``(frames, observed)``: float32 and bool ``(days, 1, height, width)``; a missing cell's frame is 0, the
    climatology. A window is admissible when its last input day is observed and at most ``maximum_missing_fraction``
    of its days are missing. Raises `NotEnoughDataError` when none is.
    """

    def __init__(self, anomaly: xr.DataArray, input_days: int, lead_days: int, maximum_missing_fraction: float) -> None:
        values = torch.from_numpy(np.ascontiguousarray(anomaly.values, dtype=np.float32))
        self._observed = torch.isfinite(values)
        self._frames = torch.nan_to_num(values, nan=0.0)
        self._length = input_days + lead_days
        self.starts = self._admissible(input_days, maximum_missing_fraction)
        if not len(self.starts):
            first, last = (str(t)[:10] for t in anomaly["time"].values[[0, -1]])
            raise NotEnoughDataError(f"no window of {self._length} days is complete enough in {first} … {last}")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several windows; the loader calls this once a batch."""
        days = self.starts[torch.tensor(indices)][:, None] + torch.arange(self._length)
        return list(zip(self._frames[days].unsqueeze(2), self._observed[days].unsqueeze(2), strict=True))

    def spread(self, count: int) -> "Subset[tuple[Tensor, Tensor]]":
        """Return at most ``count`` windows, spread evenly over the period."""
        return Subset(self, np.unique(np.linspace(0, len(self) - 1, count).round().astype(int)).tolist())

    def _admissible(self, input_days: int, maximum_missing_fraction: float) -> Tensor:
        present = self._observed.flatten(1).any(dim=1)
        if len(present) < self._length:
            return torch.zeros(0, dtype=torch.long)
        missing = self._length - present.unfold(0, self._length, 1).sum(dim=1)
        last_input = present[input_days - 1 : len(present) - self._length + input_days]
        return torch.nonzero(last_input & (missing <= maximum_missing_fraction * self._length)).flatten()
