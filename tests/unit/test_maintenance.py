"""Maintenance takes away what nobody needs and nothing else, however often it runs and wherever it is killed."""

import os
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from shutil import copytree

import icechunk
import numpy as np
import obstore
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

from datlstm import store as store_module
from datlstm.archive import FIELDS, PER_DAY, Archive
from datlstm.cli import app
from datlstm.clock import today
from datlstm.errors import ArchiveError, BundleError, ProductError, StoreError
from datlstm.grid import Grid
from datlstm.leftovers import remove_leftovers
from datlstm.maintenance import PARTS, maintain, run_part, without_asset
from datlstm.products.forecast import forecast_cube, published_days
from datlstm.registry import champion_id
from datlstm.settings import Settings, load_settings
from datlstm.staged import StagedZarr
from datlstm.store import Store
from tests.conftest import FIRST_DAY, LAST_DAY
from tests.faults.publisher import Killed, Mortal
from tests.nights import verify
from tests.unit.conftest import FIRST_INIT, N_INITS

# Whatever a test wrote is older than any retention by then.
LATER = date(2100, 1, 1)
NEWEST = FIRST_INIT + timedelta(days=N_INITS - 1)


def content(settings: Settings, prefix: str = "") -> dict[str, bytes | None]:
    """Every object but locks, which hold nothing."""
    store = Store(settings.store)
    return {path: store.read(path) for path in store.list(prefix) if not path.startswith(".locks")}


def retaining(settings: Settings, **values: int | None) -> Settings:
    return settings.replace(retention=settings.retention.model_copy(update=values))


def nights(settings: Settings, first: date, count: int) -> list[str]:
    """Commit so many flat days to the archive, one by one, and return the states."""
    archive, grid = Archive(settings), Grid.from_region(settings.region)
    ocean = archive.ocean_mask() if archive.exists() else xr.DataArray(np.ones(grid.shape, bool), grid.coords())
    states = []
    for i in range(count):
        time = np.array([first + timedelta(days=i)], "datetime64[ns]")
        field = (("time", "latitude", "longitude"), np.full((1, *grid.shape), 280 + i, "float32"))
        per_day = {"quality": np.zeros(1, "uint8"), **dict.fromkeys(PER_DAY[1:], np.array(["x"], object))}
        days = xr.Dataset(
            {**dict.fromkeys(FIELDS, field), **{name: ("time", values) for name, values in per_day.items()}},
            {"time": time, **grid.coords()},
        )
        states.append(archive.upsert(days, ocean, attribution="tests").snapshot_id)
    return states


