"""What passes between the service and the process in which the official client runs: one request, then JSON lines."""

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SST, ERROR, ICE, MASK = "analysed_sst", "analysis_error", "sea_ice_fraction", "mask"
VARIABLES = [SST, ERROR, ICE, MASK]


class Message(BaseModel):
    """Base of what is passed: immutable, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AskedDataset(Message):
    """A dataset by id and version; without a version, the one that is the catalogue's default."""

    dataset_id: str
    version: str | None


class Request(Message):
    """All that one run of the client is asked.

    ``datasets`` come best first: each day is read from the first that has it. Without days they are only described.
    The box is in degrees and grows by one cell of the dataset on every side; results are written to ``folder``.
    """

    username: str = Field(repr=False)
    password: str = Field(repr=False)
    datasets: list[AskedDataset]
    first_day: date | None
    last_day: date | None
    south: float
    north: float
    west: float
    east: float
    folder: str
    loopback_only: bool


class Axis(Message):
    """A coordinate as the catalogue announces it: evenly spaced, or value by value."""

    minimum: float
    maximum: float
    step: float | None
    values: list[float] | None


class Described(Message):
    """What the catalogue says of a dataset: the days it announces, and what its operators announce."""

    event: Literal["described"] = "described"
    dataset_id: str
    version: str
    first_day: date
    last_day: date
    latitude: Axis
    longitude: Axis
    retired_on: str | None


class Progress(Message):
    """How far the reading of a dataset has come, in steps of Dask: about two for each chunk."""

    event: Literal["progress"] = "progress"
    dataset_id: str
    done: int
    total: int


class Delivered(Message):
    """A NetCDF file with what the client gave of one dataset."""

    event: Literal["delivered"] = "delivered"
    dataset_id: str
    path: str


class Failed(Message):
    """What stopped the client: its error's class and the classes above it, its words, and what was being asked."""

    event: Literal["failed"] = "failed"
    dataset_id: str
    asked: str
    classes: list[str]
    words: str


class Finished(Message):
    """The last message of a run that did all it could."""

    event: Literal["finished"] = "finished"


Event = Annotated[Described | Progress | Delivered | Failed | Finished, Field(discriminator="event")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
