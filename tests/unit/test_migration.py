"""Stores of earlier releases: what migrating makes of them, again, and killed half way; newer ones are refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

from datlstm import archive as archive_module
from datlstm import staged as staged_module
from datlstm import store as store_module
from datlstm.archive import FORMAT_VERSION, Archive
from datlstm.cli import app
from datlstm.cube import FORMAT, Cube
from datlstm.doctor import examine as doctor
from datlstm.errors import ArchiveError, ProductError
from datlstm.explanation import explain
from datlstm.ladder import ForecastSource
from datlstm.migrations.cubes import ASIDE
from datlstm.migrations.stores import FormatState, examine, migrate
from datlstm.products.derived import NO_FORECAST, variables
from datlstm.products.forecast import FORECAST_PATH, forecast_cube, published_days, read_init
from datlstm.products.skill import SKILL_PATH, skill_log
from datlstm.products.structure import INIT_TIME, forecast_encoding, forecast_template
from datlstm.registry import champion_id
from datlstm.settings import Settings
from datlstm.store import Store
from tests.conftest import LAST_DAY
from tests.nights import verify
from tests.unit.test_archive import days_of, mask_of

JAN_1, JAN_2, JAN_3 = (date(2024, 1, day) for day in (1, 2, 3))
NEW_IN_2 = ("settings_hash", "code_version", "heatwave_baseline")
RUNNER = CliRunner()


def state_of(settings: Settings, name: str) -> FormatState:
    return next(state for state in examine(settings) if state.name == name)


def as_text(form: Mapping[str, Any]) -> str:
    """An array's form; not a number is equal to itself."""
    return json.dumps(form, sort_keys=True, default=str)


def contents(store: Store) -> dict[str, bytes | None]:
    return {path: store.read(path) for path in store.list("") if not path.startswith((".locks", ".leases"))}


