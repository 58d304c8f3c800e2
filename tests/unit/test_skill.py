"""A row of scores for every day whose truth came, a new one when it is revised, and none when nothing changed."""

import io
import json
import logging
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.archive import FIELDS, Archive
from datlstm.bundle import WEIGHTS, Bundle
from datlstm.errors import ProductError, SettingsError
from datlstm.ladder import nightly_forecast
from datlstm.products import scoring
from datlstm.products.forecast import read_init
from datlstm.products.scoring import score
from datlstm.products.skill import FINAL, FORECASTERS, PROVISIONAL, skill_cube, stage, standing, standing_skill
from datlstm.products.skill_summary import by_init, skill_by_lead, summary
from datlstm.registry import champion_id
from datlstm.settings import Settings, SubBasin, load_settings
from datlstm.staged import StagedZarr
from datlstm.store import Store, as_json
from datlstm.verification import METRICS
from tests.nights import VerificationReport, publish_forecast, verify

FIRST, N_INITS, LEADS = date(2024, 5, 20), 6, 4
INITS = [FIRST + timedelta(days=i) for i in range(N_INITS)]
DAYS = [FIRST + timedelta(days=i) for i in range(1, N_INITS + LEADS)]
ALL_TRUE = DAYS[-1] + timedelta(days=1)
DIMS = ("scoring", "forecaster", "area", "surface", "lead_time")


def scores(settings: Settings) -> xr.Dataset:
    skill = standing_skill(settings)
    assert skill is not None
    return skill.load()


def rows(settings: Settings) -> xr.Dataset:
    log = skill_cube(settings).open()
    assert log is not None
    return log.load()


def content(settings: Settings) -> dict[str, bytes | None]:
    store = Store(settings.store)
    return {path: store.read(path) for path in store.list("skill.zarr")}


def as_days(times: xr.DataArray) -> list[date]:
    return list(times.values.astype("datetime64[D]").tolist())


def scored_leads(skill: xr.Dataset, day: date) -> list[int]:
    own = skill.sel(valid_time=np.datetime64(day))
    is_scored = own["n"].sel(forecaster="forecast", area="region", surface="all") > 0
    np.testing.assert_array_equal(is_scored, own["init_time"].notnull())
    return own["lead_time"].values[is_scored.values].tolist()


def write_day(
    settings: Settings, day: date, product: str, version: str, offset_kelvin: float = 0.0, ice: float | None = None
) -> None:
    """Write a day over what the archive has of it, or of the day 30 days before."""
    archive = Archive(settings)
    like = day if day in archive.usable_days() else day - timedelta(days=30)
    days = archive.read(like, like).load()[list(FIELDS)].assign_coords(time=pd.DatetimeIndex([day]))
    days["sst"] = days["sst"] + np.float32(offset_kelvin)
    if ice is not None:
        east = days["longitude"] > days["longitude"].mean()
        days["sea_ice_fraction"] = xr.zeros_like(days["sst"]).where(~east, np.float32(ice))
    days["quality"] = ("time", np.zeros(1, "uint8"))
    days["source_product"] = ("time", np.array([product], dtype=object))
    days["source_version"] = ("time", np.array([version], dtype=object))
    archive.upsert(days, archive.ocean_mask(), attribution="nobody")


