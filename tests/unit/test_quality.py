"""Each flag of a day, what it is raised by, and that no flag ever changes the data."""

import numpy as np
import pytest
import xarray as xr

from datlstm.quality import UNUSABLE, DayQuality, check_days, describe
from datlstm.settings import QualitySettings

LIMITS = QualitySettings(minimum_kelvin=271.0, maximum_kelvin=308.0, minimum_coverage=0.75, maximum_jump_kelvin=2.0)
OCEAN = xr.DataArray([[True, True, False], [True, True, False]], dims=("latitude", "longitude"))
NAN = np.nan


def days(*fields: float | list[list[float]], at: list[str] | None = None) -> xr.DataArray:
    """Return daily fields from 1 January on; a number stands for a smooth field about it, land stays NaN."""
    pattern = np.array([[0.0, 0.1, NAN], [0.2, 0.3, NAN]])
    values = np.stack([pattern + field if isinstance(field, float) else np.array(field) for field in fields])
    time = np.arange("2024-01-01", len(fields), dtype="datetime64[D]") if at is None else np.array(at, "datetime64[D]")
    return xr.DataArray(
        values.astype("float32"), dims=("time", *OCEAN.dims), coords={"time": time.astype("datetime64[ns]")}
    )


def flags(sst: xr.DataArray, stored: xr.DataArray | None = None) -> list[DayQuality]:
    return [DayQuality(flag) for flag in check_days(sst, OCEAN, stored, LIMITS).values.tolist()]


def test_a_complete_credible_sea_that_moves_a_little_is_good() -> None:
    assert flags(days(280.0, 280.5, 281.0)) == [DayQuality.GOOD] * 3


def test_flags_fit_the_archive_and_carry_their_days() -> None:
    sst = days(280.0, 290.0)
    quality = check_days(sst, OCEAN, None, LIMITS)
    assert quality.dtype == np.uint8
    assert quality.indexes["time"].equals(sst.indexes["time"])


def test_a_day_without_any_sea_is_empty_whatever_lies_on_land() -> None:
    assert flags(days(NAN, [[NAN, NAN, 300.0], [NAN, NAN, 300.0]])) == [DayQuality.EMPTY] * 2


def test_partial_starts_below_the_minimum_coverage() -> None:
    three_of_four = [[280.0, 280.0, NAN], [280.0, NAN, NAN]]
    two_of_four = [[281.0, NAN, NAN], [281.0, NAN, NAN]]
    assert flags(days(three_of_four, two_of_four)) == [DayQuality.GOOD, DayQuality.PARTIAL]


@pytest.mark.parametrize(("kelvin", "flag"), [(271.0, 0), (270.9, 4), (308.0, 0), (308.1, 4), (7.0, 4)])
def test_one_cell_beyond_a_limit_is_out_of_range(kelvin: float, flag: int) -> None:
    middle = (kelvin + 290) / 2 if kelvin > 250 else kelvin
    assert flags(days([[kelvin, middle, NAN], [middle, middle, NAN]])) == [DayQuality(flag)]


def test_land_is_never_out_of_range() -> None:
    assert flags(days([[280.0, 280.1, -32768.0], [280.2, 280.3, 0.0]])) == [DayQuality.GOOD]


def test_a_jump_is_the_mean_size_of_change_above_the_limit() -> None:
    up_and_down = [[284.5, 275.6, NAN], [284.7, 275.8, NAN]]
    assert flags(days(280.0, 281.9)) == [DayQuality.GOOD, DayQuality.GOOD]
    assert flags(days(280.0, 282.1)) == [DayQuality.GOOD, DayQuality.JUMP]
    assert flags(days(280.0, up_and_down)) == [DayQuality.GOOD, DayQuality.JUMP]


def test_a_copy_of_the_day_before_is_repeated_on_consecutive_days_only() -> None:
    assert flags(days(280.0, 280.0, 280.0)) == [DayQuality.GOOD, DayQuality.REPEATED, DayQuality.REPEATED]
    assert flags(days(280.0, 280.0, at=["2024-01-01", "2024-01-03"])) == [DayQuality.GOOD, DayQuality.GOOD]


