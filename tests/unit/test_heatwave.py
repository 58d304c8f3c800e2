"""Marine heatwaves: the baseline against a slow reference, which object a night uses, and each day's category."""

import logging
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.archive import Archive, consecutive
from datlstm.errors import ProductError
from datlstm.grid import Grid
from datlstm.products import heatwave
from datlstm.products.heatwave import HeatwaveBaseline, baseline, categories, compute_baseline
from datlstm.settings import HeatwaveSettings, Settings
from datlstm.store import Store

SEA = np.array([[True, True], [True, False]])
YEARS = (2019, 2022)
Fill = Callable[..., str]


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Four cells, one of them land, in an archive that may start early."""
    region = settings.region.model_copy(update={"north": 38.0, "east": 120.0, "resolution": 0.5})
    archive = settings.archive.model_copy(update={"first_day": date(2015, 1, 1), "chunk_days": 1000})
    return settings.replace(region=region, archive=archive)


@pytest.fixture
def fill_days(small: Settings) -> Fill:
    """Put a noisy seasonal sea into the archive and return its state."""

    def fill(days: list[date], seed: int = 0, settings: Settings = small) -> str:
        time = pd.DatetimeIndex(days).as_unit("ns")
        dims, grid = ("time", "latitude", "longitude"), Grid.from_region(settings.region)
        noise = np.random.default_rng(seed).gamma(1.5, 1.2, (len(days), *grid.shape))
        season = 285 - 10 * np.cos(2 * np.pi * (time.day_of_year.values - 30) / 365.25)
        sst = xr.DataArray(np.where(SEA, season[:, None, None] + noise, np.nan), dims=dims).astype("float32")
        text = ("time", np.full(len(days), "TEST", object))
        fields = xr.Dataset(
            {
                "sst": sst,
                "sea_ice_fraction": sst * 0,
                "analysis_error": sst * 0,
                "quality": ("time", np.zeros(len(days), "uint8")),
                "source_product": text,
                "source_version": text,
            },
            {"time": time, **grid.coords()},
        )
        mask = xr.DataArray(SEA, dims=dims[1:], coords=grid.coords())
        return Archive(settings).upsert(fields, mask, attribution="none: a test").snapshot_id

    return fill


def whole_years(first: int, last: int) -> list[date]:
    return consecutive(date(first, 1, 1), date(last, 12, 31))


def slow_reference(series: dict[date, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and threshold (366,) of one cell, day by day as Hobday et al. (2016) write it."""
    calendar = [date(2020, 1, 1) + timedelta(days=i) for i in range(366)]
    normal, hot = {}, {}
    for place in calendar:
        if (place.month, place.day) != (2, 29):
            centres = [date(year, place.month, place.day) for year in range(YEARS[0], YEARS[1] + 1)]
            pool = [series.get(day + timedelta(days=k), np.nan) for day in centres for k in range(-5, 6)]
            normal[place], hot[place] = np.nanmean(pool), np.nanpercentile(pool, 90)
    leap = date(2020, 2, 29)
    for field in (normal, hot):
        field[leap] = (field[date(2020, 2, 28)] + field[date(2020, 3, 1)]) / 2
    smooth = [
        np.array([np.mean([field[calendar[(i + k) % 366]] for k in range(-15, 16)]) for i in range(366)])
        for field in (normal, hot)
    ]
    return smooth[0], smooth[1]


def slow_categories(values: np.ndarray, normal: np.ndarray, hot: np.ndarray) -> list[int]:
    """One cell's categories as Hobday et al. find events: runs of five, joined across gaps of up to two days."""
    above = [bool(value > limit) for value, limit in zip(values, hot, strict=True)]
    events: list[list[int]] = []
    start = 0
    for i in range(len(above) + 1):
        if i == len(above) or not above[i]:
            if i - start >= 5:
                events.append([start, i - 1])
            start = i + 1
    joined: list[list[int]] = []
    for event in events:
        if joined and event[0] - joined[-1][1] - 1 <= 2:
            joined[-1][1] = event[1]
        else:
            joined.append(event)
    told = [-1 if np.isnan(value) else 0 for value in values]
    for first, last in joined:
        for i in range(first, last + 1):
            if above[i]:
                told[i] = next(k for k in (4, 3, 2, 1) if k == 1 or values[i] - normal[i] >= k * (hot[i] - normal[i]))
    return told


def flat_baseline(settings: Settings) -> HeatwaveBaseline:
    """20 °C all year, 21 °C the threshold, on sea."""
    grid = Grid.from_region(settings.region)
    coords = {"dayofyear": np.arange(1, 367), **grid.coords()}
    field = xr.DataArray(np.where(SEA, np.ones((366, 1, 1)), np.nan), coords, heatwave.DIMS).astype("float32")
    return HeatwaveBaseline(field * 293, field * 294, (2000, 2009), "TEST")


