"""Measures the step between the reprocessed and the near-real-time product, on the newest days that both have."""

from datetime import date, timedelta

import numpy as np
import xarray as xr

from datlstm.archive import Archive
from datlstm.errors import NotEnoughDataError
from datlstm.grid import Regridder
from datlstm.ingest import WATER_BIT, yearly_pieces
from datlstm.product_step import ProductStep, measure
from datlstm.settings import Settings
from datlstm.sources import Source
from datlstm.sources.copernicus import CopernicusSource
from datlstm.sources.product import Product

OVERLAP_DAYS = 3 * 365
LEAST_DAYS = 365


def measure_step(settings: Settings, source: Source) -> ProductStep:
    """Return the mean difference of the two products, a map for each month, over up to three years that both have.

    Reprocessed days are the archive's, near-real-time ones are read from the source. Raises `NotEnoughDataError` when
    the source has one product, or the archive less than a year of reprocessed days that the other product has too; and
    as `Source.read` does.
    """
    products = source.products()
    if not isinstance(source, CopernicusSource) or len(products) < 2:
        raise NotEnoughDataError(f"{products[0]} is the only product of the source: there is no step to measure")
    reprocessed, near_real_time = products
    days = common_days(settings, reprocessed, near_real_time)
    if len(days) < LEAST_DAYS:
        raise NotEnoughDataError(
            f"the archive holds {len(days)} days of {reprocessed} that {near_real_time} has too, the step needs a "
            "year: run `datlstm backfill` over it"
        )
    archive = Archive(settings)
    stored = archive.read(days[0], days[-1])["sst"].sel(time=np.array(days, "datetime64[ns]"))
    given = [_on_grid(settings, source, *piece) for piece in yearly_pieces(days[0], days[-1])]
    return measure(
        xr.concat(given, "time").where(archive.ocean_mask()),
        stored,
        near_real_time_product=str(near_real_time),
        reprocessed_product=str(reprocessed),
    )


def common_days(settings: Settings, reprocessed: Product, near_real_time: Product) -> list[date]:
    """Return the newest reprocessed days of the archive that the other product announces too, ascending."""
    known = Archive(settings).provenance()
    days = list(known.index[(known["source_product"] == reprocessed.name) & (known["quality"] == 0)])
    newest = [day for day in days if near_real_time.first_day <= day <= near_real_time.last_day]
    return [day for day in newest if day > newest[-1] - timedelta(days=OVERLAP_DAYS)]


def _on_grid(settings: Settings, source: CopernicusSource, first_day: date, last_day: date) -> xr.DataArray:
    given = source.read_near_real_time(first_day, last_day)
    water = (given["mask"] & WATER_BIT).astype(bool)
    return Regridder(water, Archive(settings).grid, settings.region.minimum_ocean_fraction)(given["sst"])
