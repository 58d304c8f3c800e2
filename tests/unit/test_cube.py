"""A published cube: opens bare, grows by days, says where nothing is, and keeps its structure."""

import warnings
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from datlstm import daily
from datlstm.cube import Cube
from datlstm.errors import ProductError
from datlstm.products import INIT_TIME
from datlstm.store import Store

FIRST = date(2024, 1, 10)
ENCODING: dict[str, dict[str, Any]] = {
    "sst": {"chunks": (1, 2, 3), "_FillValue": np.float32(np.nan), "fill_value": np.float32(np.nan)},
    "model_id": {"chunks": (daily.LARGE_CHUNK,)},
    "made": {"chunks": (daily.LARGE_CHUNK,), "units": daily.SECOND_UNITS, "dtype": "int64"},
    INIT_TIME: {"chunks": (daily.LARGE_CHUNK,), "units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"},
}


def template(*, latitude: tuple[float, ...] = (37.0, 37.5, 38.0), dtype: str = "float32", leads: int = 2) -> xr.Dataset:
    return xr.Dataset(
        {
            "sst": (
                (INIT_TIME, "lead_time", "latitude"),
                np.zeros((0, leads, len(latitude)), dtype),
                {"units": "kelvin"},
            ),
            "model_id": (INIT_TIME, np.array([], np.dtypes.StringDType()), {"long_name": "what made it"}),
            "made": (INIT_TIME, np.zeros(0, "datetime64[s]")),
        },
        {
            INIT_TIME: (INIT_TIME, np.zeros(0, "datetime64[ns]"), {"standard_name": "forecast_reference_time"}),
            "lead_time": ("lead_time", np.arange(1, leads + 1, dtype="int32"), {"units": "days"}),
            "latitude": ("latitude", np.array(latitude), {"units": "degrees_north"}),
        },
        {"Conventions": "CF-1.11", "title": "a cube"},
    )


def cube_at(folder: Path, shape: xr.Dataset | None = None, **changed_encoding: Any) -> Cube:
    return Cube(Store(str(folder)), "c.zarr", template() if shape is None else shape, {**ENCODING, **changed_encoding})


def fields(kelvin: float, model: str = "m", inits: int = 1) -> dict[str, np.ndarray]:
    return {
        "sst": np.full((inits, 2, 3), kelvin, "float32") + np.arange(inits, dtype="float32")[:, None, None],
        "model_id": np.array([model] * inits, np.dtypes.StringDType()),
        "made": np.full(inits, 86400, "int64"),
    }