def dies_at(k: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> bool:
    """Run something that dies before its k-th deletion or write; tell whether it did."""

    def die() -> None:
        raise Killed

    mortal = Mortal(k, False, die)
    with monkeypatch.context() as patch:
        for name in ("put", "delete"):
            patch.setattr(obstore, name, mortal.wrap(name))
        try:
            act()
        except Killed:
            return True
    return False


# Archive states


def test_old_states_go_and_the_newest_stays_as_it_was(settings: Settings, store_url: str) -> None:
    chosen = settings.replace(store=store_url)
    states = nights(chosen, FIRST_DAY, 4)
    archive = Archive(chosen)
    before = archive.open().load()
    report = run_part(chosen, LATER, "archive states")
    assert report.done == "3 states expired, 1 kept"
    assert report.before is not None and report.after is not None
    assert report.after.objects < report.before.objects and report.after.size < report.before.size
    assert archive.exists() and archive.snapshot_id() == states[-1]
    xr.testing.assert_identical(archive.open().load(), before)
    for state in states[:-1]:
        with pytest.raises((ArchiveError, StoreError), match=state):
            archive.provenance(state)
    nights(chosen, FIRST_DAY + timedelta(days=4), 1)
    assert len(archive.usable_days()) == 5


def test_states_that_are_young_enough_stay(settings: Settings) -> None:
    states = nights(settings, FIRST_DAY, 3)
    before = content(settings, "archive")
    assert run_part(settings, today() + timedelta(days=400), "archive states").done == "0 states expired, 3 kept"
    assert content(settings, "archive") == before
    assert Archive(settings).provenance(states[0]).shape[0] == 1
    gone = run_part(settings, today() + timedelta(days=402), "archive states").done
    assert gone == "2 states expired, 1 kept"


def test_age_counts_from_the_commit_to_the_night(settings: Settings) -> None:
    states = nights(settings, FIRST_DAY, 3)
    archive = Archive(settings)
    repository = icechunk.Repository.open(Store(settings.store).icechunk("archive"))
    second = next(state.written_at for state in repository.ancestry(branch="main") if state.id == states[1])
    assert archive.expire(second, ()).expired == 1
    assert archive.provenance(states[1]).shape[0] == 2


def test_no_retention_keeps_every_state(settings: Settings) -> None:
    nights(settings, FIRST_DAY, 2)
    before = content(settings, "archive")
    assert run_part(retaining(settings, archive_states_days=None), LATER, "archive states").done == "nothing to do"
    assert content(settings, "archive") == before


def test_a_state_that_a_bundle_was_trained_on_outlives_its_retention_for_ever(trained: Settings) -> None:
    archive = Archive(trained)
    trained_on = archive.snapshot_id()
    then = archive.open(trained_on).load()
    states = nights(trained, LAST_DAY + timedelta(days=1), 3)
    assert run_part(trained, LATER, "archive states").done == "2 states expired, 2 kept"
    xr.testing.assert_identical(archive.open(trained_on).load(), then)
    before = content(trained, "archive")
    assert run_part(trained, LATER, "archive states").done == "0 states expired, 2 kept"
    assert content(trained, "archive") == before
    nights(trained, LAST_DAY + timedelta(days=4), 1)
    assert run_part(trained, LATER, "archive states").done == "1 states expired, 2 kept"
    assert archive.snapshot_id() not in states
    xr.testing.assert_identical(archive.open(trained_on).load(), then)


def test_a_bundle_of_another_archive_is_told_and_does_no_harm(trained: Settings) -> None:
    path = f"models/{champion_id(Store(trained.store))}/bundle.json"
    manifest = Store(trained.store).read_json(path)
    assert manifest is not None
    Store(trained.store).write_json(path, manifest | {"archive_snapshot": "ZZZZZZZZZZZZZZZZZZZ0"})
    assert run_part(trained, LATER, "archive states").done.endswith("1 that bundles name are not in this archive")


@pytest.mark.parametrize("damaged", [b"{", b"{}", b"[]"])
def test_a_manifest_that_does_not_say_what_it_was_trained_on_stops_the_expiry(
    trained: Settings, damaged: bytes
) -> None:
    bundle_id = champion_id(Store(trained.store))
    nights(trained, LAST_DAY + timedelta(days=1), 2)
    Store(trained.store).write(f"models/{bundle_id}/bundle.json", damaged)
    before = content(trained, "archive")
    with pytest.raises(BundleError, match=f"{bundle_id}/bundle.json does not say which archive state"):
        run_part(trained, LATER, "archive states")
    assert content(trained, "archive") == before


@pytest.mark.parametrize("step", ["expire_snapshots", "garbage_collect"])
def test_an_expiry_killed_between_its_steps_is_completed_by_the_next(
    trained: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    trained_on = Archive(trained).snapshot_id()
    states = nights(trained, LAST_DAY + timedelta(days=1), 3)
    full = len(content(trained, "archive"))

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(icechunk.Repository, step, die)
        with pytest.raises(Killed):
            run_part(trained, LATER, "archive states")
    for state in (trained_on, states[-1]):
        assert Archive(trained).open(state)["sst"].load().notnull().any()
    run_part(trained, LATER, "archive states")
    assert len(content(trained, "archive")) < full
    assert [Archive(trained).open(state).sizes["time"] for state in (trained_on, states[-1])] == [517, 520]


def test_a_night_that_writes_the_archive_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    nights(settings, FIRST_DAY, 2)
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0.1)
    with Store(settings.store).writer("archive"), pytest.raises(StoreError, match="another process has been writing"):
        Archive(settings).expire(datetime.fromisoformat("2100-01-01T00:00+00:00"), ())


# Training cubes


def training_cube(settings: Settings, name: str, age_days: int) -> str:
    """Write a whole cube that seems so old, and return its path."""
    store, path = Store(settings.store), f"training/{name}.zarr"
    staged = StagedZarr(store, path, lambda: None)
    xr.Dataset({"anomaly": ("time", np.arange(4.0))}).to_zarr(staged, zarr_format=3, consolidated=False)
    staged.commit()
    staged.follow_up()
    written = datetime.now().timestamp() - 86400 * age_days
    os.utime(store.location_of(f"{path}/zarr.json"), (written, written))
    return path


def training_cubes(settings: Settings) -> set[str]:
    return {"/".join(path.split("/")[:2]) for path in Store(settings.store).list("training")}


def test_the_newest_training_cubes_stay_as_they_are(settings: Settings) -> None:
    paths = [training_cube(settings, name, age) for name, age in (("b", 1), ("c", 9), ("a", 3), ("d", 2))]
    before = content(settings, "training")
    assert run_part(settings, LATER, "training cubes").done == "2 cubes removed, 2 kept"
    assert training_cubes(settings) == {paths[0], paths[3]}
    after = content(settings, "training")
    assert after == {path: before[path] for path in after}
    assert run_part(settings, LATER, "training cubes").done == "0 cubes removed, 2 kept"
    assert content(settings, "training") == after


def test_what_a_killed_writer_left_of_a_training_cube_goes(settings: Settings) -> None:
    kept = training_cube(settings, "whole", 3)
    staged = StagedZarr(Store(settings.store), "training/half.zarr", lambda: None)
    xr.Dataset({"anomaly": ("time", np.arange(4.0))}).to_zarr(staged, zarr_format=3, consolidated=False)
    run_part(settings, today(), "training cubes")
    assert training_cubes(settings) == {kept}


def test_a_removal_killed_anywhere_leaves_whole_cubes_or_none_and_is_completed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [training_cube(settings, name, age) for name, age in (("a", 1), ("b", 2))]
    k, was_killed = 0, True
    while was_killed:
        old = training_cube(settings, "old", 9)
        was_killed = dies_at(k, monkeypatch, lambda: run_part(settings, LATER, "training cubes"))
        store = Store(settings.store)
        if store.read(f"{old}/zarr.json") is not None:
            assert xr.open_zarr(store.zarr(old, read_only=True), chunks=None)["anomaly"].values.tolist() == [0, 1, 2, 3]
        run_part(settings, LATER, "training cubes")
        assert training_cubes(settings) == set(kept)
        k += 1
    assert k >= 4


def test_a_training_cube_that_is_being_written_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_cube(settings, "a", 1)
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0.1)
    with Store(settings.store).writer("training"), pytest.raises(StoreError, match="another process has been writing"):
        run_part(settings, LATER, "training cubes")


