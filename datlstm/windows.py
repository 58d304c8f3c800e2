"""From the archive to tensors: training periods, the normalised training cube, and windows gathered from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import Dataset

from datlstm.archive import Archive
from datlstm.errors import NotEnoughDataError, ProductError
from datlstm.formats import check_format
from datlstm.inputs import Record
from datlstm.normalise import Normaliser
from datlstm.settings import Settings
from datlstm.staged import StagedZarr
from datlstm.store import Store

CUBE_CHUNK_DAYS = 360
FORMAT_VERSION = 2
"""Format 1 has no sea ice."""


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
    """Write what is trained on, of both periods, with Dask, and return its path in the store.

    ``anomaly`` float32, normalised, and ``sea_ice_fraction`` float32, each ``(time, latitude, longitude)``, NaN where
    missing or land; the attribute ``archive_snapshot`` tells of what. The path names the normaliser, the snapshot and
    the last day, so an existing cube is the wanted one, unless another release wrote it in another format; it becomes
    visible only when it is whole.
    """
    first, last = periods.training[0], periods.validation[1]
    path = f"training/{normaliser.id}-{snapshot_id[:8]}-{last:%Y%m%d}-{FORMAT_VERSION}.zarr"
    store = Store(settings.store)
    with store.writer("training") as confirm:
        staged = StagedZarr(store, path, confirm)
        if staged.is_empty_store:
            days = Archive(settings).read(first, last, snapshot_id)
            fields = {"anomaly": normaliser.to_anomaly(days["sst"]), "sea_ice_fraction": days["sea_ice_fraction"]}
            cube = xr.Dataset(fields).chunk(time=CUBE_CHUNK_DAYS, latitude=-1, longitude=-1).astype("float32")
            nan = np.float32(np.nan)
            cube.drop_encoding().drop_attrs().assign_attrs(
                format_version=FORMAT_VERSION, archive_snapshot=snapshot_id
            ).to_zarr(
                staged,
                zarr_format=3,
                consolidated=False,
                encoding={name: {"_FillValue": nan, "fill_value": nan} for name in fields},
            )
            staged.commit()
            staged.follow_up()
    return path


def open_training_cube(settings: Settings, path: str) -> xr.Dataset:
    """Return a training cube, as `write_training_cube` wrote it, lazily.

    Raises `ProductError` for one that another release wrote in another format.
    """
    store = Store(settings.store)
    cube = xr.open_zarr(store.zarr(path, read_only=True))
    found = cube.attrs.get("format_version", 1)
    check_format(found, FORMAT_VERSION, store.url_of(path), ProductError, older="delete it, and train again")
    return cube


class Windows(Dataset[int]):
    """All admissible windows of a period, by where in a record each begins; the record is gathered from in batches.

    A window is admissible when its last input day is observed and at most ``maximum_missing_fraction`` of its days are
    missing. ``first`` and ``last`` are the places of the period's days in the record. Raises `NotEnoughDataError` when
    no window is admissible.
    """

    def __init__(
        self,
        record: Record,
        places: tuple[int, int],
        input_days: int,
        lead_days: int,
        maximum_missing_fraction: float,
    ) -> None:
        self._length = input_days + lead_days
        first, last = places
        present = record.observed_days()[first : last + 1]
        self.starts = first + self._admissible(present, input_days, maximum_missing_fraction)
        if not len(self.starts):
            raise NotEnoughDataError(f"no window of {self._length} days in {len(present)} is complete enough")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> int:
        return int(self.starts[index])

    def spread(self, count: int) -> list[int]:
        """Return which windows to take for at most ``count`` of them, spread evenly over the period."""
        places: list[int] = np.unique(np.linspace(0, len(self) - 1, count).round().astype(int)).tolist()
        return places

    def _admissible(self, present: Tensor, input_days: int, maximum_missing_fraction: float) -> Tensor:
        if len(present) < self._length:
            return torch.zeros(0, dtype=torch.long)
        missing = self._length - present.unfold(0, self._length, 1).sum(dim=1)
        last_input = present[input_days - 1 : len(present) - self._length + input_days]
        return torch.nonzero(last_input & (missing <= maximum_missing_fraction * self._length)).flatten()
