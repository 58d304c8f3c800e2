"""Shared by unit tests: a store with a champion, one with published forecasts, and a clock that only waiting moves."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest
import tenacity.nap

from datlstm import ingest, patience
from datlstm.bundle import Bundle
from datlstm.challenger import with_card
from datlstm.ladder import nightly_forecast
from datlstm.preparation import prepare
from datlstm.registry import champion_id, promote
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.training import retrain
from tests.nights import publish_forecast

FIRST_INIT = date(2024, 5, 20)
N_INITS = 6


def _at(settings_file: Path, folder: Path) -> Settings:
    return load_settings(str(settings_file)).replace(store=folder.as_uri())


@pytest.fixture(scope="session")
def trained_store(settings_file: Path, filled_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled store with a champion trained for two epochs; read it, or copy it before writing."""
    folder = copytree(filled_store, tmp_path_factory.mktemp("trained") / "store")
    settings = _at(settings_file, folder)
    bundle = retrain(settings, *prepare(settings))
    bundle = with_card(settings, bundle, None)
    promote(Store(settings.store), bundle.save(Store(settings.store)), "the tests' champion")
    return folder


@pytest.fixture(scope="session")
def published_store(settings_file: Path, trained_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained store with the forecasts of six nights, none of them scored; copy it before writing."""
    folder = copytree(trained_store, tmp_path_factory.mktemp("published") / "store")
    settings = _at(settings_file, folder)
    for i in range(N_INITS):
        publish_forecast(settings, nightly_forecast(settings, FIRST_INIT + timedelta(days=i + 1)))
    return folder


@pytest.fixture
def filled(settings_file: Path, filled_store: Path, tmp_path: Path) -> Settings:
    """Settings with a filled store of the test's own."""
    return _at(settings_file, copytree(filled_store, tmp_path / "filled"))


@pytest.fixture
def trained(settings_file: Path, trained_store: Path, tmp_path: Path) -> Settings:
    """Settings with a trained store of the test's own."""
    return _at(settings_file, copytree(trained_store, tmp_path / "trained"))


@pytest.fixture
def published(settings_file: Path, published_store: Path, tmp_path: Path) -> Settings:
    """Settings with a published store of the test's own."""
    return _at(settings_file, copytree(published_store, tmp_path / "published"))


@pytest.fixture(scope="session")
def champion(trained_store: Path) -> Bundle:
    """The champion of the trained store."""
    store = Store(trained_store.as_uri())
    chosen = champion_id(store)
    assert chosen is not None
    return Bundle.load(store, chosen)


@dataclass
class Clock:
    """The time as patience reads it, and the waits that moved it on, in seconds."""

    time: datetime
    waits: list[float] = field(default_factory=list)

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock in the place of the real one, at five in the morning of 15 June 2023 (UTC)."""
    clock = Clock(datetime(2023, 6, 15, 5, tzinfo=UTC))
    for module in (patience, ingest):
        monkeypatch.setattr(module, "now", clock.now)
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=clock.sleep))
    return clock
