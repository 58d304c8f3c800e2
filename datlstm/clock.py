"""The only place that reads the clock. What a night does follows from its date, which is an argument."""

from datetime import UTC, date, datetime


def today() -> date:
    """Return the current day in UTC."""
    return now().date()


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def now_seconds() -> int:
    """Return the current time in whole seconds since 1970-01-01 UTC, for timestamps that say when."""
    return int(now().timestamp())
