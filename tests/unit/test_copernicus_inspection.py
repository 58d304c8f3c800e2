"""What the client gave is believed only when its cells, stamps, packing, mask and days are what was asked."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.errors import PermanentSourceError, TransientSourceError
from datlstm.settings import QualitySettings, Region
from datlstm.sources.copernicus.inspection import (
    require_asked_form,
    require_credible_packing,
    water_by_mask,
    without_incomplete_days,
)
from datlstm.sources.copernicus.protocol import Axis, Described

NAME = "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2"
REGION = Region(name="bay", title="Bay", south=37, north=37.5, west=118, east=118.5, resolution=0.05)
QUALITY = QualitySettings()
DIMS = ("time", "latitude", "longitude")
DAYS = ("2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04")
N_CELLS = 12
WATER, LAND = 1, 2


def described(step: float | None = 0.05, latitudes: list[float] | None = None) -> Described:
    return Described(
        dataset_id=NAME,
        version="202311",
        first_day=date(2007, 1, 1),
        last_day=date(2026, 3, 4),
        latitude=Axis(minimum=-89.975, maximum=89.975, step=step, values=latitudes),
        longitude=Axis(minimum=-179.975, maximum=179.975, step=0.05, values=None),
        retired_on=None,
    )


def ostia() -> xr.Dataset:
    """What the service gives for the region: its ten cells and one more around, two rows of them land."""
    shape = (len(DAYS), N_CELLS, N_CELLS)
    kelvin, mask = np.full(shape, 280.0), np.full(shape, float(WATER))
    error, ice = np.full(shape, 0.3), np.full(shape, 0.1)
    mask[:, 4:6] = LAND
    for values in (kelvin, error, ice):
        values[:, 4:6] = np.nan
    cells = 0.05 * np.arange(N_CELLS)
    return xr.Dataset(
        {
            "analysed_sst": (DIMS, kelvin),
            "analysis_error": (DIMS, error),
            "sea_ice_fraction": (DIMS, ice),
            "mask": (DIMS, mask),
        },
        {"time": pd.DatetimeIndex(DAYS).to_numpy(), "latitude": 36.975 + cells, "longitude": 117.975 + cells},
    )


def located() -> xr.Dataset:
    return ostia().rename(analysed_sst="sst")


def spoiled(variable: str, value: float, days: slice = slice(None), rows: slice = slice(None), columns: int = N_CELLS
            ) -> xr.Dataset:  # fmt: skip
    """A located dataset with a block of one variable replaced."""
    dataset = located()
    dataset[variable][days, rows, :columns] = value
    return dataset


def whole_days(dataset: xr.Dataset) -> tuple[list[str], list[str]]:
    water, _ = water_by_mask(located(), NAME)
    whole, problems = without_incomplete_days(dataset, water, QUALITY.minimum_coverage, NAME)
    return [str(day)[:10] for day in whole["time"].to_numpy()], problems


class TestCells:
    def test_cells_asked_of_an_evenly_announced_axis_pass(self) -> None:
        require_asked_form(ostia(), described(), REGION)

    def test_cells_asked_of_an_axis_announced_by_value_pass(self) -> None:
        latitudes = [round(-89.975 + 0.05 * i, 3) for i in range(3600)]
        require_asked_form(ostia(), described(None, latitudes), REGION)

    def test_coordinates_rounded_to_single_precision_pass(self) -> None:
        rounded = ostia().assign_coords({name: ostia()[name].astype(np.float32) for name in ("latitude", "longitude")})
        require_asked_form(rounded, described(), REGION)

    def test_region_at_the_edge_of_the_globe_needs_no_cell_beyond_it(self) -> None:
        polar = Region(name="polar", title="Polar", south=89.5, north=90, west=118, east=118.5, resolution=0.05)
        cells = ostia().isel(latitude=slice(1, None)).assign_coords(latitude=89.475 + 0.05 * np.arange(11))
        require_asked_form(cells, described(), polar)

    @pytest.mark.parametrize("axis", ["latitude", "longitude"])
    @pytest.mark.parametrize("shift", [0.05, -0.05, 0.025, 0.001])
    def test_shifted_cells_are_refused(self, axis: str, shift: float) -> None:
        shifted = ostia().assign_coords({axis: ostia()[axis] + shift})
        with pytest.raises(PermanentSourceError, match=f"{NAME}: {axis} has 12 cells .* asked were 12"):
            require_asked_form(shifted, described(), REGION)

    @pytest.mark.parametrize("axis", ["latitude", "longitude"])
    @pytest.mark.parametrize("missing", [0, 5, N_CELLS - 1])
    def test_missing_cell_is_refused(self, axis: str, missing: int) -> None:
        with pytest.raises(PermanentSourceError, match=f"{axis} has 11 cells .* asked were 12"):
            require_asked_form(ostia().drop_isel({axis: [missing]}), described(), REGION)

    def test_another_resolution_is_refused(self) -> None:
        with pytest.raises(PermanentSourceError, match="latitude has 6 cells .* asked were 12"):
            require_asked_form(ostia().isel(latitude=slice(None, None, 2)), described(), REGION)

    def test_no_cell_at_all_is_refused(self) -> None:
        with pytest.raises(PermanentSourceError, match="latitude has 0 cells"):
            require_asked_form(ostia().isel(latitude=slice(0)), described(), REGION)


class TestStamps:
    @pytest.mark.parametrize("hours", [0, 12])
    def test_midnight_and_noon_pass(self, hours: int) -> None:
        require_asked_form(
            ostia().assign_coords(time=ostia()["time"] + np.timedelta64(hours, "h")), described(), REGION
        )

    @pytest.mark.parametrize("minutes", [1, 18 * 60, 23 * 60 + 59])
    def test_another_time_of_day_is_refused_with_its_stamp(self, minutes: int) -> None:
        time = ostia()["time"].to_numpy().copy()
        time[2] += np.timedelta64(minutes, "m")
        with pytest.raises(PermanentSourceError, match=f"{NAME} is stamped 2026-03-03T.*nothing was taken"):
            require_asked_form(ostia().assign_coords(time=time), described(), REGION)


class TestVariables:
    @pytest.mark.parametrize("variable", ["analysed_sst", "analysis_error", "sea_ice_fraction", "mask"])
    def test_missing_variable_is_named(self, variable: str) -> None:
        with pytest.raises(PermanentSourceError, match=f"{NAME} came without {variable}:"):
            require_asked_form(ostia().drop_vars(variable), described(), REGION)

    def test_all_missing_variables_are_named(self) -> None:
        with pytest.raises(PermanentSourceError, match="without sea_ice_fraction, mask:"):
            require_asked_form(ostia().drop_vars(["mask", "sea_ice_fraction"]), described(), REGION)


class TestPacking:
    def test_sound_values_pass(self) -> None:
        require_credible_packing(ostia(), QUALITY, NAME)

    def test_nothing_but_gaps_is_left_to_others(self) -> None:
        require_credible_packing(ostia() * np.nan, QUALITY, NAME)

    @pytest.mark.parametrize(
        ("variable", "scale", "offset"),
        [
            ("analysed_sst", 100.0, -27315.0),
            ("analysed_sst", 1.0, -273.15),
            ("analysed_sst", 100.0, 0.0),
            ("analysed_sst", 10.0, -9 * 273.15),
            ("analysis_error", 100.0, 0.0),
            ("sea_ice_fraction", 100.0, 0.0),
            ("sea_ice_fraction", -1.0, 0.0),
        ],
    )
    def test_lost_or_changed_scale_or_offset_is_refused(self, variable: str, scale: float, offset: float) -> None:
        packed = ostia()
        packed[variable] = packed[variable] * scale + offset
        with pytest.raises(PermanentSourceError, match=f"{NAME}: {variable} is between .* scale factor or offset"):
            require_credible_packing(packed, QUALITY, NAME)

    def test_few_odd_values_are_left_to_the_quality_checks(self) -> None:
        odd = ostia()
        odd["analysed_sst"][0, 0, :3] = 250.0
        require_credible_packing(odd, QUALITY, NAME)

    def test_a_spoilt_day_among_sound_ones_is_left_to_them_too(self) -> None:
        spoilt = ostia()
        spoilt["analysed_sst"][0] = 5000.0
        require_credible_packing(spoilt, QUALITY, NAME)

    def test_limits_themselves_pass_after_rounding(self) -> None:
        limits = ostia()
        limits["sea_ice_fraction"][:] = np.float32(1.0000001)
        limits["analysed_sst"][:] = np.float32(271.0) - np.float32(3e-5)
        require_credible_packing(limits, QUALITY, NAME)


class TestMask:
    @pytest.mark.parametrize("bits", [1, 5, 9, 13, 17, 21, 25, 29])
    def test_lake_river_and_ice_cells_with_the_water_bit_are_water(self, bits: int) -> None:
        water, problems = water_by_mask(spoiled("mask", bits, rows=slice(0, 2)), NAME)
        assert water[:2].all()
        assert problems == []

    @pytest.mark.parametrize("bits", [2, 6, 10, 18, 30])
    def test_cells_with_the_land_bit_are_land(self, bits: int) -> None:
        water, problems = water_by_mask(spoiled("mask", bits, rows=slice(0, 2)), NAME)
        assert not water[:2].any()
        assert water[2:4].all()
        assert problems == []

    def test_water_is_bool_on_cells_alone(self) -> None:
        water, _ = water_by_mask(located(), NAME)
        assert water.dims == ("latitude", "longitude")
        assert water.dtype == bool
        assert int(water.sum()) == 10 * N_CELLS

    def test_cell_that_is_water_on_any_day_is_water(self) -> None:
        water, _ = water_by_mask(spoiled("mask", LAND, days=slice(1, 4), rows=slice(0, 1)), NAME)
        assert water[0].all()

    @pytest.mark.parametrize("bits", [np.nan, 0, 3, 4, 8, 16, 32, -128])
    def test_damaged_day_is_named_and_has_no_say(self, bits: float) -> None:
        damaged = spoiled("mask", bits, days=slice(1, 2), columns=3)
        damaged["mask"][1, 4:6, 4:] = WATER
        water, problems = water_by_mask(damaged, NAME)
        assert not water[4:6].any()
        assert len(problems) == 1
        assert f"{NAME}: " in problems[0]
        assert "2026-03-02" in problems[0]
        assert "2026-03-03" not in problems[0]

    @pytest.mark.parametrize("bits", [np.nan, 0, 3])
    def test_mask_damaged_on_every_day_is_tried_again(self, bits: float) -> None:
        with pytest.raises(TransientSourceError, match=f"{NAME} .*neither water nor land on every day.*try again"):
            water_by_mask(spoiled("mask", bits, columns=1), NAME)


class TestIncompleteDays:
    def test_whole_days_stay_without_a_word(self) -> None:
        assert whole_days(located()) == (list(DAYS), [])

    def test_day_without_a_chunk_is_left_out_and_named(self) -> None:
        days, problems = whole_days(spoiled("sst", np.nan, days=slice(1, 2), columns=3))
        assert days == ["2026-03-01", "2026-03-03", "2026-03-04"]
        assert len(problems) == 1
        assert f"{NAME}: " in problems[0]
        assert "2026-03-02" in problems[0]
        assert "30 of 120 sea cells" in problems[0]

    def test_day_without_any_value_is_left_out_and_named(self) -> None:
        days, problems = whole_days(spoiled("sst", np.nan, days=slice(3, 4)))
        assert days == ["2026-03-01", "2026-03-02", "2026-03-03"]
        assert "2026-03-04" in problems[0]
        assert "120 of 120 sea cells" in problems[0]

    def test_single_lost_cell_makes_a_day_incomplete(self) -> None:
        days, problems = whole_days(spoiled("sst", np.nan, days=slice(0, 1), rows=slice(0, 1), columns=1))
        assert days == ["2026-03-02", "2026-03-03", "2026-03-04"]
        assert "2026-03-01" in problems[0]

    def test_chunk_lost_on_all_days_leaves_none(self) -> None:
        days, problems = whole_days(spoiled("sst", np.nan, columns=3))
        assert days == []
        assert "2026-03-01" in problems[0]
        assert "2026-03-04" in problems[0]

    def test_few_cells_that_never_have_a_value_are_tolerated(self) -> None:
        assert whole_days(spoiled("sst", np.nan, rows=slice(0, 1), columns=2)) == (list(DAYS), [])

    def test_lone_day_is_judged_by_its_coverage(self) -> None:
        whole = located().isel(time=[0])
        assert whole_days(whole) == (["2026-03-01"], [])
        partial = spoiled("sst", np.nan, rows=slice(0, 1), columns=3).isel(time=[0])
        assert whole_days(partial)[0] == []

    def test_gaps_on_land_are_none(self) -> None:
        filled = spoiled("sst", 280.0, days=slice(1, 3), rows=slice(4, 6))
        assert whole_days(filled) == (list(DAYS), [])

    def test_day_without_its_analysis_error_stays_and_is_named(self) -> None:
        days, problems = whole_days(spoiled("analysis_error", np.nan, days=slice(1, 2), columns=3))
        assert days == list(DAYS)
        assert len(problems) == 1
        assert f"{NAME}: " in problems[0]
        assert "2026-03-02" in problems[0]
        assert "analysis error" in problems[0]

    def test_incomplete_day_is_told_once(self) -> None:
        both = spoiled("sst", np.nan, days=slice(1, 2), columns=3)
        both["analysis_error"][1, :, :3] = np.nan
        assert len(whole_days(both)[1]) == 1