# NetCDF files and pictures


@pytest.fixture
def with_files(published: Settings) -> Settings:
    """A published store with a file, a picture and a catalogue item of every init."""
    store = Store(published.store)
    for day in published_days(published):
        for path in (f"netcdf/{day}.nc", f"quicklook/{day}.png"):
            store.write(path, b"some bytes")
        assets = {
            "netcdf": {"href": f"../../netcdf/{day}.nc"},
            "quicklook": {"href": store.url_of(f"quicklook/{day}.png")},
            "cube": {"href": store.url_of("forecast.zarr")},
        }
        store.write_json(f"stac/forecasts/{day}.json", {"id": str(day), "assets": assets})
    store.write("quicklook/legend.png", b"not an init's")
    return published


def test_files_are_kept_for_ever_unless_the_settings_say_otherwise(with_files: Settings) -> None:
    before = content(with_files)
    assert run_part(with_files, LATER, "files").done == "0 files removed"
    assert content(with_files) == before


def test_old_files_go_and_their_items_no_longer_point_to_them(with_files: Settings) -> None:
    chosen = retaining(with_files, netcdf_days=2, quicklook_days=4)
    store = Store(chosen.store)
    assert run_part(chosen, NEWEST + timedelta(days=1), "files").done == "6 files removed"
    assert store.list("netcdf") == [f"netcdf/{NEWEST - timedelta(days=back)}.nc" for back in (1, 0)]
    assert store.list("quicklook") == [
        *(f"quicklook/{NEWEST - timedelta(days=back)}.png" for back in (4, 3, 2, 1, 0)[1:]),
        "quicklook/legend.png",
    ]
    for back in range(N_INITS):
        item = store.read_json(f"stac/forecasts/{NEWEST - timedelta(days=back)}.json")
        assert item is not None
        expected = {"cube"} | ({"netcdf"} if back < 2 else set()) | ({"quicklook"} if back < 4 else set())
        assert set(item["assets"]) == expected
    after = content(chosen)
    run_part(chosen, NEWEST + timedelta(days=1), "files")
    assert content(chosen) == after


