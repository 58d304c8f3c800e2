"""The synthetic Bohai as a source of the service, in place of an observed product."""

from datetime import date

import xarray as xr

from datlstm.errors import NotYetAvailableError
from datlstm.settings import Region
from datlstm.sources.form import Provenance, deliver
from datlstm.sources.product import Product
from datlstm.synthetic.bohai import FIRST_DAY, WATER_BIT, land_mask, ostia_dataset
from datlstm.synthetic.coast import cells_of
from datlstm.synthetic.labels import ATTRIBUTION, PRODUCT, VARIABLE_ATTRIBUTES, VERSION

MARGIN_CELLS = 1
LAST_DAY = date(2100, 1, 1)
PROVENANCE = Provenance(PRODUCT, VERSION, ATTRIBUTION)


class SyntheticSource:
    """A `datlstm.sources.Source` of invented days on OSTIA's 0.05 degree cells, whatever the region's own grid.

    Any day can be drawn at any time, so the source never reads the clock: it covers 1981-10-01 to ``last_day``. The
    same seed gives the same sea on every call.
    """

    def __init__(self, region: Region, seed: int, last_day: date = LAST_DAY) -> None:
        self._box = cells_of(region).grown(MARGIN_CELLS)
        self._seed = seed
        self._last_day = last_day

    def products(self) -> list[Product]:
        """Return the one product: the generator's name and version, which say that it is synthetic."""
        return [Product(PRODUCT, VERSION, FIRST_DAY, self._last_day)]

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of a closed interval in the form of `Source.read`, lazily, in chunks of up to 30 days.

        Coordinates are float64; ``sst`` lies on multiples of 0.01 K, as OSTIA's does. Raises `NotYetAvailableError`
        when the interval begins after the source's last day.
        """
        if first_day > self._last_day:
            raise NotYetAvailableError(f"{PRODUCT} ends on {self._last_day}, before {first_day}: ask for older days")
        days = ostia_dataset(self._box, max(first_day, FIRST_DAY), min(last_day, self._last_day), self._seed)
        midnights = days["time"].dt.floor("D").assign_attrs(days["time"].attrs)
        water = xr.DataArray(
            land_mask(self._box) & WATER_BIT > 0,
            days[["latitude", "longitude"]].coords,
            ("latitude", "longitude"),
        )
        delivered = deliver(days.rename(analysed_sst="sst").assign_coords(time=midnights), water, PROVENANCE)
        for name, variable in delivered.data_vars.items():
            says_synthetic = {"comment": f"Synthetic: made by {PRODUCT}, not observed"}
            variable.attrs = VARIABLE_ATTRIBUTES.get(str(name), {}) | variable.attrs | says_synthetic
        return delivered.assign_attrs(days.attrs | delivered.attrs).drop_encoding()
