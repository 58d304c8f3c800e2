"""One forecast as a NetCDF file: conforming, complete, and the same bytes for the same forecast."""

import io
import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from datlstm.errors import ProductError
from datlstm.products.forecast import read_init
from datlstm.products.netcdf import export_netcdf, netcdf_bytes, netcdf_path, valid_period
from datlstm.settings import Settings
from tests.derived_fields import LINEAGE, with_derived_fields

FIRST, LEADS = date(2024, 5, 20), 4


@pytest.fixture
def init(published: Settings) -> xr.Dataset:
    """A published init with everything that is derived from a forecast."""
    found = read_init(published, FIRST)
    assert found is not None
    return with_derived_fields(found)


def reopened(content: bytes, **decoding: bool) -> xr.Dataset:
    with xr.open_dataset(io.BytesIO(content), engine="h5netcdf", decode_timedelta=False, **decoding) as file:
        return file.load()


def test_the_file_conforms_to_cf_and_acdd(init: xr.Dataset, tmp_path: Path) -> None:
    path, report = tmp_path / "forecast.nc", tmp_path / "report.json"
    path.write_bytes(netcdf_bytes(init))
    checker = Path(sys.executable).with_name("compliance-checker")
    tests = ["-t", "cf:1.11", "-t", "acdd:1.3"]
    run = subprocess.run(
        [checker, *tests, "-f", "json", "-o", report, path], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert report.exists(), run.stderr
    for convention, found in json.loads(report.read_text()).items():
        failed = [entry["msgs"] for entry in found["high_priorities"] if entry["value"][0] < entry["value"][1]]
        assert failed == [], convention


def test_the_file_holds_every_field_of_the_published_init(init: xr.Dataset) -> None:
    file = reopened(netcdf_bytes(init))
    assert {name for name, field in init.variables.items() if field.dims} <= set(file.variables)
    for name in file.variables:
        np.testing.assert_array_equal(file[name].values, init[name].values)
        assert file[name].dtype == init[name].dtype, name
        assert file[name].attrs.keys() == init[name].attrs.keys(), name
    assert file["valid_time"].encoding["units"] == file["init_time"].encoding["units"] == "days since 1970-01-01"
    assert set(file.coords) == set(init.coords)


def test_flags_have_the_type_of_their_variable_and_missing_cells_stay_whole_numbers(init: xr.Dataset) -> None:
    file = reopened(netcdf_bytes(init), mask_and_scale=False)
    for name, flags in (
        ("mask", "flag_masks"),
        ("heatwave_category", "flag_values"),
        ("threshold_flags", "flag_masks"),
    ):
        assert file[name].dtype == file[name].attrs[flags].dtype == np.int8
    assert "_FillValue" not in file["mask"].attrs
    assert (file["heatwave_category"].values[:, init["mask"].values == 2] == -1).all()


def test_a_missing_value_that_the_cube_declares_is_the_files_too(init: xr.Dataset) -> None:
    category = init["heatwave_category"]
    decoded = category.where(category >= 0).astype("float32")
    decoded.encoding = {"dtype": np.dtype("int8"), "_FillValue": np.int8(-1), "chunks": (1, 4, 16, 16)}
    content = netcdf_bytes(init.assign(heatwave_category=decoded))
    raw = reopened(content, mask_and_scale=False)["heatwave_category"]
    np.testing.assert_array_equal(raw.values, category.values)
    assert raw.dtype == raw.attrs["flag_values"].dtype == raw.attrs["_FillValue"].dtype == np.int8
    assert reopened(content)["heatwave_category"].isnull().any()


def test_the_file_says_how_the_forecast_was_made_and_for_when(init: xr.Dataset) -> None:
    attributes = reopened(netcdf_bytes(init)).attrs
    assert {name: attributes[name] for name in LINEAGE} == LINEAGE
    assert attributes["model_id"] == init["model_id"].item()
    assert attributes["archive_snapshot"] == init["archive_snapshot"].item()
    assert (attributes["input_age_days"], attributes["n_missing_inputs"]) == (1, 0)
    assert attributes["id"] == f"datlstm-laizhou-{FIRST}"
    assert attributes["time_coverage_start"] == f"{FIRST + timedelta(days=1)}T00:00:00Z"
    assert attributes["time_coverage_end"] == f"{FIRST + timedelta(days=LEADS)}T23:59:59Z"
    assert attributes["time_coverage_duration"] == f"P{LEADS}D"
    assert attributes["date_created"] == f"{str(init['created_at'].values)[:19]}Z"


def test_the_same_init_gives_the_same_bytes_in_another_process_and_whatever_the_order_of_its_variables(
    published: Settings, init: xr.Dataset, settings_file: Path
) -> None:
    turned = init[list(reversed(list(map(str, init.variables))))]
    assert list(turned.variables) != list(init.variables)
    assert netcdf_bytes(turned) == netcdf_bytes(init)
    script = (
        "import sys, hashlib; from datetime import date\n"
        "from datlstm.settings import load_settings; from datlstm.products.forecast import read_init\n"
        "from datlstm.products.netcdf import netcdf_bytes\n"
        f"settings = load_settings({str(settings_file)!r}).replace(store={published.store!r})\n"
        f"sys.stdout.buffer.write(netcdf_bytes(read_init(settings, date({FIRST:%Y, %-m, %-d}))))\n"
    )
    elsewhere = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    plain = read_init(published, FIRST)
    assert plain is not None
    assert elsewhere == netcdf_bytes(plain)


def test_writing_leaves_the_init_as_it_was(init: xr.Dataset) -> None:
    before = init.copy(deep=True)
    netcdf_bytes(init)
    xr.testing.assert_identical(init, before)
    assert isinstance(init["mask"].attrs["flag_masks"], list)


def test_a_forecast_covers_its_days_to_the_last_second(init: xr.Dataset) -> None:
    start, end = valid_period(init)
    assert (str(start), str(end)) == ("2024-05-21T00:00:00", "2024-05-24T23:59:59")


def test_the_export_is_the_file_that_is_published(published: Settings, tmp_path: Path) -> None:
    path = tmp_path / "forecast.nc"
    export_netcdf(published, FIRST, path)
    init = read_init(published, FIRST)
    assert init is not None
    assert path.read_bytes() == netcdf_bytes(init)
    assert netcdf_path(FIRST) == "netcdf/2024-05-20.nc"


def test_exporting_a_day_never_published_is_refused(published: Settings, tmp_path: Path) -> None:
    with pytest.raises(ProductError, match="no forecast was published from 2020-01-01"):
        export_netcdf(published, date(2020, 1, 1), tmp_path / "forecast.nc")
    assert list(tmp_path.glob("*.nc")) == []
