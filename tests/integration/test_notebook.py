"""The analyst's notebook and guide on a store of several nights: as a reader has them, and what they come to."""

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import matplotlib
import nbformat
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot
from matplotlib.image import imread
from nbclient import NotebookClient
from nbformat import NotebookNode

from datlstm.archive import consecutive
from datlstm.ingest import ingest
from datlstm.ladder import nightly_forecast
from datlstm.preparation import prepare
from datlstm.products.forecast import draft_forecast, published_days, read_init
from datlstm.products.publication import publish
from datlstm.products.scoring import score
from datlstm.products.series import write_series
from datlstm.products.skill import PROVISIONAL, standing_skill
from datlstm.products.skill_summary import skill_by_lead
from datlstm.registry import promote
from datlstm.settings import Settings, load_settings
from datlstm.sources import open_source
from datlstm.store import Store
from datlstm.store_server import StoreServer
from datlstm.synthetic import fence
from datlstm.training import retrain
from tests.conftest import FIRST_DAY, PUBLIC_BUCKET, REGION

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "analyst.ipynb"
GUIDES = {"guide": ROOT / "docs" / "analyst.md", "readme": ROOT / "README.md"}

# A whole year to train on, beside what validation takes.
FIRST_ARCHIVED = date(2022, 10, 1)
# The nights go over New Year, so that the year before gets its copy for series; some are missed.
FIRST_NIGHT, LAST_NIGHT = date(2023, 12, 30), date(2024, 1, 4)
MISSED_NIGHTS = (date(2023, 12, 31), date(2024, 1, 2))
MORE = """
[[region.sub_basins]]
name = "north"
south = 37.4
north = 37.8
west = 119.0
east = 119.8

[products]
warm_celsius = [2.0, 3.0]

[products.heatwave]
minimum_years = 1
"""
# Beyond what the notebook asks a reader to install.
MORE_THAN_ASKED = (
    "datlstm", "icechunk", "pystac", "s3fs", "obstore", "dask", "distributed", "scipy", "netCDF4", "torch", "prefect",
)  # fmt: skip
OWN_PLACE = "LATITUDE, LONGITUDE = 38.9, 119.8"
FIGURES = ["map", "place", "errors", "observed", "pooled", "days", "category", "tendency"]
WITHOUT_TRUTH = ["map", "place", "pooled", "days", "category", "tendency"]
# What the tests ask of the notebook's variables once it has run.
PROBE = """
print(json.dumps({
    "cell": place,
    "series": history["sst"].values.tolist(),
    "series_inits": history["init_time"].dt.strftime("%Y-%m-%d").values.tolist(),
    "copy": inits_of(years[0]).attrs["title"],
    "for_day": for_day.values.tolist(),
    "rmse_of_maps": rmse_of_maps.values.tolist() if len(observed) else None,
    "mapped_day": str(observed[-1])[:10] if len(observed) else None,
    "pooled": None if skill is None else pooled.sel(area="region").values.tolist(),
    "provisional": None if skill is None else int((skill["status"] == 0).sum()),
    "shares": {name: share.values.tolist() for name, share in shares.items()},
    "exports": str(folder),
    "modules": sorted({name.split(".")[0] for name, module in sys.modules.items() if module}),
}))
"""


@dataclass(frozen=True)
class Run:
    """An executed notebook."""

    notebook: NotebookNode
    values: dict[str, Any]

    @property
    def outputs(self) -> Iterator[tuple[str, NotebookNode]]:
        for cell in self.notebook.cells:
            yield from ((cell["id"], output) for output in cell.get("outputs", ()))

    @property
    def figures(self) -> dict[str, np.ndarray]:
        """The pictures by the cell that drew them."""
        shown = ((name, one["data"]["image/png"]) for name, one in self.outputs if "image/png" in one.get("data", ()))
        return {name: imread(io.BytesIO(base64.b64decode(picture))) for name, picture in shown}

    def said(self, stream: str) -> str:
        return "".join(one["text"] for _, one in self.outputs if one.get("name") == stream)

    @property
    def skipped(self) -> list[str]:
        return re.findall(r"^skipped: (.*)$", self.said("stdout"), re.MULTILINE)


