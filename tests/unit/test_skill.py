"""Scores arrive with the truth, lead by lead, are revised with it, and never vanish."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.archive import FIELDS, Archive
from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import read_init
from datlstm.products.skill import FORECASTERS, skill_by_lead, skill_cube, standing_skill, verify
from datlstm.settings import Settings
from datlstm.staged import StagedZarr
from datlstm.store import Store
from datlstm.verification import pooled_rmse
from tests.nights import publish_forecast

FIRST, N_INITS, LEADS = date(2024, 5, 20), 6, 4
INITS = [FIRST + timedelta(days=i) for i in range(N_INITS)]
ALL_TRUE = FIRST + timedelta(days=N_INITS + LEADS)


def scores(settings: Settings) -> xr.Dataset:
    skill = standing_skill(settings)
    assert skill is not None
    return skill


def content(settings: Settings) -> dict[str, bytes | None]:
    store = Store(settings.store)
    return {path: store.read(path) for path in store.list("skill.zarr")}


def scored_leads(settings: Settings, init: date) -> list[int]:
    own = scores(settings)["n"].sel(init_time=np.datetime64(init), forecaster="forecast")
    return own["lead_time"].values[own.values > 0].tolist()


def revise(settings: Settings, day: date, offset_kelvin: float, version: str = "2") -> None:
    archive = Archive(settings)
    days = archive.read(day, day).load()[list(FIELDS)]
    days["sst"] = days["sst"] + offset_kelvin
    days["quality"] = ("time", np.zeros(1, "uint8"))
    days["source_product"] = ("time", np.array(["REPROCESSED"], dtype=object))
    days["source_version"] = ("time", np.array([version], dtype=object))
    archive.upsert(days, archive.ocean_mask(), attribution="nobody")


def test_before_any_truth_nothing_is_scored(published: Settings) -> None:
    assert verify(published, FIRST + timedelta(days=1)).scored == []
    assert skill_cube(published).open() is None
    assert skill_by_lead(published) is None


def test_scores_arrive_lead_by_lead_as_truth_arrives(published: Settings) -> None:
    for night in (2, 4, 6):
        verify(published, FIRST + timedelta(days=night))
        assert scored_leads(published, FIRST) == list(range(1, min(night - 1, LEADS) + 1))
    assert scored_leads(published, INITS[2]) == [1, 2, 3]


def test_a_score_is_that_of_the_published_field_against_the_archive(published: Settings) -> None:
    verify(published, ALL_TRUE)
    init = read_init(published, INITS[1])
    assert init is not None
    valid = INITS[1] + timedelta(days=3)
    error = (init["sst"].sel(lead_time=3) - Archive(published).read(valid, valid)["sst"][0]).values
    weights = np.cos(np.deg2rad(init["latitude"].values))[:, None] * np.isfinite(error)
    expected = np.sqrt((weights * np.nan_to_num(error) ** 2).sum() / weights.sum())
    own = scores(published).sel(forecaster="forecast", init_time=np.datetime64(INITS[1]), lead_time=3)
    assert own["rmse"].item() == pytest.approx(expected, rel=1e-5)
    assert own["n"].item() == np.isfinite(error).sum()
    assert own["truth_product"].item() == "SYNTHETIC-BOHAI"


def test_all_forecasters_are_scored_on_the_same_cells(published: Settings) -> None:
    report = verify(published, ALL_TRUE)
    assert report.scored == INITS
    cube = scores(published)
    assert tuple(cube["forecaster"].values) == FORECASTERS
    assert (cube["n"] == cube["n"].isel(forecaster=0)).all() and (cube["n"] > 0).all()
    skill = skill_by_lead(published)
    assert skill is not None
    xr.testing.assert_identical(skill, pooled_rmse(cube))
    assert (skill.sel(forecaster="persistence", lead_time=1) > 0).all()


def test_running_twice_writes_nothing(published: Settings) -> None:
    verify(published, ALL_TRUE)
    before = content(published)
    again = verify(published, ALL_TRUE)
    assert (again.scored, again.unchanged) == ([], INITS)
    assert content(published) == before


def test_a_revised_truth_is_scored_again_and_only_where_it_counts(
    published: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datlstm.products.skill.now_seconds", lambda: 1_000)
    verify(published, ALL_TRUE)
    before, day = scores(published), FIRST + timedelta(days=8)
    revise(published, day, 0.5)
    monkeypatch.setattr("datlstm.products.skill.now_seconds", lambda: 2_000)
    report = verify(published, ALL_TRUE)
    after = scores(published)
    touched = np.array([[init + timedelta(days=lead) == day for lead in range(1, LEADS + 1)] for init in INITS])
    assert report.scored == [init for init, any_lead in zip(INITS, touched.any(axis=1), strict=True) if any_lead]
    changed = (after["bias"] != before["bias"]).any("forecaster").values
    np.testing.assert_array_equal(changed, touched)
    np.testing.assert_array_equal(after["truth_product"].values == "REPROCESSED", touched)
    np.testing.assert_array_equal(after["scored_at"].values == np.datetime64(2_000, "s"), touched)
    bias = after["bias"].sel(forecaster="persistence") - before["bias"].sel(forecaster="persistence")
    np.testing.assert_allclose(bias.values[touched], -0.5, atol=1e-4)


def test_the_earlier_score_of_a_revised_truth_stays_in_the_log(published: Settings) -> None:
    verify(published, ALL_TRUE)
    before = skill_cube(published).open()
    assert before is not None
    revise(published, FIRST + timedelta(days=8), 0.5)
    verify(published, ALL_TRUE)
    after = skill_cube(published).open()
    assert after is not None
    assert after.sizes["scoring"] > before.sizes["scoring"]
    xr.testing.assert_identical(after.isel(scoring=slice(before.sizes["scoring"])).load(), before.load())


def test_a_night_shows_all_its_scores_in_one_step(published: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = []
    commit = StagedZarr.commit
    monkeypatch.setattr(StagedZarr, "commit", lambda staged: commits.append(commit(staged)))
    assert len(verify(published, ALL_TRUE).scored) == N_INITS
    assert len(commits) == 1


def test_an_analyst_reads_the_scores_that_count_in_one_line(published: Settings) -> None:
    verify(published, FIRST + timedelta(days=4))
    verify(published, ALL_TRUE)
    skill = (
        xr.open_zarr(Store(published.store).location_of("skill.zarr"))
        .swap_dims(scoring="init_time")
        .drop_duplicates("init_time", keep="last")
        .sortby("init_time")
    )
    assert skill["rmse"].dims == ("forecaster", "init_time", "lead_time")
    assert skill["init_time"].values.astype("datetime64[D]").tolist() == INITS
    xr.testing.assert_equal(skill.load(), scores(published))


def test_where_no_truth_has_come_a_score_says_nothing(published: Settings) -> None:
    verify(published, FIRST + timedelta(days=3))
    later = scores(published).isel(init_time=0).sel(lead_time=slice(3, None))
    assert later["rmse"].isnull().all() and (later["n"] == 0).all()
    assert later["scored_at"].isnull().all() and (later["truth_product"] == "").all()


def test_replaying_an_earlier_night_keeps_every_score(published: Settings) -> None:
    verify(published, ALL_TRUE)
    before = content(published)
    assert verify(published, FIRST + timedelta(days=3)).scored == []
    assert content(published) == before


def test_nights_in_turn_end_where_one_late_night_ends(published: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datlstm.products.skill.now_seconds", lambda: 1_000)
    for night in (3, 6, N_INITS + LEADS):
        verify(published, FIRST + timedelta(days=night))
    in_turn = scores(published)
    folder = Path(Store(published.store).location_of("skill.zarr"))
    folder.rename(folder.with_name("in-turn.zarr"))
    verify(published, ALL_TRUE)
    xr.testing.assert_identical(scores(published), in_turn)


def test_truth_that_comes_after_a_long_gap_is_scored_though_later_forecasts_were_scored_first(
    trained: Settings,
) -> None:
    last = date(2024, 5, 31)
    publish_forecast(trained, nightly_forecast(trained, last + timedelta(days=1)))
    resumed = last + timedelta(days=LEADS + 2)
    copy_days(trained, [resumed, resumed + timedelta(days=1)])
    publish_forecast(trained, nightly_forecast(trained, resumed + timedelta(days=1)))
    verify(trained, resumed + timedelta(days=2))
    assert scored_leads(trained, resumed) == [1]
    copy_days(trained, [last + timedelta(days=1)])
    verify(trained, resumed + timedelta(days=2))
    assert scored_leads(trained, last) == [1]


def copy_days(settings: Settings, days: list[date]) -> None:
    archive = Archive(settings)
    like = archive.read(date(2024, 5, 1), date(2024, 5, 1) + timedelta(days=len(days) - 1)).load()
    fields = like[list(FIELDS)].assign_coords(time=pd.DatetimeIndex(days))
    fields["quality"] = ("time", np.zeros(len(days), "uint8"))
    for name, text in (("source_product", "LATE"), ("source_version", "1")):
        fields[name] = ("time", np.full(len(days), text, dtype=object))
    archive.upsert(fields, archive.ocean_mask(), attribution="nobody")
