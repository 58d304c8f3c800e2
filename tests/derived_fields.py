"""A published init with what is derived from a forecast: heatwave categories, crossed thresholds, cooling, lineage."""

import numpy as np
import xarray as xr

LINEAGE = {"settings_hash": "9f8e7d6c5b4a3210", "code_version": "0.1.0", "heatwave_baseline": "1994-2023"}
CATEGORY = {
    "long_name": "marine heatwave category",
    "flag_values": [0, 1, 2, 3, 4],
    "flag_meanings": "none moderate strong severe extreme",
}
CROSSED = {
    "long_name": "temperatures crossed",
    "flag_masks": [1, 2],
    "flag_meanings": "warmer_than_24_celsius freezing",
}
COOLING = {
    "standard_name": "tendency_of_sea_water_temperature",
    "long_name": "change over three days",
    "units": "kelvin day-1",
    "units_metadata": "temperature: difference",
    "coverage_content_type": "modelResult",
}


def with_derived_fields(init: xr.Dataset) -> xr.Dataset:
    """Return a copy in which a quarter of the sea is in a strong heatwave on day 2, and half of it is warm on day 3."""
    init = init.copy(deep=True).drop_vars([*LINEAGE, "heatwave_category", "threshold_flags"], errors="ignore")
    is_sea = init["sst"].notnull().values
    place = is_sea[0].ravel().cumsum().reshape(is_sea[0].shape)
    category, crossed = (np.where(is_sea, 0, -1).astype("int8") for _ in range(2))
    category[1][is_sea[1] & (place <= place.max() / 4)] = 2
    crossed[2][is_sea[2] & (place <= place.max() / 2)] = 1
    dims = init["sst"].dims
    init["heatwave_category"] = xr.Variable(dims, category, CATEGORY)
    init["threshold_flags"] = xr.Variable(dims, crossed, CROSSED)
    init["sst_tendency_3d"] = xr.Variable(dims, init["sst_anomaly"].values / np.float32(3), COOLING)
    for name, value in LINEAGE.items():
        init[name] = xr.Variable((), np.array(value, np.dtypes.StringDType()), {"long_name": name})
    return init
