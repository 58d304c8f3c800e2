"""Files of every shape met in the field come out in the one form of `Source.read`, or are refused by name."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datlstm.errors import GridError, NotYetAvailableError, PermanentSourceError
from datlstm.settings import FilesSource as Options
from datlstm.settings import Region, Settings, SourceSettings
from datlstm.sources import Source, open_source
from datlstm.sources.files import FilesSource

REGION = Region(name="greenwich", title="Greenwich", south=50, north=52, west=-1, east=1, resolution=0.5)
FIRST_DAY = date(2020, 2, 20)


def plain(n_days: int = 20) -> xr.Dataset:
    """Kelvin on 12 x 20 cells of 0.5 degrees around the region; one cell inside it is land."""
    latitude = 48.25 + 0.5 * np.arange(12)
    longitude = -4.75 + 0.5 * np.arange(20)
    time = np.datetime64(FIRST_DAY, "ns") + np.arange(n_days) * np.timedelta64(1, "D")
    days, rows, columns = np.meshgrid(np.arange(n_days), latitude, longitude, indexing="ij")
    kelvin = 280 + 0.1 * days + 0.01 * rows + 0.001 * columns
    kelvin[:, 5, 9] = np.nan
    return xr.Dataset(
        {"analysed_sst": (("time", "lat", "lon"), kelvin, {"units": "kelvin"})},
        {"time": time, "lat": latitude, "lon": longitude},
    )


def written(dataset: xr.Dataset, path: Path, **arguments: Any) -> Path:
    dataset.to_netcdf(path, engine="h5netcdf", **arguments)
    return path


def opened(path: Path | str, **options: Any) -> FilesSource:
    return FilesSource(REGION, Options(path=str(path), **options))


def read_all(path: Path | str, **options: Any) -> xr.Dataset:
    source = opened(path, **options)
    return source.read(*source.coverage())


@pytest.fixture
def expected(tmp_path: Path) -> xr.Dataset:
    return read_all(written(plain(), tmp_path / "expected.nc")).compute()


def assert_same(actual: xr.Dataset, expected: xr.Dataset) -> None:
    assert dict(actual.sizes) == dict(expected.sizes)
    np.testing.assert_array_equal(actual["time"], expected["time"])
    for name in ("latitude", "longitude"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=1e-4)
    np.testing.assert_allclose(actual["sst"], expected["sst"], rtol=0, atol=2e-3)
    np.testing.assert_array_equal(actual["mask"], expected["mask"])


class TestForm:
    def test_a_plain_file_arrives_in_the_form_of_the_protocol(self, tmp_path: Path) -> None:
        source = opened(written(plain(), tmp_path / "a.nc"))
        days = source.read(*source.coverage())
        assert isinstance(source, Source)
        assert days["sst"].dims == ("time", "latitude", "longitude")
        assert days["sst"].dtype == np.float32
        assert days["sst"].attrs["units"] == "kelvin"
        assert days["mask"].dtype == np.int8
        assert days["mask"].dims == ("latitude", "longitude")
        assert source.coverage() == (FIRST_DAY, FIRST_DAY + timedelta(days=19))

    def test_region_comes_with_one_more_cell_on_each_side(self, expected: xr.Dataset) -> None:
        np.testing.assert_array_equal(expected["latitude"], 49.75 + 0.5 * np.arange(6))
        np.testing.assert_array_equal(expected["longitude"], -1.25 + 0.5 * np.arange(6))

    def test_source_that_ends_at_the_edge_of_the_region_gives_what_it_has(self, tmp_path: Path) -> None:
        days = read_all(written(plain().sel(lat=slice(50, 52), lon=slice(-1, 1)), tmp_path / "a.nc"))
        np.testing.assert_array_equal(days["latitude"], 50.25 + 0.5 * np.arange(4))

    def test_days_are_read_lazily_in_chunks_of_a_year(self, tmp_path: Path) -> None:
        days = read_all(written(plain(800), tmp_path / "a.nc"))
        assert days["sst"].chunks is not None
        assert days["sst"].chunks[0] == (365, 365, 70)

    def test_chunks_follow_those_of_the_file(self, tmp_path: Path) -> None:
        encoding = {"analysed_sst": {"chunksizes": (100, 12, 20)}}
        days = read_all(written(plain(800), tmp_path / "a.nc", encoding=encoding))
        assert days["sst"].chunks is not None
        assert days["sst"].chunks[0] == (300, 300, 200)

    def test_noon_stamps_become_calendar_days(self, tmp_path: Path, expected: xr.Dataset) -> None:
        noon = plain().assign_coords(time=plain()["time"] + np.timedelta64(12, "h"))
        assert_same(read_all(written(noon, tmp_path / "a.nc")), expected)

    def test_first_and_last_day_asked_are_included(self, tmp_path: Path) -> None:
        source = opened(written(plain(), tmp_path / "a.nc"))
        days = source.read(date(2020, 2, 28), date(2020, 3, 2))["time"].to_numpy().astype("datetime64[D]").astype(str)
        assert days.tolist() == ["2020-02-28", "2020-02-29", "2020-03-01", "2020-03-02"]

    def test_a_day_the_files_lack_is_absent(self, tmp_path: Path) -> None:
        gap = plain().isel(time=[0, 1, 2, 10, 11])
        source = opened(written(gap, tmp_path / "a.nc"))
        assert source.read(date(2020, 2, 21), date(2020, 3, 1)).sizes["time"] == 3
        assert source.read(date(2020, 2, 25), date(2020, 2, 26)).sizes["time"] == 0

    def test_days_after_the_end_are_not_yet_available(self, tmp_path: Path) -> None:
        source = opened(written(plain(), tmp_path / "a.nc"))
        with pytest.raises(NotYetAvailableError, match="ends on 2020-03-10"):
            source.read(date(2020, 3, 11), date(2020, 3, 11))

    def test_singleton_depth_is_dropped_and_dims_are_ordered(self, tmp_path: Path, expected: xr.Dataset) -> None:
        deep = plain().expand_dims(zlev=[0.5]).transpose("lon", "lat", "zlev", "time")
        assert_same(read_all(written(deep, tmp_path / "a.nc")), expected)

    def test_coordinates_and_variable_are_found_by_cf_attributes(self, tmp_path: Path, expected: xr.Dataset) -> None:
        odd = plain().rename({"lat": "breite", "lon": "laenge", "time": "tag", "analysed_sst": "wassertemperatur"})
        odd["breite"].attrs["units"] = "degrees_north"
        odd["laenge"].attrs["standard_name"] = "longitude"
        odd["tag"].attrs["standard_name"] = "time"
        odd["wassertemperatur"].attrs["standard_name"] = "sea_surface_temperature"
        odd["other"] = (odd["wassertemperatur"] - 5).drop_attrs(deep=False)
        assert_same(read_all(written(odd, tmp_path / "a.nc")), expected)

    def test_named_variable_wins_over_usual_names(self, tmp_path: Path, expected: xr.Dataset) -> None:
        two = plain().assign(sst_v3=plain()["analysed_sst"]).assign(analysed_sst=plain()["analysed_sst"] + 9)
        assert_same(read_all(written(two, tmp_path / "a.nc"), variable="sst_v3"), expected)

    def test_closing_meridian_that_occurs_twice_counts_once(self, tmp_path: Path) -> None:
        longitude = np.linspace(0, 360, 721)
        kelvin = 280 + np.cos(np.deg2rad(longitude)) + np.zeros((2, 12, 1))
        coords = {"time": plain(2)["time"], "lat": plain()["lat"], "lon": longitude}
        globe = xr.Dataset({"sst": (("time", "lat", "lon"), kelvin, {"units": "K"})}, coords)
        days = read_all(written(globe, tmp_path / "a.nc"))
        np.testing.assert_allclose(days["longitude"], -1.5 + 0.5 * np.arange(7), atol=1e-9)
        np.testing.assert_allclose(days["sst"][0, 0], 280 + np.cos(np.deg2rad(days["longitude"])), atol=1e-4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(20)),
    is_flipped=st.booleans(),
    is_rolled=st.booleans(),
    is_celsius=st.booleans(),
    is_packed=st.booleans(),
    coordinate_dtype=st.sampled_from(["float32", "float64"]),
    is_zarr=st.booleans(),
)
def test_record_reads_alike_however_it_is_stored(
    tmp_path_factory: pytest.TempPathFactory,
    expected: xr.Dataset,
    order: list[int],
    is_flipped: bool,
    is_rolled: bool,
    is_celsius: bool,
    is_packed: bool,
    coordinate_dtype: str,
    is_zarr: bool,
) -> None:
    stored = plain().isel(time=order)
    if is_flipped:
        stored = stored.isel(lat=slice(None, None, -1))
    if is_rolled:
        stored = stored.assign_coords(lon=stored["lon"] % 360).sortby("lon")
    if is_celsius:
        stored["analysed_sst"] = (stored["analysed_sst"] - 273.15).assign_attrs(units="degree_Celsius")
    stored = stored.assign_coords({name: stored[name].astype(coordinate_dtype) for name in ("lat", "lon")})
    offset = 10.0 if is_celsius else 283.15
    packing = {"dtype": "int16", "scale_factor": 0.001, "add_offset": offset, "_FillValue": np.int16(-32768)}
    encoding = {"analysed_sst": packing} if is_packed else {}
    folder = tmp_path_factory.mktemp("stored")
    if is_zarr:
        stored.to_zarr(folder / "a.zarr", zarr_format=2, encoding=encoding)
        assert_same(read_all(folder / "a.zarr"), expected)
    else:
        assert_same(read_all(written(stored, folder / "a.nc", encoding=encoding)), expected)


class TestMaskAndIce:
    def test_without_a_mask_a_cell_with_any_value_is_water(self, tmp_path: Path) -> None:
        sparse = plain()
        sparse["analysed_sst"][:19, 4, 9] = np.nan
        mask = read_all(written(sparse, tmp_path / "a.nc"))["mask"]
        assert mask.sel(latitude=[50.25, 50.75], longitude=-0.25).to_numpy().tolist() == [1, 2]
        assert int((mask == 2).sum()) == 1

    def test_mask_bits_decide_where_there_are_some(self, tmp_path: Path) -> None:
        bits = np.full((20, 12, 20), 1, np.int8)
        bits[:, 4] = 9  # water with ice
        bits[:, 6] = 2
        bits[:5, 7, 9] = 2  # a coast that moves once
        masked = plain().assign(mask=(("time", "lat", "lon"), bits))
        days = read_all(written(masked, tmp_path / "a.nc")).compute()
        assert (days["mask"].sel(latitude=[50.25, 51.25]) == [[1], [2]]).all()
        assert int(days["mask"].sel(latitude=51.75, longitude=-0.25)) == 1
        assert days["sst"].sel(latitude=51.25).isnull().all()

    def test_static_named_mask_is_used(self, tmp_path: Path) -> None:
        bits = np.where(np.arange(12)[:, None] < 6, 1, 2) + np.zeros((12, 20), int)
        masked = plain().assign(lsm=(("lat", "lon"), bits.astype(np.int8)))
        mask = read_all(written(masked, tmp_path / "a.nc"), mask_variable="lsm")["mask"]
        assert mask.isel(longitude=0).to_numpy().tolist() == [1, 1, 1, 2, 2, 2]

    def test_ice_is_a_fraction_whatever_its_units(self, tmp_path: Path) -> None:
        percent = plain().assign(siconc=(plain()["analysed_sst"] * 0 + 40).assign_attrs(units="%"))
        days = read_all(written(percent, tmp_path / "a.nc"))
        assert days["sea_ice_fraction"].dtype == np.float32
        assert float(days["sea_ice_fraction"].max()) == pytest.approx(0.4)

    def test_fraction_that_oisst_calls_percent_stays_a_fraction(self, tmp_path: Path) -> None:
        fraction = (plain()["analysed_sst"] * 0 + 0.4).assign_attrs(units="%", valid_max=np.int16(100))
        encoding = {"ice": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": np.int16(-999)}}
        days = read_all(written(plain().assign(ice=fraction), tmp_path / "a.nc", encoding=encoding))
        assert float(days["sea_ice_fraction"].max()) == pytest.approx(0.4)

    def test_record_without_ice_has_no_ice_variable(self, expected: xr.Dataset) -> None:
        assert "sea_ice_fraction" not in expected


class TestManyFiles:
    def test_glob_of_files_is_one_sorted_record(self, tmp_path: Path, expected: xr.Dataset) -> None:
        for name, days in (("c", slice(0, 3)), ("a", slice(3, 13)), ("b", slice(13, 20))):
            written(plain().isel(time=days), tmp_path / f"{name}.nc")
        assert_same(read_all(tmp_path / "[abc].nc"), expected)

    def test_interleaved_files_are_sorted(self, tmp_path: Path, expected: xr.Dataset) -> None:
        written(plain().isel(time=slice(0, None, 2)), tmp_path / "even.nc")
        written(plain().isel(time=slice(1, None, 2)), tmp_path / "odd.nc")
        assert_same(read_all(tmp_path / "[eo][vd][ed]*.nc"), expected)

    def test_one_file_a_day_with_a_scalar_time_joins_without_tiny_chunks(
        self, tmp_path: Path, expected: xr.Dataset
    ) -> None:
        for day in range(4):
            written(plain().isel(time=day), tmp_path / f"day{day}.nc")
        days = read_all(tmp_path / "day*.nc")
        assert_same(days, expected.isel(time=slice(0, 4)))
        assert days["sst"].chunks is not None
        assert len(days["sst"].chunks[0]) == 1

    def test_coordinates_that_differ_by_rounding_are_the_same_cells(self, tmp_path: Path, expected: xr.Dataset) -> None:
        later = plain().isel(time=slice(10, 20))
        written(plain().isel(time=slice(0, 10)), tmp_path / "a1.nc")
        written(later.assign_coords(lat=later["lat"] + 1e-5, lon=later["lon"] - 1e-5), tmp_path / "a2.nc")
        assert_same(read_all(tmp_path / "a*.nc"), expected)

    def test_files_in_different_units_join_in_kelvin(self, tmp_path: Path, expected: xr.Dataset) -> None:
        celsius = plain().isel(time=slice(10, 20))
        celsius["analysed_sst"] = (celsius["analysed_sst"] - 273.15).assign_attrs(units="degC")
        written(plain().isel(time=slice(0, 10)), tmp_path / "a1.nc")
        written(celsius, tmp_path / "a2.nc")
        assert_same(read_all(tmp_path / "a*.nc"), expected)

    def test_file_on_other_cells_is_refused_by_name(self, tmp_path: Path) -> None:
        later = plain().isel(time=slice(10, 20))
        written(plain().isel(time=slice(0, 10)), tmp_path / "a1.nc")
        written(later.assign_coords(lat=later["lat"] + 0.1), tmp_path / "a2.nc")
        with pytest.raises(PermanentSourceError, match="a2.nc is on other cells of latitude"):
            opened(tmp_path / "a*.nc").coverage()

    def test_file_without_ice_leaves_ice_missing_on_its_days(self, tmp_path: Path) -> None:
        ice = (plain()["analysed_sst"] * 0 + 0.5).drop_attrs()
        written(plain().isel(time=slice(0, 10)), tmp_path / "a1.nc")
        written(plain().assign(sea_ice_fraction=ice).isel(time=slice(10, 20)), tmp_path / "a2.nc")
        days = read_all(tmp_path / "a*.nc")["sea_ice_fraction"].isel(latitude=1, longitude=1)
        assert days.notnull().to_numpy().tolist() == [False] * 10 + [True] * 10

    @pytest.mark.parametrize("change", [0.0, 1.0])
    def test_day_in_two_files_is_refused_by_name(self, tmp_path: Path, change: float) -> None:
        written(plain().isel(time=slice(0, 11)), tmp_path / "a1.nc")
        overlap = plain()
        overlap["analysed_sst"] += change
        written(overlap.isel(time=slice(10, 20)), tmp_path / "a2.nc")
        with pytest.raises(PermanentSourceError, match="2 fields for 2020-03-01"):
            opened(tmp_path / "a*.nc").coverage()


class TestStorage:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("is_consolidated", [True, False])
    @pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")
    def test_zarr_stores_of_either_format_are_read(
        self, tmp_path: Path, expected: xr.Dataset, zarr_format: Any, is_consolidated: bool
    ) -> None:
        plain().to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, consolidated=is_consolidated)
        assert_same(read_all(tmp_path / "a.zarr"), expected)

    def test_file_url_is_read(self, tmp_path: Path, expected: xr.Dataset) -> None:
        assert_same(read_all(written(plain(), tmp_path / "a.nc").as_uri()), expected)

    def test_netcdf_and_zarr_are_read_from_remote_filesystems(self, tmp_path: Path, expected: xr.Dataset) -> None:
        import fsspec

        local, memory = str(tmp_path), fsspec.filesystem("memory")
        plain().to_zarr(tmp_path / "a.zarr", zarr_format=2)
        memory.put(str(written(plain(), tmp_path / "a.nc")), "/remote/a.nc")
        memory.put(f"{local}/a.zarr", "/remote/a.zarr", recursive=True)
        assert_same(read_all("memory://remote/*.nc"), expected)
        assert_same(read_all("memory://remote/a.zarr"), expected)

    def test_classic_netcdf_is_read(self, tmp_path: Path, expected: xr.Dataset) -> None:
        plain().to_netcdf(tmp_path / "a.nc", engine="scipy")
        assert_same(read_all(tmp_path / "a.nc"), expected)

    def test_file_is_opened_once(self, tmp_path: Path) -> None:
        path = written(plain(), tmp_path / "a.nc")
        source = opened(path)
        source.coverage()
        path.rename(tmp_path / "moved.nc")
        assert source.coverage()[0] == FIRST_DAY

    def test_settings_choose_files(self, tmp_path: Path) -> None:
        options = Options(path=str(written(plain(), tmp_path / "a.nc")), product="OSTIA", version="1", attribution="me")
        source = open_source(Settings(region=REGION, source=SourceSettings(kind="files", files=options)))
        assert (source.product, source.version, source.attribution) == ("OSTIA", "1", "me")
        assert source.coverage()[0] == FIRST_DAY


Change = Callable[[xr.Dataset], xr.Dataset]


def _with_units(units: str | None) -> Change:
    def change(dataset: xr.Dataset) -> xr.Dataset:
        dataset["analysed_sst"].attrs = {} if units is None else {"units": units}
        return dataset

    return change


def _curvilinear(dataset: xr.Dataset) -> xr.Dataset:
    latitude, longitude = np.meshgrid(dataset["lat"], dataset["lon"], indexing="ij")
    bare = dataset.drop_vars(["lat", "lon"]).rename(lat="y", lon="x")
    return bare.assign_coords(nav_lat=(("y", "x"), latitude), nav_lon=(("y", "x"), longitude))


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (_with_units("furlong"), "units 'furlong', not kelvin or degree_Celsius"),
            (_with_units(None), "units '', not kelvin"),
            (_curvilinear, "curvilinear grid .nav_lat"),
            (lambda d: d.rename(lat="a"), "no latitude among .*a.*standard_name='latitude'"),
            (lambda d: d.drop_vars("time"), "no time"),
            (lambda d: d.rename(analysed_sst="salinity"), "no sea surface temperature among salinity"),
            (lambda d: d.assign_coords(lat=d["lat"] * 1e5), "not degrees"),
            (lambda d: d.assign_coords(time=np.arange(20)), "time does not decode to dates"),
            (lambda d: xr.concat([d, d + 0.1], "depth", join="exact").assign_coords(depth=[0, 5]), "select one depth"),
            (lambda d: d.isel(time=slice(0, 0)), "holds no day"),
            (lambda d: d.isel(time=[0, 1, 1]), "2 fields for 2020-02-21"),
            (
                lambda d: d.assign_coords(time=d["time"][0].to_numpy() + np.arange(20) * np.timedelta64(6, "h")),
                "4 fields for 2020-02-20.*average",
            ),
        ],
    )
    def test_layout_that_can_not_be_trusted_is_refused(self, tmp_path: Path, change: Change, complaint: str) -> None:
        dataset = change(plain())
        for name in dataset.variables:
            dataset[name].encoding = {}
        with pytest.raises(PermanentSourceError, match=complaint) as refusal:
            opened(written(dataset, tmp_path / "a.nc")).coverage()
        assert "a.nc" in str(refusal.value)

    def test_calendar_without_leap_days_is_refused(self, tmp_path: Path) -> None:
        encoding = {"time": {"units": "days since 2000-01-01", "calendar": "noleap"}}
        model = plain().convert_calendar("noleap")
        with pytest.raises(PermanentSourceError, match="calendar 'noleap'"):
            opened(written(model, tmp_path / "a.nc", encoding=encoding)).coverage()

    def test_named_variable_that_is_absent_is_refused_with_those_present(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentSourceError, match="no variable 'sst'; it has analysed_sst"):
            opened(written(plain(), tmp_path / "a.nc"), variable="sst").coverage()

    def test_two_declared_temperatures_without_a_usual_name_must_be_told_apart(self, tmp_path: Path) -> None:
        declared = plain()["analysed_sst"].assign_attrs(standard_name="sea_surface_temperature")
        two = plain().drop_vars("analysed_sst").assign(day=declared, night=declared)
        with pytest.raises(PermanentSourceError, match="any of day, night may be meant"):
            opened(written(two, tmp_path / "a.nc")).coverage()

    @pytest.mark.parametrize(
        "cells",
        [
            {"lat": slice(0, 6)},
            {"lon": slice(9, 20)},
            {"lon": [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14]},
            {"lat": [5]},
        ],
    )
    def test_region_that_is_not_covered_is_refused_with_both_boxes(self, tmp_path: Path, cells: Any) -> None:
        path = written(plain().isel(cells), tmp_path / "a.nc")
        with pytest.raises(GridError, match=r"latitude .* do not cover region 'greenwich': latitude 50 to 52"):
            opened(path).coverage()

    def test_absent_path_is_refused_with_its_name_and_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentSourceError, match="nowhere.nc does not exist: correct source.files.path"):
            opened(tmp_path / "nowhere.nc").coverage()

    def test_glob_without_matches_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentSourceError, match=r"no file matches .*\*.nc"):
            opened(tmp_path / "*.nc").coverage()

    def test_unset_path_is_refused(self) -> None:
        with pytest.raises(PermanentSourceError, match="set source.files.path"):
            opened("").coverage()

    def test_folder_that_is_no_zarr_store_is_refused_with_a_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentSourceError, match=r"no Zarr store: give a glob such as .*\*.nc"):
            opened(tmp_path).coverage()

    def test_damaged_file_among_good_ones_is_named(self, tmp_path: Path) -> None:
        written(plain().isel(time=slice(0, 10)), tmp_path / "a1.nc")
        content = written(plain().isel(time=slice(10, 20)), tmp_path / "a2.nc").read_bytes()
        (tmp_path / "a2.nc").write_bytes(content[: len(content) // 2])
        with pytest.raises(PermanentSourceError, match="a2.nc can't be read .*remove or replace it"):
            opened(tmp_path / "a*.nc").coverage()

    def test_file_that_is_no_netcdf_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.nc").write_text("<html>503 Service Unavailable</html>")
        with pytest.raises(PermanentSourceError, match="a.nc starts with b'<htm' and is not NetCDF"):
            opened(tmp_path / "a.nc").coverage()