class TestArchive:
    @pytest.fixture
    def settings(self, settings: Settings, store_url: str) -> Settings:
        archive = settings.archive.model_copy(update={"first_day": JAN_1, "chunk_days": 2})
        return settings.replace(store=store_url, archive=archive)

    @pytest.fixture
    def old(self, settings: Settings) -> list[str]:
        """An archive as the first release wrote it, without the analysis error, of two nights; its states, in order."""
        written = archive_module._template
        with pytest.MonkeyPatch.context() as first_release:
            first_release.setattr(archive_module, "FORMAT_VERSION", 1)
            first_release.setattr(archive_module, "FIELDS", ("sst", "sea_ice_fraction"))
            first_release.setattr(
                archive_module, "_template", lambda *given: written(*given).drop_vars("analysis_error")
            )
            for days in ({JAN_1: 280.0, JAN_2: 281.0}, {JAN_2: 281.5, JAN_3: 282.0}):
                given = days_of(settings, days).drop_vars("analysis_error")
                Archive(settings).upsert(given, mask_of(settings), attribution="A")
        repository = icechunk.Repository.open(Store(settings.store).icechunk("archive"))
        session = repository.writable_session("main")
        del zarr.open_group(session.store, mode="r+").attrs["region"]
        session.commit("the first release kept no region")
        return [state.id for state in repository.ancestry(branch="main")][::-1][1:]

    def test_an_old_one_is_read_with_an_unknown_analysis_error(self, settings: Settings, old: list[str]) -> None:
        read = Archive(settings).read(JAN_1, JAN_3).load()
        assert np.isnan(read["analysis_error"]).all()
        np.testing.assert_allclose(read["sst"].max(("latitude", "longitude")), [280, 281.5, 282])

    def test_an_old_one_is_not_written_before_it_is_migrated(self, settings: Settings, old: list[str]) -> None:
        with pytest.raises(ArchiveError, match="has format 1 of an earlier release.*needs 2: run `datlstm migrate`"):
            Archive(settings).upsert(days_of(settings, {JAN_3: 283}), mask_of(settings), attribution="A")

    def test_migrating_adds_one_commit_and_leaves_every_value_and_earlier_state(
        self, settings: Settings, old: list[str]
    ) -> None:
        before = [Archive(settings).open(state).load() for state in old]
        (done,) = [state for state in migrate(settings) if state.name == "archive"]
        assert (done.found, done.current, done.problem) == (1, 2, "") and done.done
        repository = icechunk.Repository.open(Store(settings.store).icechunk("archive"))
        history = [state.id for state in repository.ancestry(branch="main")][::-1][1:]
        assert history[:-1] == old
        for state, then in zip(old, before, strict=True):
            xr.testing.assert_identical(Archive(settings).open(state).load(), then)
        now = Archive(settings).open().load()
        xr.testing.assert_identical(now, before[-1].assign_attrs(format_version=2))

    def test_a_migrated_one_has_the_structure_of_a_new_one_and_takes_days(
        self, settings: Settings, old: list[str], tmp_path: Path
    ) -> None:
        list(migrate(settings))
        new = settings.replace(store=(tmp_path / "new").as_uri())
        days = days_of(settings, {JAN_1: 280, JAN_2: 281.5, JAN_3: 282})
        for chosen in (settings, new):
            Archive(chosen).upsert(days, mask_of(chosen), attribution="A")
        found, wanted = (
            zarr.open_group(
                icechunk.Repository.open(Store(chosen.store).icechunk("archive")).readonly_session("main").store,
                mode="r",
            )
            for chosen in (settings, new)
        )
        forms = [
            {name: as_text(array.metadata.to_dict()) for name, array in group.arrays()} for group in (found, wanted)
        ]
        assert forms[0] == forms[1]
        assert dict(found.attrs) == dict(wanted.attrs)
        np.testing.assert_array_equal(found["analysis_error"][:], wanted["analysis_error"][:])

    def test_again_changes_nothing(self, settings: Settings, old: list[str]) -> None:
        list(migrate(settings))
        before = Archive(settings).snapshot_id()
        assert str(next(iter(migrate(settings)))) == "format 2, as this release has it"
        assert Archive(settings).snapshot_id() == before

    def test_killed_before_its_commit_it_is_the_old_one(
        self, settings: Settings, old: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as killed:
            killed.setattr(icechunk.Session, "commit", die)
            with pytest.raises(KeyboardInterrupt):
                list(migrate(settings))
        assert Archive(settings).snapshot_id() == old[-1]
        list(migrate(settings))
        assert state_of(settings, "archive").found == 2

    def test_a_newer_one_is_left_alone(self, settings: Settings, old: list[str]) -> None:
        session = icechunk.Repository.open(Store(settings.store).icechunk("archive")).writable_session("main")
        zarr.open_group(session.store, mode="r+").attrs["format_version"] = FORMAT_VERSION + 1
        newer = session.commit("written by a newer release")
        (state,) = [state for state in migrate(settings) if state.name == "archive"]
        assert "a newer release wrote it" in state.problem
        assert Archive(settings).snapshot_id() == newer


@pytest.fixture
def service(settings: Settings, service_store: Path, tmp_path: Path) -> Settings:
    """A store in operation."""
    return settings.replace(store=shutil.copytree(service_store, tmp_path / "store").as_uri())


def first_release_cube(settings: Settings) -> None:
    """Put in the cube's place one as the first release wrote it: two nights, one passed over between them."""
    grid = archive_module.Grid.from_region(settings.region)
    store = Store(settings.store)
    stored = zarr.open_group(store.zarr(FORECAST_PATH, read_only=True), mode="r")
    rows = {str(name): np.asarray(array[:]) for name, array in stored.arrays()}
    new = (*variables(settings), *NEW_IN_2)
    template = forecast_template(settings, grid).drop_vars(new)
    template.attrs = {k: v for k, v in template.attrs.items() if k != FORMAT} | {"source": "as it was told then"}
    template[INIT_TIME].attrs["first_day"] = str(LAST_DAY)
    encoding = {name: how for name, how in forecast_encoding(settings, grid).items() if name not in new}
    for path in store.list(FORECAST_PATH):
        store.delete(path)
    shutil.rmtree(Path(store.location_of(FORECAST_PATH)))
    old = Cube(store, FORECAST_PATH, template, encoding)
    for init in ([0], [1, 2]):
        with old.writing() as writer:
            shifted = {INIT_TIME: np.array(init, "int32"), "valid_time": np.int32(init[-1])}
            days = {name: rows[name] + shift for name, shift in shifted.items()}
            writer.stage({**rows, **days, "sst": rows["sst"] - np.float32(init[-1] * 10)})
            writer.commit()


class TestForecasts:
    @pytest.fixture
    def old(self, service: Settings) -> xr.Dataset:
        """The published state of the first release."""
        first_release_cube(service)
        state = forecast_cube(service).open_any()
        assert state is not None
        return state.load()

    def test_an_old_one_is_refused_with_what_to_do(self, service: Settings, old: xr.Dataset) -> None:
        with pytest.raises(ProductError, match="forecast.zarr has format 1 of an earlier.*run `datlstm migrate`"):
            published_days(service)

    def test_migrating_keeps_every_published_value(self, service: Settings, old: xr.Dataset) -> None:
        list(migrate(service))
        now = forecast_cube(service).open()
        assert now is not None
        for name, variable in old.variables.items():
            np.testing.assert_array_equal(now[name].values, variable.values)

    def test_what_the_temperatures_tell_is_derived_and_what_they_do_not_is_marked(
        self, service: Settings, old: xr.Dataset, service_store: Path
    ) -> None:
        told = read_init(service.replace(store=service_store.as_uri()), LAST_DAY)
        list(migrate(service))
        made = read_init(service, LAST_DAY)
        assert told is not None and made is not None
        np.testing.assert_array_equal(made["threshold_flags"], told["threshold_flags"])
        np.testing.assert_array_equal(made["sst_tendency_3d"][3:], told["sst_tendency_3d"][3:])
        assert np.isfinite(made["sst_tendency_3d"][3:]).any()
        assert np.isnan(made["sst_tendency_3d"][:3]).all() and np.isnan(made["heatwave_category"]).all()
        assert [made[name].item() for name in NEW_IN_2] == ["", "", ""]
        later = read_init(service, LAST_DAY + timedelta(days=2))
        assert later is not None and not (later["threshold_flags"] == made["threshold_flags"]).all()

    def test_a_night_that_was_passed_over_stays_one(self, service: Settings, old: xr.Dataset) -> None:
        list(migrate(service))
        gap = forecast_cube(service).open()
        assert gap is not None
        gap = gap.isel({INIT_TIME: 1})
        assert int(gap["forecast_source"]) == ForecastSource.NONE
        assert (gap["threshold_flags"] == NO_FORECAST).all()

    def test_a_reader_that_had_opened_before_reads_on(self, service: Settings, old: xr.Dataset) -> None:
        reader = forecast_cube(service).open_any()
        list(migrate(service))
        assert reader is not None
        xr.testing.assert_identical(reader.load(), old)

    def test_the_next_night_finds_the_structure_it_needs(
        self, service: Settings, old: xr.Dataset, service_store: Path
    ) -> None:
        list(migrate(service))
        cube = forecast_cube(service)
        stored = zarr.open_group(Store(service_store.as_uri()).zarr(FORECAST_PATH, read_only=True), mode="r")
        rows = {str(name): np.asarray(array[:]) for name, array in stored.arrays()}
        with cube.writing() as writer:
            writer.stage({**rows, INIT_TIME: rows[INIT_TIME] + np.int32(3), "valid_time": rows["valid_time"] + 3})
            writer.commit()
        assert published_days(service) == [LAST_DAY + timedelta(days=n) for n in (0, 2, 3)]
        history = cube.open()
        assert history is not None and "format 1 brought to 3" in history.attrs["history"]

    def test_what_is_unknown_is_told_when_a_forecast_is_explained(self, service: Settings, old: xr.Dataset) -> None:
        list(migrate(service))
        assert any("settings record" in gone for gone in explain(service, LAST_DAY).missing)

    def test_again_changes_no_byte(self, service: Settings, old: xr.Dataset) -> None:
        list(migrate(service))
        before = contents(Store(service.store))
        assert not [state for state in migrate(service) if state.todo or state.problem]
        assert contents(Store(service.store)) == before

    def test_killed_before_its_commit_readers_see_the_old_one(
        self, service: Settings, old: xr.Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as killed:
            killed.setattr(staged_module.StagedZarr, "commit", die)
            with pytest.raises(KeyboardInterrupt):
                list(migrate(service))
        state = forecast_cube(service).open_any()
        assert state is not None
        xr.testing.assert_identical(state.load(), old)
        list(migrate(service))
        assert state_of(service, FORECAST_PATH).found == 3

    def test_the_cube_of_other_settings_is_refused_and_stays(self, service: Settings, old: xr.Dataset) -> None:
        before = contents(Store(service.store))
        model = service.model.model_copy(update={"lead_days": 3})
        (state,) = [state for state in migrate(service.replace(model=model)) if state.name == FORECAST_PATH]
        assert "is not built as this code builds it" in state.problem
        assert contents(Store(service.store)) == before

    def test_one_without_a_number_that_has_all_variables_is_this_releases(self, service: Settings) -> None:
        root = zarr.open_group(Store(service.store).zarr(FORECAST_PATH), mode="r+")
        del root.attrs[FORMAT]
        zarr.consolidate_metadata(root.store)
        assert state_of(service, FORECAST_PATH).found == 3
        assert published_days(service) == [LAST_DAY]

    def test_a_newer_one_is_refused(self, service: Settings) -> None:
        root = zarr.open_group(Store(service.store).zarr(FORECAST_PATH), mode="r+")
        root.attrs[FORMAT] = 4
        zarr.consolidate_metadata(root.store)
        with pytest.raises(ProductError, match="has format 4, .* knows none above 3: a newer release wrote it"):
            published_days(service)


def first_release_skill(store: Store) -> None:
    """Write a skill cube as the first release did, with a row for each init."""
    scores = (("forecaster", "init_time", "lead_time"), np.ones((4, 5, 4), "float32"))
    texts = (("init_time", "lead_time"), np.full((5, 4), "P", np.dtypes.StringDType()))
    old = xr.Dataset({"rmse": scores, "n": scores, "truth_product": texts}, {"init_time": np.arange(5)})
    old.to_zarr(store.zarr(SKILL_PATH), zarr_format=3, consolidated=True)


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
class TestSkill:
    def test_an_old_log_is_moved_aside_whole_and_everything_is_scored_again(self, service: Settings) -> None:
        store = Store(service.store)
        first_release_skill(store)
        old = {path.removeprefix(SKILL_PATH): store.read(path) for path in store.list(SKILL_PATH)}
        with pytest.raises(ProductError, match="skill.zarr has format 1 of an earlier.*run `datlstm migrate`"):
            skill_log(service)
        list(migrate(service))
        assert {path.removeprefix(ASIDE): store.read(path) for path in store.list(ASIDE)} == old
        assert skill_log(service) is None
        verify(service, LAST_DAY + timedelta(days=3))
        assert state_of(service, SKILL_PATH).found in (None, 2)

    def test_killed_at_any_request_on_object_storage_the_next_call_completes_the_move(
        self, settings: Settings, s3_store_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, store = settings.replace(store=s3_store_url), Store(s3_store_url)
        first_release_skill(store)
        old = {path.removeprefix(SKILL_PATH): store.read(path) for path in store.list(SKILL_PATH)}
        done = 0

        def at_most(limit: int, act: Callable[..., None]) -> Callable[..., None]:
            def request(*given: object) -> None:
                nonlocal done
                done += 1
                if done > limit:
                    raise KeyboardInterrupt
                act(*given)

            return request

        # The last one begins where the one before had deleted the root alone.
        for limit in (1, len(old) - 1, len(old), len(old) + 1, 2):
            done = 0
            with monkeypatch.context() as killed:
                for verb in ("copy", "delete"):
                    killed.setattr(store_module.obstore, verb, at_most(limit, getattr(store_module.obstore, verb)))
                killed.setattr("datlstm.lease.LEASE_SECONDS", 0.5)
                with pytest.raises(KeyboardInterrupt):
                    list(migrate(settings))
            assert store.read(f"{SKILL_PATH}/zarr.json") is not None or store.read(f"{ASIDE}/zarr.json") is not None
        list(migrate(settings))
        assert {path.removeprefix(ASIDE): store.read(path) for path in store.list(ASIDE)} == old
        assert not store.list(SKILL_PATH)

    def test_another_log_aside_is_not_overwritten(self, service: Settings) -> None:
        store = Store(service.store)
        first_release_skill(store)
        store.write(f"{ASIDE}/zarr.json", b"{}")
        (state,) = [state for state in migrate(service) if state.name == SKILL_PATH]
        assert "is there already: move it away" in state.problem
        assert store.read(f"{ASIDE}/zarr.json") == b"{}"


class TestCommand:
    @pytest.fixture
    def service(self, service: Settings, settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setenv("DATLSTM_STORE", service.store)
        monkeypatch.setenv("DATLSTM_SETTINGS", str(settings_file))
        return service

    def test_a_dry_run_tells_and_writes_nothing(self, service: Settings) -> None:
        first_release_cube(service)
        before = contents(Store(service.store))
        told = RUNNER.invoke(app, ["migrate", "--dry-run"])
        assert told.exit_code == 0
        assert "forecast.zarr   format 1 → 3: to do: what follows" in told.stdout
        assert "archive         format 2, as this release has it" in told.stdout
        assert contents(Store(service.store)) == before
        (check,) = [check for check in doctor(service, LAST_DAY) if check.name == "formats"]
        assert (check.state, check.message) == ("fail", "forecast.zarr has format 1: run `datlstm migrate`")

    def test_it_tells_what_it_did_and_doctor_is_content(self, service: Settings) -> None:
        first_release_cube(service)
        told = RUNNER.invoke(app, ["migrate"])
        assert told.exit_code == 0
        assert "forecast.zarr   format 1 → 3: done: what follows" in told.stdout
        (check,) = [check for check in doctor(service, LAST_DAY) if check.name == "formats"]
        assert check.state == "ok"

    def test_what_a_newer_release_wrote_makes_it_fail(self, service: Settings) -> None:
        store = Store(service.store)
        pointer = store.read_json("models/champion.json")
        assert pointer is not None
        store.write_json("models/champion.json", {**pointer, "format_version": 2})
        told = RUNNER.invoke(app, ["migrate"])
        assert told.exit_code == 1
        assert "models/champion.json can't be used" in told.stdout.replace("\n", " ")


def test_every_part_of_a_store_in_operation_has_a_format(service: Settings) -> None:
    store = Store(service.store)
    assert champion_id(store) is not None
    found = {state.name: state.found for state in examine(service)}
    assert (found["archive"], found[FORECAST_PATH], found["models"], found["training"]) == (2, 3, 2, 2)
    assert found["models/champion.json"] == 1


def test_a_forecast_cube_without_spread_gets_it_as_unknown(service: Settings) -> None:
    root = zarr.open_group(Store(service.store).zarr(FORECAST_PATH), mode="r+")
    del root["sst_spread"]
    shutil.rmtree(Path(Store(service.store).location_of(f"{FORECAST_PATH}/sst_spread")), ignore_errors=True)
    root.attrs[FORMAT] = 2
    zarr.consolidate_metadata(root.store)
    before = forecast_cube(service).open_any()
    assert before is not None
    list(migrate(service))
    now = forecast_cube(service).open()
    assert now is not None and now["sst_spread"].isnull().all()
    for name, variable in before.load().variables.items():
        np.testing.assert_array_equal(now[name].values, variable.values)
    assert now.attrs["history"].endswith("spread unknown")


def test_bundles_of_the_first_format_stay_as_they_are(service: Settings) -> None:
    store = Store(service.store)
    path = f"models/{champion_id(store)}/bundle.json"
    manifest = store.read_json(path)
    assert manifest is not None
    store.write_json(path, {**manifest, "format_version": 1})
    assert str(state_of(service, "models")) == "format 2, as this release has it"
    for name in (part for part in store.list("models") if part.endswith("/bundle.json")):
        store.write_json(name, {**(store.read_json(name) or {}), "format_version": 1})
    assert str(state_of(service, "models")) == "format 1, which this release reads as it is"


def test_training_cubes_of_the_first_format_are_taken_away(service: Settings) -> None:
    store = Store(service.store)
    (root,) = (path for path in store.list("training") if path.endswith(".zarr/zarr.json"))
    cube = root.rsplit("/", 1)[0]
    for path in store.list(cube):
        store.write(path.replace(cube, "training/older.zarr"), store.read(path) or b"")
    group = zarr.open_group(store.zarr("training/older.zarr"), mode="r+")
    group.attrs["format_version"] = 1
    assert "to do: those of earlier releases are deleted" in str(state_of(service, "training"))
    list(migrate(service))
    assert not store.list("training/older.zarr") and store.list(cube)
    assert state_of(service, "training").found == 2


def test_an_empty_store_has_nothing_to_migrate(settings: Settings) -> None:
    assert [(state.found, str(state)) for state in migrate(settings)] == [(None, "none yet")] * 8
