"""The words that keep the synthetic sea from being taken for an observed one, and OSTIA's packing."""

import numpy as np

PRODUCT = "SYNTHETIC-BOHAI"
# Must change whenever a number the generator makes does: archives tell revised days by it.
VERSION = "1"
ATTRIBUTION = (
    "Synthetic sea surface temperature, invented by this software for demonstration and tests: not an observation. "
    "Coastline: global-land-mask, from NOAA's GLOBE elevation."
)

GLOBAL_ATTRIBUTES = {
    "Conventions": "CF-1.11",
    "title": "Synthetic daily sea surface temperature in the form of OSTIA",
    "summary": "Synthetic fields drawn from a seed, with the coast, seasons and variability of a shelf sea like the "
    "Bohai. No observation went into them.",
    "source": f"synthetic generator {PRODUCT} version {VERSION}",
    "comment": "Synthetic: for demonstration and tests only, worthless for any statement about the real sea.",
    "institution": "none: synthetic",
    "references": "none: synthetic",
    "product_version": f"synthetic {VERSION}",
    "source_product": PRODUCT,
    "source_version": VERSION,
    "attribution": ATTRIBUTION,
}

_SYNTHETIC = {"comment": "Synthetic: not observed", "source": f"{PRODUCT} version {VERSION}"}

VARIABLE_ATTRIBUTES: dict[str, dict[str, object]] = {
    "analysed_sst": {
        "standard_name": "sea_surface_foundation_temperature",
        "long_name": "synthetic analysed sea surface temperature",
        "units": "kelvin",
        **_SYNTHETIC,
    },
    "analysis_error": {
        "long_name": "synthetic estimated error standard deviation of analysed_sst",
        "units": "kelvin",
        **_SYNTHETIC,
    },
    "sea_ice_fraction": {
        "standard_name": "sea_ice_area_fraction",
        "long_name": "synthetic sea ice area fraction",
        "units": "1",
        **_SYNTHETIC,
    },
    "mask": {
        "long_name": "synthetic land sea ice lake bit mask",
        "flag_masks": np.array([1, 2, 4, 8, 16], np.int8),
        "flag_meanings": "water land optional_lake_surface sea_ice optional_river_surface",
        **_SYNTHETIC,
    },
}

ENCODING: dict[str, dict[str, object]] = {
    "analysed_sst": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": np.int16(-32768)},
    "analysis_error": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": np.int16(-32768)},
    "sea_ice_fraction": {"dtype": "int8", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": np.int8(-128)},
    "mask": {"dtype": "int8"},
}
