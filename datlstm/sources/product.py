"""A product as its source has it now."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Product:
    """A named and versioned record of days, and the first and last calendar day (UTC) it announces."""

    name: str
    version: str
    first_day: date
    last_day: date

    def __str__(self) -> str:
        """Return name and version."""
        return f"{self.name} {self.version}"
