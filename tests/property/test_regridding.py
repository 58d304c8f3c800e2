"""Laws of regridding that hold for any source cells, any grid inside them, any mask and any gaps."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from datlstm.grid import DIMS, Grid, Regridder

# A busy machine draws slowly; that is no fault of the law.
law = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

MINIMUM_OCEAN_FRACTION = 0.5
TIE = 1e-3
RATIOS = st.sampled_from([1.0, 2.0]) | st.floats(0.3, 3)


@dataclass(frozen=True)
class Case:
    """A source's water mask, a grid inside the source, and the random numbers of a test."""

    water: xr.DataArray
    grid: Grid
    random: np.random.Generator

    @cached_property
    def regridder(self) -> Regridder:
        """The way from the mask's cells to the grid."""
        return Regridder(self.water, self.grid, MINIMUM_OCEAN_FRACTION)

    def field(self, dtype: str = "float32", days: int = 3) -> xr.DataArray:
        """Return a complete field: credible kelvin on water, NaN on land."""
        kelvin = self.random.uniform(271, 308, (days, *self.water.shape)).astype(dtype)
        return as_field(kelvin, self.water).where(self.water)

    def with_gaps(self, field: xr.DataArray) -> xr.DataArray:
        """Return the field with a random share of its cells missing."""
        return field.where(xr.DataArray(self.random.random(field.shape) > self.random.random(), dims=field.dims))


def as_field(values: NDArray[np.floating], water: xr.DataArray) -> xr.DataArray:
    """Return values ``(time, latitude, longitude)`` on the mask's cells."""
    return xr.DataArray(values, dims=("time", *DIMS), coords=water.coords, name="sst", attrs={"units": "kelvin"})


