"""Checkpoints are seen whole, found again by what they are of, and never believed when damaged."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from datlstm.bundle import Bundle
from datlstm.checkpoints import FOLDER, Checkpoints, Manifest, Progress, manifests
from datlstm.errors import CheckpointError
from datlstm.leftovers import remove_leftovers
from datlstm.maintenance import remove_training_cubes
from datlstm.preparation import prepare
from datlstm.settings import ArchitectureName, Settings
from datlstm.store import Store
from datlstm.training import resume
from tests.conftest import LAST_DAY

FAR = LAST_DAY.replace(year=2100)


@pytest.fixture
def checkpoints(settings: Settings, store_url: str, champion: Bundle) -> Checkpoints:
    """Those of a training that has not begun, on each kind of store."""
    baseline = champion.damped()
    return Checkpoints.of(settings.replace(store=store_url), "training/cube.zarr", baseline.save(Store(store_url)))


def progress(**changes: Any) -> Progress:
    done = Progress(2, 1, 9, False, 0.5, [0.4, math.nan], {"weight": torch.arange(3.0)})
    for name, value in changes.items():
        setattr(done, name, value)
    return done


def again(checkpoints: Checkpoints, settings: Settings) -> Checkpoints:
    of = checkpoints.manifest
    return Checkpoints.of(settings.replace(store=checkpoints.store.url), of.cube_path, of.baseline_id)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A file in the place of the training loop's state."""
    path = tmp_path / "loop.ckpt"
    path.write_bytes(b"state")
    return path


def test_what_is_saved_is_found_again_by_what_it_is_of(
    checkpoints: Checkpoints, settings: Settings, state: Path, tmp_path: Path
) -> None:
    checkpoints.save(progress(), state)
    found = again(checkpoints, settings)
    restored = found.progress()
    assert (restored.epochs, restored.batches, restored.steps, restored.untrained_loss) == (2, 1, 9, 0.5)
    assert restored.validation_losses[0] == restored.best_loss == 0.4
    assert math.isnan(restored.validation_losses[1])
    assert restored.best_weights is not None
    assert torch.equal(restored.best_weights["weight"], torch.arange(3.0))
    copied = found.state_file(tmp_path)
    assert copied is not None and copied.read_bytes() == b"state"


def test_only_the_newest_checkpoint_and_the_best_weights_are_kept_and_clearing_leaves_nothing(
    checkpoints: Checkpoints, state: Path
) -> None:
    for steps in (9, 12, 15):
        state.write_bytes(b"state %d" % steps)
        checkpoints.save(progress(steps=steps), state)
    names = [path.rsplit("/", 1)[1] for path in checkpoints.store.list(FOLDER)]
    assert [name[:8] for name in names] == ["00000015", "best-" + names[1][5:8], "manifest"]
    checkpoints.clear()
    assert not checkpoints.store.list(FOLDER)


def test_of_two_trainings_of_the_same_the_one_whose_checkpoint_was_replaced_ends(
    checkpoints: Checkpoints, settings: Settings, state: Path
) -> None:
    checkpoints.save(progress(), state)
    again(checkpoints, settings).save(progress(steps=10), state)
    with pytest.raises(CheckpointError, match="another training has written"):
        checkpoints.save(progress(steps=11), state)
    assert again(checkpoints, settings).manifest.steps == 10


@pytest.mark.parametrize("section", ["model", "training"])
def test_another_setting_cube_or_baseline_is_another_training_and_the_grace_is_not(
    settings: Settings, champion: Bundle, section: str
) -> None:
    store = Store(settings.store)
    baseline = champion.damped().save(store)
    changed = {"model": {"name": "convlstm"}, "training": {"seed": 7}}[section]
    other = settings.replace(**{section: {**dict(getattr(settings, section)), **changed}})
    patient = settings.replace(training=settings.training.model_copy(update={"grace_seconds": 1.0}))
    run_id = Checkpoints.of(settings, "a", baseline).run_id
    assert Checkpoints.of(patient, "a", baseline).run_id == run_id
    assert run_id not in (Checkpoints.of(other, "a", baseline).run_id, Checkpoints.of(settings, "b", baseline).run_id)


