"""Several regions in one deployment: what fails in one leaves the others as if they were alone."""

import hashlib
import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest
import xarray as xr

from datlstm.archive import Archive
from datlstm.errors import ArchiveError, DatlstmError, ProductError
from datlstm.ingest import ingest_night
from datlstm.ladder import nightly_forecast
from datlstm.maintenance import maintain
from datlstm.products.forecast import draft_forecast, forecast_cube
from datlstm.products.publication import publish
from datlstm.products.scoring import score
from datlstm.settings import FilesSource, Settings, SourceSettings, load_settings
from datlstm.sources import open_source
from datlstm.store import Store
from datlstm.validation.checks import validate
from tests.conftest import LAST_DAY, REGION

NIGHT = LAST_DAY + timedelta(days=2)
TIMES = ("ingested_at", "created_at", "scored_at", "truth_ingested_at")


def night(settings: Settings, date_: date) -> list[DatlstmError]:
    """Run a night as the flow does, each step whatever became of the others, and return what failed."""
    failed: list[DatlstmError] = []
    made: dict[str, xr.Dataset | None] = {"forecast": None, "scores": None}
    try:
        ingest_night(settings, date_, open_source(settings))
    except DatlstmError as error:
        failed.append(error)
    try:
        made["forecast"] = draft_forecast(settings, nightly_forecast(settings, date_))
        made["scores"] = score(settings, date_)
    except DatlstmError as error:
        failed.append(error)
    try:
        publish(settings, made["forecast"], made["scores"])
    except DatlstmError as error:
        failed.append(error)
    return failed


@pytest.fixture
def root(service_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One place for all regions, named once for all of them; one of them is in operation."""
    monkeypatch.setenv("DATLSTM_STORE", (tmp_path / "sst").as_uri() + "/{region}")
    shutil.copytree(service_store, tmp_path / "sst" / "laizhou")
    return tmp_path / "sst"


@pytest.fixture(scope="module")
def alone(service_store: Path, settings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The first region after a night in a place of its own."""
    folder = shutil.copytree(service_store, tmp_path_factory.mktemp("alone") / "store")
    settings = load_settings(str(settings_file)).replace(store=folder.as_uri())
    assert night(settings, NIGHT) == []
    return settings


@pytest.fixture
def laizhou(root: Path, settings_file: Path) -> Settings:
    return load_settings(str(settings_file))


@pytest.fixture
def other(root: Path, tmp_path: Path) -> Settings:
    """A second region, of as many cells, that has not run yet."""
    path = tmp_path / "west.toml"
    text = REGION.replace('"laizhou"', '"west"').replace("south = 37.0", "south = 37.4").replace("= 37.8", "= 38.2")
    path.write_text(text)
    return load_settings(str(path))


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def state(settings: Settings) -> tuple[xr.Dataset, xr.Dataset]:
    """Archive and forecasts, but for the moments they were written at."""
    forecasts = forecast_cube(settings).open()
    assert forecasts is not None
    drop = (*TIMES, "archive_snapshot")
    return tuple(cube.load().drop_vars(drop, errors="ignore") for cube in (Archive(settings).open(), forecasts))  # type: ignore[return-value]


def test_each_region_has_its_folder_of_one_root(laizhou: Settings, other: Settings, root: Path) -> None:
    assert (laizhou.store, other.store) == ((root / "laizhou").as_uri(), (root / "west").as_uri())
    assert other.replace(store="s3://bucket/{region}/x").store == "s3://bucket/west/x"


@pytest.mark.parametrize("failure", ["source", "store"])
def test_what_fails_in_one_region_leaves_the_other_as_it_would_be_alone(
    laizhou: Settings, other: Settings, alone: Settings, root: Path, tmp_path: Path, failure: str
) -> None:
    if failure == "source":
        other = other.replace(source=SourceSettings(kind="files", files=FilesSource(path=str(tmp_path / "no.nc"))))
    else:
        Store(other.store).write("forecast.zarr/zarr.json", b"{")
        Store(other.store).write("archive/repo", b"not an archive")
    assert night(other, NIGHT)
    assert night(laizhou, NIGHT) == []
    assert night(other, NIGHT)
    for found, wanted in zip(state(laizhou), state(alone), strict=True):
        xr.testing.assert_identical(found, wanted)
    pointer = json.loads((root / "laizhou" / "latest.json").read_text())
    assert pointer["region"] == "laizhou" and "/sst/laizhou/" in pointer["forecast"]["url"]


class TestOneStoreForTwoRegions:
    """What a region does whose settings lead it into another one's store."""

    @pytest.fixture(params=["another grid", "another name"])
    def intruder(self, request: pytest.FixtureRequest, laizhou: Settings, other: Settings) -> Settings:
        region = other.region if request.param == "another grid" else laizhou.region.model_copy(update={"name": "east"})
        return other.replace(region=region, store=laizhou.store)

    def test_a_night_writes_nothing_and_says_what_to_set(self, intruder: Settings, root: Path) -> None:
        before = contents(root / "laizhou")
        failed = night(intruder, NIGHT)
        assert {type(error) for error in failed} <= {ArchiveError, ProductError} and len(failed) == 3
        assert all("DATLSTM_STORE=s3://bucket/sst/{region}" in str(error) for error in failed)
        assert contents(root / "laizhou") == before

    def test_maintenance_takes_nothing_away(self, intruder: Settings, root: Path) -> None:
        before = contents(root / "laizhou")
        report = maintain(intruder, date(2100, 1, 1))
        assert len(report.failed) == len(report.parts)
        assert all("{region}" in part.failure for part in report.failed)
        assert contents(root / "laizhou") == before

    def test_validation_leaves_no_record(self, intruder: Settings, root: Path) -> None:
        before = contents(root / "laizhou")
        with pytest.raises(ArchiveError, match="is of region 'laizhou'"):
            validate(intruder, NIGHT)
        assert contents(root / "laizhou") == before
