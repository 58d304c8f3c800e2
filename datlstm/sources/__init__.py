"""Where sea surface temperature comes from: every source gives days in one form, behind one Protocol."""

from datetime import date
from typing import Protocol, runtime_checkable

import xarray as xr

from datlstm.settings import CopernicusCredentials, Settings
from datlstm.sources.product import Product


@runtime_checkable
class Source(Protocol):
    """A provider of daily SST over a region."""

    def products(self) -> list[Product]:
        """Return the products that the source takes days from, best first, as they are now.

        Raises `SourceError` when the source can't be asked.
        """
        ...

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of a closed interval that exist, each of the best product, on the source's own grid.

        Dims ``(time, latitude, longitude)``: ``time`` calendar days stamped 00:00 UTC, unique and ascending, a day
        that the source lacks simply absent; ``latitude`` and ``longitude`` ascending degrees (-180 … 180), the region
        and at least one more source cell on each side where the source has it.
        Variables: ``sst`` float32 kelvin, NaN where missing or land; where the source has them ``sea_ice_fraction``
        float32 0 … 1 and ``analysis_error`` float32 kelvin; ``mask`` int8 ``(latitude, longitude)`` with OSTIA's bits
        (1 water, 2 land); ``source_product`` and ``source_version`` ``(time)``, text.
        Attributes: ``attribution``, the credit line that the products' licences ask for; ``problems``, a list of one
        line for each thing an operator should know, empty when all is well; ``gaps_are_certain``, whether a day that
        did not come is one that the source lacks.
        Raises a `SourceError`: permanent, not yet available, or transient.
        """
        ...


def open_source(settings: Settings, credentials: CopernicusCredentials | None = None) -> Source:
    """Return the source that ``settings.source.kind`` names, for the settings' region.

    ``credentials`` for Copernicus Marine come from the environment unless they are given. Raises
    `PermanentSourceError` when it is chosen without any; files and network are not touched before the first question.
    """
    # Each kind is imported when chosen: a night needs one of them.
    match settings.source.kind:
        case "copernicus":
            from datlstm.sources.copernicus import CopernicusSource

            return CopernicusSource(
                settings.region,
                settings.source.copernicus,
                credentials or CopernicusCredentials(),
                settings.quality,
            )
        case "marine-store":
            from datlstm.synthetic.marine_store.source import marine_store_source

            return marine_store_source(settings)
        case "files":
            from datlstm.sources.files import FilesSource

            return FilesSource(settings.region, settings.source.files)
        case "synthetic":
            from datlstm.synthetic.source import SyntheticSource

            return SyntheticSource(region=settings.region, seed=settings.source.synthetic.seed)
