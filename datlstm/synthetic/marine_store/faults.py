"""What goes wrong in the store tonight: a seeded plan of the faults that an operator of Copernicus Marine meets.

Faults of the datasets change the `World` that is shown, faults of the way change the `Answer` to a request. The same
plan acts alike on every run: nothing hangs on the order in which a client's threads ask.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from enum import StrEnum
from hashlib import sha256
from random import Random
from threading import Lock
from typing import Any, Self

import numpy as np

from datlstm.synthetic.marine_store.catalogue import CONFIGURATION_HOST
from datlstm.synthetic.marine_store.content import LOGIN_HOST, object_error
from datlstm.synthetic.marine_store.exchange import Answer, Request
from datlstm.synthetic.marine_store.world import Dataset, World

HANG_SECONDS = 3600.0
DRIP_BYTES_PER_SECOND = 20.0
PASSING_ATTEMPTS = 2
ONE_DAY = timedelta(days=1)
ODD_HOURS = timedelta(hours=7)

HEALTHY_SHARE = 0.4
SINGLE_FAULT_SHARE = 0.4

_SST_CHUNK = re.compile(r"/analysed_sst/(\d+)\.(\d+)\.(\d+)$")


class Fault(StrEnum):
    """Everything that a plan can let go wrong.

    The first group ends every read of the plan's day. The second meets it on its way: but for the storm, it hits
    chunks of ``analysed_sst`` (see `FaultPlan.hits_chunk`), for ever unless the name says that it passes. The third
    changes what the dataset holds or what the catalogue says of it.
    """

    LOGIN_DOWN = "login-down"
    """The login answers 503."""
    LOGIN_HANGS = "login-hangs"
    """The login does not answer for an hour."""
    WRONG_PASSWORD = "wrong-password"
    """The account has another password than the client's."""
    CATALOGUE_DOWN = "catalogue-down"
    """Every document of the catalogue answers 500."""
    CATALOGUE_HANGS = "catalogue-hangs"
    """The catalogue does not answer for an hour."""
    STORM = "storm"
    """Every request for data answers 503 SlowDown, for ever; the catalogue stays."""
    UPDATING = "updating"
    """The catalogue says that the dataset is being updated from the plan's day on."""
    RETIRED = "retired"
    """The catalogue says that the dataset was retired on the plan's day: the client takes it for unknown."""
    RENAMED = "renamed"
    """The dataset's id is gone from the catalogue and the data are there under another."""
    NEW_VERSION = "new-version"
    """The dataset's version is gone and a newer is there."""

    STORM_PASSES = "storm-passes"
    """The first two requests for each path of the catalogue and the data answer 503 SlowDown."""
    HANGS = "hangs"
    """A chunk does not come for an hour."""
    DRIP = "drip"
    """A chunk comes at a few bytes a second."""
    DROPPED = "dropped"
    """The connection is dropped in the middle of a chunk."""
    DROPPED_PASSES = "dropped-passes"
    """The connection is dropped in the middle of a chunk, at the first two requests for it."""
    TRUNCATED = "truncated"
    """A chunk is half as long as it should be, under status 200 and the length that it has."""
    GARBLED = "garbled"
    """Every bit of a chunk is flipped, under status 200."""
    MISSING_CHUNK = "missing-chunk"
    """A chunk answers 404."""
    FORBIDDEN_CHUNK = "forbidden-chunk"
    """A chunk answers 403."""

    MISSING_DAY = "missing-day"
    """The plan's day is not on the time axis."""
    BLANK_DAY = "blank-day"
    """The plan's day holds no value."""
    PRELIMINARY = "preliminary"
    """The plan's day is 0.2 to 0.8 kelvin warmer or colder than it will be."""
    CATALOGUE_AHEAD = "catalogue-ahead"
    """The catalogue announces the plan's day, and the data end a day before it."""
    CATALOGUE_BEHIND = "catalogue-behind"
    """The data hold the plan's day, and the catalogue ends a day before it."""
    UNSCALED = "unscaled"
    """``analysed_sst`` lacks its scale factor."""
    SHIFTED = "shifted"
    """Every time stamp is a day late."""
    SHIFTED_HOURS = "shifted-hours"
    """Every time stamp is at 07:00 UTC."""


