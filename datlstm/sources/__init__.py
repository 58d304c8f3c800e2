"""Where sea surface temperature comes from: every source gives days in one form, behind one Protocol."""

from datetime import date
from typing import Protocol, runtime_checkable

import xarray as xr

from datlstm.settings import CopernicusCredentials, Settings


@runtime_checkable
class Source(Protocol):
    """A provider of daily SST over a region.

    ``product`` and ``version`` name what is delivered and are stored beside every day; ``attribution`` is the credit
    line its licence asks for.
    """

    @property
    def product(self) -> str:
        """Name of the product."""
        ...

    @property
    def version(self) -> str:
        """Version of the product."""
        ...

    @property
    def attribution(self) -> str:
        """Credit line that the product's licence asks for."""
        ...

    def coverage(self) -> tuple[date, date]:
        """Return the first and last calendar day (UTC) the source has now.

        Raises `SourceError` when the source can't be asked.
        """
        ...

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of a closed interval that exist, lazily, on the source's own grid around the region.

        Dims ``(time, latitude, longitude)``: ``time`` calendar days stamped 00:00 UTC, unique and ascending, a day
        that the source lacks simply absent; ``latitude`` and ``longitude`` ascending degrees (-180 … 180), the region
        and at least one more source cell on each side where the source has it.
        Variables: ``sst`` float32 kelvin, NaN where missing or land; ``sea_ice_fraction`` float32 0 … 1 where the
        source has it; ``mask`` int8 ``(latitude, longitude)`` with OSTIA's bits (1 water, 2 land).
        Raises a `SourceError`: permanent, not yet available, or transient.
        """
        ...


def open_source(settings: Settings) -> Source:
    """Return the source that ``settings.source.kind`` names, for the settings' region.

    Raises `PermanentSourceError` when Copernicus Marine is chosen without credentials; files and network are not
    touched before the first question.
    """
    # Each kind is imported when chosen: the Copernicus client alone takes longer to import than the rest.
    match settings.source.kind:
        case "copernicus":
            from datlstm.sources.copernicus import CopernicusSource

            return CopernicusSource(settings.region, settings.source.copernicus, CopernicusCredentials())
        case "files":
            from datlstm.sources.files import FilesSource

            return FilesSource(settings.region, settings.source.files)
        case "synthetic":
            from datlstm.synthetic.source import SyntheticSource

            return SyntheticSource(region=settings.region, seed=settings.source.synthetic.seed)
