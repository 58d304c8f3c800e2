"""Days of the synthetic Bohai as a dataset of the store holds them: packed as OSTIA's, kept once they are drawn."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import date, timedelta
from threading import RLock

import numpy as np
import xarray as xr
from numcodecs import Blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from datlstm.synthetic.basin import basin_of
from datlstm.synthetic.bohai import FIRST_DAY, ostia_dataset
from datlstm.synthetic.coast import CellBox
from datlstm.synthetic.labels import ENCODING, VARIABLE_ATTRIBUTES
from datlstm.synthetic.marine_store.world import Dataset, World
from datlstm.synthetic.weather import BLOCK_DAYS

FloatArray = NDArray[np.float64]
Packed = NDArray[np.int16] | NDArray[np.int8]

VARIABLES = tuple(VARIABLE_ATTRIBUTES)
CODEC = Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)
CACHE_BYTES = 128 * 2**20
PACKED_PER_KELVIN = 100

LEAST_STEP_KELVIN, COASTAL_SUMMER_STEP_KELVIN = -0.03, 0.18
STEP_WIDTH_KM = 40.0
WARMEST_MONTH = 8
DAILY_NOISE_KELVIN = 0.02


def fill_value(name: str) -> int:
    """Return the packed value of a variable that stands for none; the mask, too, has one for chunks that are absent."""
    return int(np.iinfo(dtype_of(name)).min)


def dtype_of(name: str) -> np.dtype[np.signedinteger]:
    """Return the packed type of a variable: int16, or int8 for ice and mask."""
    return np.dtype(str(ENCODING[name]["dtype"]))


def step_kelvin(box: CellBox, month: int) -> FloatArray:
    """Return how much warmer ``(latitude, longitude)`` the near-real-time dataset is than the reprocessed one, kelvin.

    From -0.03 K offshore to 0.15 K at the coast in August; a month from 1 to 12. The distance to the coast depends
    slightly on the box: take the world's own and cut it.
    """
    summer = 0.5 + 0.5 * np.cos(2 * np.pi * (month - WARMEST_MONTH) / 12)
    basin = basin_of(box)
    coastal = basin.inside(np.exp(-basin.coast_km / STEP_WIDTH_KM))
    step: FloatArray = LEAST_STEP_KELVIN + COASTAL_SUMMER_STEP_KELVIN * coastal * summer
    return step


def daily_noise_kelvin(box: CellBox, seed: int, day: date) -> FloatArray:
    """Return what differs on one day ``(latitude, longitude)`` beside the step: 0.02 K, independent in every cell."""
    source = np.random.default_rng([seed % 2**64, day.toordinal()])
    return source.normal(scale=DAILY_NOISE_KELVIN, size=box.shape)


def packed_days(
    world: World, dataset: Dataset, name: str, days: NDArray[np.int64], rows: slice, columns: slice
) -> Packed:
    """Return packed values ``(day, row, column)`` of a variable for ordinals of days and cells of the world's box."""
    blocks = (days - FIRST_DAY.toordinal()) // BLOCK_DAYS
    height, width = rows.stop - rows.start, columns.stop - columns.start
    values = np.empty((days.size, height, width), dtype_of(name))
    for block in np.unique(blocks):
        here = np.flatnonzero(blocks == block)
        drawn = _CACHE.read(_Block(world.box, world.seed, dataset.near_real_time, int(block)), name)
        values[here] = drawn[days[here] - _first_day(block).toordinal(), rows, columns]
    _revise(values, name, dataset, days)
    return values


def _revise(values: Packed, name: str, dataset: Dataset, days: NDArray[np.int64]) -> None:
    empty = fill_value(name)
    if name == "analysed_sst":
        for day, kelvin in dataset.preliminary_days.items():
            field = values[days == day.toordinal()]
            values[days == day.toordinal()] = np.where(field == empty, empty, field + _packed(kelvin))
    if name != "mask":
        values[np.isin(days, [day.toordinal() for day in dataset.blank_days])] = empty


def _packed(kelvin: float | FloatArray) -> NDArray[np.int16]:
    return np.round(np.multiply(kelvin, PACKED_PER_KELVIN)).astype(np.int16)


@dataclass(frozen=True)
class _Block:
    """What a block of days follows from."""

    box: CellBox
    seed: int
    near_real_time: bool
    index: int


class _Cache:
    """Drawn blocks, compressed; the least recently used go when all grow past a number of bytes."""

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes
        self._bytes = 0
        self._blocks: OrderedDict[_Block, dict[str, bytes]] = OrderedDict()
        # Held while a block is drawn: whoever waits for it most often wants that very block.
        self._lock = RLock()

    def read(self, block: _Block, name: str) -> Packed:
        """Return one variable ``(day, latitude, longitude)`` of a block."""
        with self._lock:
            if block not in self._blocks:
                self._keep(block, self._drawn(block))
            self._blocks.move_to_end(block)
            compressed = self._blocks[block][name]
        values = np.frombuffer(CODEC.decode(compressed), dtype_of(name))
        return values.reshape(BLOCK_DAYS, *block.box.shape)

    def _keep(self, block: _Block, variables: dict[str, bytes]) -> None:
        self._blocks[block] = variables
        self._bytes += sum(map(len, variables.values()))
        while self._bytes > self._maximum_bytes and len(self._blocks) > 1:
            _, dropped = self._blocks.popitem(last=False)
            self._bytes -= sum(map(len, dropped.values()))

    def _drawn(self, block: _Block) -> dict[str, bytes]:
        if block.near_real_time:
            reprocessed = replace(block, near_real_time=False)
            stepped = _stepped(self.read(reprocessed, "analysed_sst"), block)
            return self._blocks[reprocessed] | {"analysed_sst": CODEC.encode(stepped)}
        first_day = _first_day(block.index)
        last_day = first_day + timedelta(days=BLOCK_DAYS - 1)
        drawn = ostia_dataset(block.box, first_day, last_day, block.seed).compute(scheduler="synchronous")
        packed = {name: xr.conventions.encode_cf_variable(drawn[name].variable).to_numpy() for name in VARIABLES}
        return {name: CODEC.encode(np.ascontiguousarray(values)) for name, values in packed.items()}


_CACHE = _Cache(CACHE_BYTES)


def _first_day(block: int) -> date:
    return FIRST_DAY + timedelta(days=int(block) * BLOCK_DAYS)


def _stepped(packed: Packed, block: _Block) -> Packed:
    stepped = np.empty_like(packed)
    empty = fill_value("analysed_sst")
    for index, field in enumerate(packed):
        day = _first_day(block.index) + timedelta(days=index)
        kelvin = step_kelvin(block.box, day.month) + daily_noise_kelvin(block.box, block.seed, day)
        stepped[index] = np.where(field == empty, empty, field + _packed(kelvin))
    return stepped