def test_the_newest_init_keeps_its_files_however_old(with_files: Settings) -> None:
    run_part(retaining(with_files, netcdf_days=1, quicklook_days=1), LATER, "files")
    store = Store(with_files.store)
    assert store.list("netcdf") == [f"netcdf/{NEWEST}.nc"]
    assert store.list("quicklook") == [f"quicklook/{NEWEST}.png", "quicklook/legend.png"]


def test_killed_anywhere_no_item_points_to_nothing_and_the_next_run_completes_it(
    with_files: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, store = retaining(with_files, netcdf_days=2), Store(with_files.store)
    k, was_killed = 0, True
    while was_killed:
        was_killed = dies_at(1, monkeypatch, lambda: run_part(chosen, NEWEST, "files"))
        for path in store.list("stac"):
            item = store.read_json(path)
            assert item is not None
            assert all(store.read(f"netcdf/{item['id']}.nc") is not None for name in item["assets"] if name == "netcdf")
        k += 1
    assert k >= 3
    assert len(store.list("netcdf")) == 3


def test_an_item_that_is_none_stops_the_removal_of_its_file(with_files: Settings) -> None:
    store = Store(with_files.store)
    store.write_json(f"stac/forecasts/{FIRST_INIT}.json", {"id": "none"})
    with pytest.raises(StoreError, match="is not a STAC item"):
        run_part(retaining(with_files, netcdf_days=2), LATER, "files")
    assert store.read(f"netcdf/{FIRST_INIT}.nc") is not None


def test_an_asset_is_found_whatever_form_its_link_has() -> None:
    links = ("../netcdf/a.nc", "s3://bucket/prefix/netcdf/a.nc", "netcdf/a.nc", "../mynetcdf/a.nc", "netcdf/aa.nc")
    item = {"id": "x", "assets": {link: {"href": link} for link in links}}
    assert list(without_asset(item, "netcdf/a.nc")["assets"]) == ["../mynetcdf/a.nc", "netcdf/aa.nc"]
    assert len(item["assets"]) == 5


# Leftovers


@pytest.fixture(scope="module")
def scored_store(settings_file: Path, published_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published store with scores; copy it before writing."""
    folder = copytree(published_store, tmp_path_factory.mktemp("scored") / "store")
    verify(load_settings(str(settings_file)).replace(store=folder.as_uri()), LAST_DAY)
    return folder


@pytest.fixture
def scored(settings_file: Path, scored_store: Path, tmp_path: Path) -> Settings:
    """Settings with a published store of the test's own that has scores."""
    return load_settings(str(settings_file)).replace(store=copytree(scored_store, tmp_path / "scored").as_uri())


def stage_without_commit(settings: Settings) -> None:
    """Leave what a killed publication leaves: rows behind those that are shown."""
    cube = zarr.open_group(Store(settings.store).zarr("forecast.zarr"), mode="r", use_consolidated=True)
    staged = StagedZarr(Store(settings.store), "forecast.zarr", lambda: None)
    group = zarr.open_group(staged, mode="r+", use_consolidated=False)
    for name in ("sst", "mask"):
        array = group[name]
        assert isinstance(array, zarr.Array)
        shown = cube[name].shape  # type: ignore[union-attr]
        array.resize((shown[0] + 2, *shown[1:]))
        array[shown[0] :] = 7


def test_rows_of_a_killed_publication_go_and_the_cubes_stay_as_they_are(scored: Settings) -> None:
    before = content(scored)
    stage_without_commit(scored)
    assert len(content(scored)) == len(before) + 4
    assert run_part(scored, LATER, "leftovers").done == "4 leftovers removed"
    assert content(scored) == before
    assert run_part(scored, LATER, "leftovers").done == "0 leftovers removed"


def test_rows_that_were_staged_a_moment_ago_stay(scored: Settings) -> None:
    stage_without_commit(scored)
    before = content(scored)
    run_part(scored, today(), "leftovers")
    assert content(scored) == before


def test_a_publication_under_way_is_waited_for(scored: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0.1)
    with forecast_cube(scored).writing(), pytest.raises(StoreError, match="another process has been writing"):
        run_part(scored, LATER, "leftovers")


def test_a_cube_whose_root_was_lost_keeps_every_chunk_for_its_restoration(scored: Settings) -> None:
    Store(scored.store).delete("forecast.zarr/zarr.json")
    before = content(scored)
    run_part(scored, LATER, "leftovers")
    assert content(scored) == before


@pytest.mark.parametrize("damaged", [b"{}", b'{"consolidated_metadata": {"metadata": {"sst": {}}}}'])
def test_a_cube_whose_root_is_damaged_is_named_and_left_alone(scored: Settings, damaged: bytes) -> None:
    Store(scored.store).write("forecast.zarr/zarr.json", damaged)
    before = content(scored)
    with pytest.raises(ProductError, match=r"forecast\.zarr/zarr\.json is damaged"):
        run_part(scored, LATER, "leftovers")
    assert content(scored) == before


def test_forgotten_probes_drafts_and_bundles_without_a_manifest_go(trained: Settings) -> None:
    store = Store(trained.store)
    before = content(trained)
    for path in (
        ".leases/probe-0123",
        "drafts/2024-05-20.nc",
        "models/half/weights.safetensors",
        "models/half/card.json",
    ):
        store.write(path, b"left")
    assert remove_leftovers(store, today()) == []
    assert len(remove_leftovers(store, today() + timedelta(days=2))) == 1
    assert len(remove_leftovers(store, LATER)) == 3
    assert content(trained) == before


def test_leases_pointers_and_whole_bundles_are_no_leftovers(trained: Settings) -> None:
    Store(trained.store).write(".leases/forecast.zarr.json", b"a lease")
    before = content(trained)
    assert {"models/champion.json"} < set(before)
    assert remove_leftovers(Store(trained.store), LATER) == []
    assert content(trained) == before


def test_a_removal_of_leftovers_killed_anywhere_is_completed_and_no_cube_changes(
    scored: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(scored)
    stage_without_commit(scored)
    for k in (0, 2):
        assert dies_at(k, monkeypatch, lambda: run_part(scored, LATER, "leftovers"))
        shown = forecast_cube(scored).open()
        assert shown is not None and shown.sizes["init_time"] == N_INITS
    run_part(scored, LATER, "leftovers")
    assert content(scored) == before


# All parts


def test_maintenance_of_a_store_in_operation_twice_changes_no_published_byte(scored: Settings) -> None:
    published = {path: value for path, value in content(scored).items() if not path.startswith("archive")}
    report = maintain(scored, LATER)
    assert [part.part for part in report.parts] == list(PARTS) and report.failed == []
    after = content(scored)
    assert {path: value for path, value in after.items() if not path.startswith("archive")} == published
    maintain(scored, LATER)
    assert content(scored) == after


def test_an_empty_store_needs_none(settings: Settings) -> None:
    assert maintain(settings, LATER).failed == []
    assert content(settings) == {}


@pytest.mark.parametrize("error", [StoreError("no answer"), KeyError("a bug")])
def test_a_part_that_fails_is_told_and_does_not_stop_the_others(
    trained: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(settings: Settings, as_of: date) -> str:
        raise error

    monkeypatch.setitem(PARTS, "training cubes", (fail, ("training",)))
    nights(trained, LAST_DAY + timedelta(days=1), 2)
    report = maintain(trained, LATER)
    assert [part.failure for part in report.failed] == [f"{type(error).__name__}: {error}"]
    assert [bool(part.done) for part in report.parts] == [True, False, True, True, True]
    assert report.parts[0].done == "1 states expired, 2 kept"


def test_the_command_tells_every_part_and_fails_when_one_did(
    scored: Settings, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", scored.store)
    command = ["maintain", "--date", str(LATER), "--settings", str(settings_file)]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0 and all(part in told.output for part in PARTS)
    Store(scored.store).write("forecast.zarr/zarr.json", b"{}")
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1 and "is damaged" in told.output
