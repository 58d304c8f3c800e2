"""The settings' hash, its record, and the code's version."""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from datlstm import lineage
from datlstm.errors import StoreError
from datlstm.lineage import changed_settings, code_version, record_settings, settings_hash
from datlstm.settings import Settings, load_settings
from datlstm.store import Store


def changed(settings: Settings, place: str, value: Any) -> Settings:
    """Return settings with one value, named by its path, replaced."""
    document = settings.model_dump(mode="json")
    *sections, key = place.split(".")
    section = document
    for name in sections:
        section = section[name]
    assert section[key] != value
    section[key] = value
    return Settings(**document)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("region.title", "Elsewhere"),
        ("forecast.maximum_age_days", 3),
        ("model.lead_days", 2),
        ("model.options", {"datlstm": {"patch": 2}}),
        ("quality.maximum_kelvin", 300.0),
        ("source.copernicus.subtract_step", True),
        ("source.kind", "files"),
        ("products.warm_celsius", [20.0]),
        ("training.seed", 5),
    ],
)
def test_what_determines_a_forecast_changes_the_hash(settings: Settings, place: str, value: Any) -> None:
    assert settings_hash(changed(settings, place, value)) != settings_hash(settings)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("store", "s3://elsewhere"),
        ("dask_scheduler", "tcp://cluster:8786"),
        ("retention.archive_states_days", 10),
        ("validation.skill_loss", 0.5),
        ("source.retry.attempts", 1),
        ("source.copernicus.limit_seconds", 5.0),
        ("source.copernicus.credentials_block", "marine"),
        ("source.files.path", "https://user:secret@somewhere/sst.zarr"),
        ("source.marine_store.endpoint", "https://127.0.0.1:1"),
    ],
)
def test_where_things_lie_and_how_long_a_night_waits_does_not(settings: Settings, place: str, value: Any) -> None:
    assert settings_hash(changed(settings, place, value)) == settings_hash(settings)


def test_the_hash_is_the_same_in_every_process_and_says_which_region(settings_file: Path) -> None:
    assert settings_hash(load_settings(str(settings_file))) == settings_hash(load_settings(str(settings_file)))
    assert len({settings_hash(load_settings(region)) for region in ("bohai", "bohai-64")}) == 2
    assert len(settings_hash(load_settings("bohai"))) == 12


def test_settings_are_recorded_once_and_explain_what_differs_later(settings: Settings) -> None:
    name = record_settings(settings)
    store = Store(settings.store)
    (path,) = store.list("lineage")
    assert path == f"lineage/settings/{name}.json"
    before = store.read(path)
    later = changed(changed(settings, "forecast.maximum_age_days", 3), "training.seed", 5)
    assert record_settings(settings) == name
    assert store.read(path) == before
    assert changed_settings(settings, name) == {}
    assert changed_settings(later, name) == {"forecast.maximum_age_days": (15, 3), "training.seed": (0, 5)}


def test_an_absent_or_altered_record_is_named(settings: Settings) -> None:
    with pytest.raises(StoreError, match=r"lineage/settings/0123456789ab\.json is not there"):
        changed_settings(settings, "0123456789ab")
    name = record_settings(settings)
    Store(settings.store).write(f"lineage/settings/{name}.json", b"{}")
    with pytest.raises(StoreError, match="is not what was recorded"):
        changed_settings(settings, name)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout, with one commit, that this code seems to run from."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    module = tmp_path / "datlstm" / "lineage.py"
    module.parent.mkdir()
    module.write_text("")
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(("git", "-C", str(tmp_path), *command), check=True)
    monkeypatch.setattr(lineage, "__file__", str(module))
    return tmp_path


def test_code_from_a_checkout_names_its_commit_and_whether_files_were_changed(checkout: Path) -> None:
    commit = subprocess.run(("git", "-C", str(checkout), "rev-parse", "HEAD"), capture_output=True, text=True).stdout
    clean = code_version.__wrapped__()
    assert clean == f"{version('datlstm')}+{commit[:9]}"
    (checkout / "datlstm" / "lineage.py").write_text("changed")
    assert code_version.__wrapped__() == f"{clean}-dirty"


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)])
def test_without_git_the_package_s_version_is_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(lineage, "__file__", str(tmp_path / "datlstm" / "lineage.py"))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert code_version.__wrapped__() == version("datlstm")


def test_a_wheel_inside_somebody_else_s_checkout_does_not_take_its_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "__file__", str(checkout / "site-packages" / "datlstm" / "lineage.py"))
    assert code_version.__wrapped__() == version("datlstm")