@pytest.fixture(scope="module")
def scored_store(settings_file: Path, published_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published store in which every forecast was scored in one night; read it, or copy it before writing."""
    folder = copytree(published_store, tmp_path_factory.mktemp("scored") / "store")
    verify(load_settings(str(settings_file)).replace(store=folder.as_uri()), ALL_TRUE)
    return folder


@pytest.fixture
def scored(settings_file: Path, scored_store: Path, tmp_path: Path) -> Settings:
    """Settings with a scored store of the test's own."""
    folder = copytree(scored_store, tmp_path / "scored")
    return load_settings(str(settings_file)).replace(store=folder.as_uri())


@pytest.fixture(scope="module")
def log(settings_file: Path, scored_store: Path) -> xr.Dataset:
    """All rows of the scored store."""
    return rows(load_settings(str(settings_file)).replace(store=scored_store.as_uri()))


@pytest.fixture
def skill(log: xr.Dataset) -> xr.Dataset:
    """The standing scores of the scored store."""
    return standing(log)


@pytest.fixture(scope="module")
def news(settings_file: Path, published_store: Path) -> xr.Dataset:
    """What scoring the published store gives, computed at 1 000 seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datlstm.products.scoring.now_seconds", lambda: 1_000)
        new = score(load_settings(str(settings_file)).replace(store=published_store.as_uri()), ALL_TRUE)
    assert new is not None
    return new


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the time at which scores and days of the archive are written, in seconds since 1970."""

    def set_time(seconds: int) -> None:
        for module in ("datlstm.products.scoring", "datlstm.archive"):
            monkeypatch.setattr(f"{module}.now_seconds", lambda: seconds)

    return set_time


@pytest.fixture
def with_basins(published: Settings) -> Settings:
    """The published store, its region in two halves."""
    box = published.region
    halves = (
        SubBasin(name="west", south=box.south, north=box.north, west=box.west, east=119.4),
        SubBasin(name="east", south=box.south, north=box.north, west=box.west, east=box.east),
    )
    return published.replace(region=box.model_copy(update={"sub_basins": halves}))


class TestRows:
    def test_before_any_truth_nothing_is_scored(self, published: Settings) -> None:
        assert score(published, FIRST + timedelta(days=1)) is None
        assert verify(published, FIRST + timedelta(days=1)) == VerificationReport([], 0)
        assert skill_cube(published).open() is None
        assert standing_skill(published) is None

    def test_without_a_forecast_nothing_is_scored(self, trained: Settings) -> None:
        assert score(trained, ALL_TRUE) is None

    def test_a_truth_makes_one_row_with_the_forecasts_from_every_init_before_it(self, log: xr.Dataset) -> None:
        skill = standing(log)
        assert as_days(log["valid_time"]) == DAYS
        for day in DAYS:
            expected = [lead for lead in range(1, LEADS + 1) if day - timedelta(days=lead) in INITS]
            assert scored_leads(skill, day) == expected
        valid = skill["init_time"] + skill["lead_time"] * np.timedelta64(1, "D")
        assert ((valid == skill["valid_time"]) | skill["init_time"].isnull()).all()

    def test_a_score_is_that_of_the_published_field_against_the_archive(
        self, published: Settings, skill: xr.Dataset
    ) -> None:
        init = read_init(published, INITS[1])
        assert init is not None
        valid = INITS[1] + timedelta(days=3)
        error = (init["sst"].sel(lead_time=3) - Archive(published).read(valid, valid)["sst"][0]).values
        weights = np.cos(np.deg2rad(init["latitude"].values))[:, None] * np.isfinite(error)
        expected = np.sqrt((weights * np.nan_to_num(error) ** 2).sum() / weights.sum())
        own = skill.sel(valid_time=np.datetime64(valid), lead_time=3, area="region", surface="all")
        assert own["rmse"].sel(forecaster="forecast").item() == pytest.approx(expected, rel=1e-5)
        assert (own["n"] == np.isfinite(error).sum()).all()
        assert own["init_time"].values == np.datetime64(INITS[1])

    def test_baselines_start_from_the_init_of_each_lead(self, published: Settings, skill: xr.Dataset) -> None:
        day, lead = DAYS[4], 3
        observed = Archive(published).read(day - timedelta(days=lead), day)["sst"].load()
        error = observed.isel(time=0) - observed.isel(time=-1)
        weights = np.cos(np.deg2rad(error["latitude"]))
        own = skill.sel(valid_time=np.datetime64(day), lead_time=lead, area="region", surface="all")
        assert own["bias"].sel(forecaster="persistence").item() == pytest.approx(
            error.weighted(weights).mean().item(), rel=1e-4, abs=1e-6
        )
        assert np.isnan(own["acc"].sel(forecaster="climatology"))
        assert own["acc"].drop_sel(forecaster="climatology").notnull().all()

    def test_a_row_tells_its_truth_and_why_it_was_written(self, published: Settings, log: xr.Dataset) -> None:
        assert set(log["truth_product"].values) == {"SYNTHETIC-BOHAI"}
        assert set(log["reason"].values) == {"first truth"}
        assert set(log["definitions_version"].values) == {2}
        assert set(log["status"].values) == {FINAL}
        known = Archive(published).provenance().loc[DAYS]
        np.testing.assert_array_equal(log["truth_version"], known["source_version"])
        np.testing.assert_array_equal(log["truth_ingested_at"], known["ingested_at"])
        assert (log["scored_at"] > log["truth_ingested_at"]).all()

    def test_stability_needs_three_forecasts_of_a_day(self, skill: xr.Dataset) -> None:
        index = skill["flip_flop"].sel(area="region", surface="all")
        n_forecasts = skill["init_time"].notnull().sum("lead_time")
        np.testing.assert_array_equal(index.sel(forecaster="forecast").notnull(), n_forecasts >= 3)
        assert (index.sel(forecaster="climatology").dropna("valid_time") < 1e-4).all()

    def test_all_forecasters_are_scored_on_the_same_cells(self, skill: xr.Dataset) -> None:
        assert tuple(skill["forecaster"].values) == FORECASTERS
        assert (skill["n"] == skill["n"].isel(forecaster=0)).all()

    def test_a_backlog_in_blocks_gives_the_rows_of_one_block(
        self, published: Settings, news: xr.Dataset, at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at(1_000)
        monkeypatch.setattr(scoring, "BLOCK_DAYS", 4)
        in_blocks = score(published, ALL_TRUE)
        assert in_blocks is not None
        xr.testing.assert_identical(in_blocks, news)

    def test_nights_in_turn_write_what_their_truth_allows_and_end_where_one_late_night_ends(
        self, published: Settings, news: xr.Dataset, at: Callable[[int], None]
    ) -> None:
        at(1_000)
        assert verify(published, DAYS[3]) == VerificationReport(DAYS[:3], 0)
        assert as_days(rows(published)["valid_time"]) == DAYS[:3]
        assert verify(published, ALL_TRUE) == VerificationReport(DAYS[3:], 3)
        xr.testing.assert_allclose(rows(published).drop_attrs(), news.drop_attrs(), rtol=1e-5)
        assert rows(published)["reason"].values.tolist() == news["reason"].values.tolist()


class TestAreasAndSurfaces:
    def test_the_sub_basins_share_the_cells_of_the_region(self, with_basins: Settings) -> None:
        verify(with_basins, ALL_TRUE)
        skill = scores(with_basins).sel(surface="all")
        assert skill["area"].values.tolist() == ["region", "west", "east"]
        n = skill["n"]
        assert (n.sel(area="west") + n.sel(area="east") == n.sel(area="region")).all()
        there = skill["init_time"].notnull()
        assert (n.sel(area="west").where(there, 1) > 0).all()
        assert (skill["rmse"].sel(area="west") != skill["rmse"].sel(area="east")).where(there, True).all()

    def test_ice_free_leaves_out_the_cells_with_ice_in_the_truth(self, with_basins: Settings) -> None:
        day = DAYS[4]
        write_day(with_basins, day, "ICY", "1", ice=0.15)
        verify(with_basins, ALL_TRUE)
        n = scores(with_basins)["n"].sel(valid_time=np.datetime64(day), forecaster="forecast", lead_time=1)
        assert n.sel(area="east", surface="ice_free") == 0 < n.sel(area="east", surface="all")
        assert n.sel(area="west", surface="ice_free") == n.sel(area="west", surface="all")
        assert n.sel(area="region", surface="ice_free") == n.sel(area="west", surface="all")
        other = scores(with_basins)["n"].sel(valid_time=np.datetime64(DAYS[3]))
        assert (other.sel(surface="ice_free") == other.sel(surface="all")).all()

    def test_a_sub_basin_without_sea_stops_before_anything_is_written(self, published: Settings) -> None:
        dry = SubBasin(name="dry", south=10, north=11, west=20, east=21)
        region = published.region.model_copy(update={"sub_basins": (dry,)})
        with pytest.raises(SettingsError, match="sub-basin 'dry'"):
            verify(published.replace(region=region), ALL_TRUE)
        assert skill_cube(published).open() is None


class TestRevisions:
    def test_running_twice_computes_nothing_and_writes_nothing(
        self, scored: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = content(scored)
        monkeypatch.setattr(Bundle, "load", None)
        assert score(scored, ALL_TRUE) is None
        assert verify(scored, ALL_TRUE) == VerificationReport([], len(DAYS))
        assert content(scored) == before

    def test_a_better_product_adds_a_row_and_the_earlier_one_stays(
        self, scored: Settings, at: Callable[[int], None]
    ) -> None:
        before, stood = rows(scored), scores(scored)
        at(4_000_000_000)
        write_day(scored, DAYS[7], "REPROCESSED", "3", offset_kelvin=0.5)
        assert verify(scored, ALL_TRUE) == VerificationReport([DAYS[7]], len(DAYS) - 1)
        log = rows(scored)
        xr.testing.assert_identical(log.isel(scoring=slice(len(DAYS))), before)
        new = log.isel(scoring=-1)
        assert new["reason"].item() == "truth revised: SYNTHETIC-BOHAI 1 → REPROCESSED 3"
        assert (new["truth_product"].item(), new["truth_version"].item()) == ("REPROCESSED", "3")
        assert new["truth_ingested_at"] == new["scored_at"] == np.datetime64(4_000_000_000, "s")
        change = (scores(scored)["bias"] - stood["bias"]).sel(forecaster="persistence", area="region", surface="all")
        assert (abs(change.drop_sel(valid_time=np.datetime64(DAYS[7])).fillna(0)) == 0).all()
        np.testing.assert_allclose(change.sel(valid_time=np.datetime64(DAYS[7])).dropna("lead_time"), -0.5, atol=1e-4)

    def test_new_values_of_the_same_product_are_told_as_such(self, scored: Settings, at: Callable[[int], None]) -> None:
        at(4_000_000_000)
        write_day(scored, DAYS[2], "SYNTHETIC-BOHAI", "1", offset_kelvin=0.1)
        assert verify(scored, ALL_TRUE).scored == [DAYS[2]]
        assert rows(scored)["reason"].values[-1] == "truth revised: new values of SYNTHETIC-BOHAI 1"

    def test_a_forecast_published_late_adds_rows_that_name_it(self, scored: Settings) -> None:
        late = INITS[-1] + timedelta(days=1)
        publish_forecast(scored, nightly_forecast(scored, late + timedelta(days=1)))
        assert verify(scored, ALL_TRUE).scored == DAYS[-3:]
        assert rows(scored)["reason"].values[-3:].tolist() == [f"forecasts added: {late}"] * 3
        assert scored_leads(scores(scored), DAYS[-1]) == [3, 4]

    def test_new_definitions_score_everything_again(self, scored: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scoring, "DEFINITIONS_VERSION", 3)
        assert verify(scored, ALL_TRUE).scored == DAYS
        log = rows(scored)
        assert log["reason"].values[-len(DAYS) :].tolist() == ["definitions version 2 → 3"] * len(DAYS)
        assert set(scores(scored)["definitions_version"].values) == {3}

    def test_replaying_an_earlier_night_keeps_every_score(self, scored: Settings) -> None:
        before = content(scored)
        assert verify(scored, FIRST + timedelta(days=3)).scored == []
        assert content(scored) == before

    def test_truth_that_comes_after_a_long_gap_is_scored_though_later_days_were_scored_first(
        self, trained: Settings
    ) -> None:
        last = date(2024, 5, 31)
        publish_forecast(trained, nightly_forecast(trained, last + timedelta(days=1)))
        resumed = last + timedelta(days=LEADS + 2)
        for day in (resumed, resumed + timedelta(days=1)):
            write_day(trained, day, "LATE", "1")
        publish_forecast(trained, nightly_forecast(trained, resumed + timedelta(days=1)))
        assert verify(trained, resumed + timedelta(days=2)).scored == [resumed + timedelta(days=1)]
        write_day(trained, last + timedelta(days=1), "LATE", "1")
        assert verify(trained, resumed + timedelta(days=2)).scored == [last + timedelta(days=1)]
        assert as_days(scores(trained)["valid_time"]) == [last + timedelta(days=1), resumed + timedelta(days=1)]


class TestStatus:
    def test_a_truth_that_may_still_be_revised_is_provisional(self, published: Settings) -> None:
        nrt, rep = (
            f"SYNTHETIC-SST_GLO_SST_L4_{name}" for name in ("NRT_OBSERVATIONS_010_001", "REP_OBSERVATIONS_010_011")
        )
        write_day(published, DAYS[0], nrt, "1")
        write_day(published, DAYS[1], rep, "1")
        marine_store = published.source.model_copy(update={"kind": "marine-store"})
        new = score(published.replace(source=marine_store), DAYS[1] + timedelta(days=1))
        assert new is not None
        assert new["status"].values.tolist() == [PROVISIONAL, FINAL]


class TestBundles:
    def test_forecasts_of_an_unreadable_bundle_wait_until_it_is_restored(
        self, published: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = Store(published.store)
        bundle_id = champion_id(store)
        weights = store.read(f"models/{bundle_id}/{WEIGHTS}")
        assert bundle_id is not None and weights is not None
        heir = Bundle.load(store, bundle_id).damped()
        heir.save(store)
        cube = skill_cube(published)
        publish_as(published, heir)
        store.write(f"models/{bundle_id}/{WEIGHTS}", b"corrupt")
        with caplog.at_level(logging.ERROR):
            assert verify(published, ALL_TRUE).scored == DAYS[N_INITS:]
        assert f"the {N_INITS} forecasts from {INITS[0]} … {INITS[-1]} are not scored" in caplog.text
        assert bundle_id in caplog.text and "restore it from a backup" in caplog.text
        assert scored_leads(scores(published), DAYS[N_INITS]) == [1]
        before = content(published)
        assert verify(published, ALL_TRUE).scored == []
        assert content(published) == before
        store.write(f"models/{bundle_id}/{WEIGHTS}", weights)
        assert verify(published, ALL_TRUE).scored == DAYS
        assert scored_leads(scores(published), DAYS[N_INITS]) == [1, 2, 3, 4]
        log = cube.open()
        assert log is not None
        added = ", ".join(map(str, INITS[-3:]))
        assert log["reason"].values[-3] == f"forecasts added: {added}"


def publish_as(settings: Settings, bundle: Bundle) -> None:
    """Publish the forecast of the night after the last init with another bundle."""
    made = nightly_forecast(settings, INITS[-1] + timedelta(days=2))
    publish_forecast(settings, type(made)(**{**vars(made), "bundle": bundle}))


class TestStaging:
    def test_scoring_writes_nothing(self, published: Settings) -> None:
        before = sorted(Store(published.store).list(""))
        assert score(published, FIRST + timedelta(days=2)) is not None
        assert sorted(Store(published.store).list("")) == before

    def test_new_rows_survive_a_netcdf_file(self, published: Settings, news: xr.Dataset) -> None:
        file = bytes(news.to_netcdf(engine="h5netcdf"))
        again = xr.load_dataset(io.BytesIO(file), engine="h5netcdf", decode_timedelta=False)
        with skill_cube(published).writing() as writer:
            staged = stage(writer, again)
            writer.commit()
        assert as_days(staged["valid_time"]) == DAYS
        xr.testing.assert_equal(rows(published), news)

    def test_rows_that_stand_already_are_not_staged_again(self, published: Settings, news: xr.Dataset) -> None:
        verify(published, DAYS[2] + timedelta(days=1))
        with skill_cube(published).writing() as writer:
            assert as_days(stage(writer, news)["valid_time"]) == DAYS[3:]
            writer.commit()
        before = content(published)
        with skill_cube(published).writing() as writer:
            assert stage(writer, news).sizes["scoring"] == 0
            writer.commit()
        assert content(published) == before

    def test_rows_of_an_older_truth_are_not_staged_over_a_newer_one(
        self, published: Settings, news: xr.Dataset, at: Callable[[int], None]
    ) -> None:
        at(4_000_000_000)
        write_day(published, DAYS[0], "REPROCESSED", "3")
        verify(published, DAYS[0] + timedelta(days=1))
        with skill_cube(published).writing() as writer:
            assert as_days(stage(writer, news)["valid_time"]) == DAYS[1:]
            writer.commit()
        assert scores(published)["truth_product"].values[0] == "REPROCESSED"

    def test_a_night_shows_all_its_scores_in_one_step(
        self, published: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commits = []
        commit = StagedZarr.commit
        monkeypatch.setattr(StagedZarr, "commit", lambda staged: commits.append(commit(staged)))
        verify(published, ALL_TRUE)
        assert len(commits) == 1

    def test_the_same_scores_are_the_same_bytes(self, published: Settings, news: xr.Dataset) -> None:
        contents = []
        for _ in range(2):
            with skill_cube(published).writing() as writer:
                stage(writer, news)
                writer.commit()
            contents.append(content(published))
            for path in contents[-1]:
                Store(published.store).delete(path)
        assert contents[0] == contents[1] != {}

    def test_a_cube_of_an_earlier_release_is_refused_with_the_remedy(self, published: Settings) -> None:
        old = xr.Dataset({"rmse": ("scoring", [0.1])}, {"init_time": ("scoring", [0])})
        old.to_zarr(Store(published.store).zarr("skill.zarr"), zarr_format=3)
        with pytest.raises(ProductError, match="has format 1 of an earlier release.*run `datlstm migrate`"):
            verify(published, ALL_TRUE)


class TestReading:
    def test_an_analyst_reads_the_scores_that_count_in_one_line(self, scored: Settings) -> None:
        write_day(scored, DAYS[1], "REPROCESSED", "3", offset_kelvin=0.5)
        verify(scored, ALL_TRUE)
        log = xr.open_zarr(Store(scored.store).location_of("skill.zarr"))
        skill = log.swap_dims(scoring="valid_time").drop_duplicates("valid_time", keep="last").sortby("valid_time")
        assert skill["rmse"].dims == ("valid_time", *DIMS[1:])
        assert as_days(skill["valid_time"]) == DAYS
        assert skill["truth_product"].values[1] == "REPROCESSED"
        xr.testing.assert_equal(skill.load(), scores(scored))
        xr.testing.assert_equal(standing(rows(scored)), scores(scored))

    def test_every_variable_says_what_it_is(self, log: xr.Dataset) -> None:
        assert {name: log[name].dims for name in (*METRICS, "n")} == dict.fromkeys((*METRICS, "n"), DIMS)
        assert log["flip_flop"].dims == DIMS[:-1]
        assert log["init_time"].dims == ("scoring", "lead_time")
        assert set(log.coords) == {"valid_time", "init_time", *DIMS[1:]}
        assert all("long_name" in log[name].attrs for name in log.variables)
        in_kelvin = ("rmse", "mae", "bias", "flip_flop")
        assert {log[name].attrs["units"] for name in in_kelvin} == {"kelvin"}
        assert all("cell_methods" in log[name].attrs for name in (*in_kelvin, "n"))
        assert log["status"].attrs["flag_meanings"] == "provisional final"
        assert log["valid_time"].attrs["standard_name"] == "time"
        assert log["init_time"].attrs["standard_name"] == "forecast_reference_time"
        assert log.attrs["Conventions"] == "CF-1.11, ACDD-1.3"
        assert {"license", "acknowledgement", "title", "summary"} <= set(log.attrs)

    def test_by_init_the_same_scores_stand_at_their_init(self, log: xr.Dataset) -> None:
        skill = standing(log).isel(valid_time=slice(5))
        turned = by_init(skill)
        assert as_days(turned["init_time"]) == INITS[:5]
        assert turned["rmse"].dims == ("init_time", "lead_time", *DIMS[1:4])
        for init, lead in ((INITS[0], 1), (INITS[0], 4), (INITS[3], 2)):
            own = turned.sel(init_time=np.datetime64(init), lead_time=lead)
            same = skill.sel(valid_time=np.datetime64(init + timedelta(days=lead)), lead_time=lead)
            assert same["init_time"].values == np.datetime64(init)
            for name in (*METRICS, "n", "truth_product", "status"):
                np.testing.assert_array_equal(own[name], same[name])
        untrue = turned.sel(init_time=np.datetime64(INITS[3]), lead_time=3)
        assert untrue["rmse"].isnull().all() and (untrue["n"] == 0).all()
        assert untrue["truth_product"] == "" and untrue["scored_at"].isnull()

    def test_skill_by_lead_pools_all_days_by_their_cells(self, skill: xr.Dataset) -> None:
        whole = skill.sel(area="region", surface="all")
        n, rmse = whole["n"], whole["rmse"].fillna(0)
        expected = np.sqrt((n * rmse**2).sum("valid_time") / n.sum("valid_time"))
        pooled = skill_by_lead(skill)
        assert pooled.dims == ("forecaster", "lead_time")
        np.testing.assert_allclose(pooled, expected, rtol=1e-6)


class TestSummary:
    @pytest.fixture
    def record(self, skill: xr.Dataset) -> xr.Dataset:
        """Standing scores as of a hundred days, each the RMSE of how many days it lies back."""
        one = skill.isel(valid_time=[4]).drop_attrs()
        many = one.isel(valid_time=[0] * 100).assign_coords(valid_time=pd.date_range("2024-01-01", periods=100))
        back = xr.DataArray(np.arange(99, -1, -1.0), dims="valid_time")
        return many.assign(rmse=xr.ones_like(many["rmse"]) * back, bias=xr.ones_like(many["bias"]) * back)

    def test_a_window_pools_its_trailing_days(self, record: xr.Dataset) -> None:
        found = summary(record)["windows"]
        assert [found[name]["days"] for name in ("30", "90", "365", "all")] == [30, 90, 100, 100]
        assert (found["30"]["first_day"], found["30"]["last_day"]) == ("2024-03-11", "2024-04-09")
        last_month = found["30"]["skill"]["forecast"]["region"]["all"]
        back = np.arange(30.0)
        assert last_month["rmse"] == [round(float(np.sqrt((back**2).mean())), 4)] * LEADS
        assert last_month["bias"] == [round(float(back.mean()), 4)] * LEADS

    def test_it_counts_cells_and_provisional_days(self, record: xr.Dataset) -> None:
        record["status"] = ("valid_time", np.where(np.arange(100) < 75, FINAL, PROVISIONAL))
        found = summary(record)["windows"]
        assert [found[name]["provisional_days"] for name in ("30", "all")] == [25, 25]
        n = record["n"].isel(valid_time=0).sel(forecaster="forecast", area="region", surface="all")
        assert found["90"]["skill"]["forecast"]["region"]["all"]["n"] == (90 * n).values.tolist()

    def test_it_is_json_with_rounded_numbers_and_null_for_none(self, skill: xr.Dataset) -> None:
        early = skill.isel(valid_time=slice(2))
        content = as_json(summary(early))
        assert content == as_json(summary(early))
        read = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        own = read["windows"]["all"]["skill"]["forecast"]["region"]["all"]
        assert own["rmse"][2:] == [None, None] and own["n"][2:] == [0, 0]
        assert own["rmse"][0] == round(own["rmse"][0], 4) > 0
        assert own["flip_flop"] is None
        assert read["windows"]["all"]["skill"]["climatology"]["region"]["all"]["acc"] == [None] * LEADS
        assert (read["lead_days"], read["definitions_version"]) == ([1, 2, 3, 4], 2)
