"""A bundle comes back bit for bit, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from datlstm.bundle import CALIBRATION, CARD, DAMPED_PERSISTENCE, MANIFEST, NORMALISER, WEIGHTS, Bundle
from datlstm.errors import BundleError
from datlstm.settings import Settings
from datlstm.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "bundles").as_uri())


def path_of(store: Store, bundle: Bundle, name: str) -> str:
    return f"models/{bundle.id}/{name}"


def edit_manifest(store: Store, bundle: Bundle, **changes: object) -> None:
    path = path_of(store, bundle, MANIFEST)
    store.write_json(path, {**store.read_json(path), **changes})


def test_a_bundle_comes_back_bit_for_bit(champion: Bundle, store: Store) -> None:
    loaded = Bundle.load(store, champion.save(store))
    assert loaded.id == champion.id
    assert loaded.weights.keys() == champion.weights.keys()
    assert all(torch.equal(loaded.weights[name], value) for name, value in champion.weights.items())
    xr.testing.assert_identical(loaded.normaliser.to_dataset(), champion.normaliser.to_dataset())
    np.testing.assert_array_equal(loaded.damping.values, champion.damping.values)
    for name in ("region", "forecaster", "input_days", "archive_snapshot", "config", "training", "card"):
        assert getattr(loaded, name) == getattr(champion, name), name


def test_a_statistical_bundle_comes_back_without_weights(champion: Bundle, store: Store) -> None:
    loaded = Bundle.load(store, champion.damped().save(store))
    assert loaded.forecaster == DAMPED_PERSISTENCE
    assert loaded.weights == {}
    assert store.read(path_of(store, loaded, WEIGHTS)) is None


def test_saving_twice_writes_nothing(champion: Bundle, store: Store) -> None:
    champion.save(store)
    store.write(path_of(store, champion, CARD), b"untouched")
    champion.save(store)
    assert store.read(path_of(store, champion, CARD)) == b"untouched"


def test_without_its_manifest_there_is_no_bundle(champion: Bundle, store: Store) -> None:
    champion.save(store)
    Path(store.location_of(path_of(store, champion, MANIFEST))).unlink()
    with pytest.raises(BundleError, match=f"no bundle {champion.id!r}"):
        Bundle.load(store, champion.id)


@pytest.mark.parametrize("name", [WEIGHTS, NORMALISER, CARD])
def test_a_missing_file_is_refused_by_name(champion: Bundle, store: Store, name: str) -> None:
    champion.save(store)
    Path(store.location_of(path_of(store, champion, name))).unlink()
    with pytest.raises(BundleError, match=f"{name} .* is missing"):
        Bundle.load(store, champion.id)


@pytest.mark.parametrize("name", [WEIGHTS, NORMALISER, CARD])
def test_a_truncated_file_is_refused_by_name(champion: Bundle, store: Store, name: str) -> None:
    champion.save(store)
    content = store.read(path_of(store, champion, name))
    assert content is not None
    store.write(path_of(store, champion, name), content[: len(content) // 2])
    with pytest.raises(BundleError, match=f"{name} .* is not the file it was saved with"):
        Bundle.load(store, champion.id)


@pytest.mark.parametrize("name", [WEIGHTS, NORMALISER, CARD])
def test_one_altered_bit_is_refused_by_name(champion: Bundle, store: Store, name: str) -> None:
    champion.save(store)
    content = bytearray(store.read(path_of(store, champion, name)) or b"")
    content[-1] ^= 1
    store.write(path_of(store, champion, name), bytes(content))
    with pytest.raises(BundleError, match=name):
        Bundle.load(store, champion.id)


@pytest.mark.parametrize("damage", [b"{", b"[]", b"{}", b'{"format_version": 1}'])
def test_a_damaged_manifest_is_refused_by_name(champion: Bundle, store: Store, damage: bytes) -> None:
    champion.save(store)
    store.write(path_of(store, champion, MANIFEST), damage)
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.load(store, champion.id)


@pytest.mark.parametrize(
    "changes",
    [
        {"region": "elsewhere"},
        {"input_days": 4},
        {"forecaster": "another"},
        {"config": {}},
        {"hashes": {"grid": "0", "ocean_mask": "0"}},
    ],
)
def test_a_manifest_that_tells_another_story_is_refused(
    champion: Bundle, store: Store, changes: dict[str, object]
) -> None:
    champion.save(store)
    edit_manifest(store, champion, **changes)
    with pytest.raises(BundleError, match="tampered"):
        Bundle.load(store, champion.id)


def test_weights_left_out_of_the_manifest_are_refused(champion: Bundle, store: Store) -> None:
    champion.save(store)
    manifest = store.read_json(path_of(store, champion, MANIFEST))
    edit_manifest(store, champion, sha256={k: v for k, v in manifest["sha256"].items() if k != WEIGHTS})
    with pytest.raises(BundleError, match="tampered"):
        Bundle.load(store, champion.id)


def test_a_bundle_of_a_newer_format_is_refused(champion: Bundle, store: Store) -> None:
    champion.save(store)
    edit_manifest(store, champion, format_version=3)
    with pytest.raises(BundleError, match="has format 3, and datlstm .* knows none above 2: a newer release wrote it"):
        Bundle.load(store, champion.id)


def test_a_bundle_of_another_region_or_grid_is_refused(champion: Bundle, settings: Settings) -> None:
    champion.check_matches(settings)
    for change in ({"name": "elsewhere"}, {"resolution": 0.1}, {"west": 119.05, "east": 119.85}):
        other = settings.replace(region=settings.region.model_copy(update=change))
        with pytest.raises(BundleError, match="retrain it for this region"):
            champion.check_matches(other)


def test_a_bundle_that_forecasts_too_few_days_is_refused(champion: Bundle, settings: Settings) -> None:
    longer = settings.replace(model=settings.model.model_copy(update={"lead_days": 5}))
    with pytest.raises(BundleError, match="forecasts 4 days, the settings ask for 5"):
        champion.check_matches(longer)


def test_the_id_follows_from_the_training_and_nothing_else(champion: Bundle) -> None:
    name, value = next(iter(champion.weights.items()))
    nudged = {**champion.weights, name: value + 1e-6}
    assert replace(champion, weights=nudged).id != champion.id
    assert replace(champion, damping=champion.damping * 0.5).id != champion.id
    assert replace(champion, input_days=4).id != champion.id
    assert replace(champion, card={"rmse": {}}, weights=dict(reversed(champion.weights.items()))).id == champion.id


def test_weights_that_do_not_fit_the_network_are_refused(champion: Bundle) -> None:
    for broken in (
        replace(champion, weights=dict(list(champion.weights.items())[1:])),
        replace(champion, config={**champion.config, "embed": 16}),
        replace(champion, config={**champion.config, "no_such_option": 1}),
        replace(champion, forecaster="no-such-architecture"),
    ):
        with pytest.raises(BundleError, match="don't fit"):
            broken.members()


def test_no_file_of_a_bundle_can_carry_code(champion: Bundle, store: Store) -> None:
    champion.save(store)
    files = {path.split("/")[-1]: store.read(path) or b"" for path in store.list("models")}
    assert set(files) == {WEIGHTS, NORMALISER, CALIBRATION, CARD, MANIFEST}
    assert files[NORMALISER].startswith(b"\x89HDF")
    header = int.from_bytes(files[WEIGHTS][:8], "little")
    assert all("dtype" in entry for name, entry in json.loads(files[WEIGHTS][8 : 8 + header]).items() if name[0] != "_")
    assert isinstance(json.loads(files[CARD]), dict)
    assert isinstance(json.loads(files[MANIFEST]), dict)
    assert not any(content.startswith((b"\x80", b"PK")) for content in files.values())


def test_the_bundle_of_the_reference_experiment_loads_and_is_the_one_it_was(store: Store) -> None:
    (folder,) = (Path(__file__).parents[2] / "benchmarks" / "results").glob("natl-datlstm-*")
    for file in folder.iterdir():
        store.write(f"models/{folder.name}/{file.name}", file.read_bytes())
    bundle = Bundle.load(store, folder.name)
    assert len(bundle.members().each()) == bundle.recipe.members == 3
    assert bundle.card["verdict"]["promoted"]
    assert bundle.calibration is not None and bundle.lead_days == 10
