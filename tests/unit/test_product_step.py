"""The step between two products: what is measured, how it is applied, and what is refused when it is read back."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datlstm.errors import ArchiveError, DatlstmError, GridError, NotEnoughDataError, ProductError
from datlstm.grid import Grid
from datlstm.product_step import CURRENT, MINIMUM_DAYS, ProductStep, measure
from datlstm.store import Store

GRID = Grid(np.array([37.025, 37.075, 37.125]), np.array([119.025, 119.075, 119.125, 119.175]))
DAYS = pd.date_range("2021-01-01", "2022-12-31")
NEAR_REAL_TIME, REPROCESSED = "NRT_010_001 202303", "REP_010_011 202003"
PAIR = {"near_real_time": NEAR_REAL_TIME, "reprocessed": REPROCESSED}
# OSTIA publishes hundredths of a kelvin.
PUBLISHED_DECIMALS = 2


def field(values: np.ndarray, days: pd.DatetimeIndex = DAYS) -> xr.DataArray:
    """A field on the grid whose first cell is land."""
    filled = np.broadcast_to(values, (days.size, *GRID.shape)).astype(np.float32)
    filled[:, 0, 0] = np.nan
    coords = {"time": days, **GRID.coords()}
    return xr.DataArray(filled, dims=("time", "latitude", "longitude"), coords=coords, name="sst")


def sea(days: pd.DatetimeIndex = DAYS) -> xr.DataArray:
    """A season of 10 K with weather of 1 K, in hundredths of a kelvin."""
    weather = np.random.default_rng(0).normal(0, 1, (days.size, *GRID.shape))
    season = 10 * np.cos(2 * np.pi * (days.day_of_year.values - 220) / 365.2425)
    return field(np.round(287 + season[:, None, None] + weather, PUBLISHED_DECIMALS), days)


def seasonal_step(days: pd.DatetimeIndex, amplitude: float = 0.08) -> np.ndarray:
    """A step of 0.05 K in the mean, largest on 1 August, another size in each column of cells."""
    phase = 2 * np.pi * (days.day_of_year.values - 213) / 365.2425
    return (0.05 + amplitude * np.cos(phase))[:, None, None] * np.linspace(0.5, 1.5, GRID.shape[1])


def measured(near_real_time: xr.DataArray, reprocessed: xr.DataArray) -> ProductStep:
    return measure(near_real_time, reprocessed, near_real_time_product=NEAR_REAL_TIME, reprocessed_product=REPROCESSED)


def by_month(sst: xr.DataArray) -> xr.DataArray:
    return sst.astype(np.float64).groupby("time.month").mean()


def from_maps(maps: np.ndarray) -> ProductStep:
    """A step with the given monthly maps."""
    return replace(STEP, kelvin=STEP.kelvin.copy(data=np.broadcast_to(maps, STEP.kelvin.shape).astype(np.float32)))


STEP = measured(sea() + seasonal_step(DAYS), sea())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())


def load(store: Store, **changes: Any) -> ProductStep | None:
    return ProductStep.load(store, **{"grid": GRID, **PAIR, **changes})


@given(st.integers(-300, 300))
@settings(max_examples=4, deadline=None)
def test_a_constant_offset_is_recovered_exactly_and_applied_to_every_day(hundredths: int) -> None:
    step = measured(sea() + hundredths / 100, sea())
    expected = np.where(np.isnan(sea()[0]), np.nan, np.float32(hundredths / 100))
    np.testing.assert_array_equal(step.kelvin, np.broadcast_to(expected, (12, *GRID.shape)))
    np.testing.assert_array_equal(step.at(DAYS), np.broadcast_to(expected, (DAYS.size, *GRID.shape)))
    assert float(step.standard_deviation.max()) <= 1e-4


def test_a_seasonal_step_is_recovered_month_by_month_and_cell_by_cell() -> None:
    truth = by_month(field(seasonal_step(DAYS)))
    np.testing.assert_allclose(STEP.kelvin, truth, atol=1e-4)
    assert STEP.kelvin.dtype == STEP.standard_deviation.dtype == np.float32
    assert STEP.kelvin.dims == ("month", "latitude", "longitude")
    assert STEP.kelvin["month"].values.tolist() == list(range(1, 13))
    assert STEP.n_days.values.tolist() == [62, 56, 62, 60, 62, 60, 62, 62, 60, 62, 60, 62]
    assert (STEP.first_day, STEP.last_day) == (date(2021, 1, 1), date(2022, 12, 31))
    assert (STEP.near_real_time, STEP.reprocessed) == (NEAR_REAL_TIME, REPROCESSED)


def test_the_sign_is_near_real_time_minus_reprocessed() -> None:
    assert float(measured(sea() + 0.5, sea()).kelvin.mean()) == pytest.approx(0.5, abs=1e-4)


def test_land_stays_missing_and_all_else_is_measured() -> None:
    assert STEP.kelvin[:, 0, 0].isnull().all()
    assert int(STEP.kelvin.notnull().sum()) == 12 * (GRID.latitude.size * GRID.longitude.size - 1)


def test_the_standard_deviation_is_that_of_the_daily_differences() -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, (DAYS.size, *GRID.shape))
    near_real_time = sea() + noise
    expected = (near_real_time.astype(np.float64) - sea()).groupby("time.month").std()
    np.testing.assert_allclose(measured(near_real_time, sea()).standard_deviation, expected, atol=1e-4)


def test_missing_days_and_cells_do_not_bias_the_step() -> None:
    near_real_time, reprocessed = sea() + 0.07, sea()
    rng = np.random.default_rng(2)
    near_real_time = near_real_time.where(rng.random(near_real_time.shape) > 0.2)
    reprocessed = reprocessed.where(rng.random(reprocessed.shape) > 0.2)
    step = measured(near_real_time[rng.random(DAYS.size) > 0.1], reprocessed[rng.random(DAYS.size) > 0.1])
    np.testing.assert_allclose(step.kelvin[:, 1:], 0.07, atol=1e-7)
    assert (step.n_days < STEP.n_days).all()


def test_infinite_values_count_as_missing() -> None:
    near_real_time = sea() + 0.07
    near_real_time[5, 1, 1] = np.inf
    np.testing.assert_allclose(measured(near_real_time, sea()).kelvin[:, 1, 1], 0.07, atol=1e-7)


def test_only_days_that_both_have_are_used() -> None:
    longer = pd.date_range("2019-01-01", "2023-06-30")
    near_real_time = sea(longer).where(longer.isin(DAYS)[:, None, None], 400.0)
    step = measured(near_real_time.sel(time=DAYS) + seasonal_step(DAYS), near_real_time)
    assert (step.first_day, step.last_day) == (date(2021, 1, 1), date(2022, 12, 31))
    np.testing.assert_allclose(step.kelvin, STEP.kelvin, atol=1e-4)


def test_days_that_are_there_without_a_value_are_not_in_the_overlap() -> None:
    days = sea()["time"]
    step = measured(sea().where(days >= np.datetime64("2021-04-10")), sea().where(days <= np.datetime64("2022-11-20")))
    assert (step.first_day, step.last_day) == (date(2021, 4, 10), date(2022, 11, 20))


def test_a_cell_with_too_few_days_in_a_month_is_missing_in_that_month_alone() -> None:
    reprocessed = sea()
    of_march = np.flatnonzero(DAYS.month == 3)
    reprocessed[of_march[MINIMUM_DAYS - 1 :], 1, 1] = np.nan
    reprocessed[of_march[MINIMUM_DAYS:], 1, 2] = np.nan
    step = measured(sea(), reprocessed)
    assert np.flatnonzero(step.kelvin[:, 1, 1].isnull()).tolist() == [2]
    assert step.kelvin[:, 1, 2].notnull().all()
    assert int(step.n_days[2]) == of_march.size


def test_the_hour_of_a_day_plays_no_part() -> None:
    noon = sea().assign_coords(time=DAYS + pd.Timedelta(hours=12))
    assert measured(noon + 0.1, sea()).id == measured(sea() + 0.1, sea()).id
    np.testing.assert_array_equal(STEP.at(noon["time"]), STEP.at(DAYS))


@pytest.mark.parametrize("chunks", [{"time": 100}, {"time": 400, "latitude": 2, "longitude": 3}])
def test_the_step_and_its_id_do_not_depend_on_chunks_or_the_order_of_days(chunks: dict[str, int]) -> None:
    near_real_time = sea() + seasonal_step(DAYS).astype(np.float32)
    shuffled = sea()[np.random.default_rng(3).permutation(DAYS.size)]
    step = measured(near_real_time.chunk(chunks), shuffled.chunk(time=150))
    assert step.id == measured(near_real_time, sea()).id


def test_months_without_enough_days_are_refused_by_name() -> None:
    months = DAYS.month
    near_real_time = sea()[(months != 2) & ~((months == 11) & (DAYS.day > 9))]
    with pytest.raises(NotEnoughDataError, match=r"February \(0\), November \(18\): all twelve months are needed"):
        measured(near_real_time, sea())


def test_months_whose_days_hold_no_value_are_refused_by_name() -> None:
    near_real_time = sea().where(sea()["time"].dt.month != 5)
    with pytest.raises(NotEnoughDataError, match=r"fewer than 20 days in common in May \(0\):"):
        measured(near_real_time, sea())


def test_products_without_a_common_day_are_refused() -> None:
    later = sea().assign_coords(time=DAYS + pd.Timedelta(days=3000))
    with pytest.raises(NotEnoughDataError, match=r"January \(0\), .* December \(0\)"):
        measured(later, sea())


def test_one_whole_year_is_enough() -> None:
    year = DAYS[100:465]
    assert measured(sea(year), sea()).n_days.values.tolist() == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


def test_other_grids_dimensions_and_repeated_days_are_refused() -> None:
    with pytest.raises(GridError, match="regrid both"):
        measured(sea(), sea().isel(longitude=slice(2)))
    with pytest.raises(GridError, match="give .time, latitude, longitude."):
        measured(sea().rename(latitude="lat"), sea())
    with pytest.raises(ArchiveError, match="2021-01-05 twice"):
        measured(sea(), xr.concat([sea(), sea()[4:5]], "time"))


def test_coordinates_that_differ_by_rounding_are_the_same_grid_and_crop_nothing() -> None:
    rounded = sea().assign_coords(latitude=GRID.latitude + 1e-9, longitude=GRID.longitude - 1e-9)
    assert measured(rounded + 0.1, sea()).id == measured(sea() + 0.1, sea()).id


def test_the_map_of_a_month_holds_at_its_middle() -> None:
    maps = STEP.kelvin.values
    np.testing.assert_array_equal(STEP.at(pd.DatetimeIndex(["2023-01-16", "2031-08-16"])), maps[[0, 7]])
    # Of a month with an even number of days the middle lies between two days, half a day from each.
    around = STEP.at(pd.DatetimeIndex(["2024-04-15", "2024-04-16"])).mean("time")
    away = 0.5 / 30
    np.testing.assert_allclose(around, (1 - away) * maps[3] + away * (maps[2] + maps[4]) / 2, atol=1e-6)


@given(st.lists(st.floats(-0.3, 0.3), min_size=12, max_size=12), st.sampled_from([2023, 2024]))
@settings(max_examples=20, deadline=None)
def test_no_day_jumps_across_the_end_of_a_month_or_year(monthly: list[float], year: int) -> None:
    maps = np.array(monthly)
    step = from_maps(maps[:, None, None]).at(pd.date_range(f"{year - 1}-12-01", f"{year + 1}-01-31"))
    steepest = np.abs(maps - np.roll(maps, 1)).max() / 28
    assert float(abs(step.diff("time")).max()) <= steepest + 1e-6
    assert step.min() >= maps.min() - 1e-6
    assert step.max() <= maps.max() + 1e-6


@pytest.mark.parametrize("year", [2023, 2024])
def test_the_monthly_means_of_the_days_keep_a_seasonal_map_within_four_percent(year: int) -> None:
    days = pd.date_range(f"{year}-01-01", f"{year}-12-31")
    departure = STEP.kelvin - STEP.kelvin.mean("month")
    difference = by_month(STEP.at(days)) - STEP.kelvin
    assert float((abs(difference).max("month") / abs(departure).max("month")).max()) < 0.04


def test_every_year_has_the_same_step() -> None:
    np.testing.assert_array_equal(
        STEP.at(pd.date_range("1990-01-01", "1990-12-31")), STEP.at(pd.date_range("2030-01-01", "2030-12-31"))
    )


def test_the_step_is_given_at_the_times_asked_in_their_order() -> None:
    times = sea()["time"][[400, 3, 3]].assign_attrs(axis="T")
    step = STEP.at(times)
    assert step.dims == ("time", "latitude", "longitude")
    assert step.dtype == np.float32
    assert step.attrs["units"] == "kelvin"
    np.testing.assert_array_equal(step["time"], times)
    np.testing.assert_array_equal(step, STEP.at(DAYS)[[400, 3, 3]])
    assert STEP.at(DAYS[:0]).shape == (0, *GRID.shape)


def test_the_corrected_product_has_no_mean_difference_in_any_month_of_the_overlap() -> None:
    near_real_time = sea() + seasonal_step(DAYS)
    left = by_month(near_real_time - STEP.at(near_real_time["time"]) - sea())
    assert float(abs(by_month(near_real_time - sea())).max()) > 0.15
    assert float(abs(left).max()) < 0.04 * 0.12
    assert float(abs(left.mean("month")).max()) < 1e-4


def test_the_summary_names_mean_range_and_largest_cell() -> None:
    maps = np.full((12, *GRID.shape), 0.05)
    maps[7] = 0.11
    maps[1] = -0.02
    maps[4, 2, 3] = -0.4
    line = from_maps(maps).summary()
    assert "\n" not in line
    assert f"{NEAR_REAL_TIME} minus {REPROCESSED}, 730 days from 2021-01-01 to 2022-12-31" in line
    assert "mean +0.046 K, by month -0.020 K (February) to +0.110 K (August)" in line
    assert "largest cell -0.400 K (May) at 37.125, 119.175" in line


def test_the_summary_weighs_cells_by_area() -> None:
    wide = Grid(np.array([0.0, 30.0, 60.0]), GRID.longitude)
    maps = np.broadcast_to(np.array([0.0, 0.0, 1.0])[:, None], (12, *GRID.shape))
    step = replace(
        STEP, kelvin=xr.DataArray(maps, dims=STEP.kelvin.dims, coords={"month": STEP.kelvin["month"], **wide.coords()})
    )
    assert f"mean {0.5 / (1 + np.sqrt(0.75) + 0.5):+.3f} K" in step.summary()


def test_a_saved_step_comes_back_to_the_bit(store: Store) -> None:
    assert load(store) is None
    assert STEP.save(store) == STEP.id
    loaded = load(store)
    assert loaded is not None
    assert loaded.id == STEP.id
    for name in ("kelvin", "standard_deviation", "n_days"):
        xr.testing.assert_identical(getattr(loaded, name), getattr(STEP, name))
        assert getattr(loaded, name).values.tobytes() == getattr(STEP, name).values.tobytes()
        assert getattr(loaded, name).dtype == getattr(STEP, name).dtype
    for name in ("near_real_time", "reprocessed", "first_day", "last_day"):
        assert getattr(loaded, name) == getattr(STEP, name)


def test_the_newest_step_is_current_and_older_ones_stay_readable(store: Store) -> None:
    older, newer = STEP, from_maps(np.full((12, 1, 1), 0.1))
    older.save(store)
    newer.save(store)
    current, by_id = load(store), load(store, step_id=older.id)
    assert current is not None and by_id is not None
    assert (current.id, by_id.id) == (newer.id, older.id)


def test_the_id_follows_from_the_contents_and_not_from_float_noise() -> None:
    noise = np.random.default_rng(4).uniform(-1e-6, 1e-6, STEP.kelvin.shape)
    assert from_maps(STEP.kelvin.values + noise).id == STEP.id
    assert from_maps(STEP.kelvin.values.astype(np.float64)).id == STEP.id
    for other in (
        from_maps(STEP.kelvin.values + np.eye(12)[3][:, None, None] * 2e-4),
        from_maps(np.roll(STEP.kelvin.values, 1, axis=2)),
        replace(STEP, standard_deviation=STEP.standard_deviation + 0.001),
        replace(STEP, n_days=STEP.n_days + 1),
        replace(STEP, kelvin=STEP.kelvin.assign_coords(latitude=GRID.latitude + 0.05)),
        replace(STEP, near_real_time="NRT_010_001 202411"),
        replace(STEP, reprocessed="REP_010_011 202411"),
        replace(STEP, first_day=date(2021, 1, 2)),
        replace(STEP, last_day=date(2022, 12, 30)),
    ):
        assert other.id != STEP.id


def test_a_step_of_another_grid_or_pair_is_refused(store: Store) -> None:
    STEP.save(store)
    with pytest.raises(ArchiveError, match=f"product step {STEP.id} is on grid .* measure the step on this grid"):
        load(store, grid=Grid(GRID.latitude + 0.05, GRID.longitude))
    for change in ({"near_real_time": "NRT_010_001 202411"}, {"reprocessed": "REP_010_011 202411"}):
        with pytest.raises(ArchiveError, match=r"not .* 202411.*: measure the step of this pair"):
            load(store, **change)
    with pytest.raises(ArchiveError, match="no product step at .*feedfacecafe.nc: measure it, or restore it"):
        load(store, step_id="feedfacecafe")


def in_the_middle(content: bytes) -> bytes:
    """Flip a bit in the middle of the compressed map."""
    start = content.index(b"\x78\x5e") if b"\x78\x5e" in content else content.index(b"\x78\x9c")
    return content[: start + 40] + bytes([content[start + 40] ^ 1]) + content[start + 41 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not a NetCDF file",
        lambda content: content.replace(b"202303", b"202304"),
        lambda content: content.replace(b"2021-01-01", b"2021-01-02"),
        lambda content: content.replace(b"first_day", b"third_day"),
        in_the_middle,
    ],
)
# The reader's half-made file object complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_content_is_refused_by_name(store: Store, damage: Callable[[bytes], bytes]) -> None:
    path = f"product-step/{STEP.save(store)}.nc"
    content = store.read(path) or b""
    assert damage(content) != content
    store.write(path, damage(content))
    with pytest.raises(ProductError, match=rf"{path} .*: measure the step again, or restore it"):
        load(store)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_altered_byte_is_refused_or_does_no_harm(store: Store) -> None:
    path = f"product-step/{STEP.save(store)}.nc"
    content = store.read(path) or b""
    refused = 0
    for i in range(5, len(content), 1999):
        store.write(path, content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        try:
            loaded = load(store)
        except DatlstmError:
            refused += 1
        else:
            assert loaded is not None
            assert loaded.kelvin.values.tobytes() == STEP.kelvin.values.tobytes()
    assert refused > 3


def test_a_step_of_another_format_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    STEP.save(store)
    monkeypatch.setattr("datlstm.product_step.FORMAT_VERSION", 2)
    with pytest.raises(ProductError, match="has format 1 of an earlier release, .* needs 2: measure the step again"):
        load(store)


@pytest.mark.parametrize("pointer", [b"", b"{", b"[]", b"{}", b"null"])
def test_a_damaged_pointer_is_refused_and_mended_by_the_next_step(store: Store, pointer: bytes) -> None:
    STEP.save(store)
    store.write(CURRENT, pointer)
    with pytest.raises(ProductError, match="names no product step: measure the step again"):
        load(store)
    STEP.save(store)
    assert load(store) is not None


def test_an_analyst_reads_the_step_with_bare_xarray(store: Store) -> None:
    location = store.location_of(f"product-step/{STEP.save(store)}.nc")
    with xr.open_dataset(location, engine="h5netcdf") as file:
        np.testing.assert_array_equal(file["product_step"], STEP.kelvin)
        assert file["product_step"].attrs["units"] == file["standard_deviation"].attrs["units"] == "kelvin"
        assert "time: mean" in file["product_step"].attrs["cell_methods"]
        assert all("long_name" in file[name].attrs for name in file.variables)
        assert file.attrs["near_real_time"] == NEAR_REAL_TIME
        assert file.attrs["product_step_id"] == STEP.id
        assert file.attrs["first_day"] == "2021-01-01"


def test_the_file_conforms_to_cf(store: Store, tmp_path: Path) -> None:
    location = store.location_of(f"product-step/{STEP.save(store)}.nc")
    checker, report = Path(sys.executable).with_name("compliance-checker"), tmp_path / "report.json"
    command = [str(checker), "-t", "cf:1.11", "-f", "json", "-o", str(report), location]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert report.exists(), run.stderr
    found = json.loads(report.read_text())["cf:1.11"]["high_priorities"]
    assert [entry["msgs"] for entry in found if entry["value"][0] < entry["value"][1]] == []
