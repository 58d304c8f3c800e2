"""A row of scores for every day whose truth came, a new one when it is revised, and none when nothing changed."""

import io
import json
import logging
from collections.abc import Callable
from datetime import date, timedelta

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
from datlstm.settings import Settings, SubBasin
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

    def test_a_truth_makes_one_row_with_the_forecasts_from_every_init_before_it(self, published: Settings) -> None:
        report = verify(published, ALL_TRUE)
        assert report == VerificationReport(DAYS, 0)
        skill = scores(published)
        assert as_days(rows(published)["valid_time"]) == DAYS
        for day in DAYS:
            expected = [lead for lead in range(1, LEADS + 1) if day - timedelta(days=lead) in INITS]
            assert scored_leads(skill, day) == expected
        valid = skill["init_time"] + skill["lead_time"] * np.timedelta64(1, "D")
        assert ((valid == skill["valid_time"]) | skill["init_time"].isnull()).all()

    def test_scores_come_when_the_truth_comes(self, published: Settings) -> None:
        for night in (2, 3, 6):
            report = verify(published, FIRST + timedelta(days=night))
            assert as_days(scores(published)["valid_time"]) == DAYS[: night - 1]
        assert report == VerificationReport(DAYS[2:5], 2)

    def test_a_score_is_that_of_the_published_field_against_the_archive(self, published: Settings) -> None:
        verify(published, ALL_TRUE)
        init = read_init(published, INITS[1])
        assert init is not None
        valid = INITS[1] + timedelta(days=3)
        error = (init["sst"].sel(lead_time=3) - Archive(published).read(valid, valid)["sst"][0]).values
        weights = np.cos(np.deg2rad(init["latitude"].values))[:, None] * np.isfinite(error)
        expected = np.sqrt((weights * np.nan_to_num(error) ** 2).sum() / weights.sum())
        own = scores(published).sel(valid_time=np.datetime64(valid), lead_time=3, area="region", surface="all")
        assert own["rmse"].sel(forecaster="forecast").item() == pytest.approx(expected, rel=1e-5)
        assert (own["n"] == np.isfinite(error).sum()).all()
        assert own["init_time"].values == np.datetime64(INITS[1])

    def test_baselines_start_from_the_init_of_each_lead(self, published: Settings) -> None:
        verify(published, ALL_TRUE)
        day, lead = DAYS[4], 3
        observed = Archive(published).read(day - timedelta(days=lead), day)["sst"].load()
        error = observed.isel(time=0) - observed.isel(time=-1)
        weights = np.cos(np.deg2rad(error["latitude"]))
        own = scores(published).sel(valid_time=np.datetime64(day), lead_time=lead, area="region", surface="all")
        assert own["bias"].sel(forecaster="persistence").item() == pytest.approx(
            error.weighted(weights).mean().item(), rel=1e-4, abs=1e-6
        )
        assert np.isnan(own["acc"].sel(forecaster="climatology"))
        assert own["acc"].drop_sel(forecaster="climatology").notnull().all()

    def test_a_row_tells_its_truth_and_why_it_was_written(self, published: Settings, at: Callable[[int], None]) -> None:
        at(1_000)
        verify(published, ALL_TRUE)
        log = rows(published)
        assert set(log["truth_product"].values) == {"SYNTHETIC-BOHAI"}
        assert set(log["reason"].values) == {"first truth"}
        assert set(log["definitions_version"].values) == {2}
        assert set(log["status"].values) == {FINAL}
        assert (log["scored_at"] == np.datetime64(1_000, "s")).all()
        known = Archive(published).provenance().loc[DAYS]
        np.testing.assert_array_equal(log["truth_version"], known["source_version"])
        np.testing.assert_array_equal(log["truth_ingested_at"], known["ingested_at"])

    def test_stability_needs_three_forecasts_of_a_day(self, published: Settings) -> None:
        verify(published, ALL_TRUE)
        index = scores(published)["flip_flop"].sel(area="region", surface="all")
        n_forecasts = scores(published)["init_time"].notnull().sum("lead_time")
        np.testing.assert_array_equal(index.sel(forecaster="forecast").notnull(), n_forecasts >= 3)
        assert (index.sel(forecaster="climatology").dropna("valid_time") < 1e-4).all()

    def test_all_forecasters_are_scored_on_the_same_cells(self, published: Settings) -> None:
        verify(published, ALL_TRUE)
        skill = scores(published)
        assert tuple(skill["forecaster"].values) == FORECASTERS
        assert (skill["n"] == skill["n"].isel(forecaster=0)).all()

    def test_a_backlog_in_blocks_gives_the_rows_of_one_block(
        self, published: Settings, at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at(1_000)
        whole = score(published, ALL_TRUE)
        monkeypatch.setattr(scoring, "BLOCK_DAYS", 2)
        in_blocks = score(published, ALL_TRUE)
        assert whole is not None and in_blocks is not None
        xr.testing.assert_identical(in_blocks, whole)

    def test_nights_in_turn_end_where_one_late_night_ends(self, published: Settings, at: Callable[[int], None]) -> None:
        at(1_000)
        late = score(published, ALL_TRUE)
        assert late is not None
        for night in (3, 6, N_INITS + LEADS):
            verify(published, FIRST + timedelta(days=night))
        xr.testing.assert_allclose(rows(published).drop_attrs(), late.drop_attrs(), rtol=1e-5)
        assert rows(published)["reason"].values.tolist() == late["reason"].values.tolist()


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
        self, published: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verify(published, ALL_TRUE)
        before = content(published)
        monkeypatch.setattr(Bundle, "load", None)
        assert score(published, ALL_TRUE) is None
        assert verify(published, ALL_TRUE) == VerificationReport([], len(DAYS))
        assert content(published) == before

    def test_a_better_product_adds_a_row_and_the_earlier_one_stays(
        self, published: Settings, at: Callable[[int], None]
    ) -> None:
        verify(published, ALL_TRUE)
        before, stood = rows(published), scores(published)
        at(4_000_000_000)
        write_day(published, DAYS[7], "REPROCESSED", "3", offset_kelvin=0.5)
        assert verify(published, ALL_TRUE) == VerificationReport([DAYS[7]], len(DAYS) - 1)
        log = rows(published)
        xr.testing.assert_identical(log.isel(scoring=slice(len(DAYS))), before)
        new = log.isel(scoring=-1)
        assert new["reason"].item() == "truth revised: SYNTHETIC-BOHAI 1 → REPROCESSED 3"
        assert (new["truth_product"].item(), new["truth_version"].item()) == ("REPROCESSED", "3")
        assert new["truth_ingested_at"] == new["scored_at"] == np.datetime64(4_000_000_000, "s")
        change = (scores(published)["bias"] - stood["bias"]).sel(forecaster="persistence", area="region", surface="all")
        assert (abs(change.drop_sel(valid_time=np.datetime64(DAYS[7])).fillna(0)) == 0).all()
        np.testing.assert_allclose(change.sel(valid_time=np.datetime64(DAYS[7])).dropna("lead_time"), -0.5, atol=1e-4)

    def test_new_values_of_the_same_product_are_told_as_such(
        self, published: Settings, at: Callable[[int], None]
    ) -> None:
        verify(published, ALL_TRUE)
        at(4_000_000_000)
        write_day(published, DAYS[2], "SYNTHETIC-BOHAI", "1", offset_kelvin=0.1)
        assert verify(published, ALL_TRUE).scored == [DAYS[2]]
        assert rows(published)["reason"].values[-1] == "truth revised: new values of SYNTHETIC-BOHAI 1"

    def test_a_forecast_published_late_adds_rows_that_name_it(self, trained: Settings) -> None:
        for init in (INITS[0], INITS[1]):
            publish_forecast(trained, nightly_forecast(trained, init + timedelta(days=1)))
        verify(trained, DAYS[2] + timedelta(days=1))
        publish_forecast(trained, nightly_forecast(trained, INITS[2] + timedelta(days=1)))
        assert verify(trained, DAYS[2] + timedelta(days=1)).scored == [DAYS[2]]
        assert rows(trained)["reason"].values[-1] == f"forecasts added: {INITS[2]}"
        assert scored_leads(scores(trained), DAYS[2]) == [1, 2, 3]

    def test_new_definitions_score_everything_again(self, published: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        verify(published, ALL_TRUE)
        monkeypatch.setattr(scoring, "DEFINITIONS_VERSION", 3)
        assert verify(published, ALL_TRUE).scored == DAYS
        log = rows(published)
        assert log["reason"].values[-len(DAYS) :].tolist() == ["definitions version 2 → 3"] * len(DAYS)
        assert set(scores(published)["definitions_version"].values) == {3}

    def test_replaying_an_earlier_night_keeps_every_score(self, published: Settings) -> None:
        verify(published, ALL_TRUE)
        before = content(published)
        assert verify(published, FIRST + timedelta(days=3)).scored == []
        assert content(published) == before

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
    @pytest.fixture
    def near_real_time(self, published: Settings) -> Settings:
        """The published store, read from the local Marine Data Store, which has a reprocessed product too."""
        return published.replace(source=published.source.model_copy(update={"kind": "marine-store"}))

    @pytest.mark.parametrize(
        ("product", "version", "status"),
        [
            ("SYNTHETIC-SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001", "1", PROVISIONAL),
            ("SYNTHETIC-SST_GLO_SST_L4_REP_OBSERVATIONS_010_011", "2", FINAL),
            ("SYNTHETIC-SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001", "1 (not in the reprocessed 2)", FINAL),
            ("SST_GLO_SST_L4_REP_OBSERVATIONS_010_011", "2", PROVISIONAL),
        ],
    )
    def test_a_truth_is_final_when_it_is_of_the_reprocessed_product(
        self, near_real_time: Settings, product: str, version: str, status: int
    ) -> None:
        write_day(near_real_time, DAYS[0], product, version)
        news = score(near_real_time, DAYS[0] + timedelta(days=1))
        assert news is not None
        assert news["status"].values.tolist() == [status]

    def test_with_one_product_every_truth_is_final(self, near_real_time: Settings) -> None:
        copernicus = near_real_time.source.copernicus.model_copy(update={"reprocessed": None})
        alone = near_real_time.source.model_copy(update={"kind": "copernicus", "copernicus": copernicus})
        news = score(near_real_time.replace(source=alone), DAYS[0] + timedelta(days=1))
        assert news is not None
        assert news["status"].values.tolist() == [FINAL]


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
        assert score(published, ALL_TRUE) is not None
        assert content(published) == {}

    def test_new_rows_survive_a_netcdf_file(self, published: Settings) -> None:
        news = score(published, ALL_TRUE)
        assert news is not None
        file = bytes(news.to_netcdf(engine="h5netcdf"))
        again = xr.load_dataset(io.BytesIO(file), engine="h5netcdf", decode_timedelta=False)
        with skill_cube(published).writing() as writer:
            staged = stage(writer, again)
            writer.commit()
        assert as_days(staged["valid_time"]) == DAYS
        xr.testing.assert_equal(rows(published), news)

    def test_rows_that_stand_already_are_not_staged_again(self, published: Settings) -> None:
        news = score(published, ALL_TRUE)
        assert news is not None
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
        self, published: Settings, at: Callable[[int], None]
    ) -> None:
        late = score(published, ALL_TRUE)
        assert late is not None
        at(4_000_000_000)
        write_day(published, DAYS[0], "REPROCESSED", "3")
        verify(published, DAYS[0] + timedelta(days=1))
        with skill_cube(published).writing() as writer:
            assert as_days(stage(writer, late)["valid_time"]) == DAYS[1:]
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

    def test_the_same_scores_are_the_same_bytes(self, published: Settings, at: Callable[[int], None]) -> None:
        at(1_000)
        verify(published, ALL_TRUE)
        before = content(published)
        for path in before:
            Store(published.store).delete(path)
        verify(published, ALL_TRUE)
        assert content(published) == before

    def test_a_cube_of_an_earlier_release_is_refused_with_the_remedy(self, published: Settings) -> None:
        old = xr.Dataset({"rmse": ("scoring", [0.1])}, {"init_time": ("scoring", [0])})
        old.to_zarr(Store(published.store).zarr("skill.zarr"), zarr_format=3)
        with pytest.raises(ProductError, match="earlier release.*`datlstm verify` scores everything again"):
            verify(published, ALL_TRUE)


class TestReading:
    def test_an_analyst_reads_the_scores_that_count_in_one_line(self, published: Settings) -> None:
        verify(published, FIRST + timedelta(days=4))
        write_day(published, DAYS[1], "REPROCESSED", "3", offset_kelvin=0.5)
        verify(published, ALL_TRUE)
        log = xr.open_zarr(Store(published.store).location_of("skill.zarr"))
        skill = log.swap_dims(scoring="valid_time").drop_duplicates("valid_time", keep="last").sortby("valid_time")
        assert skill["rmse"].dims == ("valid_time", *DIMS[1:])
        assert as_days(skill["valid_time"]) == DAYS
        assert skill["truth_product"].values[1] == "REPROCESSED"
        xr.testing.assert_equal(skill.load(), scores(published))
        xr.testing.assert_equal(standing(rows(published)), scores(published))

    def test_every_variable_says_what_it_is(self, published: Settings) -> None:
        verify(published, ALL_TRUE)
        log = rows(published)
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

    def test_by_init_the_same_scores_stand_at_their_init(self, published: Settings) -> None:
        verify(published, DAYS[4] + timedelta(days=1))
        skill = scores(published)
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

    def test_skill_by_lead_pools_all_days_by_their_cells(self, published: Settings) -> None:
        verify(published, ALL_TRUE)
        skill = scores(published)
        whole = skill.sel(area="region", surface="all")
        n, rmse = whole["n"], whole["rmse"].fillna(0)
        expected = np.sqrt((n * rmse**2).sum("valid_time") / n.sum("valid_time"))
        pooled = skill_by_lead(skill)
        assert pooled.dims == ("forecaster", "lead_time")
        np.testing.assert_allclose(pooled, expected, rtol=1e-6)


class TestSummary:
    def long_record(self, published: Settings) -> xr.Dataset:
        """Standing scores as of a hundred days, each the RMSE of how many days it lies back."""
        verify(published, ALL_TRUE)
        one = scores(published).isel(valid_time=[4]).drop_attrs()
        many = one.isel(valid_time=[0] * 100).assign_coords(valid_time=pd.date_range("2024-01-01", periods=100))
        back = xr.DataArray(np.arange(99, -1, -1.0), dims="valid_time")
        return many.assign(rmse=xr.ones_like(many["rmse"]) * back, bias=xr.ones_like(many["bias"]) * back)

    def test_a_window_pools_its_trailing_days(self, published: Settings) -> None:
        found = summary(self.long_record(published))["windows"]
        assert [found[name]["days"] for name in ("30", "90", "365", "all")] == [30, 90, 100, 100]
        assert (found["30"]["first_day"], found["30"]["last_day"]) == ("2024-03-11", "2024-04-09")
        last_month = found["30"]["skill"]["forecast"]["region"]["all"]
        back = np.arange(30.0)
        assert last_month["rmse"] == [round(float(np.sqrt((back**2).mean())), 4)] * LEADS
        assert last_month["bias"] == [round(float(back.mean()), 4)] * LEADS

    def test_it_counts_cells_and_provisional_days(self, published: Settings) -> None:
        record = self.long_record(published)
        record["status"] = ("valid_time", np.where(np.arange(100) < 75, FINAL, PROVISIONAL))
        found = summary(record)["windows"]
        assert [found[name]["provisional_days"] for name in ("30", "all")] == [25, 25]
        n = record["n"].isel(valid_time=0).sel(forecaster="forecast", area="region", surface="all")
        assert found["90"]["skill"]["forecast"]["region"]["all"]["n"] == (90 * n).values.tolist()

    def test_it_is_json_with_rounded_numbers_and_null_for_none(self, published: Settings) -> None:
        verify(published, DAYS[1] + timedelta(days=1))
        content = as_json(summary(scores(published)))
        assert content == as_json(summary(scores(published)))
        read = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        own = read["windows"]["all"]["skill"]["forecast"]["region"]["all"]
        assert own["rmse"][2:] == [None, None] and own["n"][2:] == [0, 0]
        assert own["rmse"][0] == round(own["rmse"][0], 4) > 0
        assert own["flip_flop"] is None
        assert read["windows"]["all"]["skill"]["climatology"]["region"]["all"]["acc"] == [None] * LEADS
        assert (read["lead_days"], read["definitions_version"]) == ([1, 2, 3, 4], 2)