@pytest.mark.parametrize("damage", ["state", "best", "manifest", "format"])
def test_a_damaged_checkpoint_is_refused_by_resume_and_told_of_when_training_starts_again(
    settings: Settings, champion: Bundle, state: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(settings.store)
    checkpoints = Checkpoints.of(settings, "cube", champion.damped().save(store))
    checkpoints.save(progress(), state)
    folder, manifest = f"{FOLDER}/{checkpoints.run_id}", checkpoints.manifest
    assert manifest.state is not None and manifest.best is not None
    if damage == "format":
        store.write_json(f"{folder}/manifest.json", {**manifest.model_dump(mode="json"), "format_version": 2})
    else:
        names = {"state": manifest.state.name, "best": manifest.best.name, "manifest": "manifest.json"}
        store.write(f"{folder}/{names[damage]}", b"{}")
    with pytest.raises(CheckpointError):
        Checkpoints.newest(settings)
    with caplog.at_level(logging.WARNING):
        fresh = again(checkpoints, settings)
    assert fresh.progress().steps == 0
    assert "starts again from its beginning" in caplog.text
    fresh.save(progress(steps=1), state)
    assert Checkpoints.newest(settings).manifest.steps == 1


def test_the_newest_training_of_the_region_and_architecture_is_resumed_and_without_one_it_is_said(
    settings: Settings, champion: Bundle, state: Path
) -> None:
    with pytest.raises(CheckpointError, match="no interrupted training of region 'laizhou'.*datlstm retrain"):
        Checkpoints.newest(settings)
    baseline = champion.damped().save(Store(settings.store))
    names: tuple[ArchitectureName, ...] = ("datlstm", "convlstm")
    for name in names:
        Checkpoints.of(settings.with_training_of(name, 9), "cube", baseline).save(progress(), state)
    for name in names:
        assert Checkpoints.newest(settings, name).manifest.model.name == name
    with pytest.raises(CheckpointError, match="no interrupted simvp training"):
        Checkpoints.newest(settings, "simvp")
    assert Checkpoints.newest(settings).settings(settings).training.epochs == 9


def test_a_training_whose_cube_is_gone_is_not_resumed(settings: Settings, champion: Bundle, state: Path) -> None:
    baseline = champion.damped().save(Store(settings.store))
    Checkpoints.of(settings, "training/gone.zarr", baseline).save(progress(), state)
    with pytest.raises(CheckpointError, match="gone.zarr is gone"):
        resume(settings, Checkpoints.newest(settings))


def test_maintenance_keeps_the_cubes_of_interrupted_trainings_and_removes_their_checkpoints_after_a_week(
    filled: Settings, state: Path
) -> None:
    store = Store(filled.store)
    cube, baseline = prepare(filled)
    Checkpoints.of(filled, cube, baseline).save(progress(), state)
    for number in range(2):
        store.write(f"training/newer-{number}.zarr/zarr.json", b"{}")
    remove_training_cubes(filled, LAST_DAY)
    assert [manifest.cube_path for manifest in manifests(store)] == [cube]
    assert store.read(f"{cube}/zarr.json") is not None
    assert not [path for path in remove_leftovers(store, LAST_DAY) if path.startswith(FOLDER)]
    assert [path for path in remove_leftovers(store, FAR) if path.startswith(FOLDER)][0].endswith("manifest.json")
    assert not store.list(FOLDER)
    remove_training_cubes(filled, LAST_DAY)
    assert store.read(f"{cube}/zarr.json") is None


def test_a_manifest_says_what_lineage_needs(checkpoints: Checkpoints) -> None:
    told: Manifest = checkpoints.manifest
    assert told.archive_snapshot and told.settings_hash and told.code_version
    assert checkpoints.store.read_json(f"lineage/settings/{told.settings_hash}.json") is not None
