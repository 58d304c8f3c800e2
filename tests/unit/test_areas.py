"""Every sea cell has its areas: the region, and at most one sub-basin."""

import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError

from datlstm.areas import area_masks, area_names
from datlstm.errors import SettingsError
from datlstm.grid import Grid
from datlstm.settings import Region, SubBasin, load_settings

WEST = {"name": "west", "south": 37.0, "north": 37.3, "west": 119.0, "east": 119.1}
ALL = {"name": "rest", "south": 37.0, "north": 37.3, "west": 119.0, "east": 119.3}


def region(*boxes: dict[str, object]) -> Region:
    box = {"south": 37.0, "north": 37.3, "west": 119.0, "east": 119.3, "resolution": 0.1}
    return Region.model_validate({"name": "r", "title": "R", **box, "sub_basins": [*boxes]})


def sea(chosen: Region, *land: tuple[int, int]) -> xr.DataArray:
    mask = np.ones((3, 3), bool)
    for cell in land:
        mask[cell] = False
    grid = Grid.from_region(chosen)
    return xr.DataArray(mask, dims=("latitude", "longitude"), coords=grid.coords())


def test_without_sub_basins_the_region_is_the_one_area() -> None:
    whole = region()
    masks = area_masks(whole, sea(whole, (0, 0)))
    assert masks["area"].values.tolist() == area_names(whole) == ["region"]
    np.testing.assert_array_equal(masks.sel(area="region"), sea(whole, (0, 0)))


def test_a_cell_belongs_to_the_first_box_that_holds_its_centre() -> None:
    chosen = region(WEST, ALL)
    masks = area_masks(chosen, sea(chosen))
    assert masks.dims == ("area", "latitude", "longitude")
    np.testing.assert_array_equal(masks.sel(area="west"), [[True, False, False]] * 3)
    np.testing.assert_array_equal(masks.sel(area="rest"), [[False, True, True]] * 3)


def test_land_belongs_to_no_area_and_a_cell_outside_all_boxes_to_the_region_alone() -> None:
    chosen = region(WEST)
    masks = area_masks(chosen, sea(chosen, (1, 0)))
    assert not masks.sel(latitude=37.15, longitude=119.05).any()
    assert masks.sel(latitude=37.15, longitude=119.25).values.tolist() == [True, False]


@pytest.mark.parametrize("boxes", [(ALL, WEST), (WEST,)])
def test_a_sub_basin_without_a_sea_cell_of_its_own_is_refused(boxes: tuple[dict[str, object], ...]) -> None:
    chosen = region(*boxes)
    dry = () if len(boxes) == 2 else ((0, 0), (1, 0), (2, 0))
    with pytest.raises(SettingsError, match=r"sub-basin 'west' of region 'r' has no sea cell.*move its edges"):
        area_masks(chosen, sea(chosen, *dry))


@pytest.mark.parametrize("names", [("bay", "bay"), ("region",)])
def test_two_areas_of_one_name_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="sub-basin"):
        region(*({**ALL, "name": name} for name in names))


def test_the_shipped_bohai_has_five_sub_basins_apart_from_each_other() -> None:
    bohai = load_settings("bohai").region
    grid = Grid.from_region(bohai)
    mask = xr.DataArray(np.ones(grid.shape, bool), dims=("latitude", "longitude"), coords=grid.coords())
    masks = area_masks(bohai, mask)
    assert masks["area"].values.tolist() == [
        "region",
        "liaodong_bay",
        "bohai_bay",
        "laizhou_bay",
        "bohai_strait",
        "central_basin",
    ]
    assert masks.isel(area=slice(1, None)).sum("area").max() == 1
    assert isinstance(bohai.sub_basins[0], SubBasin)
