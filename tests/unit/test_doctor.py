"""The doctor names what is wrong and what to do about it."""

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from datlstm import doctor
from datlstm.archive import FIELDS, PER_DAY, Archive
from datlstm.bundle import WEIGHTS, Bundle
from datlstm.doctor import Check, examine
from datlstm.ladder import nightly_forecast
from datlstm.products.skill import standing_skill
from datlstm.products.skill_summary import skill_by_lead
from datlstm.registry import champion_id, promote
from datlstm.settings import Settings, SubBasin
from datlstm.store import Store
from tests.fake_source import FakeSource, record
from tests.nights import publish_forecast, verify

LAST_DAY = date(2024, 5, 31)
TODAY = LAST_DAY + timedelta(days=1)


def report(settings: Settings, today: date = TODAY) -> dict[str, Check]:
    return {check.name: check for check in examine(settings, today)}


def test_an_empty_store_is_told_what_to_run_first(settings: Settings) -> None:
    found = report(settings)
    assert {name: check.state for name, check in found.items()} == {
        "region": "ok",
        "source": "ok",
        "store": "ok",
        "formats": "ok",
        "archive": "fail",
        "champion": "warn",
        "forecast": "warn",
        "skill": "ok",
    }
    assert "run `datlstm backfill`" in found["archive"].message
    assert "`datlstm retrain`" in found["champion"].message
    assert "run `datlstm nightly`" in found["forecast"].message


def test_every_product_of_the_source_is_listed_best_first_and_the_newest_day_counts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, oldest = date(2024, 5, 30), date(1981, 10, 1)
    records = [
        record({}, "REP", "2020", (oldest, date(2022, 5, 31))),
        record({}, "NRT", "1", (date(2007, 1, 1), newest)),
    ]
    monkeypatch.setattr(doctor, "open_source", lambda settings: FakeSource(records))
    healthy = report(settings, newest + timedelta(days=2))["source"]
    assert healthy.state == "ok"
    assert healthy.message == "synthetic: REP 2020, 1981-10-01 … 2022-05-31; NRT 1, 2007-01-01 … 2024-05-30"
    late = report(settings, newest + timedelta(days=3))["source"]
    assert late.state == "warn"
    assert "3 days ago: wait for it, or look at the provider's notices" in late.message


def test_a_source_that_cannot_be_asked_fails_with_its_own_words(settings: Settings) -> None:
    source = settings.source.model_copy(update={"kind": "copernicus"})
    check = report(settings.replace(source=source))["source"]
    assert check.state == "fail"
    assert "COPERNICUSMARINE_SERVICE_USERNAME" in check.message


def test_a_healthy_store_is_well_in_every_check(published: Settings) -> None:
    publish_forecast(published, nightly_forecast(published, TODAY))
    verify(published, TODAY)
    found = report(published)
    assert [name for name, check in found.items() if check.state != "ok" and name != "skill"] == []
    assert "16 x 16 cells" in found["region"].message
    assert f"2023-01-01 … {LAST_DAY}, newest is 1 days old" in found["archive"].message


def test_skill_is_judged_by_damped_persistence(published: Settings) -> None:
    verify(published, TODAY)
    standing = standing_skill(published)
    assert standing is not None
    skill = skill_by_lead(standing)
    own, bar = (skill.sel(forecaster=name).mean().item() for name in ("forecast", "damped_persistence"))
    check = report(published)["skill"]
    assert check.state == ("ok" if own <= bar else "warn")
    assert f"{own:.2f} °C, damped persistence {bar:.2f} °C" in check.message
    assert ("datlstm retrain" in check.message) == (own > bar)


def test_a_stale_archive_warns_and_then_fails_with_the_remedy(trained: Settings) -> None:
    limit = trained.forecast.maximum_model_age_days
    for age, state in ((1, "ok"), (2, "warn"), (limit, "warn"), (limit + 1, "fail")):
        check = report(trained, LAST_DAY + timedelta(days=age))["archive"]
        assert check.state == state
        assert f"{age} days old" in check.message
        assert ("run `datlstm nightly`" in check.message) == (state != "ok")


def test_a_sub_basin_without_sea_fails_before_a_night_meets_it(trained: Settings) -> None:
    dry = SubBasin(name="dry", south=10, north=11, west=20, east=21)
    region = trained.region.model_copy(update={"sub_basins": (dry,)})
    check = report(trained.replace(region=region))["archive"]
    assert check.state == "fail"
    assert "sub-basin 'dry'" in check.message and "move its edges" in check.message


def test_flagged_days_are_named_with_the_remedy(trained: Settings) -> None:
    archive, suspect, bad = Archive(trained), TODAY, TODAY + timedelta(days=1)
    for day, flags in ((suspect, 16), (bad, 4)):
        fields = archive.open().sel(time=[np.datetime64(LAST_DAY)]).load()[[*FIELDS, *PER_DAY]]
        fields = fields.assign_coords(time=pd.DatetimeIndex([day])).assign(quality=("time", np.array([flags], "uint8")))
        archive.upsert(fields, archive.ocean_mask(), attribution="nobody")
        check = report(trained, bad + timedelta(days=1))["last days"]
        assert f"{suspect} JUMP" in check.message
        if day == suspect:
            assert check.state == "warn" and "still used" in check.message
    assert check.state == "fail"
    assert f"{bad} OUT_OF_RANGE: read again with `datlstm backfill --again --from {bad} --to {bad}`" in check.message


def test_a_champion_that_cannot_forecast_fails_by_name(trained: Settings, champion: Bundle) -> None:
    store = Store(trained.store)
    store.write(f"models/{champion_id(store)}/{WEIGHTS}", b"corrupt")
    check = report(trained)["champion"]
    assert check.state == "fail"
    assert WEIGHTS in check.message and "retrain" in check.message
    elsewhere = replace(champion, region="elsewhere")
    promote(store, elsewhere.save(store), "by mistake")
    assert "retrain it for this region" in report(trained)["champion"].message


def test_an_old_forecast_warns_and_then_fails_with_the_remedy(published: Settings) -> None:
    limit = published.forecast.maximum_model_age_days
    for age, state in ((1, "ok"), (2, "warn"), (limit, "warn"), (limit + 1, "fail")):
        check = report(published, date(2024, 5, 25) + timedelta(days=age))["forecast"]
        assert check.state == state
        assert "the newest from 2024-05-25" in check.message
        assert ("run `datlstm nightly`" in check.message) == (state != "ok")


def test_the_doctor_leaves_archive_and_products_as_they_are(published: Settings) -> None:
    store = Store(published.store)
    before = {path: store.read(path) for path in store.list("")}
    report(published)
    after = {path: store.read(path) for path in store.list("") if path != ".doctor"}
    assert after == {path: content for path, content in before.items() if path != ".doctor"}