@st.composite
def axes(draw: st.DrawFn, ratios: st.SearchStrategy[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Source and target centres; ``ratio`` is target spacing over source spacing."""
    source_cells, spacing = draw(st.integers(4, 10)), draw(st.sampled_from([0.01, 0.05, 0.25, 1.0]))
    ratio = draw(ratios)
    target_cells = draw(st.integers(2, max(2, int(source_cells / ratio))))
    first_edge = draw(st.floats(-60, 50)) // spacing * spacing
    room = source_cells - target_cells * ratio
    assume(room >= 0)
    start = draw(st.sampled_from([0.0, room, float(int(room))]) | st.floats(0, room))
    target_edge = first_edge + spacing * start
    return centres(first_edge, spacing, source_cells), centres(target_edge, spacing * ratio, target_cells)


def centres(first_edge: float, spacing: float, cells: int) -> NDArray[np.float64]:
    """Return the centres of equal cells from an edge on."""
    return first_edge + spacing * (np.arange(cells, dtype=np.float64) + 0.5)


@st.composite
def cases(draw: st.DrawFn, ratios: st.SearchStrategy[float] = RATIOS, land: bool = True) -> Case:
    """A source whose coastline and gaps come from a drawn seed, with water around the first target cell."""
    (source_latitude, latitude), (source_longitude, longitude) = draw(axes(ratios)), draw(axes(ratios))
    coords = {"latitude": source_latitude, "longitude": source_longitude}
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    land_share = draw(st.floats(0, 0.8)) if land else 0.0
    cells = random.random((source_latitude.size, source_longitude.size)) >= land_share
    cells[np.ix_(_near_first(source_latitude, latitude), _near_first(source_longitude, longitude))] = True
    return Case(xr.DataArray(cells, dims=DIMS, coords=coords, name="water"), Grid(latitude, longitude), random)


def _near_first(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.intp]:
    reach = (target[1] - target[0]) / 2 + (source[1] - source[0])
    return np.flatnonzero(np.abs(source - target[0]) <= reach)


@law
@given(cases(), st.floats(200, 350, width=32))
def test_a_constant_stays_the_same_float_under_any_mask_and_gaps(case: Case, constant: float) -> None:
    field = case.with_gaps(xr.full_like(case.field(), constant))
    regridded = case.regridder(field)
    assert regridded.dtype == np.float32
    assert ((regridded == np.float32(constant)) | regridded.isnull()).all()


@law
@given(cases())
def test_a_complete_day_is_finite_exactly_on_the_ocean_mask(case: Case) -> None:
    regridder = case.regridder
    assert (regridder(case.field()).notnull() == regridder.ocean_mask).all()


@law
@given(cases())
def test_values_that_a_source_holds_on_land_change_nothing(case: Case) -> None:
    field = case.field()
    xr.testing.assert_identical(case.regridder(field.fillna(9999)), case.regridder(field))


@law
@given(cases())
def test_a_cell_is_finite_only_where_half_its_water_weight_is(case: Case) -> None:
    regridder = case.regridder
    field = case.with_gaps(case.field())
    observed = Regridder(xr.ones_like(case.water), case.grid, MINIMUM_OCEAN_FRACTION)(field.notnull().astype("float64"))
    share = observed / regridder.ocean_fraction.where(regridder.ocean_mask)
    finite = regridder(field).notnull()
    assert finite.where(share > 0.5, True).all()
    assert not finite.where(share < 0.5 - 2 * TIE, False).any()
    assert not finite.where(~regridder.ocean_mask, False).any()


@law
@given(cases())
def test_no_value_leaves_the_range_of_its_sources(case: Case) -> None:
    field = case.with_gaps(case.field())
    regridded = case.regridder(field)
    axis = list(DIMS)
    assert not (regridded > field.max(axis)).any()
    assert not (regridded < field.min(axis)).any()


@law
@given(cases(), st.floats(-3, 3), st.floats(-3, 3))
def test_regridding_is_linear(case: Case, a: float, b: float) -> None:
    x, y = case.field("float64"), case.field("float64")
    regridder = case.regridder
    xr.testing.assert_allclose(regridder(a * x + b * y), a * regridder(x) + b * regridder(y), rtol=1e-12, atol=1e-9)


@law
@given(cases())
def test_dask_gives_the_same_bits_as_numpy_in_any_chunks(case: Case) -> None:
    field = case.with_gaps(case.field(days=4))
    regridder = case.regridder
    lazy = regridder(field.chunk(time=3, latitude=2, longitude=3))
    assert lazy.chunks is not None
    xr.testing.assert_identical(lazy.compute(), regridder(field))


@law
@given(cases())
def test_a_day_alone_gives_the_same_bits_as_in_a_stack(case: Case) -> None:
    field = case.with_gaps(case.field())
    regridder = case.regridder
    xr.testing.assert_identical(regridder(field.isel(time=1)), regridder(field).isel(time=1))


@law
@given(cases(ratios=st.just(1.0)), st.data())
def test_coinciding_cells_are_selected_to_the_bit_through_float32_coordinates(case: Case, data: st.DataObject) -> None:
    # The grid is some of the source's own cells, the source says so in float32 as the real ones do.
    first = [data.draw(st.integers(0, size - 2)) for size in case.water.shape]
    inner = case.water.isel(latitude=slice(first[0], None), longitude=slice(first[1], None))
    assume(inner.any())
    grid = Grid(inner["latitude"].to_numpy(), inner["longitude"].to_numpy())
    rounded = {name: case.water[name].astype("float32") for name in DIMS}
    field = case.with_gaps(case.field()).assign_coords(rounded)
    regridder = Regridder(case.water.assign_coords(rounded), grid, 0.5)
    assert regridder.method == "selection"
    expected = field.isel(latitude=slice(first[0], None), longitude=slice(first[1], None))
    assert regridder(field).to_numpy().tobytes() == expected.to_numpy().tobytes()


@law
@given(cases(ratios=st.floats(0.3, 1.0), land=False), st.floats(-5, 5), st.floats(-5, 5))
def test_bilinear_keeps_linear_fields_between_source_centres(case: Case, a: float, b: float) -> None:
    assume(case.regridder.method == "bilinear")

    def plane(latitude: xr.DataArray, longitude: xr.DataArray) -> xr.DataArray:
        return 290 + a * latitude + b * longitude

    regridded = case.regridder(plane(case.water["latitude"], case.water["longitude"]))
    error = between_source_centres(regridded - plane(regridded["latitude"], regridded["longitude"]), case.water)
    assert np.abs(error).max() < 1e-9


@law
@given(st.integers(2, 6), st.integers(2, 6), st.integers(2, 4), st.integers(-80, 50), st.integers(0, 2**32 - 1))
def test_conservative_keeps_the_area_mean_of_a_box(rows: int, columns: int, ratio: int, south: int, seed: int) -> None:
    source = Grid(centres(south, 0.5, rows * ratio), centres(120, 0.5, columns * ratio))
    target = Grid(centres(south, 0.5 * ratio, rows), centres(120, 0.5 * ratio, columns))
    water = xr.DataArray(np.ones(source.shape, bool), dims=DIMS, coords=source.coords())
    field = Case(water, target, np.random.default_rng(seed)).field("float64")
    regridder = Regridder(water, target, MINIMUM_OCEAN_FRACTION)
    assert regridder.method == "conservative"
    # Cosine of the centre is exactly proportional to a cell's area among equal cells, so the grid's own weights serve.
    before = field.weighted(source.area_weights()).mean(DIMS)
    after = regridder(field).weighted(target.area_weights()).mean(DIMS)
    xr.testing.assert_allclose(after, before, rtol=1e-12)


@law
@given(st.floats(0.3, 3).flatmap(lambda ratio: cases(ratios=st.just(ratio), land=False)))
def test_a_smooth_field_comes_within_its_interpolation_error(case: Case) -> None:
    """Per axis, source cells h, target cells H: bilinear h²/8 |f″|; conservative H²/8 |f″| + h²/(4H) |f′|.

    The last term is for source cells that a target cell cuts: each counts as if its value were uniform.
    """

    def smooth(latitude: xr.DataArray, longitude: xr.DataArray) -> xr.DataArray:
        wave: xr.DataArray = xr.ufuncs.cos(np.deg2rad(latitude)) * xr.ufuncs.sin(np.deg2rad(3 * longitude))
        return 288 + 10 * wave

    regridded = case.regridder(smooth(case.water["latitude"], case.water["longitude"]))
    error = between_source_centres(regridded - smooth(regridded["latitude"], regridded["longitude"]), case.water)
    bound = 1e-9
    for name, wave_number in zip(DIMS, np.deg2rad([1, 3]), strict=True):
        h, target = np.diff(case.water[name])[0], np.diff(getattr(case.grid, name))[0]
        if case.regridder.method == "conservative":
            bound += target**2 / 8 * 10 * wave_number**2 + h**2 / (4 * target) * 10 * wave_number
        else:
            bound += h**2 / 8 * 10 * wave_number**2
    assert np.abs(error).max() <= bound


def between_source_centres(field: xr.DataArray, water: xr.DataArray) -> xr.DataArray:
    """Return the field without the targets beyond the outermost source centre, which take that centre's value."""
    for name in DIMS:
        field = field.where((field[name] >= water[name].min()) & (field[name] <= water[name].max()), drop=True)
    assume(field.size > 0)
    return field
