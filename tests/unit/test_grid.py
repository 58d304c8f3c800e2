"""The grid, its names, and what regridding does beside land, in gaps, at edges and with bad input."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from datlstm.errors import GridError
from datlstm.grid import Grid, Regridder, ocean_mask_hash
from datlstm.settings import Region

DIMS = ("latitude", "longitude")


def region(**changes: Any) -> Region:
    box = {"south": 36.8, "north": 41.6, "west": 117.4, "east": 122.2, "resolution": 0.05}
    return Region.model_validate({"name": "bohai", "title": "Bohai Sea", **box, **changes})


def centres(first_edge: float, spacing: float, cells: int) -> NDArray[np.float64]:
    return first_edge + spacing * (np.arange(cells, dtype=np.float64) + 0.5)


def square(spacing: float, cells: int, first_edge: float = 0.0) -> Grid:
    return Grid(centres(first_edge, spacing, cells), centres(first_edge, spacing, cells))


def water_of(grid: Grid, land: tuple[slice, slice] | None = None) -> xr.DataArray:
    cells = np.ones(grid.shape, dtype=bool)
    if land is not None:
        cells[land] = False
    return xr.DataArray(cells, dims=DIMS, coords=grid.coords(), name="water")


def ramp(grid: Grid) -> xr.DataArray:
    values = 280 + np.arange(np.prod(grid.shape), dtype=np.float32).reshape(grid.shape)
    return xr.DataArray(values, dims=DIMS, coords=grid.coords())


class TestGrid:
    def test_the_bohai_is_96_by_96_cells_with_exact_decimal_centres(self) -> None:
        grid = Grid.from_region(region())
        assert grid.shape == (96, 96)
        assert (grid.latitude[0], grid.latitude[-1]) == (36.825, 41.575)
        assert (grid.longitude[0], grid.longitude[-1]) == (117.425, 122.175)
        assert grid.latitude.dtype == np.float64

    def test_the_hash_is_the_same_on_every_machine(self) -> None:
        assert Grid.from_region(region()).hash == "e235e5cf15640c9c"

    def test_rounding_noise_and_negative_zero_change_neither_hash_nor_equality(self) -> None:
        grid = Grid(np.array([-1.0, 0.0, 1.0]), np.array([0.1, 0.2]))
        noisy = Grid(np.array([-1.0, -1e-12, 1.0]), np.array([0.1, 0.1 + 0.1]) + 1e-12)
        assert noisy == grid
        assert noisy.hash == grid.hash
        assert len({noisy, grid}) == 1

    def test_other_cells_are_another_grid(self) -> None:
        grid = square(0.05, 4)
        assert grid != square(0.05, 5)
        assert grid != square(0.05, 4, first_edge=0.05)
        assert grid != Grid(grid.latitude, grid.longitude + 1)
        assert grid != "grid"

    def test_a_grid_cannot_be_changed(self) -> None:
        grid = square(0.05, 4)
        with pytest.raises(ValueError, match="read-only"):
            grid.latitude[0] = 1

    def test_the_callers_coordinates_stay_writable(self) -> None:
        latitude = np.array([1.0, 2.0])
        Grid(latitude, latitude)
        latitude[0] = 0

    def test_area_weights_are_the_cosine_of_latitude(self) -> None:
        weights = Grid(np.array([0.0, 60.0]), np.array([0.0, 1.0])).area_weights()
        assert weights.dims == ("latitude",)
        np.testing.assert_allclose(weights, [1.0, 0.5])

    def test_coordinates_carry_their_cf_names(self) -> None:
        coords = xr.DataArray(np.zeros((4, 4)), dims=DIMS, coords=square(0.05, 4).coords()).coords
        assert coords["latitude"].attrs == {
            "standard_name": "latitude",
            "long_name": "latitude",
            "units": "degrees_north",
        }
        assert coords["longitude"].attrs == {
            "standard_name": "longitude",
            "long_name": "longitude",
            "units": "degrees_east",
        }

    @pytest.mark.parametrize(
        "latitude",
        [
            [1.0],
            [2.0, 1.0],
            [1.0, 1.0],
            [1.0, 2.0, 2.0, 3.0],
            [1.0, 2.0, 4.0],
            [1.0, np.nan, 3.0],
            [[1.0, 2.0], [1.0, 2.0]],
        ],
        ids=["one cell", "descending", "one place", "repeated", "gap", "NaN", "curvilinear"],
    )
    def test_irregular_coordinates_are_refused_for_grid_and_source(self, latitude: list[Any]) -> None:
        with pytest.raises(GridError, match="grid latitude"):
            Grid(np.array(latitude), np.array([1.0, 2.0]))
        if np.ndim(latitude) == 1:
            coords = {"latitude": latitude, "longitude": [1.0, 2.0]}
            water = xr.DataArray(np.ones((len(latitude), 2), dtype=bool), dims=DIMS, coords=coords)
            with pytest.raises(GridError, match="source latitude"):
                Regridder(water, square(0.5, 2, first_edge=1.0), 0.5)


class TestOceanMaskHash:
    def test_names_cells_and_shape_whatever_the_order_of_dimensions(self) -> None:
        mask = water_of(square(1.0, 4), land=(slice(0, 1), slice(2)))
        other = water_of(square(1.0, 4), land=(slice(0, 1), slice(3)))
        assert ocean_mask_hash(mask) == ocean_mask_hash(mask.transpose("longitude", "latitude")) == "cfe388729e4b766f"
        assert ocean_mask_hash(mask) != ocean_mask_hash(other)
        wide = xr.DataArray(np.ones((2, 8), dtype=bool), dims=DIMS)
        assert ocean_mask_hash(wide) != ocean_mask_hash(xr.DataArray(np.ones((4, 4), dtype=bool), dims=DIMS))

    def test_flags_are_not_a_mask(self) -> None:
        with pytest.raises(GridError, match="make it boolean"):
            ocean_mask_hash(xr.DataArray(np.array([[1, 2]], dtype=np.int8), dims=DIMS))


class TestMethod:
    @pytest.mark.parametrize(
        ("target", "method"),
        [
            (square(1.0, 6), "selection"),
            (square(1.0, 4, first_edge=1.0), "selection"),
            (square(1.0, 4, first_edge=0.5), "bilinear"),
            (square(0.5, 12), "bilinear"),
            (square(1.2, 5), "conservative"),
            (square(2.0, 3), "conservative"),
            (square(3.0, 2), "conservative"),
            (Grid(centres(0, 2.0, 3), centres(0, 0.5, 12)), "conservative"),
        ],
        ids=["same", "part", "shifted", "half", "a bit coarser", "double", "centres coincide", "coarser one way"],
    )
    def test_follows_from_the_sizes_of_the_cells(self, target: Grid, method: str) -> None:
        assert Regridder(water_of(square(1.0, 6)), target, 0.5).method == method


class TestRegridder:
    def test_a_coastal_cell_takes_its_value_from_the_water_beside_it(self) -> None:
        # Two columns of water, two of land; targets lie a quarter of a cell either side of each source centre.
        source = square(1.0, 4)
        regridder = Regridder(water_of(source, land=(slice(None), slice(2, 4))), square(0.5, 8), 0.5)
        row = np.array([280, 290, np.nan, np.nan], dtype=np.float32)
        field = xr.DataArray(np.tile(row, (4, 1)), dims=DIMS, coords=source.coords())
        # The fourth column is three quarters water, the fifth one quarter.
        expected = np.array([280, 282.5, 287.5, 290, np.nan, np.nan, np.nan, np.nan], dtype=np.float32)
        np.testing.assert_array_equal(regridder(field), np.tile(expected, (8, 1)))

    def test_a_coarse_cell_is_ocean_from_the_asked_water_fraction_on(self) -> None:
        water = water_of(square(1.0, 4), land=(slice(0, 1), slice(0, 1)))
        assert Regridder(water, square(2.0, 2), 0.74).ocean_mask.to_numpy().tolist() == [[True, True], [True, True]]
        assert Regridder(water, square(2.0, 2), 0.76).ocean_mask.to_numpy().tolist() == [[False, True], [True, True]]
        fraction = Regridder(water, square(2.0, 2), 0.5).ocean_fraction
        np.testing.assert_allclose(fraction, np.array([[0.75, 1], [1, 1]]), atol=1e-3)

    @pytest.mark.parametrize("land", [(slice(0, None, 2), slice(None)), (slice(1, None, 2), slice(None))])
    def test_half_water_is_ocean_whichever_half_and_through_float32_coordinates(
        self, land: tuple[slice, slice]
    ) -> None:
        for cells in (land, land[::-1]):
            water = water_of(square(0.05, 60, first_edge=36.8), land=cells)
            rounded = {name: water[name].astype("float32") for name in DIMS}
            target = square(0.1, 30, first_edge=36.8)
            assert Regridder(water.assign_coords(rounded), target, 0.5).ocean_mask.all()

    @pytest.mark.parametrize("target", [square(1.0, 4), square(0.5, 8), square(2.0, 2)], ids=lambda g: str(g.shape))
    def test_a_value_that_the_source_holds_on_land_is_never_used(self, target: Grid) -> None:
        source = square(1.0, 4)
        water = water_of(source, land=(slice(0, 2), slice(0, 2)))
        regridder = Regridder(water, target, 0.5)
        regridded = regridder(xr.full_like(ramp(source), 285.0).where(water, 9999.0))
        assert (regridded.notnull() == regridder.ocean_mask).all()
        assert regridded.max() == 285.0

    def test_a_source_cell_that_reaches_over_the_pole_counts_up_to_the_pole(self) -> None:
        source = Grid(np.arange(85.0, 91.0), centres(0.0, 1.0, 4))
        water = water_of(source, land=(slice(5, 6), slice(None)))
        polar = Regridder(water, Grid(centres(86.0, 2.0, 2), centres(0.0, 2.0, 2)), 0.5).ocean_fraction.isel(latitude=1)
        sine = np.sin(np.deg2rad([88.0, 89.5, 90.0]))
        np.testing.assert_allclose(polar, (sine[1] - sine[0]) / (sine[2] - sine[0]))

    def test_land_is_not_ocean_however_little_water_is_asked(self) -> None:
        water = water_of(square(1.0, 4), land=(slice(0, 2), slice(0, 2)))
        regridder = Regridder(water, square(2.0, 2), 1e-4)
        assert regridder.ocean_mask.to_numpy().tolist() == [[False, True], [True, True]]

    def test_a_cell_whose_water_is_mostly_missing_today_is_missing(self) -> None:
        source = square(1.0, 4)
        regridder = Regridder(water_of(source), square(2.0, 2), 0.5)
        field = xr.full_like(ramp(source), 285.0)
        field[0, 0:2] = np.nan
        field[2, 0:2] = np.nan
        field[3, 0] = np.nan
        assert regridder(field).isnull().to_numpy().tolist() == [[False, False], [True, False]]

    def test_an_infinite_value_is_a_missing_one(self) -> None:
        source = square(1.0, 4)
        field = ramp(source)
        field[0, 0] = np.inf
        assert np.isfinite(Regridder(water_of(source), square(2.0, 2), 0.5)(field)).all()
        assert int(Regridder(water_of(source), source, 0.5)(field).isnull().sum()) == 1

    def test_targets_at_the_source_edge_take_the_outermost_centre(self) -> None:
        source = square(1.0, 4)
        field = ramp(source)
        regridded = Regridder(water_of(source), square(0.25, 16), 0.5)(field)
        assert regridded[0, 0] == regridded[1, 1] == field[0, 0]
        assert regridded[-1, -1] == field[-1, -1]

    @pytest.mark.parametrize("target", [square(1.0, 4), square(0.5, 8), square(2.0, 2)], ids=lambda g: str(g.shape))
    def test_name_attributes_dtype_and_other_coordinates_stay(self, target: Grid) -> None:
        source = square(1.0, 4)
        field = ramp(source).expand_dims(time=np.array(["2020-01-01"], dtype="datetime64[ns]"), axis=2)
        regridded = Regridder(water_of(source), target, 0.5)(field.rename("sst").assign_attrs(units="kelvin"))
        assert regridded.dims == ("time", *DIMS)
        assert regridded.name == "sst"
        assert regridded.attrs == {"units": "kelvin"}
        assert regridded.dtype == np.float32
        xr.testing.assert_identical(regridded["time"].variable, field["time"].variable)
        assert Grid(regridded["latitude"].to_numpy(), regridded["longitude"].to_numpy()) == target
        assert regridded["latitude"].attrs["units"] == "degrees_north"


class TestRefusals:
    @pytest.mark.parametrize(
        "target",
        [
            square(1.0, 5),
            square(1.0, 4, first_edge=-0.01),
            square(0.5, 2, first_edge=3.5),
            square(1.0, 2, first_edge=9),
        ],
        ids=["a cell too many", "a bit before", "half beyond", "elsewhere"],
    )
    def test_a_source_that_does_not_cover_the_grid_says_what_is_lacking(self, target: Grid) -> None:
        with pytest.raises(GridError, match=r"source cells span latitude 0 to 4, the grid needs .* read more"):
            Regridder(water_of(square(1.0, 4)), target, 0.5)

    def test_a_region_without_ocean_says_how_near_it_came(self) -> None:
        water = water_of(square(1.0, 4), land=(slice(None), slice(1, None)))
        with pytest.raises(GridError, match=r"largest water fraction is 0\.500, below 0\.6"):
            Regridder(water, square(2.0, 2), 0.6)

    @pytest.mark.parametrize("fraction", [0.0, -1.0, 1.1, float("nan")])
    def test_a_minimum_that_would_call_land_ocean_is_refused(self, fraction: float) -> None:
        with pytest.raises(GridError, match="minimum_ocean_fraction"):
            Regridder(water_of(square(1.0, 4)), square(2.0, 2), fraction)

    def test_flags_are_not_a_water_mask(self) -> None:
        with pytest.raises(GridError, match="make it boolean"):
            Regridder(water_of(square(1.0, 4)).astype(np.int8), square(2.0, 2), 0.5)

    def test_a_field_on_other_cells_is_refused(self) -> None:
        regridder = Regridder(water_of(square(1.0, 4)), square(2.0, 2), 0.5)
        field = ramp(square(1.0, 4))
        broken = field.assign_coords(latitude=[0.5, np.nan, 2.5, 3.5])
        for other in (ramp(square(1.0, 5)), field.assign_coords(latitude=field["latitude"] + 0.01), broken):
            with pytest.raises(GridError, match="not the 4 cells"):
                regridder(other)

    def test_a_field_without_coordinates_or_room_for_missing_cells_is_refused(self) -> None:
        regridder = Regridder(water_of(square(1.0, 4)), square(2.0, 2), 0.5)
        field = ramp(square(1.0, 4))
        with pytest.raises(GridError, match="lacks latitude"):
            regridder(field.rename(latitude="lat"))
        with pytest.raises(GridError, match="lacks longitude"):
            regridder(field.drop_vars("longitude"))
        with pytest.raises(GridError, match="decode it to float"):
            regridder(field.astype(np.int16))
