"""A published cube: opens bare, only grows, says where nothing is, and keeps its structure."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import numpy as np
import pytest
import xarray as xr

from datlstm import daily
from datlstm.cube import Cube
from datlstm.errors import ConflictError, ProductError
from datlstm.store import Store

INIT_TIME = "init_time"
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


def cube_at(url: str, shape: xr.Dataset | None = None, **changed_encoding: Any) -> Cube:
    return Cube(Store(url), "c.zarr", template() if shape is None else shape, {**ENCODING, **changed_encoding})


def fields(kelvin: float, model: str = "m", inits: int = 1, day: date = FIRST, gap: int = 0) -> dict[str, np.ndarray]:
    """Return ``inits`` from ``day`` on, after ``gap`` days without any."""
    first = (day - daily.EPOCH).days
    return {
        INIT_TIME: np.arange(first - gap, first + inits, dtype="int32"),
        "sst": np.full((inits, 2, 3), kelvin, "float32") + np.arange(inits, dtype="float32")[:, None, None],
        "model_id": np.array([model] * inits, np.dtypes.StringDType()),
        "made": np.full(inits, 86400, "int64"),
    }


def write(cube: Cube, rows: dict[str, np.ndarray]) -> None:
    with cube.writing() as writer:
        writer.stage(rows)
        writer.commit()


def bare(url: str, **options: Any) -> xr.Dataset:
    """Open as an analyst does; with warnings as errors."""
    store = Store(url)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        place = store.location_of("c.zarr") if store.is_local else store.zarr("c.zarr", read_only=True)
        return xr.open_zarr(place, **options).load()


def days_of(cube: xr.Dataset) -> list[str]:
    return cube[INIT_TIME].values.astype("datetime64[D]").astype(str).tolist()


def test_there_is_no_cube_before_the_first_write(store_url: str) -> None:
    assert cube_at(store_url).open() is None


def test_it_opens_with_xarray_alone_and_without_a_warning_from_one_document(store_url: str) -> None:
    write(cube_at(store_url), fields(280))
    opened = bare(store_url)
    for path in Store(store_url).list("c.zarr"):
        if path.endswith("zarr.json") and path != "c.zarr/zarr.json":
            Store(store_url).delete(path)
    xr.testing.assert_identical(bare(store_url), opened)


def test_attributes_coordinates_and_types_are_the_templates(store_url: str) -> None:
    write(cube_at(store_url), fields(280))
    opened, wanted = bare(store_url), template()
    assert opened.attrs == wanted.attrs
    assert opened["sst"].dims == wanted["sst"].dims
    assert opened["sst"].dtype == np.float32
    assert opened["sst"].attrs == wanted["sst"].attrs
    for name in ("lead_time", "latitude"):
        xr.testing.assert_identical(opened[name].variable, wanted[name].variable)
    assert opened[INIT_TIME].attrs == {"standard_name": "forecast_reference_time"}
    assert days_of(opened) == ["2024-01-10"]
    assert opened["model_id"].item() == "m"
    assert opened["made"].values.astype("datetime64[D]").astype(str).item() == "1970-01-02"


def test_an_appended_init_leaves_all_others_as_they_were(store_url: str) -> None:
    write(cube_at(store_url), fields(280, "a"))
    before = bare(store_url)
    write(cube_at(store_url), fields(290, "b", day=date(2024, 1, 11)))
    after = bare(store_url)
    assert days_of(after) == ["2024-01-10", "2024-01-11"]
    assert after["sst"][1].values == pytest.approx(290)
    xr.testing.assert_identical(after.isel({INIT_TIME: [0]}), before)


def test_several_inits_at_once_are_the_same_as_one_by_one(store_url: str) -> None:
    write(cube_at(f"{store_url}/at-once"), fields(280, inits=3))
    for i in range(3):
        write(cube_at(f"{store_url}/singly"), fields(280 + i, day=date(2024, 1, 10 + i)))
    xr.testing.assert_identical(bare(f"{store_url}/at-once"), bare(f"{store_url}/singly"))


def test_a_gap_is_explicit(store_url: str) -> None:
    write(cube_at(store_url), fields(280))
    write(cube_at(store_url), fields(283, day=date(2024, 1, 13), gap=2))
    gappy = bare(store_url)
    assert days_of(gappy) == ["2024-01-10", "2024-01-11", "2024-01-12", "2024-01-13"]
    assert gappy["sst"].notnull().all(("lead_time", "latitude")).values.tolist() == [True, False, False, True]
    assert gappy["sst"][1:3].isnull().all()
    assert gappy["model_id"].values.tolist() == ["m", "", "", "m"]


def test_a_writer_is_given_the_published_state_and_may_leave_it_so(store_url: str) -> None:
    cube = cube_at(store_url)
    with cube.writing() as writer:
        assert writer.committed is None
        writer.commit()
    assert cube.open() is None
    write(cube, fields(280))
    with cube.writing() as writer:
        assert writer.committed is not None
        xr.testing.assert_identical(writer.committed.load(), bare(store_url))
        writer.commit()
    assert days_of(bare(store_url)) == ["2024-01-10"]


def test_one_who_leaves_out_an_array_shows_nothing(store_url: str) -> None:
    rows = fields(280)
    del rows["model_id"]
    with pytest.raises(KeyError, match="model_id"):
        write(cube_at(store_url), rows)
    assert cube_at(store_url).open() is None


def test_whenever_a_reader_opened_it_reads_the_state_it_opened(store_url: str) -> None:
    cube = Cube(Store(store_url), "c.zarr", template(), ENCODING)
    readers: list[xr.Dataset] = []
    loaded: list[xr.Dataset] = []
    for i in range(4):
        write(cube, fields(280 + i, f"model {i}", day=date(2024, 1, 10 + 2 * i), gap=min(i, 1)))
        for states in (readers, loaded):
            state = cube.open()
            assert state is not None
            states.append(state)
        loaded[-1].load()
    for lazy, then in zip(readers, loaded, strict=True):
        xr.testing.assert_identical(lazy.load(), then)


def test_every_one_of_many_writers_at_once_appends_or_says_that_it_did_not(store_url: str) -> None:
    def append_after_what_is_there(i: int) -> int | None:
        cube = Cube(Store(store_url), "c.zarr", template(), ENCODING)
        try:
            with cube.writing() as writer:
                day = FIRST.toordinal() + (0 if writer.committed is None else writer.committed.sizes[INIT_TIME])
                writer.stage(fields(280 + i, f"model {i}", day=date.fromordinal(day)))
                writer.commit()
        except ConflictError:
            return None
        return i

    with ThreadPoolExecutor(4) as threads:
        done = {i for i in threads.map(append_after_what_is_there, range(6)) if i is not None}
    state = Cube(Store(store_url), "c.zarr", template(), ENCODING).open()
    assert state is not None
    assert done == set(range(6))
    assert sorted(state["model_id"].values.tolist()) == [f"model {i}" for i in range(6)]
    models = [int(name.split()[1]) for name in state["model_id"].values]
    np.testing.assert_array_equal(state["sst"].values[:, 0, 0], [280 + i for i in models])
    assert days_of(state) == [str(date(2024, 1, 10 + i)) for i in range(6)]


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
    store_url: str, drifted: dict[str, Any], name: str
) -> None:
    write(cube_at(store_url), fields(280))
    before = bare(store_url)
    encoding = {k: v for k, v in drifted.items() if k != "shape"}
    shape = drifted.get("shape", template())
    cube = Cube(Store(store_url), "c.zarr", shape, {k: v for k, v in {**ENCODING, **encoding}.items() if k in shape})
    with pytest.raises(ProductError, match=f"not built as this code builds it, in {name}: publish to a new store"):
        write(cube, fields(281, day=date(2024, 1, 11)))
    xr.testing.assert_identical(bare(store_url), before)
