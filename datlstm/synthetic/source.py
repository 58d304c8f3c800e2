"""The synthetic Bohai as a source of the service, in place of an observed product."""

from datetime import date

import numpy as np
import xarray as xr

from datlstm.errors import NotYetAvailableError
from datlstm.settings import Region
from datlstm.synthetic.bohai import FIRST_DAY, LAND_BIT, WATER_BIT, land_mask, ostia_dataset
from datlstm.synthetic.coast import cells_of
from datlstm.synthetic.labels import ATTRIBUTION, PRODUCT, VARIABLE_ATTRIBUTES, VERSION

MARGIN_CELLS = 1
LAST_DAY = date(2100, 1, 1)


class SyntheticSource:
    """A `datlstm.sources.Source` of invented days on OSTIA's 0.05 degree cells, whatever the region's own grid.

    Any day can be drawn at any time, so the source never reads the clock: it covers 1981-10-01 to ``last_day``. The
    same seed gives the same sea on every call.
    """

    def __init__(self, region: Region, seed: int, last_day: date = LAST_DAY) -> None:
        self._box = cells_of(region).grown(MARGIN_CELLS)
        self._seed = seed
        self._last_day = last_day

    @property
    def product(self) -> str:
        """The generator's name, which says that it is synthetic."""
        return PRODUCT

    @property
    def version(self) -> str:
        """The generator's version: changes when its numbers do."""
        return VERSION

    @property
    def attribution(self) -> str:
        """The credit line, which says that nothing is observed."""
        return ATTRIBUTION

    def coverage(self) -> tuple[date, date]:
        """Return the first and last day that the source gives."""
        return FIRST_DAY, self._last_day

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of a closed interval in the form of `Source.read`, lazily, in chunks of up to 30 days.

        Coordinates are float64; ``sst`` lies on multiples of 0.01 K, as OSTIA's does. Raises `NotYetAvailableError`
        when the interval begins after the source's last day.
        """
        if first_day > self._last_day:
            raise NotYetAvailableError(f"{PRODUCT} ends on {self._last_day}, before {first_day}: ask for older days")
        days = ostia_dataset(self._box, max(first_day, FIRST_DAY), min(last_day, self._last_day), self._seed)
        delivered = days[["analysed_sst", "sea_ice_fraction"]].rename(analysed_sst="sst")
        delivered["mask"] = self._mask()
        delivered = delivered.assign_coords(time=days["time"].dt.floor("D").assign_attrs(days["time"].attrs))
        return delivered.drop_encoding()

    def _mask(self) -> xr.Variable:
        flags = {"flag_masks": np.array([WATER_BIT, LAND_BIT], np.int8), "flag_meanings": "water land"}
        return xr.Variable(("latitude", "longitude"), land_mask(self._box), VARIABLE_ATTRIBUTES["mask"] | flags)
