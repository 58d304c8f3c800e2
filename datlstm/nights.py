"""The record of each night in the store, ``nights/<date>.json``: what its steps did, what went out, who is needed.

A record is written at every night's end, also after failures. The record of a night without a failed step stands for
as long as later runs of that night come to the same outcome, so running a night again changes no byte; the record of
a failed night is replaced by the next run's, which counts the attempts.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Literal

from pydantic import ValidationError, field_validator

from datlstm.errors import NotYetAvailableError, ProductError, TransientSourceError
from datlstm.operation import ArchiveFacts, ForecastFacts
from datlstm.settings import Frozen
from datlstm.store import Store, as_json

FOLDER = "nights"
RECENT = 30
BOOTSTRAP, INGEST, FORECAST, SCORES, PUBLISH = STEPS = ("bootstrap", "ingest", "forecast", "scores", "publish")
MAY_PASS = (TransientSourceError.__name__, NotYetAvailableError.__name__)
"""Errors of one night that the next may not have."""

StepState = Literal["ok", "warn", "failed"]


class Step(Frozen):
    """What came of one step of a night: a line for a person, the type of the error that ended it, and its seconds."""

    state: StepState
    message: str
    error: str | None = None
    seconds: float


class Night(Frozen):
    """What is kept of a night.

    ``archive`` and ``forecast`` are the newest usable day and the newest published forecast before the night, None
    where there is none; ``needs`` says what a person must do, a line each. ``attempts`` counts the recorded runs up to
    this one since the night had no good record.
    """

    format_version: Literal[1] = 1
    night: date
    region: str
    code_version: str
    attempts: int = 1
    started_at: datetime
    finished_at: datetime
    steps: Mapping[str, Step]
    archive: ArchiveFacts | None
    forecast: ForecastFacts | None
    needs: tuple[str, ...] = ()

    @field_validator("steps")
    @classmethod
    def _in_the_order_of_the_night(cls, steps: Mapping[str, Step]) -> Mapping[str, Step]:
        return {name: steps[name] for name in sorted(steps, key=STEPS.index)}

    @property
    def state(self) -> StepState:
        """The worst state of the steps."""
        states = [step.state for step in self.steps.values()]
        return "failed" if "failed" in states else "warn" if "warn" in states else "ok"

    @property
    def failed(self) -> dict[str, Step]:
        """The steps that failed."""
        return {name: step for name, step in self.steps.items() if step.state == "failed"}

    @property
    def went_out(self) -> bool:
        """Tell whether the night published its forecast."""
        return not {FORECAST, PUBLISH} & self.failed.keys()

    def outcome(self) -> dict[str, object]:
        """Return what a run of the night came to, without what only tells one run from another."""
        document = self.model_dump(exclude={"steps", "attempts", "code_version", "started_at", "finished_at"})
        return document | {"steps": {name: (step.state, step.error) for name, step in self.steps.items()}}


def save_night(store: Store, night: Night) -> Night:
    """Record a night, unless its standing record says the same, and return what was to be recorded.

    Raises `StoreError`.
    """
    try:
        standing = read_night(store, night.night)
    except ProductError:
        standing = None  # a damaged record is mended by a new one
    if standing is not None:
        if not standing.failed and standing.outcome() == night.outcome():
            return night
        night = night.model_copy(update={"attempts": standing.attempts + 1 if standing.failed else 1})
    store.write(_path(night.night), as_json(night.model_dump(mode="json")))
    return night


def read_night(store: Store, night: date) -> Night | None:
    """Return the record of a night, None when there is none.

    Raises `ProductError` when it is damaged or of another format, `StoreError` when the store can't be read.
    """
    content = store.read(_path(night))
    try:
        return None if content is None else Night.model_validate_json(content)
    except ValidationError as error:
        raise ProductError(
            f"{store.url_of(_path(night))} is damaged or of another format ({error.error_count()} problems): delete "
            "it, and run that night again where it matters"
        ) from error


def recent_nights(store: Store, as_of: date) -> list[Night]:
    """Return the newest `RECENT` records of nights up to ``as_of``, the newest first. Raises as `read_night`."""
    days = [day for day in _days(store) if day <= as_of]
    nights = (read_night(store, day) for day in sorted(days, reverse=True)[:RECENT])
    return [night for night in nights if night is not None]


def failed_in_a_row(nights: Sequence[Night]) -> int:
    """Return how many of the newest of ``nights``, newest first, failed one after the other."""
    return next((i for i, night in enumerate(nights) if not night.failed), len(nights))


def needs_of(nights: Sequence[Night]) -> list[str]:
    """Return what the newest of ``nights``, newest first, failed at; what may pass counts from the second night on."""
    if not nights:
        return []
    in_a_row = failed_in_a_row(nights)
    return [
        f"{name}: {step.message}" + (f" ({in_a_row} nights failed in a row)" if in_a_row > 1 else "")
        for name, step in nights[0].failed.items()
        if step.error not in MAY_PASS or in_a_row > 1
    ]


def troubled_since(nights: Sequence[Night]) -> date | None:
    """Return the first of the newest nights in a row that failed or needed a person, None when the newest did not."""
    since = None
    for night in nights:
        if not night.failed and not night.needs:
            break
        since = night.night
    return since


def _path(night: date) -> str:
    return f"{FOLDER}/{night}.json"


def _days(store: Store) -> Iterator[date]:
    for path in store.list(FOLDER):
        try:
            yield date.fromisoformat(path.removeprefix(f"{FOLDER}/").removesuffix(".json"))
        except ValueError:
            continue
