"""Settings: what is refused, what wins, and that what was loaded stays as it is."""

import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from datlstm.errors import SettingsError
from datlstm.grid import Grid
from datlstm.settings import (
    ArchiveSettings,
    CopernicusCredentials,
    CopernicusSource,
    ModelSettings,
    Region,
    RetrySettings,
    Settings,
    SourceSettings,
    load_settings,
    shipped_regions,
)

BOX: dict[str, Any] = {"name": "box", "title": "Box", "south": 37, "north": 38, "west": 119, "east": 120}
REGION_TOML = """
[region]
name = "box"
title = "Box — 渤海"
south = 37
north = 38
west = 119
east = 120
resolution = 0.1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "box.toml"
    path.write_text(REGION_TOML, encoding="utf-8")
    return path


def append(file: Path, text: str) -> str:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")
    return str(file)


class TestRegion:
    @pytest.mark.parametrize(
        "change",
        [
            {"north": 37},
            {"north": 36},
            {"east": 118},
            {"north": 38.05},
            {"north": 37.1},
            {"east": 181},
            {"south": -91},
            {"resolution": 0},
            {"resolution": float("nan")},
            {"resolution": float("inf")},
            {"name": "Bohai Sea"},
            {"minimum_ocean_fraction": 0},
        ],
        ids=str,
    )
    def test_a_box_that_is_not_whole_cells_on_the_globe_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Region.model_validate({**BOX, "resolution": 0.1, **change})

    def test_an_edge_off_by_rounding_only_is_accepted(self) -> None:
        assert Region.model_validate({**BOX, "resolution": 0.1, "north": 37 + 0.1 * 3}).north == pytest.approx(37.3)

    def test_the_message_says_which_axis_to_move(self) -> None:
        with pytest.raises(ValidationError, match="degrees of longitude is not a whole number.*move an edge"):
            Region.model_validate({**BOX, "resolution": 0.1, "east": 120.05})


class TestShippedRegions:
    def test_both_advertised_regions_are_shipped(self) -> None:
        assert {"bohai", "bohai-64"} <= set(shipped_regions())

    @pytest.mark.parametrize("name", shipped_regions())
    def test_every_shipped_region_loads_under_its_own_name(self, name: str) -> None:
        assert load_settings(name).region.name == name

    @pytest.mark.parametrize(("name", "cells"), [("bohai", (96, 96)), ("bohai-64", (64, 64))])
    def test_the_advertised_number_of_cells(self, name: str, cells: tuple[int, int]) -> None:
        assert Grid.from_region(load_settings(name).region).shape == cells

    def test_bohai_is_what_runs_when_nothing_is_chosen(self) -> None:
        assert load_settings().region.name == "bohai"


class TestLoading:
    def test_a_path_is_read_as_utf8_and_what_it_leaves_out_has_defaults(self, file: Path) -> None:
        loaded = load_settings(str(file))
        assert loaded.region.title == "Box — 渤海"
        assert loaded.model == ModelSettings()

    def test_the_environment_names_the_file(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATLSTM_SETTINGS", str(file))
        assert load_settings().region.name == "box"
        assert load_settings("bohai").region.name == "bohai"

    @pytest.mark.parametrize("chosen", ["atlantis", "nowhere/box.toml", "../bohai"])
    def test_what_is_not_there_is_named_with_what_is(self, chosen: str) -> None:
        with pytest.raises(SettingsError, match=rf"no settings '{chosen}'.*bohai, bohai-64"):
            load_settings(chosen)

    @pytest.mark.parametrize("content", [b"[region", b"title = '\xff\xfe'"])
    def test_a_broken_file_is_named(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        with pytest.raises(SettingsError, match="box.toml is not valid TOML"):
            load_settings(str(file))

    @pytest.mark.parametrize(
        ("addition", "place"),
        [
            ("[modle]\nname = 'x'", "modle"),
            ("[model]\nlead_day = 3", "model.lead_day"),
            ("colour = 1", "region.colour"),
        ],
    )
    def test_an_unknown_key_is_refused_at_its_place(self, file: Path, addition: str, place: str) -> None:
        with pytest.raises(SettingsError, match=f"{place}: Extra inputs"):
            load_settings(append(file, addition))

    def test_every_bad_value_is_listed(self, file: Path) -> None:
        with pytest.raises(SettingsError, match=r"(?=.*model\.lead_days: )(?=.*quality\.minimum_coverage: )"):
            load_settings(append(file, "[model]\nlead_days = 0\n[quality]\nminimum_coverage = 1.5\n"))


class TestSource:
    def test_the_reprocessed_record_is_pinned_and_the_near_real_time_one_follows_the_catalogue(self) -> None:
        copernicus = load_settings("bohai").source.copernicus
        assert copernicus.reprocessed is not None
        assert copernicus.reprocessed.dataset_version == "202003"
        assert copernicus.near_real_time.dataset_version is None

    def test_a_region_can_do_without_the_reprocessed_record_but_not_without_the_other(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATLSTM_SOURCE__COPERNICUS__REPROCESSED", "null")
        assert load_settings(str(file)).source.copernicus.reprocessed is None
        monkeypatch.setenv("DATLSTM_SOURCE__COPERNICUS__NEAR_REAL_TIME", "null")
        with pytest.raises(SettingsError, match="source.copernicus.near_real_time"):
            load_settings(str(file))

    @pytest.mark.parametrize(
        ("addition", "place"),
        [
            ("[source.retry]\nattempts = 0", "source.retry.attempts"),
            ("[source.retry]\npoll_minutes = 0", "source.retry.poll_minutes"),
            ("[source.retry]\nlongest_wait_seconds = -1", "source.retry.longest_wait_seconds"),
            ("[source.retry]\ntries = 3", "source.retry.tries"),
            ("[source.copernicus]\nlimit_seconds = 0", "source.copernicus.limit_seconds"),
            ("[source.copernicus]\npassword = 'hunter2'", "source.copernicus.password"),
            ("[source.copernicus.near_real_time]\nversion = '1'", "source.copernicus.near_real_time.version"),
            ("[source.marine_store]\nport = 80", "source.marine_store.port"),
            ("[archive]\nweekly_rolling_days = 0", "archive.weekly_rolling_days"),
            ("[archive]\nupgrade_days = 0", "archive.upgrade_days"),
        ],
    )
    def test_a_value_that_makes_no_night_is_refused_at_its_place(self, file: Path, addition: str, place: str) -> None:
        with pytest.raises(SettingsError, match=f"{place}: "):
            load_settings(append(file, addition))

    def test_one_value_of_a_section_leaves_its_neighbours(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATLSTM_SOURCE__RETRY__DEADLINE_HOURS", "3")
        monkeypatch.setenv("DATLSTM_SOURCE__COPERNICUS__CREDENTIALS_BLOCK", "marine")
        loaded = load_settings(append(file, "[source.retry]\nattempts = 2\n")).source
        assert loaded.retry == RetrySettings(attempts=2, deadline_hours=3)
        assert loaded.copernicus == CopernicusSource(credentials_block="marine")


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def file_with_model(self, file: Path) -> None:
        append(file, "[model]\ninput_days = 4\nlead_days = 6\n[model.options.datlstm]\nembed = 8\n")

    def test_a_variable_beats_the_file_and_leaves_its_neighbours(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATLSTM_MODEL__INPUT_DAYS", "7")
        monkeypatch.setenv("DATLSTM_STORE", "s3://bucket/prefix")
        loaded = load_settings(str(file))
        assert (loaded.model.input_days, loaded.model.lead_days) == (7, 6)
        assert loaded.model.options == {"datlstm": {"embed": 8}}
        assert loaded.store == "s3://bucket/prefix"

    @pytest.mark.parametrize("variable", ["DATLSTM_STOER", "DATLSTM_MODLE__NAME"])
    def test_an_unknown_variable_is_refused_with_the_known_ones(
        self, file: Path, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, "x")
        with pytest.raises(SettingsError, match=f"{variable} is not a setting; known: .*DATLSTM_STORE"):
            load_settings(str(file))

    def test_an_unknown_value_below_a_known_section_is_refused(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATLSTM_MODEL__NAM", "x")
        with pytest.raises(SettingsError, match="model.nam: Extra inputs"):
            load_settings(str(file))

    def test_a_section_that_is_not_json_is_refused(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATLSTM_MODEL", "datlstm")
        with pytest.raises(SettingsError, match='not valid JSON.*"model"'):
            load_settings(str(file))

    def test_what_is_replaced_in_code_is_out_of_its_reach(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATLSTM_STORE", "s3://bucket/prefix")
        monkeypatch.setenv("DATLSTM_MODEL__INPUT_DAYS", "7")
        replaced = load_settings(str(file)).replace(store="file:///elsewhere", archive=ArchiveSettings(rolling_days=3))
        assert replaced.store == "file:///elsewhere"
        assert (replaced.model.input_days, replaced.model.lead_days) == (7, 6)
        assert replaced.model.options == {"datlstm": {"embed": 8}}


class TestStoreOfARegion:
    def test_one_variable_gives_every_region_a_place_of_its_own(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATLSTM_STORE", "s3://bucket/sst/{region}")
        stores = [load_settings(name).store for name in (str(file), "bohai", "bohai-64")]
        assert stores == [f"s3://bucket/sst/{name}" for name in ("box", "bohai", "bohai-64")]

    @pytest.mark.parametrize("store", ["s3://bucket/{regoin}", "s3://bucket/{region", "s3://bucket/{}"])
    def test_another_placeholder_is_refused(self, file: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATLSTM_STORE", store)
        with pytest.raises(SettingsError, match="store: .*has a brace that is not of {region}"):
            load_settings(str(file))


class TestEarlierRelease:
    """Files that an earlier release was given."""

    OLD = "[source.copernicus]\ndataset_id = 'OLD'\ndataset_version = '1'\n"

    def test_renamed_keys_are_read_with_a_warning_that_names_the_new_one(
        self, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = append(file, self.OLD + "[model.options.datlstm]\ncentred_reference_points = true\n")
        loaded = load_settings(path)
        assert loaded.source.copernicus.near_real_time.dataset_id == "OLD"
        assert loaded.source.copernicus.near_real_time.dataset_version == "1"
        assert loaded.model.options["datlstm"] == {"uncentred_keys": False}
        assert "source.copernicus.dataset_id is called source.copernicus.near_real_time.dataset_id now" in caplog.text
        assert "datlstm.centred_reference_points is called model.options.datlstm.uncentred_keys now" in caplog.text

    def test_a_key_that_is_there_under_both_names_is_refused(self, file: Path) -> None:
        path = append(file, self.OLD + "[source.copernicus.near_real_time]\ndataset_id = 'NEW'\n")
        with pytest.raises(SettingsError, match="near_real_time.dataset_id now and is there too: drop one"):
            load_settings(path)

    @pytest.mark.parametrize(("found", "problem"), [("3", "a newer release wrote it"), ("'two'", "which is none")])
    def test_a_format_that_is_not_known_is_refused(self, file: Path, found: str, problem: str) -> None:
        file.write_text(f"format_version = {found}\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
        with pytest.raises(SettingsError, match=f"settings .*box.toml' .*format .*{problem}"):
            load_settings(str(file))

    def test_a_file_that_says_it_is_of_this_release_may_not_have_old_keys(self, file: Path) -> None:
        file.write_text("format_version = 2\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
        assert load_settings(str(file)).region.name == "box"
        with pytest.raises(SettingsError, match="source.copernicus.dataset_id: Extra inputs"):
            load_settings(append(file, self.OLD))


class TestImmutability:
    def test_no_value_can_be_assigned_at_any_depth(self, settings: Settings) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            settings.store = "file:///elsewhere"  # type: ignore[misc]
        with pytest.raises(ValidationError, match="frozen"):
            settings.model.lead_days = 3  # type: ignore[misc]

    def test_replace_changes_a_copy_only(self, settings: Settings) -> None:
        before = settings.model_copy(deep=True)
        replaced = settings.replace(quality={"minimum_coverage": 0.5})
        assert replaced.quality.minimum_coverage == 0.5
        assert replaced.replace(quality=settings.quality) == settings == before

    @pytest.mark.parametrize("change", [{"region": None}, {"quality": {"minimum_coverage": 2}}, {"storr": "x"}])
    def test_replace_validates_again(self, settings: Settings, change: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            settings.replace(**change)


def test_secrets_are_read_but_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPERNICUSMARINE_SERVICE_USERNAME", "jdoe")
    monkeypatch.setenv("COPERNICUSMARINE_SERVICE_PASSWORD", "hunter2")
    credentials = CopernicusCredentials()
    assert credentials.password is not None
    assert credentials.password.get_secret_value() == "hunter2"
    for shown in (repr(credentials), str(credentials), credentials.model_dump_json()):
        assert "hunter2" not in shown
        assert "jdoe" not in shown


@pytest.mark.parametrize(
    ("kind", "invented"), [("copernicus", False), ("files", False), ("marine-store", True), ("synthetic", True)]
)
def test_a_source_knows_whether_its_sea_is_invented(kind: Any, invented: bool) -> None:
    assert SourceSettings(kind=kind).is_synthetic is invented


class TestHeartbeat:
    """The address of the dead man's switch is a secret."""

    SECRET = "https://hc.example/5f2e"

    def test_it_comes_from_the_environment_and_is_never_shown(
        self, settings_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATLSTM_NOTIFY__HEARTBEAT_URL", self.SECRET)
        settings = load_settings(str(settings_file))
        assert settings.notify.heartbeat_url is not None
        assert settings.notify.heartbeat_url.get_secret_value() == self.SECRET
        for shown in (repr(settings), settings.model_dump_json()):
            assert "5f2e" not in shown

    def test_a_file_that_holds_it_is_refused_without_showing_it(self, settings_file: Path, tmp_path: Path) -> None:
        path = tmp_path / "told.toml"
        path.write_text(f'{settings_file.read_text()}\n[notify]\nheartbeat_url = "{self.SECRET}"\n')
        with pytest.raises(SettingsError, match="set DATLSTM_NOTIFY__HEARTBEAT_URL instead") as refused:
            load_settings(str(path))
        assert "5f2e" not in str(refused.value)

    def test_a_wrong_one_is_not_shown_in_the_traceback_either(
        self, settings_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATLSTM_NOTIFY__HEARTBEAT_URL", "hc.example/5f2e")
        with pytest.raises(SettingsError, match="begins with https") as refused:
            load_settings(str(settings_file))
        assert "5f2e" not in "".join(traceback.format_exception(refused.value))