CHUNK_FAULTS = frozenset(
    {
        Fault.HANGS,
        Fault.DRIP,
        Fault.DROPPED,
        Fault.DROPPED_PASSES,
        Fault.TRUNCATED,
        Fault.GARBLED,
        Fault.MISSING_CHUNK,
        Fault.FORBIDDEN_CHUNK,
    }
)
WAY_FAULTS = CHUNK_FAULTS | {Fault.STORM_PASSES}
CONTENT_FAULTS = frozenset(
    {
        Fault.MISSING_DAY,
        Fault.BLANK_DAY,
        Fault.PRELIMINARY,
        Fault.CATALOGUE_AHEAD,
        Fault.CATALOGUE_BEHIND,
        Fault.UNSCALED,
        Fault.SHIFTED,
        Fault.SHIFTED_HOURS,
    }
)
PASSING_FAULTS = frozenset({Fault.STORM_PASSES, Fault.DROPPED_PASSES})

Harm = Callable[[Request, Answer], Answer]


def _hanging(request: Request, answer: Answer) -> Answer:
    return replace(answer, wait_seconds=HANG_SECONDS)


def _dropped(request: Request, answer: Answer) -> Answer:
    return replace(answer, sent_bytes=len(answer.body) // 2)


def _garbled(request: Request, answer: Answer) -> Answer:
    # Flipping a few bits would at times still decompress, to other values: no fault of one known outcome.
    return replace(answer, body=np.invert(np.frombuffer(answer.body, np.uint8)).tobytes())


HARMS: Mapping[Fault, Harm] = {
    Fault.LOGIN_DOWN: lambda request, answer: Answer(503, b"Service Unavailable", "text/plain"),
    Fault.LOGIN_HANGS: _hanging,
    Fault.CATALOGUE_DOWN: lambda request, answer: Answer(500, b"Internal Server Error", "text/plain"),
    Fault.CATALOGUE_HANGS: _hanging,
    Fault.STORM: lambda request, answer: object_error(503, "SlowDown", request.path),
    Fault.STORM_PASSES: lambda request, answer: object_error(503, "SlowDown", request.path),
    Fault.HANGS: _hanging,
    Fault.DRIP: lambda request, answer: replace(answer, bytes_per_second=DRIP_BYTES_PER_SECOND),
    Fault.DROPPED: _dropped,
    Fault.DROPPED_PASSES: _dropped,
    Fault.TRUNCATED: lambda request, answer: replace(answer, body=answer.body[: len(answer.body) // 2]),
    Fault.GARBLED: _garbled,
    Fault.MISSING_CHUNK: lambda request, answer: object_error(404, "NoSuchKey", request.path),
    Fault.FORBIDDEN_CHUNK: lambda request, answer: object_error(403, "AccessDenied", request.path),
}


class _Attempts:
    """How often each thing was tried, counted alike by any number of threads."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Fault, str]] = Counter()
        self._lock = Lock()

    def count(self, fault: Fault, path: str) -> int:
        """Return the number of this attempt, from 1."""
        with self._lock:
            self._counts[fault, path] += 1
            return self._counts[fault, path]


@dataclass(frozen=True)
class FaultPlan:
    """The faults of one night, the ``day`` that faults of a day hit and the dataset that faults of a dataset hit.

    ``day`` is normally the newest; faults of the way hit every dataset. Only a fault that passes remembers anything:
    the number of requests for each path since the plan was made. The seed decides which chunks are hit and how wrong a
    preliminary day is.
    """

    faults: tuple[Fault, ...]
    seed: int
    day: date
    dataset_id: str
    _attempts: _Attempts = field(default_factory=_Attempts, init=False, repr=False, compare=False)

    @classmethod
    def drawn(cls, seed: int, night: int, day: date, dataset_id: str) -> Self:
        """Draw a night: none (40 %), one (40 %) or two faults (20 %).

        Two are one on the way and one of content, for neither of these keeps a client from meeting the other.
        """
        random = Random(f"{seed} {night}")
        share = random.random()
        faults: tuple[Fault, ...]
        if share < HEALTHY_SHARE:
            faults = ()
        elif share < HEALTHY_SHARE + SINGLE_FAULT_SHARE:
            faults = (random.choice(list(Fault)),)
        else:
            faults = (random.choice(sorted(WAY_FAULTS)), random.choice(sorted(CONTENT_FAULTS)))
        return cls(faults, random.getrandbits(32), day, dataset_id)

    def world(self, world: World) -> World:
        """Return the world as the faults show it. Raises `KeyError` for a dataset that the world lacks."""
        healthy = faulty = world.dataset(self.dataset_id)
        for fault in self.faults:
            faulty = replace(faulty, **self._changes(fault, faulty))
        datasets = tuple(faulty if dataset is healthy else dataset for dataset in world.datasets)
        password = f"not {world.password}" if Fault.WRONG_PASSWORD in self.faults else world.password
        return replace(world, datasets=datasets, password=password)

    def answer(self, request: Request, answer: Answer) -> Answer:
        """Return what becomes of an answer on its way."""
        for fault in self.faults:
            if self._meets(fault, request, answer):
                answer = HARMS[fault](request, answer)
        return answer

    def hits_chunk(self, fault: Fault, path: str) -> bool:
        """Tell whether a path is a chunk of ``analysed_sst`` that a fault of chunks hits.

        Chunks are hit as the black fields of a chequerboard over time, latitude and longitude, and the seed chooses the
        colour. So a read that spans two neighbouring chunks, as one of two days in a row does, is hit under every
        seed, and each single chunk, the newest day's too, under half of the seeds.
        """
        indices = _SST_CHUNK.search(path)
        return indices is not None and (sum(map(int, indices.groups())) + self._number(fault)) % 2 == 0

    def _meets(self, fault: Fault, request: Request, answer: Answer) -> bool:
        if fault in CHUNK_FAULTS:
            met = answer.status == 200 and self.hits_chunk(fault, request.path)
        else:
            met = _is_reached(fault, request)
        return met and (fault not in PASSING_FAULTS or self._attempts.count(fault, request.path) <= PASSING_ATTEMPTS)

    def _changes(self, fault: Fault, dataset: Dataset) -> dict[str, Any]:
        """Return the fields of a dataset that a fault sets."""
        match fault:
            case Fault.UPDATING:
                return {"updating_since": self.day}
            case Fault.RETIRED:
                return {"retired_on": self.day}
            case Fault.RENAMED:
                return {"dataset_id": f"{dataset.dataset_id}-RENAMED"}
            case Fault.NEW_VERSION:
                # A version is the year and month of its making; one of next year can't be there already.
                return {"version": f"{self.day.year + 1}{self.day:%m}"}
            case Fault.MISSING_DAY:
                return {"missing_days": dataset.missing_days | {self.day}}
            case Fault.BLANK_DAY:
                return {"blank_days": dataset.blank_days | {self.day}}
            case Fault.PRELIMINARY:
                return {"preliminary_days": {**dataset.preliminary_days, self.day: self._preliminary_kelvin()}}
            case Fault.CATALOGUE_AHEAD:
                return {"last_day": min(dataset.last_day, self.day - ONE_DAY), "announced_last_day": self.day}
            case Fault.CATALOGUE_BEHIND:
                return {"announced_last_day": self.day - ONE_DAY}
            case Fault.UNSCALED:
                return {"unscaled": dataset.unscaled | {"analysed_sst"}}
            case Fault.SHIFTED:
                return {"stamp_shift": ONE_DAY}
            case Fault.SHIFTED_HOURS:
                return {"stamp_shift": ODD_HOURS}
            case _:
                return {}

    def _preliminary_kelvin(self) -> float:
        number = self._number(Fault.PRELIMINARY)
        size = 0.2 + number // 2 % 61 / 100
        return round(size if number % 2 else -size, 2)

    def _number(self, fault: Fault) -> int:
        return int.from_bytes(sha256(f"{self.seed} {fault}".encode()).digest()[:8])


def _is_reached(fault: Fault, request: Request) -> bool:
    """Tell whether a request goes where a fault lies that is not one of chunks."""
    # The catalogue lies on hosts of objects, too: only the paths tell its documents from the data.
    is_catalogue = request.host == CONFIGURATION_HOST or request.path.endswith(".json")
    is_data = ".zarr/" in request.path
    match fault:
        case Fault.LOGIN_DOWN | Fault.LOGIN_HANGS:
            return request.host == LOGIN_HOST
        case Fault.CATALOGUE_DOWN | Fault.CATALOGUE_HANGS:
            return is_catalogue
        case Fault.STORM:
            return is_data
        case Fault.STORM_PASSES:
            return is_catalogue or is_data
        case _:
            return False
