"""A source in memory: flat fields around a small region, from one product or several, that fails when it is told to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

import numpy as np
import xarray as xr

from datlstm.archive import consecutive
from datlstm.errors import SourceError
from datlstm.grid import Grid
from datlstm.settings import Region
from datlstm.sources.product import Product

REGION = Region(name="box", title="Box", south=37, north=38, west=119, east=120, resolution=0.25)
"""4 x 4 cells: enough for tests about days, and years of them."""


@dataclass
class Record:
    """The days of one product, by their kelvins; it may announce days that it lacks."""

    product: Product
    days: dict[date, float]


def record(
    days: Mapping[date, float], name: str = "NRT", version: str = "1", announced: tuple[date, date] | None = None
) -> Record:
    """Return a record that announces its own days, unless it is told others."""
    first, last = announced or (min(days), max(days))
    return Record(Product(name, version, first, last), dict(days))


@dataclass
class FakeSource:
    """Days from the first of its records that has them; a record's turn follows its place.

    ``failures`` are raised by the next reads, one each; None lets one pass. ``reads`` are the intervals it was asked.
    """

    records: list[Record]
    ice: bool = True
    error: bool = True
    margin: int = 1
    problems: list[str] = field(default_factory=list)
    failures: list[SourceError | None] = field(default_factory=list)
    reads: list[tuple[date, date]] = field(default_factory=list)

    def products(self) -> list[Product]:
        return [record.product for record in self.records]

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        self.reads.append((first_day, last_day))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return self.dataset(first_day, last_day)

    def dataset(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of an interval as `Source.read` promises them."""
        chosen = {
            day: next(record for record in self.records if day in record.days)
            for day in consecutive(first_day, last_day)
            if any(day in record.days for record in self.records)
        }
        time = np.array(list(chosen), "datetime64[ns]")
        values = np.array([record.days[day] for day, record in chosen.items()], "float32")
        kelvin = xr.DataArray(values, dims="time", coords={"time": time})
        water = self._mask == 1
        sst = kelvin.where(water).transpose("time", ...)
        fields = {"sst": sst}
        if self.ice:
            fields["sea_ice_fraction"] = xr.zeros_like(sst).where(water)
        if self.error:
            fields["analysis_error"] = xr.full_like(sst, 0.25).where(water)
        names = {
            name: ("time", np.array([getattr(r.product, key) for r in chosen.values()], dtype=object))
            for name, key in (("source_product", "name"), ("source_version", "version"))
        }
        attributes = {"attribution": "nobody", "problems": self.problems, "gaps_are_certain": not self.problems}
        return xr.Dataset({**fields, **names, "mask": self._mask}, attrs=attributes).chunk(time=50)

    @cached_property
    def _mask(self) -> xr.DataArray:
        """Two westernmost columns of land around the region's box, ``margin`` cells larger on each side."""
        edge = self.margin * REGION.resolution
        sides = {"south": REGION.south - edge, "north": REGION.north + edge, "west": REGION.west - edge}
        grid = Grid.from_region(Region.model_validate({**dict(REGION), **sides, "east": REGION.east + edge}))
        mask = np.ones(grid.shape, "int8")
        mask[:, 0:2] = 2
        return xr.DataArray(mask, dims=("latitude", "longitude"), coords=grid.coords())


def rising(first_day: date, last_day: date, start: float = 280.0) -> dict[date, float]:
    """Return days that warm a little from one to the next and turn back before they boil."""
    return {day: start + 0.01 * (i % 100) for i, day in enumerate(consecutive(first_day, last_day))}