def test_a_jump_over_a_gap_is_no_jump() -> None:
    assert flags(days(280.0, 290.0, at=["2024-01-01", "2024-01-03"])) == [DayQuality.GOOD, DayQuality.GOOD]


def test_equal_where_both_have_cells_is_not_repeated_when_the_gaps_moved() -> None:
    first = [[280.0, 281.0, NAN], [282.0, NAN, NAN]]
    second = [[280.0, NAN, NAN], [282.0, 283.0, NAN]]
    assert flags(days(first, second)) == [DayQuality.GOOD, DayQuality.GOOD]
    assert flags(days(first, first)) == [DayQuality.GOOD, DayQuality.REPEATED]


def test_the_first_day_is_compared_with_the_stored_one_before_it_if_there_is_one() -> None:
    stored = days(280.0, at=["2023-12-31"])
    assert flags(days(280.0), stored) == [DayQuality.REPEATED]
    assert flags(days(290.0), stored) == [DayQuality.JUMP]
    assert flags(days(280.0), days(NAN, at=["2023-12-31"])) == [DayQuality.GOOD]
    assert flags(days(280.0), None) == [DayQuality.GOOD]


def test_the_day_before_is_the_one_given_now_rather_than_the_one_stored() -> None:
    stored = days(280.0, 290.0, 280.0)
    assert flags(days(280.0, 280.5, 281.0), stored) == [DayQuality.GOOD] * 3


def test_a_day_that_comes_as_it_is_stored_is_good() -> None:
    stored = days(280.0, 280.5, 281.0)
    assert flags(stored, stored) == [DayQuality.GOOD] * 3


@pytest.mark.parametrize("shift", [-1, 1], ids=["later", "earlier"])
def test_days_that_come_as_the_stored_ones_beside_them_are_repeated(shift: int) -> None:
    stored = days(280.0, 280.5, 281.0, 281.5, 282.0)
    asked = stored.isel(time=slice(1, 4))
    shifted = asked.copy(data=stored.values[1 + shift : 4 + shift])
    assert flags(shifted, stored) == [DayQuality.REPEATED] * 3


def test_a_copy_of_the_stored_day_after_is_not_repeated_where_nothing_is_known_of_the_day_itself() -> None:
    stored = days(281.0, at=["2024-01-02"])
    assert flags(days(281.0), stored) == [DayQuality.GOOD]


def test_a_copy_of_a_day_farther_off_is_not_repeated() -> None:
    stored = days(280.0, 280.5, 281.0)
    assert flags(days(280.3, 280.6, 280.0), stored) == [DayQuality.GOOD] * 3


def test_an_empty_day_is_not_a_repetition_of_an_empty_day() -> None:
    assert flags(days(NAN, NAN)) == [DayQuality.EMPTY, DayQuality.EMPTY]


def test_flags_add_up() -> None:
    assert flags(days(280.0, [[320.0, NAN, NAN], [320.0, NAN, NAN]])) == [
        DayQuality.GOOD,
        DayQuality.PARTIAL | DayQuality.OUT_OF_RANGE | DayQuality.JUMP,
    ]


def test_no_flag_alters_the_data() -> None:
    sst = days(280.0, 280.0, 7.0, NAN, [[290.0, NAN, 5.0], [NAN, NAN, 5.0]])
    stored = days(280.0, 281.0, at=["2023-12-31", "2024-01-01"])
    before, stored_before = sst.copy(deep=True), stored.copy(deep=True)
    assert all(flags(sst, stored))
    xr.testing.assert_identical(sst, before)
    xr.testing.assert_identical(stored, stored_before)


def test_partial_days_and_jumps_are_used_and_all_else_is_not() -> None:
    assert {flag for flag in DayQuality if flag and not flag & UNUSABLE} == {DayQuality.PARTIAL, DayQuality.JUMP}


def test_people_read_names() -> None:
    assert describe(0) == "GOOD"
    assert describe(DayQuality.PARTIAL | DayQuality.JUMP) == "PARTIAL|JUMP"
