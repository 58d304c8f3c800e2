"""Records of nights as tests need them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from datlstm.nights import Night, Step
from datlstm.operation import ArchiveFacts, ForecastFacts

NIGHT = date(2024, 6, 3)
GOOD_STEPS = {
    "ingest": Step(state="ok", message="2 days added", seconds=12.5),
    "forecast": Step(state="ok", message="forecast from 2024-06-02", seconds=3.0),
    "scores": Step(state="ok", message="2 days of truth to score against", seconds=1.0),
    "publish": Step(state="ok", message="forecast published", seconds=2.0),
}


def failed(message: str = "the server hung: wait", error: str = "PermanentSourceError") -> Step:
    return Step(state="failed", message=message, error=error, seconds=1.0)


def night_of(day: date = NIGHT, *, needs: Sequence[str] = (), minutes: int = 0, **steps: Step) -> Night:
    """A night whose steps went well, but for those given, and which began some minutes late."""
    began = datetime(day.year, day.month, day.day, 6, 30, tzinfo=UTC) + timedelta(minutes=minutes)
    before = day - timedelta(days=1)
    return Night(
        night=day,
        region="laizhou",
        code_version="0.1.0",
        started_at=began,
        finished_at=began + timedelta(seconds=20),
        steps=GOOD_STEPS | steps,
        archive=ArchiveFacts(usable_days=500, newest_day=before, age_days=1, product="NRT 1", missing_days=()),
        forecast=ForecastFacts(
            init_time=before,
            age_days=1,
            source="model",
            model_id="laizhou-datlstm-1",
            input_age_days=1,
            n_missing_inputs=0,
        ),
        needs=tuple(needs),
    )
