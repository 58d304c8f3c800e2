"""Files of every shape met in the field come out in the one form of `Source.read`, or are refused by name."""

import fcntl
import os
import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datlstm.errors import GridError, NotYetAvailableError, PermanentSourceError, TransientSourceError
from datlstm.settings import FilesSource as Options
from datlstm.settings import Region, Settings, SourceSettings
from datlstm.sources import Source, open_source
from datlstm.sources.files import FilesSource
from datlstm.sources.product import Product

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
    (product,) = source.products()
    return source.read(product.first_day, product.last_day)


def days_of(dataset: xr.Dataset) -> list[int]:
    """Days since the first one of `plain`."""
    return ((dataset["time"] - np.datetime64(FIRST_DAY)) / np.timedelta64(1, "D")).astype(int).to_numpy().tolist()


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
        days = source.read(FIRST_DAY, FIRST_DAY + timedelta(days=19))
        assert isinstance(source, Source)
        assert days["sst"].dims == ("time", "latitude", "longitude")
        assert days["sst"].dtype == np.float32
        assert days["sst"].attrs["units"] == "kelvin"
        assert days["mask"].dtype == np.int8
        assert days["mask"].dims == ("latitude", "longitude")
        assert days["sst"].sizes["time"] == 20
        assert source.products() == [Product("files", "unversioned", FIRST_DAY, FIRST_DAY + timedelta(days=19))]

    def test_every_day_names_its_product_and_version(self, tmp_path: Path) -> None:
        options = {"product": "OSTIA", "version": "3.1", "attribution": "Met Office"}
        days = read_all(written(plain(2), tmp_path / "a.nc"), **options)
        assert days["source_product"].dims == days["source_version"].dims == ("time",)
        assert days["source_product"].to_numpy().tolist() == ["OSTIA", "OSTIA"]
        assert days["source_version"].to_numpy().tolist() == ["3.1", "3.1"]
        assert days.attrs == {"attribution": "Met Office", "problems": [], "gaps_are_certain": True}

    def test_region_comes_with_one_more_cell_on_each_side(self, expected: xr.Dataset) -> None:
        np.testing.assert_array_equal(expected["latitude"], 49.75 + 0.5 * np.arange(6))
        np.testing.assert_array_equal(expected["longitude"], -1.25 + 0.5 * np.arange(6))

    def test_source_that_ends_at_the_edge_of_the_region_gives_what_it_has(self, tmp_path: Path) -> None:
        days = read_all(written(plain().sel(lat=slice(50, 52), lon=slice(-1, 1)), tmp_path / "a.nc"))
        np.testing.assert_array_equal(days["latitude"], 50.25 + 0.5 * np.arange(4))

    def test_delivered_days_outlive_their_file(self, tmp_path: Path, expected: xr.Dataset) -> None:
        path = written(plain(), tmp_path / "a.nc")
        days = read_all(path)
        path.write_bytes(b"")
        assert_same(days, expected)

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
        none = source.read(date(2020, 2, 25), date(2020, 2, 26))
        assert dict(none.sizes) == {"time": 0, "latitude": 6, "longitude": 6}
        assert none["sst"].attrs["units"] == "kelvin"
        assert none["sst"].dtype == np.float32

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


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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

    def test_one_file_a_day_with_a_scalar_time_joins(self, tmp_path: Path, expected: xr.Dataset) -> None:
        for day in range(4):
            written(plain().isel(time=day), tmp_path / f"day{day}.nc")
        assert_same(read_all(tmp_path / "day*.nc"), expected.isel(time=slice(0, 4)))

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

    def test_file_without_ice_leaves_ice_missing_on_its_days(self, tmp_path: Path) -> None:
        ice = (plain()["analysed_sst"] * 0 + 0.5).drop_attrs()
        written(plain().isel(time=slice(0, 10)), tmp_path / "a1.nc")
        written(plain().assign(sea_ice_fraction=ice).isel(time=slice(10, 20)), tmp_path / "a2.nc")
        days = read_all(tmp_path / "a*.nc")["sea_ice_fraction"].isel(latitude=1, longitude=1)
        assert days.notnull().to_numpy().tolist() == [False] * 10 + [True] * 10

    @pytest.mark.parametrize("change", [0.0, 1.0])
    def test_day_in_two_files_is_refused_with_both_names(self, tmp_path: Path, change: float) -> None:
        written(plain().isel(time=slice(0, 11)), tmp_path / "a1.nc")
        overlap = plain()
        overlap["analysed_sst"] += change
        written(overlap.isel(time=slice(10, 20)), tmp_path / "a2.nc")
        with pytest.raises(PermanentSourceError, match=r"a1.nc and .*a2.nc both hold 2020-03-01"):
            opened(tmp_path / "a*.nc").products()


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

    def test_settings_choose_files(self, tmp_path: Path) -> None:
        options = Options(path=str(written(plain(), tmp_path / "a.nc")))
        source = open_source(Settings(region=REGION, source=SourceSettings(kind="files", files=options)))
        assert isinstance(source, FilesSource)
        assert source.products()[0].first_day == FIRST_DAY


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
            opened(written(dataset, tmp_path / "a.nc")).products()
        assert "a.nc" in str(refusal.value)

    def test_calendar_without_leap_days_is_refused(self, tmp_path: Path) -> None:
        encoding = {"time": {"units": "days since 2000-01-01", "calendar": "noleap"}}
        model = plain().convert_calendar("noleap")
        with pytest.raises(PermanentSourceError, match="calendar 'noleap'"):
            opened(written(model, tmp_path / "a.nc", encoding=encoding)).products()

    def test_named_variable_that_is_absent_is_refused_with_those_present(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentSourceError, match="no variable 'sst'; it has analysed_sst"):
            opened(written(plain(), tmp_path / "a.nc"), variable="sst").products()

    def test_two_declared_temperatures_without_a_usual_name_must_be_told_apart(self, tmp_path: Path) -> None:
        declared = plain()["analysed_sst"].assign_attrs(standard_name="sea_surface_temperature")
        two = plain().drop_vars("analysed_sst").assign(day=declared, night=declared)
        with pytest.raises(PermanentSourceError, match="any of day, night may be meant"):
            opened(written(two, tmp_path / "a.nc")).products()

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
            opened(path).products()

    def test_absent_path_is_refused_with_its_name_and_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentSourceError, match="nowhere.nc does not exist: correct source.files.path"):
            opened(tmp_path / "nowhere.nc").products()

    def test_glob_without_matches_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentSourceError, match=r"no file matches .*\*.nc"):
            opened(tmp_path / "*.nc").products()

    def test_unset_path_is_refused(self) -> None:
        with pytest.raises(PermanentSourceError, match="set source.files.path"):
            opened("").products()

    def test_folder_that_is_no_zarr_store_is_refused_with_a_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(PermanentSourceError, match=r"no Zarr store: give a glob such as .*\*.nc"):
            opened(tmp_path).products()

    def test_file_that_is_no_netcdf_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.nc").write_text("<html>503 Service Unavailable</html>")
        with pytest.raises(PermanentSourceError, match="a.nc starts with b'<htm' and is neither NetCDF-4 nor classic"):
            opened(tmp_path / "a.nc").products()

    def test_path_of_no_known_storage_is_refused(self) -> None:
        with pytest.raises(PermanentSourceError, match=r"names no storage .*correct source.files.path"):
            opened("nowhere://a.nc").products()