def bare(folder: Path) -> xr.Dataset:
    """Open as an analyst does; with warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(folder / "c.zarr", decode_timedelta=False).load()


def days_of(cube: xr.Dataset) -> list[str]:
    return cube[INIT_TIME].values.astype("datetime64[D]").astype(str).tolist()


def test_there_is_no_cube_before_the_first_write(tmp_path: Path) -> None:
    assert cube_at(tmp_path).open() is None


def test_it_opens_with_xarray_alone_and_without_a_warning_from_one_document(tmp_path: Path) -> None:
    cube_at(tmp_path).write(FIRST, fields(280))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(str(tmp_path / "c.zarr"))
    for document in (tmp_path / "c.zarr").glob("*/zarr.json"):
        document.unlink()
    xr.testing.assert_identical(bare(tmp_path), opened.load())


def test_attributes_coordinates_and_types_are_the_templates(tmp_path: Path) -> None:
    cube_at(tmp_path).write(FIRST, fields(280))
    opened, wanted = bare(tmp_path), template()
    assert opened.attrs == wanted.attrs
    assert opened["sst"].dims == wanted["sst"].dims
    assert opened["sst"].dtype == np.float32
    assert opened["sst"].attrs == wanted["sst"].attrs
    for name in ("lead_time", "latitude"):
        xr.testing.assert_identical(opened[name].variable, wanted[name].variable)
    assert opened[INIT_TIME].attrs == {"standard_name": "forecast_reference_time", "first_day": "2024-01-10"}
    assert days_of(opened) == ["2024-01-10"]
    assert opened["model_id"].item() == "m"
    assert opened["made"].values.astype("datetime64[D]").astype(str).item() == "1970-01-02"


def test_an_appended_init_leaves_all_others_as_they_were(tmp_path: Path) -> None:
    cube_at(tmp_path).write(FIRST, fields(280, "a"))
    before = bare(tmp_path)
    cube_at(tmp_path).write(date(2024, 1, 11), fields(290, "b"))
    after = bare(tmp_path)
    assert days_of(after) == ["2024-01-10", "2024-01-11"]
    assert after["sst"][1].values == pytest.approx(290)
    xr.testing.assert_identical(after.isel({INIT_TIME: [0]}), before)


def test_several_inits_at_once_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    cube_at(tmp_path / "at once").write(FIRST, fields(280, inits=3))
    for i in range(3):
        cube_at(tmp_path / "singly").write(date(2024, 1, 10 + i), fields(280 + i))
    xr.testing.assert_identical(bare(tmp_path / "at once"), bare(tmp_path / "singly"))


def test_a_gap_is_explicit_and_can_be_filled_later(tmp_path: Path) -> None:
    cube_at(tmp_path).write(FIRST, fields(280))
    cube_at(tmp_path).write(date(2024, 1, 13), fields(283))
    gappy = bare(tmp_path)
    assert days_of(gappy) == ["2024-01-10", "2024-01-11", "2024-01-12", "2024-01-13"]
    assert gappy["sst"].notnull().all(("lead_time", "latitude")).values.tolist() == [True, False, False, True]
    assert gappy["sst"][1:3].isnull().all()
    assert gappy["model_id"].values.tolist() == ["m", "", "", "m"]
    cube_at(tmp_path).write(date(2024, 1, 11), fields(281, inits=2))
    assert bare(tmp_path)["sst"][:, 0, 0].values.tolist() == [280, 281, 282, 283]


def test_writing_an_init_again_replaces_it_and_twice_the_same_changes_nothing(tmp_path: Path) -> None:
    for kelvin in (280, 281, 281):
        cube_at(tmp_path).write(FIRST, fields(kelvin))
    assert bare(tmp_path)["sst"].values.tolist() == [[[281.0] * 3] * 2]


def test_a_day_before_the_first_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    cube_at(tmp_path).write(FIRST, fields(280))
    before = bare(tmp_path)
    with pytest.raises(ProductError, match="starts at 2024-01-10 and can't take 2024-01-09"):
        cube_at(tmp_path).write(date(2024, 1, 9), fields(279))
    xr.testing.assert_identical(bare(tmp_path), before)


@pytest.mark.parametrize(
    ("drifted", "name"),
    [
        ({"shape": template(dtype="float64")}, "sst"),
        ({"shape": template(leads=3)}, "lead_time, sst"),
        ({"shape": template(latitude=(37.0, 38.0))}, "latitude, sst"),
        ({"shape": template(latitude=(38.0, 38.5, 39.0))}, "latitude"),
        ({"shape": template().drop_vars("made")}, "made"),
        ({"shape": template().transpose("latitude", ...)}, "sst"),
        ({"sst": {**ENCODING["sst"], "chunks": (2, 2, 3)}}, "sst"),
    ],
    ids=["dtype", "leads", "grid size", "moved grid", "variable", "order", "chunks"],
)
def test_a_drifted_structure_is_refused_by_name_and_nothing_changes(
    tmp_path: Path, drifted: dict[str, Any], name: str
) -> None:
    cube_at(tmp_path).write(FIRST, fields(280))
    before = bare(tmp_path)
    encoding = {k: v for k, v in drifted.items() if k != "shape"}
    shape = drifted.get("shape", template())
    cube = Cube(
        Store(str(tmp_path)), "c.zarr", shape, {k: v for k, v in {**ENCODING, **encoding}.items() if k in shape}
    )
    with pytest.raises(ProductError, match=f"not built as this code builds it, in {name}: publish to a new store"):
        cube.write(date(2024, 1, 11), fields(281))
    xr.testing.assert_identical(bare(tmp_path), before)
