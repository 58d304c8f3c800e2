"""Training periods, the training cube, and the windows gathered from it."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from datlstm.archive import FIELDS, PER_DAY, Archive
from datlstm.bundle import Bundle
from datlstm.errors import NotEnoughDataError
from datlstm.inputs import Record
from datlstm.preparation import fit_baseline, prepare
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.training import TrainingData
from datlstm.windows import Periods, Windows, open_training_cube, write_training_cube

INPUT, LEAD = 3, 2


def record(anomaly: xr.DataArray) -> Record:
    return Record.of(anomaly, xr.zeros_like(anomaly))


def windows(anomaly: xr.DataArray, allowed: float = 0.2, period: slice = slice(None)) -> Windows:
    places = np.arange(anomaly.sizes["time"])[period]
    return Windows(record(anomaly), (int(places[0]), int(places[-1])), INPUT, LEAD, allowed)


def days(count: int, first: date = date(2023, 1, 1)) -> list[date]:
    return [first + timedelta(days=i) for i in range(count)]


def sea(missing: tuple[int, ...] = (), count: int = 12) -> xr.DataArray:
    """Day i has the value i everywhere, but for one cell of land; absent days are NaN."""
    values = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None], (count, 2, 2)).copy()
    values[:, 0, 0] = np.nan
    values[list(missing)] = np.nan
    return xr.DataArray(
        values, dims=("time", "latitude", "longitude"), coords={"time": pd.date_range("2023-01-01", periods=count)}
    )


def test_unset_periods_are_derived_from_the_usable_days(settings: Settings) -> None:
    periods = Periods.of(settings, days(500))
    assert periods.training == (date(2023, 1, 1), date(2024, 3, 15))
    assert periods.validation == (date(2024, 3, 16), date(2024, 5, 14))
    assert (periods.validation[1] - periods.validation[0]).days + 1 == settings.training.validation_days


def test_named_periods_win_over_derived_ones(settings: Settings) -> None:
    named = {"first_day": date(2023, 2, 1), "last_day": date(2023, 12, 31), "validation_last_day": date(2024, 2, 1)}
    periods = Periods.of(settings.replace(training=settings.training.model_copy(update=named)), days(500))
    assert periods == Periods((date(2023, 2, 1), date(2023, 12, 31)), (date(2024, 1, 1), date(2024, 2, 1)))


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"validation_days": 6}, "validation"), ({"last_day": date(2023, 1, 6)}, "training")],
)
def test_a_period_shorter_than_one_window_is_refused_by_name(
    settings: Settings, changes: dict[str, object], name: str
) -> None:
    short = settings.replace(training=settings.training.model_copy(update=changes))
    with pytest.raises(NotEnoughDataError, match=f"the {name} period .* shorter than one window of 7 days"):
        Periods.of(short, days(500))


def test_an_archive_without_usable_days_is_refused(settings: Settings) -> None:
    with pytest.raises(NotEnoughDataError, match="backfill"):
        Periods.of(settings, [])


def test_no_training_window_shares_a_day_with_a_validation_window(trained: Settings) -> None:
    cube, baseline = prepare(trained)
    fitted = Bundle.load(Store(trained.store), baseline)
    data = TrainingData.open(trained, cube, fitted)
    length = trained.model.input_days + trained.model.lead_days
    seen = [
        {int(start) + day for start in chosen.starts for day in range(length)}
        for chosen in (data.training, data.validation)
    ]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(range(len(data.days)))
    assert data.days[min(seen[1])].date() == data.days[-1].date() - timedelta(days=trained.training.validation_days - 1)
    gapped = TrainingData.open(trained, cube, fitted, gap_days=10).training.starts
    assert int(gapped[-1]) + length == min(seen[1]) - 10


def test_a_window_holds_consecutive_days_with_the_climatology_where_nothing_was_observed() -> None:
    frames, observed, _, _ = record(sea(missing=(5,))).gather(torch.tensor([3, 4]), INPUT + LEAD)
    assert frames.shape == observed.shape == (2, INPUT + LEAD, 1, 2, 2)
    assert frames.dtype == torch.float32
    assert frames[:, :, 0, 1, 1].tolist() == [[3, 4, 0, 6, 7], [4, 0, 6, 7, 8]]
    assert observed[1, :, 0, 1, 1].tolist() == [True, False, True, True, True]
    assert not observed[:, :, 0, 0, 0].any()
    assert not frames[:, :, 0, 0, 0].any()


def test_a_window_knows_its_ice_and_its_season() -> None:
    anomaly = sea(count=400)
    ice = anomaly.copy(data=np.linspace(0, 1, 400)[:, None, None] * np.ones((1, 2, 2)))
    ice[7] = np.nan
    inputs = Record.of(anomaly, ice).gather(torch.tensor([0, 6, 365]), INPUT)
    assert inputs.ice[0, :, 0, 1, 1].tolist() == pytest.approx([0, 0, 0.01], abs=6e-3)
    assert inputs.ice[1, 1].max() == 0
    assert inputs.ice[2].min() == pytest.approx(365 / 399, abs=6e-3)
    # Seconds of a New Year in a calendar of mean years: days apart, not hours.
    assert float(inputs.phase[0].cos()) == pytest.approx(1, abs=1e-3)
    assert inputs.phase[1] - inputs.phase[0] == pytest.approx(6 * 2 * np.pi / 365.2425, abs=1e-5)
    assert float((inputs.phase[2] - inputs.phase[0]).cos()) == pytest.approx(1, abs=1e-4)


def test_a_window_is_admissible_when_its_last_input_is_observed_and_few_days_miss() -> None:
    missing = (5, 8)
    expected = [
        start
        for start in range(12 - INPUT - LEAD + 1)
        if start + INPUT - 1 not in missing and sum(start <= day < start + INPUT + LEAD for day in missing) <= 1
    ]
    assert windows(sea(missing)).starts.tolist() == expected == [0, 1, 2, 7]
    # Places count from the record's first day, whatever the period.
    assert windows(sea(missing), period=slice(1, 8)).starts.tolist() == [1, 2]


@pytest.mark.parametrize("anomaly", [sea(missing=tuple(range(0, 12, 2))), sea(count=INPUT + LEAD - 1)])
def test_a_period_without_an_admissible_window_is_refused(anomaly: xr.DataArray) -> None:
    with pytest.raises(NotEnoughDataError, match="complete enough"):
        windows(anomaly)


def test_spread_windows_reach_from_the_first_to_the_last_without_repeats() -> None:
    assert windows(sea(), 0.0).spread(3) == [0, 4, 7]
    assert windows(sea(), 0.0).spread(100) == list(range(8))


def test_the_training_cube_is_the_normalised_archive_with_its_gaps(filled: Settings) -> None:
    archive = Archive(filled)
    gap = days(5, date(2024, 6, 3))
    reached = archive.open().isel(time=[-1, -2]).load()
    later = reached.assign_coords(time=pd.DatetimeIndex([gap[-1], gap[-2]]))[[*FIELDS, *PER_DAY]]
    archive.upsert(later, archive.ocean_mask(), attribution="nobody")
    snapshot = archive.snapshot_id()
    periods = Periods.of(filled, archive.usable_days(snapshot))
    normaliser = fit_baseline(filled, periods.training, snapshot).normaliser
    cube = open_training_cube(filled, write_training_cube(filled, normaliser, periods, snapshot)).load()
    ice = archive.read(date(2023, 1, 1), gap[-1], snapshot)["sea_ice_fraction"]
    np.testing.assert_array_equal(cube["sea_ice_fraction"].values, ice.values)
    cube = cube["anomaly"]
    expected = normaliser.to_anomaly(archive.read(date(2023, 1, 1), gap[-1], snapshot)["sst"]).load()
    assert cube.dtype == np.float32
    np.testing.assert_array_equal(cube["time"], pd.date_range("2023-01-01", gap[-1]))
    np.testing.assert_array_equal(cube.values, expected.values)
    assert cube.sel(time=slice("2024-06-01", str(gap[-3]))).isnull().all()
    assert cube.sel(time=str(gap[-1])).notnull().any()


def test_a_cube_already_written_is_not_written_again(trained: Settings) -> None:
    store, archive = Store(trained.store), Archive(trained)
    snapshot = archive.snapshot_id()
    periods = Periods.of(trained, archive.usable_days(snapshot))
    normaliser = fit_baseline(trained, periods.training, snapshot).normaliser
    chunk = next(path for path in store.list("training") if "/anomaly/c/" in path)
    store.write(chunk, b"untouched")
    path = write_training_cube(trained, normaliser, periods, snapshot)
    assert chunk.startswith(path)
    assert store.read(chunk) == b"untouched"


def test_a_killed_write_is_done_again(trained: Settings) -> None:
    store, archive = Store(trained.store), Archive(trained)
    path = next(path for path in store.list("training") if path.count("/") == 2).removesuffix("/zarr.json")
    whole = open_training_cube(trained, path).load()
    Path(store.location_of(f"{path}/zarr.json")).unlink()
    snapshot = archive.snapshot_id()
    periods = Periods.of(trained, archive.usable_days(snapshot))
    normaliser = fit_baseline(trained, periods.training, snapshot).normaliser
    assert write_training_cube(trained, normaliser, periods, snapshot) == path
    xr.testing.assert_identical(open_training_cube(trained, path).load(), whole)


def test_a_cube_of_a_longer_validation_period_is_another_cube(trained: Settings) -> None:
    archive = Archive(trained)
    snapshot = archive.snapshot_id()
    periods = Periods.of(trained, archive.usable_days(snapshot))
    normaliser = fit_baseline(trained, periods.training, snapshot).normaliser
    shorter = Periods(periods.training, (periods.validation[0], periods.validation[1] - timedelta(days=10)))
    paths = [write_training_cube(trained, normaliser, p, snapshot) for p in (periods, shorter)]
    ends = [open_training_cube(trained, path)["time"].values[-1] for path in paths]
    assert ends[0] - ends[1] == np.timedelta64(10, "D")
