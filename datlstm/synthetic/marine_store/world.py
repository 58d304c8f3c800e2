"""What the store holds and announces: two datasets of the synthetic Bohai under OSTIA's own names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, Self

from datlstm.settings import Region
from datlstm.synthetic.coast import CellBox, cells_of

MARGIN_CELLS = 4
NEAR_REAL_TIME_FIRST_DAY = date(2007, 1, 1)
REPROCESSED_FIRST_DAY = date(1981, 10, 1)
REPROCESSED_LAG = timedelta(days=600)
ACCOUNT = ("demo", "demo")
"""Username and password that the store's login takes."""


@dataclass(frozen=True)
class Dataset:
    """One dataset as it is served now.

    The catalogue says that it ends on ``announced_last_day`` (unset: where the data end). ``missing_days`` are not on
    its time axis, ``blank_days`` hold no value, ``preliminary_days`` are warmer or colder by some kelvin than they
    will be. ``stamp_shift`` is added to every time stamp. ``unscaled`` variables lack their scale factor. A
    near-real-time dataset differs from a reprocessed one by a step that depends on place and season.
    """

    dataset_id: str
    product_id: str
    version: str
    title: str
    first_day: date
    last_day: date
    near_real_time: bool
    announced_last_day: date | None = None
    missing_days: frozenset[date] = frozenset()
    blank_days: frozenset[date] = frozenset()
    preliminary_days: Mapping[date, float] = field(default_factory=dict)
    stamp_shift: timedelta = timedelta(0)
    unscaled: frozenset[str] = frozenset()
    updating_since: date | None = None
    retired_on: date | None = None


@dataclass(frozen=True)
class World:
    """The datasets, the only cells that hold data, and the one account.

    Outside ``box`` the globe is land without values.
    """

    box: CellBox
    seed: int
    datasets: tuple[Dataset, ...]
    username: str = ACCOUNT[0]
    password: str = ACCOUNT[1]

    def dataset(self, dataset_id: str) -> Dataset:
        """Return a dataset by its id. Raises `KeyError` for one that is not served."""
        return {dataset.dataset_id: dataset for dataset in self.datasets}[dataset_id]

    def changed(self, dataset_id: str, **changes: Any) -> Self:
        """Return a world in which one dataset is served differently."""
        datasets = tuple(replace(d, **changes) if d.dataset_id == dataset_id else d for d in self.datasets)
        return replace(self, datasets=datasets)


def ostia_world(region: Region, seed: int, last_day: date) -> World:
    """Return a region's healthy world: near-real-time days up to ``last_day``, reprocessed ones to long before it."""
    near_real_time = Dataset(
        dataset_id="METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2",
        product_id="SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001",
        version="202311",
        title="Synthetic OSTIA, near real time",
        first_day=NEAR_REAL_TIME_FIRST_DAY,
        last_day=last_day,
        near_real_time=True,
    )
    reprocessed = Dataset(
        dataset_id="METOFFICE-GLO-SST-L4-REP-OBS-SST",
        product_id="SST_GLO_SST_L4_REP_OBSERVATIONS_010_011",
        version="202003",
        title="Synthetic OSTIA, reprocessed",
        first_day=REPROCESSED_FIRST_DAY,
        last_day=last_day - REPROCESSED_LAG,
        near_real_time=False,
    )
    return World(cells_of(region).grown(MARGIN_CELLS), seed, (near_real_time, reprocessed))