def series_of(settings: Settings, values: list[float]) -> xr.DataArray:
    """One series of excesses over the climatology, kelvin, in every cell."""
    time = pd.date_range("2024-02-26", periods=len(values), unit="ns")
    field = np.broadcast_to(293 + np.array(values, "float32")[:, None, None], (len(values), 2, 2))
    return xr.DataArray(
        field, {"time": time, **Grid.from_region(settings.region).coords()}, ("time", "latitude", "longitude")
    )


def told(settings: Settings, values: list[float]) -> list[int]:
    return categories(series_of(settings, values), flat_baseline(settings)).values[:, 0, 0].tolist()


def test_climatology_and_threshold_are_those_of_a_slow_reference(small: Settings, fill_days: Fill) -> None:
    lost = {date(2020, 3, 3), *consecutive(date(2021, 7, 1), date(2021, 7, 20))}
    # Days outside the years must not enter the windows at their ends.
    snapshot = fill_days([day for day in whole_years(2018, 2023) if day not in lost])
    made = compute_baseline(Archive(small), YEARS, snapshot)
    days = Archive(small).read(date(2019, 1, 1), date(2022, 12, 31))["sst"].load()
    for row, column in np.argwhere(SEA):
        series = dict(zip(whole_years(*YEARS), days.values[:, row, column].tolist(), strict=True))
        normal, hot = slow_reference(series)
        np.testing.assert_allclose(made.climatology[:, row, column], normal, atol=5e-5)
        np.testing.assert_allclose(made.threshold[:, row, column], hot, atol=5e-5)
    assert made.climatology.isnull().values[:, ~SEA].all() and made.threshold.isnull().values[:, ~SEA].all()
    assert made.climatology.dtype == made.threshold.dtype == np.float32


def test_an_archive_that_starts_in_the_first_days_of_a_year_has_that_year(small: Settings, fill_days: Fill) -> None:
    late = small.replace(archive=small.archive.model_copy(update={"first_day": date(2021, 1, 3)}))
    snapshot = fill_days(consecutive(date(2021, 1, 3), date(2022, 12, 31)), settings=late)
    made = baseline(late, date(2023, 1, 1), snapshot)
    assert made is not None and (made.years, made.source) == ((2021, 2022), "TEST")
    assert made.threshold.notnull().values[:, SEA].all()