def execute(store: str, folder: Path, point: tuple[float, float], absent: Sequence[str], **variables: str) -> Run:
    """Run the notebook in ``folder`` in a kernel without the ``absent`` packages that can't leave this machine.

    Warnings are errors in it; the point of interest is another one than the notebook's own.
    """
    site = folder / "site"
    site.mkdir()
    gone = f"\nimport sys\nsys.modules.update(dict.fromkeys({absent!r}))\n"
    (site / "sitecustomize.py").write_text(f"{Path(fence.__file__).read_text()}\nfence_to_loopback()\n{gone}")
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    (place,) = (cell for cell in notebook.cells if OWN_PLACE in cell["source"])
    place["source"] = place["source"].replace(OWN_PLACE, f"LATITUDE, LONGITUDE = {point[0]}, {point[1]}")
    strict = nbformat.v4.new_code_cell("import sys, warnings; warnings.simplefilter('error')")
    notebook.cells = [strict, *notebook.cells, nbformat.v4.new_code_cell(PROBE)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DATLSTM_", "PYTHON"))}
    paths = [str(site), *([] if "datlstm" in absent else [str(ROOT)])]
    places = {"STORE": store, "IPYTHONDIR": str(folder / "ipython"), "TMPDIR": str(folder)}
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=kept | places | variables | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"})
    return Run(notebook, json.loads(notebook.cells[-1]["outputs"][0]["text"]))


@pytest.fixture(scope="module")
def region_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test region's settings with a sub-basin, low thresholds and a short heatwave baseline."""
    path = tmp_path_factory.mktemp("region") / "laizhou.toml"
    path.write_text(REGION.replace(str(FIRST_DAY), str(FIRST_ARCHIVED)) + MORE)
    return path


@pytest.fixture(scope="module")
def first_night(region_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store after its first night: one forecast, whose truth has not come."""
    folder = tmp_path_factory.mktemp("first") / "store"
    settings = load_settings(str(region_file)).replace(store=folder.as_uri())
    ingest(settings, FIRST_ARCHIVED, FIRST_NIGHT - timedelta(days=1), open_source(settings))
    champion = retrain(settings, *prepare(settings))
    promote(Store(settings.store), champion.save(Store(settings.store)), "for the tests")
    publish_night(settings, FIRST_NIGHT)
    return settings


@pytest.fixture(scope="module")
def nights(first_night: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store after several nights, some of them missed: a score provisional, another revised, a copy of a year."""
    folder = shutil.copytree(local(first_night), tmp_path_factory.mktemp("nights") / "store")
    settings = first_night.replace(store=folder.as_uri())
    ingest(settings, FIRST_NIGHT, LAST_NIGHT - timedelta(days=1), open_source(settings))
    for night in consecutive(FIRST_NIGHT + timedelta(days=1), LAST_NIGHT):
        if night not in MISSED_NIGHTS:
            publish_night(settings, night)
    write_series(settings, 2023)
    return settings


def publish_night(settings: Settings, night: date) -> None:
    scores = score(settings, night)
    if scores is not None and night == LAST_NIGHT:
        provisional = scores.isel(scoring=slice(-1, None))
        provisional = provisional.assign(status=xr.full_like(provisional["status"], PROVISIONAL))
        scores = xr.concat([revised_row(settings), scores.isel(scoring=slice(-1)), provisional], "scoring")
    with pytest.MonkeyPatch.context() as patch:
        # Nobody here looks at the pictures, and they take half of the time.
        patch.setattr("datlstm.products.publication.quicklook", lambda init, title: b"")
        publish(settings, draft_forecast(settings, nightly_forecast(settings, night)), scores)


def revised_row(settings: Settings) -> xr.Dataset:
    """Return a new row for the first scored day, on a later truth that doubles its errors."""
    scored = standing_skill(settings)
    assert scored is not None
    first = scored.isel(valid_time=slice(0, 1)).swap_dims(valid_time="scoring").load()
    later = first["truth_ingested_at"] + np.timedelta64(1, "D")
    return first.assign(rmse=2 * first["rmse"], truth_ingested_at=later)


def local(settings: Settings) -> Path:
    return Path(settings.store.removeprefix("file://"))


@pytest.fixture(scope="module")
def land(nights: Settings) -> tuple[float, float]:
    """A point in the middle of the land."""
    mask = newest(nights)["mask"]
    row, column = np.argwhere(mask.values == 2)[0]
    return float(mask["latitude"][row]), float(mask["longitude"][column])


@pytest.fixture(scope="module")
def public(nights: Settings, s3_server: StoreServer) -> tuple[str, dict[str, str]]:
    """The same store on object storage, where anyone may read it: its URL, and what to say to find the server."""
    place = f"{PUBLIC_BUCKET}/{uuid4().hex}"
    keys = {"key": s3_server.writer.access_key, "secret": s3_server.writer.secret_key}
    fsspec.filesystem("s3", endpoint_url=s3_server.endpoint, **keys).put(str(local(nights)), place, recursive=True)
    return f"s3://{place}", s3_server.anonymous_environment


@pytest.fixture(scope="module", params=["with the package", "with what is asked for", "anonymous, from S3"])
def run(
    request: pytest.FixtureRequest,
    nights: Settings,
    region_file: Path,
    land: tuple[float, float],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """The notebook, run on the store of several nights in three ways."""
    folder = tmp_path_factory.mktemp("run")
    if request.param == "with the package":
        return execute(str(local(nights)), folder, land, [], DATLSTM_SETTINGS=str(region_file))
    if request.param == "with what is asked for":
        return execute(str(local(nights)), folder, land, MORE_THAN_ASKED)
    url, environment = request.getfixturevalue("public")
    return execute(url, folder, land, ["datlstm"], **environment)


@pytest.fixture
def has_truth(run: Run) -> bool:
    return "icechunk" in run.values["modules"]


def newest(settings: Settings) -> xr.Dataset:
    init = read_init(settings, published_days(settings)[-1])
    assert init is not None
    return init


def cube(settings: Settings) -> xr.Dataset:
    return xr.open_zarr(local(settings) / "forecast.zarr", chunks=None, decode_timedelta=False).load()


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    assert not [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


def test_it_draws_every_figure_that_it_can(run: Run, has_truth: bool) -> None:
    assert list(run.figures) == (FIGURES if has_truth else WITHOUT_TRUTH)
    for name, picture in run.figures.items():
        assert min(picture.shape[:2]) > 250, name
        assert picture[..., :3].std() > 0.05, name


def test_it_says_what_it_skips_and_nothing_of_errors(run: Run) -> None:
    wanted = {"icechunk": "icechunk is not installed", "pystac": "pystac is not", "datlstm": "the package datlstm is"}
    absent = [reason for name, reason in wanted.items() if name not in run.values["modules"]]
    assert len(run.skipped) == len(absent) + ("icechunk" not in run.values["modules"])
    for reason in absent:
        assert reason in " ".join(run.skipped)
    assert run.said("stderr") == ""


def test_the_place_is_the_nearest_sea_cell(run: Run, nights: Settings, land: tuple[float, float]) -> None:
    mask = newest(nights)["mask"]
    chosen = mask.isel(run.values["cell"])
    assert int(chosen) & 1

    def kilometres(cell: xr.DataArray) -> float:
        north, east = float(cell["latitude"]) - land[0], float(cell["longitude"]) - land[1]
        return 111.2 * float(np.hypot(north, east * np.cos(np.deg2rad(land[0]))))

    cells = (mask[row, column] for row, column in np.argwhere(mask.values & 1))
    assert kilometres(chosen) <= min(map(kilometres, cells)) + 0.05


def test_the_series_is_the_cubes_with_the_finished_year_from_its_copy(run: Run, nights: Settings) -> None:
    made = cube(nights).sel(init_time=np.array(published_days(nights), "datetime64[ns]"))
    assert run.values["series_inits"] == [str(day) for day in published_days(nights)]
    assert not {str(night - timedelta(days=1)) for night in MISSED_NIGHTS} & set(run.values["series_inits"])
    np.testing.assert_array_equal(np.float32(run.values["series"]), made["sst"].isel(run.values["cell"]))
    assert run.values["copy"].endswith("inits of 2023, in chunks for series in time")


def test_the_forecasts_for_one_day_are_those_from_successive_inits(run: Run, nights: Settings) -> None:
    tomorrow = LAST_NIGHT
    place = cube(nights)["sst"].isel(run.values["cell"])
    inits = [day for day in published_days(nights) if 1 <= (tomorrow - day).days <= 4]
    wanted = [float(place.sel(init_time=np.datetime64(day, "ns"), lead_time=(tomorrow - day).days)) for day in inits]
    np.testing.assert_allclose(run.values["for_day"], np.array(wanted) - 273.15, atol=1e-4)
    assert len(wanted) == 3


def test_the_errors_on_the_maps_are_those_of_the_skill_cube(run: Run, nights: Settings, has_truth: bool) -> None:
    if not has_truth:
        assert run.values["rmse_of_maps"] is None
        return
    scores = standing_skill(nights)
    assert scores is not None
    assert run.values["mapped_day"] == str(LAST_NIGHT - timedelta(days=1))
    row = scores["rmse"].sel(valid_time=run.values["mapped_day"], forecaster="forecast", area="region", surface="all")
    np.testing.assert_allclose(run.values["rmse_of_maps"], row.dropna("lead_time"), rtol=1e-4)


def test_the_skill_is_that_of_the_standing_rows(run: Run, nights: Settings) -> None:
    scores = standing_skill(nights)
    assert scores is not None
    np.testing.assert_allclose(run.values["pooled"], skill_by_lead(scores), rtol=1e-5)
    assert run.values["provisional"] == 1 < scores.sizes["valid_time"]
    assert f"{scores.sizes['valid_time'] + 1} rows" in run.said("stdout")


def test_the_shares_of_the_sea_are_what_the_fields_say(run: Run, nights: Settings) -> None:
    init = newest(nights)
    weights = np.cos(np.deg2rad(init["latitude"])) * xr.ones_like(init["longitude"]) * (init["mask"] & 1)

    def percent(cells: xr.DataArray) -> list[float]:
        return (100 * (cells * weights).sum(["latitude", "longitude"]) / weights.sum()).values.tolist()

    assert run.values["shares"] == {
        "above_2_degC": pytest.approx(percent(init["sst"] > np.float32(275.15))),
        "above_3_degC": pytest.approx(percent(init["sst"] > np.float32(276.15))),
        "at_or_below_freezing": pytest.approx(percent(init["sst"] <= np.float32(271.35))),
        "marine_heatwave": pytest.approx(percent(init["heatwave_category"] >= 1)),
    }
    assert 0 < max(run.values["shares"]["above_2_degC"])


def test_what_it_exports_holds_the_forecast(run: Run, nights: Settings) -> None:
    folder, init = Path(run.values["exports"]), newest(nights)
    day = published_days(nights)[-1]
    assert (folder / f"{day}.nc").read_bytes() == (local(nights) / f"netcdf/{day}.nc").read_bytes()
    with xr.open_dataset(folder / "own.nc", engine="h5netcdf", decode_timedelta=False) as own:
        for name in ("sst", "threshold_flags", "heatwave_category"):
            np.testing.assert_array_equal(own[name], init[name])
            assert own[name].dtype == init[name].dtype
    rows = (folder / "series.csv").read_text().splitlines()
    assert rows[0].startswith("init_time,lead_time,") and "sst_celsius" in rows[0]
    assert len(rows) == 1 + 4 * len(published_days(nights))


def test_the_catalogue_leads_to_every_forecast(run: Run, nights: Settings) -> None:
    if "pystac" in run.values["modules"]:
        assert f"{len(published_days(nights))} forecasts" in run.said("stdout")
        assert f"{{'init_time': '{published_days(nights)[-1]}'}}" in run.said("stdout")


def test_after_the_first_night_it_shows_what_there_is(first_night: Settings, tmp_path: Path) -> None:
    run = execute(str(local(first_night)), tmp_path, (37.6, 119.4), ["datlstm"])
    assert list(run.figures) == ["map", "place", "tendency"]
    assert len(run.values["series"]) == len(run.values["for_day"]) == 1
    assert run.values["pooled"] is None
    assert any("no day has both a forecast and a truth" in reason for reason in run.skipped)
    assert any("no forecast's truth has come yet" in reason for reason in run.skipped)
    assert run.said("stderr") == ""


@pytest.mark.parametrize("name", GUIDES)
def test_the_snippets_of_the_guides_run_in_their_order(
    name: str, nights: Settings, public: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = {
        "STORE": str(local(nights)),
        "s3://bucket/prefix": public[0],
        "https://endpoint": public[1]["AWS_ENDPOINT_URL"],
    }
    monkeypatch.chdir(local(nights).parent)
    known: dict[str, Any] = {}
    with matplotlib.rc_context({"backend": "agg"}):
        for snippet in re.findall(r"```python\n(.*?)```", GUIDES[name].read_text(), re.DOTALL):
            exec(re.sub("|".join(meant), lambda found: meant[found[0]], snippet), known)
        pyplot.close("all")
    assert known["forecast"]["sst"].dims[-2:] == ("latitude", "longitude")
