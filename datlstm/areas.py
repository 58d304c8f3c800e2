"""What is scored by itself: the whole region and its sub-basins, with and without their ice."""

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.errors import SettingsError
from datlstm.settings import Region

REGION = "region"
"""The area of all sea cells."""

ALL_SURFACES, ICE_FREE = "all", "ice_free"
SURFACES = (ALL_SURFACES, ICE_FREE)

ICE_THRESHOLD = 0.15
"""A cell is covered by ice from this fraction on."""


def area_names(region: Region) -> list[str]:
    """Return the names of the areas: the region as a whole, then its sub-basins in the order of the settings."""
    return [REGION, *(basin.name for basin in region.sub_basins)]


def area_masks(region: Region, ocean_mask: xr.DataArray) -> xr.DataArray:
    """Return which sea cells an area has, bool ``(area, latitude, longitude)``.

    ``ocean_mask`` is bool ``(latitude, longitude)``. A cell belongs to the region, and to the first sub-basin whose box
    holds its centre, edges included. Raises `SettingsError` for a sub-basin to which no sea cell belongs.
    """
    latitude, longitude = ocean_mask["latitude"], ocean_mask["longitude"]
    masks, free = [ocean_mask], ocean_mask
    for basin in region.sub_basins:
        rows = (latitude >= basin.south) & (latitude <= basin.north)
        own = free & rows & (longitude >= basin.west) & (longitude <= basin.east)
        if not own.any():
            raise SettingsError(
                f"sub-basin {basin.name!r} of region {region.name!r} has no sea cell of its own between "
                f"{basin.south:g} and {basin.north:g} N, {basin.west:g} and {basin.east:g} E: move its edges, put it "
                "before the sub-basins it shares its cells with, or leave it out"
            )
        masks.append(own)
        free = free & ~own
    areas = xr.Variable("area", np.array(area_names(region), dtype=object))
    return xr.concat(masks, areas, coords="minimal", compat="override").rename("area_mask")


def surfaces(ice_fraction: xr.DataArray) -> xr.DataArray:
    """Return which cells of a day a surface has, bool ``(surface, valid_time, latitude, longitude)``."""
    ice_free = ~(ice_fraction >= ICE_THRESHOLD)
    return xr.concat([xr.ones_like(ice_free), ice_free], pd.Index([ALL_SURFACES, ICE_FREE], name="surface"))