Damage = Callable[[Path], object]


def _rewritten(change: Change) -> Damage:
    def damage(path: Path) -> None:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            changed = change(dataset.load()).drop_encoding()
        written(changed, path)

    return damage


def _damage_values(path: Path) -> None:
    """Spoil one compressed chunk of temperatures; everything else still reads."""
    compressed = plain(10).assign_coords(time=plain()["time"][10:])
    noise = np.random.default_rng(0).normal(size=compressed["analysed_sst"].shape)
    compressed["analysed_sst"] += noise
    written(compressed, path, encoding={"analysed_sst": {"zlib": True, "chunksizes": (2, 12, 20)}})
    with h5py.File(path) as file:
        chunk = file["analysed_sst"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)


class TestBrokenFileAmongGoodOnes:
    """Three files of ten, ten and five days, the second of them broken."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> list[Path]:
        pieces = (slice(0, 10), slice(10, 20), slice(20, 25))
        return [written(plain(25).isel(time=days), tmp_path / f"a{i}.nc") for i, days in enumerate(pieces)]

    @pytest.mark.parametrize(
        ("damage", "complaint"),
        [
            (lambda path: path.write_bytes(b""), "a1.nc is empty"),
            (lambda path: path.write_text("<html>"), "a1.nc starts with b'<htm'"),
            (lambda path: path.write_bytes(path.read_bytes()[:5000]), "a1.nc can't be read"),
            (lambda path: path.write_bytes(path.read_bytes()[:8]), "a1.nc can't be read"),
            (_damage_values, "a1.nc can't be read"),
            (_rewritten(lambda d: d.assign_coords(lat=d["lat"] + 0.1)), "a1.nc is on other cells of latitude than"),
            (_rewritten(lambda d: d.isel(lon=slice(0, 5))), "a1.nc has cell centres .* do not cover region"),
            (_rewritten(lambda d: d.isel(time=[0, 1, 1])), "a1.nc holds 2 fields for 2020-03-02"),
            (_rewritten(lambda d: d.isel(time=slice(0, 0))), "a1.nc holds no day"),
            (_rewritten(lambda d: d.isel(lat=slice(0, 0))), "a1.nc has no lat"),
            (_rewritten(lambda d: d.rename(analysed_sst="salinity")), "a1.nc has no sea surface temperature"),
            (_rewritten(_with_units("furlong")), "a1.nc: variable 'analysed_sst' has units 'furlong'"),
            (
                _rewritten(lambda d: d.assign(analysed_sst=d["analysed_sst"] - 273.15)),
                "a1.nc gives .* packing or units",
            ),
            (_rewritten(lambda d: d.drop_vars("time")), "a1.nc has no time"),
        ],
    )
    def test_good_days_are_delivered_and_the_file_is_named(
        self, files: list[Path], damage: Damage, complaint: str
    ) -> None:
        damage(files[1])
        days = read_all(files[0].parent / "a*.nc")
        assert days_of(days) == [*range(10), *range(20, 25)]
        (problem,) = days.attrs["problems"]
        assert re.search(complaint, problem)
        assert "\n" not in problem
        assert (days["mask"] == 2).sum() == 1

    def test_days_of_the_broken_file_alone_are_absent_and_not_refused(self, files: list[Path]) -> None:
        _damage_values(files[1])
        days = opened(files[0].parent / "a*.nc").read(date(2020, 3, 1), date(2020, 3, 10))
        assert days.sizes["time"] == 0
        assert len(days.attrs["problems"]) == 1

    def test_damage_that_only_a_read_of_its_days_meets_is_named_then(self, files: list[Path]) -> None:
        bits = np.ones((12, 20), np.int8)
        masked = plain(25).assign(mask=(("lat", "lon"), bits))
        for path, days in zip(files, (slice(0, 10), slice(10, 20), slice(20, 25)), strict=True):
            written(masked.isel(time=days), path)
        _rewritten(lambda d: d.assign(analysed_sst=d["analysed_sst"] * 100))(files[1])
        source = opened(files[0].parent / "a*.nc")
        assert source.read(FIRST_DAY, FIRST_DAY).attrs["problems"] == []
        assert "packing" in source.read(FIRST_DAY, FIRST_DAY + timedelta(days=12)).attrs["problems"][0]

    def test_cells_of_most_days_win_over_those_of_the_first_file(self, files: list[Path]) -> None:
        _rewritten(lambda d: d.assign_coords(lon=d["lon"] + 0.2))(files[0])
        days = read_all(files[0].parent / "a*.nc")
        assert days_of(days) == [*range(10, 25)]
        assert float(days["longitude"][0]) == -1.25
        assert "a0.nc is on other cells of longitude than" in days.attrs["problems"][0]

    def test_two_files_of_as_many_days_win_over_one(self, files: list[Path]) -> None:
        written(plain(30).isel(time=slice(25, 30)), files[1])
        _rewritten(lambda d: d.assign_coords(lon=d["lon"] + 0.2))(files[0])
        assert days_of(read_all(files[0].parent / "a*.nc")) == [*range(20, 30)]

    def test_without_a_good_file_the_first_problem_is_raised_and_the_others_counted(self, files: list[Path]) -> None:
        for path in files:
            path.write_text("<html>")
        with pytest.raises(PermanentSourceError, match=r"none of the 3 files .*a0.nc starts with .* and 2 more"):
            opened(files[0].parent / "a*.nc").products()

    def test_variable_that_no_file_has_is_refused(self, files: list[Path]) -> None:
        with pytest.raises(PermanentSourceError, match=r"no variable 'tos'; it has analysed_sst.* and 2 more"):
            opened(files[0].parent / "a*.nc", variable="tos").products()

    def test_values_that_can_not_be_read_from_the_only_file_are_refused_by_name(self, files: list[Path]) -> None:
        _damage_values(files[1])
        with pytest.raises(PermanentSourceError, match="a1.nc can't be read .*remove or replace it"):
            opened(files[1]).read(date(2020, 3, 1), date(2020, 3, 10))

    def test_damaged_chunk_of_a_zarr_store_is_refused_by_name(self, tmp_path: Path) -> None:
        plain().to_zarr(tmp_path / "a.zarr", zarr_format=2)
        for chunk in (tmp_path / "a.zarr" / "analysed_sst").glob("[0-9]*"):
            chunk.write_bytes(b"no chunk")
        with pytest.raises(PermanentSourceError, match="a.zarr can't be read"):
            opened(tmp_path / "a.zarr").read(FIRST_DAY, FIRST_DAY)


class TestFilesThatChange:
    def test_file_replaced_after_it_was_opened_is_not_mixed_up_with_the_new_one(self, tmp_path: Path) -> None:
        first = written(plain().isel(time=slice(0, 10)), tmp_path / "a1.nc")
        written(plain().isel(time=slice(10, 20)), tmp_path / "a2.nc")
        source = opened(tmp_path / "a*.nc")
        source.products()
        os.replace(written(plain().isel(time=slice(3, 9)), tmp_path / "new.nc"), first)
        days = source.read(FIRST_DAY, FIRST_DAY + timedelta(days=19))
        assert days_of(days) == [*range(10, 20)]
        assert "a1.nc was written, replaced or removed while it was read" in days.attrs["problems"][0]

    def test_only_file_removed_after_it_was_opened_is_worth_another_try(self, tmp_path: Path) -> None:
        path = written(plain(), tmp_path / "a.nc")
        source = opened(path)
        source.products()
        path.unlink()
        with pytest.raises(TransientSourceError, match="a.nc was written, replaced or removed"):
            source.read(FIRST_DAY, FIRST_DAY)

    def test_only_file_locked_by_its_writer_is_worth_another_try(self, tmp_path: Path) -> None:
        path = written(plain(), tmp_path / "a.nc")
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(TransientSourceError, match="a.nc is being written by another program"):
                opened(path).products()

    def test_storage_that_does_not_answer_is_worth_another_try(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unanswered(self: object, path: str, *args: object, **kwargs: object) -> bool:
            raise ConnectionResetError("reset by peer")

        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.exists", unanswered)
        with pytest.raises(TransientSourceError, match="storage of /remote/c.nc fails"):
            opened("memory://remote/c.nc").products()


def _packed(n_days: int = 20) -> tuple[xr.Dataset, dict[str, Any]]:
    sea = plain(n_days)
    seasonal = 12 * np.sin(np.linspace(0, 6, n_days))[:, None, None]
    sea["analysed_sst"] += seasonal
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": np.int16(-32768)}
    return sea, packing


class TestPacking:
    @pytest.mark.parametrize(
        "lost",
        [("scale_factor",), ("add_offset",), ("scale_factor", "add_offset"), ("_FillValue",)],
    )
    def test_lost_packing_attribute_is_refused_as_such(self, tmp_path: Path, lost: tuple[str, ...]) -> None:
        sea, packing = _packed()
        path = written(sea, tmp_path / "a.nc", encoding={"analysed_sst": packing})
        with h5py.File(path, "r+") as file:
            for attribute in lost:
                del file["analysed_sst"].attrs[attribute]
        with pytest.raises(PermanentSourceError, match=f"a.nc gives .* K: its packing .*{lost[0]} missing"):
            opened(path).read(FIRST_DAY, FIRST_DAY + timedelta(days=19))

    def test_kelvin_called_celsius_is_refused(self, tmp_path: Path) -> None:
        celsius = _with_units("celsius")(plain())
        with pytest.raises(PermanentSourceError, match="from 553.* packing or units are wrong"):
            opened(written(celsius, tmp_path / "a.nc")).read(FIRST_DAY, FIRST_DAY)

    def test_sound_packing_is_delivered(self, tmp_path: Path) -> None:
        sea, packing = _packed()
        days = read_all(written(sea, tmp_path / "a.nc", encoding={"analysed_sst": packing}))
        cells = {"lat": days["latitude"].to_numpy(), "lon": days["longitude"].to_numpy()}
        np.testing.assert_allclose(days["sst"], sea["analysed_sst"].sel(cells), atol=0.006)

    def test_single_spoilt_day_is_left_to_the_quality_checks(self, tmp_path: Path) -> None:
        sea = plain()
        sea["analysed_sst"][4] = 0.0
        days = read_all(written(sea, tmp_path / "a.nc"))
        assert days.sizes["time"] == 20
        assert float(days["sst"].isel(time=4).max()) == 0.0

    def test_fill_on_land_under_a_mask_is_no_fault(self, tmp_path: Path, expected: xr.Dataset) -> None:
        bits = np.ones((12, 20), np.int8)
        bits[5, 9] = 2
        filled = plain().fillna(-999.0).assign(mask=(("lat", "lon"), bits))
        filled["analysed_sst"].attrs["units"] = "kelvin"
        assert_same(read_all(written(filled, tmp_path / "a.nc")), expected)


class TestAnalysisError:
    @pytest.mark.parametrize(
        ("name", "attributes"),
        [
            ("analysis_error", {"units": "kelvin"}),
            ("analysed_sst_uncertainty", {"units": "K"}),
            ("err", {"units": "Celsius"}),
            ("odd", {"units": "kelvin", "standard_name": "sea_surface_foundation_temperature standard_error"}),
        ],
    )
    def test_error_is_found_and_delivered_in_kelvin(
        self, tmp_path: Path, name: str, attributes: dict[str, str]
    ) -> None:
        error = (plain()["analysed_sst"] * 0 + 0.25).assign_attrs(attributes)
        days = read_all(written(plain().assign({name: error}), tmp_path / "a.nc"))
        assert days["analysis_error"].dtype == np.float32
        assert days["analysis_error"].attrs["units"] == "kelvin"
        assert float(days["analysis_error"].max()) == 0.25

    def test_relative_error_is_no_analysis_error(self, tmp_path: Path) -> None:
        error = (plain()["analysed_sst"] * 0 + 25).assign_attrs(units="%")
        assert "analysis_error" not in read_all(written(plain().assign(error=error), tmp_path / "a.nc"))
