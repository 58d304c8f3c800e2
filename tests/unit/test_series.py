"""The yearly copies: the cube's values, bit for bit, few objects a point, whole or not there, and never too early."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import obstore
import pytest
import xarray as xr
import zarr

from datlstm.errors import ProductError
from datlstm.ladder import nightly_forecast
from datlstm.products.series import FIELDS, due_years, series_path, series_years, write_series
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from tests.faults.publisher import WRITES, Killed, Mortal
from tests.nights import publish_forecast
from tests.unit.conftest import FIRST_INIT, N_INITS

NEW_YEAR = date(2025, 1, 1)
INITS_2024 = (NEW_YEAR - FIRST_INIT).days


@pytest.fixture(scope="module")
def finished_store(settings_file: Path, published_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose 2024 is over: six inits in May, the last of December, and the second of January."""
    folder = copytree(published_store, tmp_path_factory.mktemp("finished") / "store")
    settings = load_settings(str(settings_file)).replace(store=folder.as_uri())
    made = nightly_forecast(settings, FIRST_INIT + timedelta(days=1))
    for init_day in (date(2024, 12, 31), date(2025, 1, 2)):
        later = made.sst["valid_time"] + np.timedelta64((init_day - made.init_day).days, "D")
        publish_forecast(settings, replace(made, init_day=init_day, sst=made.sst.assign_coords(valid_time=later)))
    return folder


@pytest.fixture
def finished(settings_file: Path, finished_store: Path, tmp_path: Path) -> Settings:
    """Settings with a store of the test's own whose 2024 is over."""
    folder = copytree(finished_store, tmp_path / "finished")
    return load_settings(str(settings_file)).replace(store=folder.as_uri())


class Soon(Mortal):
    """Dies at the numbered write or right after it: chunks are written several at once."""

    def before(self) -> None:
        if self._is_dead or (self._dies_at is not None and self.writes >= self._dies_at and not self._after):
            self._end()

    def done(self) -> None:
        self.writes += 1
        if self._dies_at is not None and self.writes > self._dies_at and self._after:
            self._end()


def opened(settings: Settings, path: str) -> xr.Dataset:
    """Open as an analyst does."""
    return xr.open_zarr(Store(settings.store).location_of(path), chunks=None)


def content(settings: Settings, prefix: str) -> dict[str, bytes | None]:
    store = Store(settings.store)
    return {path: store.read(path) for path in store.list(prefix)}


def test_a_year_is_due_once_it_is_over_and_all_its_inits_are_in(published: Settings, finished: Settings) -> None:
    assert due_years(finished, date(2024, 12, 31)) == []
    assert due_years(finished, NEW_YEAR) == due_years(finished, date(2026, 7, 1)) == [2024]
    assert due_years(published, date(2026, 7, 1)) == []


def test_without_a_forecast_no_year_is_due_and_none_can_be_copied(settings: Settings) -> None:
    assert due_years(settings, date(2030, 1, 1)) == series_years(settings) == []
    with pytest.raises(ProductError, match="does not hold all inits of 2024"):
        write_series(settings, 2024)


@pytest.mark.parametrize("year", [2023, 2025])
def test_a_year_that_is_not_all_in_is_refused(finished: Settings, year: int) -> None:
    with pytest.raises(ProductError, match=f"does not hold all inits of {year}"):
        write_series(finished, year)
    assert content(finished, "series") == {}


def test_the_copy_is_the_cube_bit_for_bit_gaps_and_lineage_too(finished: Settings) -> None:
    assert write_series(finished, 2024) == "published"
    copy, cube = opened(finished, series_path(2024)), opened(finished, "forecast.zarr").sel(init_time="2024")
    assert copy.sizes["init_time"] == INITS_2024
    without_cells = {name for name, variable in cube.variables.items() if "latitude" not in variable.dims}
    assert set(copy.variables) == {*FIELDS, "latitude", *without_cells}
    assert {"sst", "sst_anomaly", "mask", "model_id", "valid_time"} <= set(copy.variables)
    xr.testing.assert_identical(copy.load().drop_attrs(deep=False), cube[list(copy)].load().drop_attrs(deep=False))
    assert copy["sst"].values.tobytes() == cube["sst"].values.tobytes()
    assert int((copy["forecast_source"] != 0).sum()) == N_INITS + 1
    assert copy["sst"].isel(init_time=N_INITS).isnull().all()


