"""The pointer: what it names is there, and names one night's joint state of both cubes."""

import json
from datetime import date, timedelta

import pytest
import xarray as xr

from datlstm.errors import ProductError
from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import forecast_cube, read_init
from datlstm.products.latest import LATEST, latest, read_latest
from datlstm.products.skill import skill_cube
from datlstm.settings import Settings
from datlstm.store import Store, as_json
from tests.nights import publish_forecast, verify

FIRST, N_INITS = date(2024, 5, 20), 6
NEWEST = FIRST + timedelta(days=N_INITS - 1)


@pytest.fixture
def init(published: Settings) -> xr.Dataset:
    """The newest published init."""
    found = read_init(published, NEWEST)
    assert found is not None
    return found


def test_the_pointer_names_the_forecast_and_all_that_belongs_to_it(published: Settings, init: xr.Dataset) -> None:
    root = published.store
    assert latest(published, init, N_INITS, 3) == {
        "format_version": 1,
        "region": "laizhou",
        "synthetic": True,
        "init_time": str(NEWEST),
        "model_id": init["model_id"].item(),
        "forecast_source": "model",
        "input_age_days": 1,
        "forecast": {"url": f"{root}/forecast.zarr", "inits": N_INITS},
        "skill": {"url": f"{root}/skill.zarr", "scorings": 3, "summary": f"{root}/skill/summary.json"},
        "netcdf": f"{root}/netcdf/{NEWEST}.nc",
        "quicklook": f"{root}/quicklook/{NEWEST}.png",
        "stac": {"item": f"{root}/stac/2024/{NEWEST}.json", "collection": f"{root}/stac/collection.json"},
        "page": f"{root}/site/index.html",
    }


def test_the_pointer_has_the_same_bytes_whenever_it_is_made(published: Settings, init: xr.Dataset) -> None:
    assert as_json(latest(published, init, 6, 3)) == as_json(latest(published, init.copy(deep=True), 6, 3))


def test_cubes_cut_to_the_pointers_lengths_are_what_that_night_left(published: Settings, init: xr.Dataset) -> None:
    verify(published, NEWEST)
    cubes = forecast_cube(published), skill_cube(published)
    before = [cube.open() for cube in cubes]
    assert before[0] is not None and before[1] is not None
    states = [cube.load() for cube in before if cube is not None]
    made = latest(published, init, before[0].sizes["init_time"], before[1].sizes["scoring"])

    publish_forecast(published, nightly_forecast(published, NEWEST + timedelta(days=4)))
    verify(published, NEWEST + timedelta(days=2))
    forecast, skill = (cube.open() for cube in cubes)
    assert forecast is not None and skill is not None
    assert (
        forecast.sizes["init_time"] > made["forecast"]["inits"] and skill.sizes["scoring"] > made["skill"]["scorings"]
    )
    xr.testing.assert_identical(forecast.isel(init_time=slice(made["forecast"]["inits"])).load(), states[0])
    xr.testing.assert_identical(skill.isel(scoring=slice(made["skill"]["scorings"])).load(), states[1])


def test_what_was_written_is_read_back(published: Settings, init: xr.Dataset) -> None:
    store = Store(published.store)
    store.write_json(LATEST, latest(published, init, N_INITS, 0))
    assert read_latest(store) == latest(published, init, N_INITS, 0)


def test_before_the_first_night_there_is_no_pointer(settings: Settings, store_url: str) -> None:
    assert read_latest(Store(store_url)) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "JSON"),
        (b'{"init_time": "2024', "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "it: "),
        (b'{"init_time": "2024-05-25"}', "format_version: Field required"),
    ],
)
def test_a_damaged_pointer_is_named_with_what_to_do(settings: Settings, content: bytes, problem: str) -> None:
    store = Store(settings.store)
    store.write(LATEST, content)
    with pytest.raises(ProductError, match=f"latest.json is damaged.*{problem}.*publish a night again"):
        read_latest(store)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format_version": 2}, "latest.json has format 2, .* a newer release wrote it"),
        ({"forecast": {"url": "x", "inits": "six"}}, "forecast.inits"),
    ],
)
def test_a_pointer_of_another_form_is_refused(
    published: Settings, init: xr.Dataset, change: dict[str, object], problem: str
) -> None:
    store = Store(published.store)
    store.write(LATEST, json.dumps({**latest(published, init, 6, 0), **change}).encode())
    with pytest.raises(ProductError, match=problem):
        read_latest(store)
