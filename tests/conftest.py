"""What every test shares: a small synthetic region in a store of its own, and no setting from outside."""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from datlstm.ingest import ingest
from datlstm.ladder import nightly_forecast
from datlstm.preparation import prepare
from datlstm.registry import promote
from datlstm.settings import Settings, load_settings
from datlstm.sources import open_source
from datlstm.store import Store
from datlstm.store_server import StoreServer
from datlstm.synthetic.fence import fence_to_loopback
from datlstm.training import retrain
from tests.nights import publish_forecast

# Whatever a test does, no Python code of this process leaves the machine.
fence_to_loopback()

# 16 x 16 cells around Laizhou Bay: land, coast and sea.
REGION = """
[region]
name = "laizhou"
title = "Laizhou Bay (test)"
south = 37.0
north = 37.8
west = 119.0
east = 119.8
resolution = 0.05

[source]
kind = "synthetic"

[archive]
first_day = 2023-01-01
rolling_days = 5
bootstrap_days = 500

[model]
input_days = 3
lead_days = 4

[model.options.datlstm]
patch = 4
embed = 8
down = [2]
up = [2]
heads = [1, 2]
groups = [1, 1]
window = 2
head = "increment"
drop_path = 0.0

[training]
epochs = 2
windows_per_epoch = 32
validation_windows = 8
validation_days = 60
batch_size = 8
accelerator = "cpu"

[gate]
minimum_days = 30
minimum_days_of_season = 0
"""

BUCKET, PUBLIC_BUCKET = "datlstm-tests", "datlstm-public"
FIRST_DAY = date(2023, 1, 1)
LAST_DAY = date(2024, 5, 31)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the week, the longest of all, so that nothing waits for it at the end."""
    items.sort(key=lambda item: "week" not in item.path.parts)


@pytest.fixture(autouse=True)
def only_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's environment out of the tests."""
    for variable in [name for name in os.environ if name.startswith(("DATLSTM_", "AWS_", "COPERNICUSMARINE_"))]:
        monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def only_the_test_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Leave out what threads say that Prefect leaves running: it is of another test."""
    caplog.handler.addFilter(lambda record: not record.name.startswith("prefect._internal"))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A real S3 server with two buckets, one of which may be read without keys."""
    with StoreServer(tmp_path_factory.mktemp("s3"), public=[PUBLIC_BUCKET]) as server:
        for bucket in (BUCKET, PUBLIC_BUCKET):
            server.make_bucket(bucket)
        yield server


@pytest.fixture
def s3_store_url(s3_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place on object storage, with the keys that may write it in the environment."""
    for variable, value in s3_server.environment.items():
        monkeypatch.setenv(variable, value)
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place on each kind of store."""
    return str(request.getfixturevalue("s3_store_url")) if request.param == "s3" else (tmp_path / "store").as_uri()


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test region's settings file."""
    path = tmp_path_factory.mktemp("settings") / "laizhou.toml"
    path.write_text(REGION)
    return path


@pytest.fixture
def settings(settings_file: Path, tmp_path: Path) -> Settings:
    """The test region with an empty store of its own."""
    return load_settings(str(settings_file)).replace(store=(tmp_path / "store").as_uri())


@pytest.fixture
def fill(settings: Settings) -> Callable[[date, date], None]:
    """Ingest days of the synthetic sea into the test's store."""

    def ingest_days(first_day: date, last_day: date) -> None:
        ingest(settings, first_day, last_day, open_source(settings))

    return ingest_days


@pytest.fixture(scope="session")
def filled_store(settings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 500 days of archive, made once; copy it before writing."""
    folder = tmp_path_factory.mktemp("filled") / "store"
    settings = load_settings(str(settings_file)).replace(store=folder.as_uri())
    ingest(settings, FIRST_DAY, LAST_DAY, open_source(settings))
    return folder


@pytest.fixture(scope="session")
def service_store(settings_file: Path, filled_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in operation: an archive, a champion, and a forecast from the archive's last day; copy it first."""
    folder = tmp_path_factory.mktemp("service") / "store"
    shutil.copytree(filled_store, folder)
    settings = load_settings(str(settings_file)).replace(store=folder.as_uri())
    champion = retrain(settings, *prepare(settings))
    promote(Store(settings.store), champion.save(Store(settings.store)), "for the tests")
    publish_forecast(settings, nightly_forecast(settings, LAST_DAY + timedelta(days=1)))
    return folder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """A real Prefect server with a database of its own; gives its URL."""
    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())