def test_the_copy_describes_itself_as_the_cube_does(finished: Settings) -> None:
    write_series(finished, 2024)
    copy, cube = opened(finished, series_path(2024)), opened(finished, "forecast.zarr")
    assert copy.attrs == {**cube.attrs, "title": f"{cube.attrs['title']}, inits of 2024, in chunks for series in time"}
    for name in copy.variables:
        assert copy[name].attrs == cube[name].attrs
    for named in copy["sst"].attrs["ancillary_variables"].split():
        assert named in copy


def test_a_point_s_year_is_one_object_a_variable(finished: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(finished, 2024)
    group = zarr.open_group(Store(finished.store).location_of(series_path(2024)), mode="r")
    assert group["sst"].chunks == (INITS_2024, 4, 8, 8)
    assert group["mask"].chunks == (INITS_2024, 8, 8)
    assert all(array.nchunks == 1 for name, array in group.arrays() if name not in FIELDS)
    reads: list[str] = []
    read = obstore.get_async

    async def counted(store: Any, path: str, **options: Any) -> Any:
        reads.append(path)
        return await read(store, path, **options)

    cube = xr.open_zarr(Store(finished.store).zarr(series_path(2024), read_only=True), chunks=None)
    monkeypatch.setattr(obstore, "get_async", counted)
    cube["sst"].isel(latitude=3, longitude=9).load()
    assert sorted(reads) == ["sst/c/0/0/0/1", "valid_time/c/0/0"]


def test_a_copy_once_made_is_never_written_again_and_two_are_the_same_bytes(finished: Settings, tmp_path: Path) -> None:
    again = finished.replace(store=copytree(tmp_path / "finished", tmp_path / "again").as_uri())
    write_series(finished, 2024)
    before = content(finished, "series")
    assert write_series(finished, 2024) == "unchanged"
    assert due_years(finished, NEW_YEAR) == [] and series_years(finished) == [2024]
    assert content(finished, "series") == before
    write_series(again, 2024)
    assert content(again, "series") == before


def test_the_cube_stays_as_it_is(finished: Settings) -> None:
    before = content(finished, "forecast.zarr")
    write_series(finished, 2024)
    assert content(finished, "forecast.zarr") == before


@pytest.mark.parametrize("after", [False, True])
def test_a_writer_killed_around_any_write_leaves_a_whole_copy_or_none_and_the_next_one_completes_it(
    finished: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    def attempt(settings: Settings, dies_at: int | None) -> int:
        mortal = Soon(dies_at, after, _die)
        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(obstore, name, mortal.wrap(name))
            _survive(lambda: write_series(settings, 2024))
        return mortal.writes

    alive = finished.replace(store=copytree(tmp_path / "finished", tmp_path / "alive").as_uri())
    writes = attempt(alive, None)
    whole = content(alive, "series")
    outcomes = []
    for k in range(0, writes, 6):
        folder = tmp_path / str(k)
        folder.mkdir()
        for part in ("archive", "forecast.zarr"):
            (folder / part).symlink_to(tmp_path / "finished" / part)
        settings = finished.replace(store=folder.as_uri())
        attempt(settings, k)
        outcomes.append(series_years(settings) == [2024])
        if outcomes[-1]:
            assert opened(settings, series_path(2024)).load().equals(opened(alive, series_path(2024)).load())
        assert write_series(settings, 2024) == ("unchanged" if outcomes[-1] else "published")
        chunks = {path: value for path, value in content(settings, "series").items() if "/c/" in path}
        assert chunks == {path: value for path, value in whole.items() if "/c/" in path}
    assert writes >= 20 and outcomes[0] is False and outcomes == sorted(outcomes)


def _die() -> None:
    raise Killed


def _survive(act: Callable[[], object]) -> None:
    try:
        act()
    except Killed:
        pass


def test_values_that_are_no_number_keep_their_place(finished: Settings) -> None:
    write_series(finished, 2024)
    copy, cube = (
        zarr.open_group(Store(finished.store).location_of(path), mode="r")["sst"][:INITS_2024]
        for path in (series_path(2024), "forecast.zarr")
    )
    np.testing.assert_array_equal(np.asarray(copy).view("uint32"), np.asarray(cube).view("uint32"))