def test_bands_of_cells_give_the_same_baseline_as_all_cells_at_once(
    small: Settings, fill_days: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = fill_days(whole_years(2021, 2022))
    at_once = compute_baseline(Archive(small), (2021, 2022), snapshot)
    monkeypatch.setattr(heatwave, "BAND_BYTES", 4 * 730)
    assert compute_baseline(Archive(small), (2021, 2022), snapshot).id == at_once.id


def test_cells_without_a_credible_distance_between_normal_and_hot_have_no_baseline(
    small: Settings, fill_days: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = fill_days(whole_years(2021, 2022))
    monkeypatch.setattr(heatwave, "SMALLEST_UNIT_KELVIN", 100.0)
    made = compute_baseline(Archive(small), (2021, 2022), snapshot)
    assert made.climatology.isnull().all() and made.threshold.isnull().all()


def test_a_baseline_is_read_as_it_was_saved_with_the_same_bytes_each_time(small: Settings, fill_days: Fill) -> None:
    made = compute_baseline(Archive(small), (2021, 2022), fill_days(whole_years(2021, 2022)))
    store = Store(small.store)
    made.save(store)
    (path,) = store.list("heatwave")
    before = store.read(path)
    read = HeatwaveBaseline.load(store, made.id)
    xr.testing.assert_identical(read.threshold, made.threshold)
    xr.testing.assert_identical(read.climatology, made.climatology)
    assert (read.years, read.source, read.id) == ((2021, 2022), "TEST", made.id)
    read.save(store)
    assert store.read(path) == before


def test_the_id_tells_years_source_and_contents(small: Settings, fill_days: Fill) -> None:
    made = compute_baseline(Archive(small), (2021, 2022), fill_days(whole_years(2021, 2022)))
    years, source, digest = made.id.split(", ")
    assert (years, source, len(digest)) == ("2021-2022", "TEST", 8)
    warmer = HeatwaveBaseline(made.climatology, made.threshold + np.float32(0.1), made.years, made.source)
    assert warmer.id != made.id


def test_a_night_uses_all_whole_years_before_its_own(small: Settings, fill_days: Fill) -> None:
    snapshot = fill_days(consecutive(date(2019, 3, 1), date(2023, 6, 30)))
    found = baseline(small, date(2023, 6, 30), snapshot)
    assert found is not None and found.years == (2020, 2022)
    earlier = baseline(small, date(2022, 12, 31), snapshot)
    assert earlier is not None and earlier.years == (2020, 2021)


def test_at_most_thirty_years_are_used() -> None:
    usable = whole_years(1982, 2020)
    assert heatwave._baseline_years(HeatwaveSettings(), usable, date(2021, 1, 1)) == (1991, 2020)


def test_a_year_without_a_season_ends_the_baseline_but_a_few_lost_days_do_not(small: Settings) -> None:
    usable = [day for day in whole_years(2010, 2020) if day.year != 2013 or day.month > 3]
    usable = [day for day in usable if (day.year, day.month) != (2016, 5)]
    assert heatwave._baseline_years(HeatwaveSettings(), usable, date(2021, 1, 1)) == (2014, 2020)


@pytest.mark.parametrize(
    ("asked", "years"),
    [
        ({"first_year": 2012, "last_year": 2018}, (2012, 2018)),
        ({"last_year": 2018}, (2010, 2018)),
        ({"first_year": 2012}, (2012, 2020)),
        ({"first_year": 2009, "last_year": 2018}, None),
        ({"first_year": 2012, "last_year": 2021}, None),
        ({"first_year": 2018, "last_year": 2012}, None),
        ({"first_year": 2012, "last_year": 2018, "minimum_years": 8}, None),
    ],
)
def test_asked_years_are_used_as_asked_or_not_at_all(
    asked: dict[str, int], years: tuple[int, int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    usable = consecutive(date(2010, 1, 1), date(2021, 12, 31))
    assert heatwave._baseline_years(HeatwaveSettings(**asked), usable, date(2021, 12, 31)) == years
    assert ("no marine heatwave category is told" in caplog.text) == (years is None)


def test_too_few_years_give_no_baseline_and_say_so(
    small: Settings, fill_days: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = fill_days(whole_years(2021, 2021))
    assert baseline(small, date(2022, 1, 5), snapshot) is None
    assert "1 whole years in the archive before 2022" in caplog.text
    assert Store(small.store).list("heatwave") == []


def test_a_revision_of_the_baseline_years_changes_no_baseline_that_was_used(small: Settings, fill_days: Fill) -> None:
    first = baseline(small, date(2023, 1, 3), fill_days(whole_years(2021, 2022)))
    objects = Store(small.store).list("heatwave")
    again = baseline(small, date(2023, 5, 1), fill_days(whole_years(2021, 2022), seed=1))
    assert first is not None and again is not None
    assert again.id == first.id
    assert Store(small.store).list("heatwave") == objects


def test_a_new_year_makes_a_new_baseline_and_keeps_the_old_one(small: Settings, fill_days: Fill) -> None:
    snapshot = fill_days(whole_years(2020, 2022))
    old, new = (baseline(small, init, snapshot) for init in (date(2022, 6, 1), date(2023, 6, 1)))
    assert old is not None and new is not None
    assert [made.years for made in (old, new)] == [(2020, 2021), (2020, 2022)]
    assert HeatwaveBaseline.load(Store(small.store), old.id).id == old.id


@pytest.mark.parametrize("damage", ["cut", "other contents", "gone", "pointer", "not an object"])
def test_a_damaged_baseline_is_made_again_with_a_warning(
    damage: str, small: Settings, fill_days: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot, store = fill_days(whole_years(2021, 2022)), Store(small.store)
    made = baseline(small, date(2023, 1, 3), snapshot)
    assert made is not None and not caplog.records
    path, pointer = sorted(store.list("heatwave"), key=lambda path: path.endswith(".json"))
    if damage == "gone":
        store.delete(path)
    elif damage == "pointer":
        store.write(pointer, b'{"id"')
    elif damage == "not an object":
        store.write(pointer, b"[]")
    elif damage == "cut":
        store.write(path, (store.read(path) or b"")[:-2000])
    else:
        warmer = HeatwaveBaseline(made.climatology, made.threshold + np.float32(1), made.years, made.source)
        store.write(path, warmer._to_netcdf())
    again = baseline(small, date(2023, 1, 3), snapshot)
    assert again is not None and again.id == made.id
    assert "is made again" in caplog.text
    assert HeatwaveBaseline.load(store, made.id).id == made.id
    caplog.clear()
    assert baseline(small, date(2023, 1, 4), snapshot) is not None and not caplog.records


def test_loading_an_unknown_or_damaged_baseline_names_the_object(small: Settings, fill_days: Fill) -> None:
    store = Store(small.store)
    made = compute_baseline(Archive(small), (2021, 2022), fill_days(whole_years(2021, 2022)))
    with pytest.raises(ProductError, match=r"no marine heatwave baseline '2021-2022, TEST, .*heatwave/2021-2022-"):
        HeatwaveBaseline.load(store, made.id)
    with pytest.raises(ProductError, match="no marine heatwave baseline ''"):
        HeatwaveBaseline.load(store, "")
    made.save(store)
    (path,) = store.list("heatwave")
    store.write(path, b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ProductError, match="can't be read .*restore it from a backup"):
        HeatwaveBaseline.load(store, made.id)


def test_the_baseline_of_another_writer_who_was_first_is_used(
    small: Settings, fill_days: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, store = fill_days(whole_years(2021, 2022)), Store(small.store)
    honest = heatwave.compute_baseline

    def slower(archive: Archive, years: tuple[int, int], snapshot_id: str) -> HeatwaveBaseline:
        made = honest(archive, years, snapshot_id)
        other = HeatwaveBaseline(made.climatology, made.threshold + np.float32(1), made.years, made.source)
        other.save(store)
        store.write_json("heatwave/2021-2022.json", {"id": other.id})
        return made

    monkeypatch.setattr(heatwave, "compute_baseline", slower)
    used = baseline(small, date(2023, 1, 3), snapshot)
    assert used is not None
    assert {"id": used.id} == store.read_json("heatwave/2021-2022.json")


def test_categories_count_how_often_the_threshold_fits_into_the_anomaly(small: Settings) -> None:
    assert told(small, [1.5, 2.0, 2.5, 3.5, 4.5, 9.0, 1.01]) == [1, 2, 2, 3, 4, 4, 1]


def test_five_days_make_a_heatwave_and_four_do_not(small: Settings) -> None:
    assert told(small, [0.0, *[1.5] * 4, 0.0, *[2.5] * 5]) == [0] * 6 + [2] * 5
    assert told(small, [0.0, *[1.5] * 4]) == [0] * 5


def test_a_day_at_the_threshold_is_not_above_it(small: Settings) -> None:
    assert told(small, [1.5, 1.5, 1.0, 1.5, 1.5]) == [0] * 5


def test_a_missing_day_ends_a_run_and_is_not_told(small: Settings) -> None:
    assert told(small, [*[1.5] * 3, np.nan, *[1.5] * 5]) == [0, 0, 0, -1, 1, 1, 1, 1, 1]
    assert told(small, [*[1.5] * 4, np.nan, *[1.5] * 4]) == [0] * 4 + [-1] + [0] * 4


def test_days_between_two_joined_heatwaves_stay_below_the_categories(small: Settings) -> None:
    assert told(small, [*[1.5] * 5, 0.5, 0.5, *[1.5] * 5]) == [1] * 5 + [0, 0] + [1] * 5


def test_land_is_not_told(small: Settings) -> None:
    found = categories(series_of(small, [1.5] * 6), flat_baseline(small))
    assert (found.values[:, ~SEA] == -1).all() and (found.values[:, SEA] == 1).all()
    assert found.dtype == np.int8


def test_fewer_days_than_a_heatwave_has_are_none(small: Settings) -> None:
    assert told(small, [9.0, 9.0]) == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_categories_are_those_of_events_found_and_joined_day_by_day(seed: int, small: Settings) -> None:
    random = np.random.default_rng(seed)
    values = np.convolve(random.normal(1.3, 2.5, 2004), np.ones(5) / 5, "valid")
    values[random.integers(0, 2000, 40)] = np.nan
    found = told(small, values.tolist())
    series = series_of(small, values.tolist()).values[:, 0, 0]
    assert found == slow_categories(series, np.full(2000, 293), np.full(2000, 294))
    assert set(found) == {-1, 0, 1, 2, 3, 4}


def test_four_days_before_a_forecast_tell_as_much_as_all_days(small: Settings) -> None:
    for seed in range(20):
        values = (np.random.default_rng(seed).random(40) < 0.85) * 1.5
        assert told(small, values.tolist())[-10:] == told(small, values[-14:].tolist())[-10:]


def test_29_february_has_a_place_of_its_own_and_1_march_the_same_in_every_year() -> None:
    days = pd.DatetimeIndex(["2023-02-28", "2023-03-01", "2024-02-29", "2024-03-01", "2023-12-31", "2024-12-31"])
    assert heatwave._place_in_year(days).tolist() == [58, 60, 59, 60, 365, 365]


def test_a_field_on_other_cells_is_refused(small: Settings) -> None:
    series = series_of(small, [1.5] * 6)
    with pytest.raises(ValueError, match="exact"):
        categories(series.assign_coords(latitude=series["latitude"] + 0.01), flat_baseline(small))


def test_no_warning_is_logged_when_there_is_a_baseline(
    small: Settings, fill_days: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert baseline(small, date(2023, 1, 3), fill_days(whole_years(2021, 2022))) is not None
    assert not caplog.records
