"""The rungs of a night: which one forecasts, what it may see, and that a replay is the night itself."""

import json
import logging
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm import registry
from datlstm.archive import FIELDS, Archive
from datlstm.bundle import DAMPED_PERSISTENCE, WEIGHTS, Bundle
from datlstm.errors import NotEnoughDataError
from datlstm.explanation import explain
from datlstm.ladder import ForecastSource, nightly_forecast
from datlstm.registry import CHAMPION, champion_id, promote, standing_promotion
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.validation.record import Record, SkillState, record_path, write_record
from tests.nights import publish_forecast

LAST_DAY = date(2024, 5, 31)
TONIGHT = LAST_DAY + timedelta(days=1)


def append(settings: Settings, days: list[date], offset_kelvin: float = 0.0, flags: int = 0) -> None:
    """Write a field of its own for each day into the archive, made from the last May's."""
    archive = Archive(settings)
    like = archive.read(date(2024, 5, 1), date(2024, 5, 1) + timedelta(days=len(days) - 1)).load()
    fields = like[list(FIELDS)].assign_coords(time=pd.DatetimeIndex(days))
    fields["sst"] = fields["sst"] + offset_kelvin
    fields["quality"] = ("time", np.full(len(days), flags, "uint8"))
    for name, text in (("source_product", "test"), ("source_version", "1")):
        fields[name] = ("time", np.full(len(days), text, dtype=object))
    archive.upsert(fields, archive.ocean_mask(), attribution="nobody")


def test_on_fresh_input_the_champion_forecasts(trained: Settings, champion: Bundle) -> None:
    made = nightly_forecast(trained, TONIGHT)
    assert made.source == ForecastSource.MODEL
    assert made.bundle.id == champion.id
    assert (made.init_day, made.input_age_days, made.n_missing_inputs) == (LAST_DAY, 1, 0)
    assert made.snapshot_id == Archive(trained).snapshot_id()
    assert made.sst.dims == ("lead_time", "latitude", "longitude")
    np.testing.assert_array_equal(made.sst.notnull().all("lead_time"), champion.normaliser.ocean_mask)


@pytest.mark.parametrize(("age", "source"), [(5, ForecastSource.MODEL), (6, ForecastSource.DAMPED_PERSISTENCE)])
def test_the_champion_forecasts_up_to_its_age_limit_and_damped_persistence_after_it(
    trained: Settings, age: int, source: ForecastSource
) -> None:
    made = nightly_forecast(trained, LAST_DAY + timedelta(days=age))
    assert (made.source, made.input_age_days, made.init_day) == (source, age, LAST_DAY)


def test_input_too_old_for_any_rung_gives_no_forecast(trained: Settings) -> None:
    limit = trained.forecast.maximum_age_days
    assert nightly_forecast(trained, LAST_DAY + timedelta(days=limit)).input_age_days == limit
    with pytest.raises(NotEnoughDataError, match=f"newest usable day before it is {LAST_DAY}.*{limit} days"):
        nightly_forecast(trained, LAST_DAY + timedelta(days=limit + 1))


def test_before_the_first_day_there_is_no_forecast(trained: Settings) -> None:
    with pytest.raises(NotEnoughDataError, match="is none"):
        nightly_forecast(trained, date(2023, 1, 1))


def test_gaps_in_the_input_are_counted_and_bounded(trained: Settings) -> None:
    init = LAST_DAY + timedelta(days=3)
    append(trained, [init])
    made = nightly_forecast(trained, init + timedelta(days=1))
    assert (made.source, made.n_missing_inputs, made.init_day) == (ForecastSource.MODEL, 2, init)
    strict = trained.replace(forecast=trained.forecast.model_copy(update={"maximum_missing_inputs": 1}))
    made = nightly_forecast(strict, init + timedelta(days=1))
    assert (made.source, made.n_missing_inputs) == (ForecastSource.DAMPED_PERSISTENCE, 2)


def test_an_unusable_day_is_no_input(trained: Settings) -> None:
    append(trained, [TONIGHT], offset_kelvin=50.0, flags=4)
    made = nightly_forecast(trained, TONIGHT + timedelta(days=1))
    assert (made.init_day, made.input_age_days) == (LAST_DAY, 2)


def test_a_corrupt_champion_gives_way_to_damped_persistence_and_an_error(
    trained: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(trained.store)
    chosen = champion_id(store)
    store.write(f"models/{chosen}/{WEIGHTS}", b"corrupt")
    made = nightly_forecast(trained, TONIGHT)
    assert made.source == ForecastSource.DAMPED_PERSISTENCE
    assert made.bundle.forecaster == DAMPED_PERSISTENCE
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1 and str(chosen) in errors[0] and WEIGHTS in errors[0]


@pytest.mark.parametrize("change", [{"embed": 16}, {"no_such_option": 1}])
def test_a_champion_whose_network_this_code_cannot_build_gives_way_too(
    trained: Settings, champion: Bundle, caplog: pytest.LogCaptureFixture, change: dict[str, int]
) -> None:
    store = Store(trained.store)
    promote(store, replace(champion, config={**champion.config, **change}).save(store), "from other code")
    made = nightly_forecast(trained, TONIGHT)
    assert made.source == ForecastSource.DAMPED_PERSISTENCE
    assert "don't fit" in caplog.text


def test_a_champion_that_forecasts_nonsense_gives_way_too(
    trained: Settings, champion: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(trained.store)
    wild = {name: value * np.float32(np.nan) for name, value in champion.weights.items()}
    promote(store, replace(champion, weights=wild).save(store), "by mistake")
    made = nightly_forecast(trained, TONIGHT)
    assert made.source == ForecastSource.DAMPED_PERSISTENCE
    assert np.isfinite(made.sst.values[:, champion.normaliser.ocean_mask.values]).all()
    assert "not credible" in caplog.text


def test_a_champion_for_fewer_days_than_asked_gives_way_to_a_baseline_that_reaches(trained: Settings) -> None:
    longer = trained.replace(model=trained.model.model_copy(update={"lead_days": 6}))
    made = nightly_forecast(longer, TONIGHT)
    assert made.source == ForecastSource.DAMPED_PERSISTENCE
    assert made.sst.sizes["lead_time"] == 6


def test_a_corrupt_baseline_does_not_stop_the_night(trained: Settings) -> None:
    store = Store(trained.store)
    for path in store.list("models"):
        if path.endswith((WEIGHTS, "normaliser.nc")):
            store.write(path, b"corrupt")
    made = nightly_forecast(trained, TONIGHT)
    assert made.source == ForecastSource.DAMPED_PERSISTENCE
    assert made.bundle.training["last_day"] == str(LAST_DAY)


def test_without_a_champion_a_baseline_is_fitted_once_and_stands(filled: Settings) -> None:
    first = nightly_forecast(filled, TONIGHT)
    assert first.source == ForecastSource.DAMPED_PERSISTENCE
    append(filled, [TONIGHT])
    second = nightly_forecast(filled, TONIGHT + timedelta(days=1))
    assert second.bundle.id == first.bundle.id
    assert second.init_day == TONIGHT


def test_days_on_and_after_the_forecast_date_never_change_the_forecast(trained: Settings) -> None:
    before = nightly_forecast(trained, TONIGHT)
    append(trained, [TONIGHT + timedelta(days=i) for i in range(4)], offset_kelvin=3.0)
    after = nightly_forecast(trained, TONIGHT)
    xr.testing.assert_identical(before.sst, after.sst)
    assert after.init_day == LAST_DAY


def test_without_a_champion_a_replayed_night_sees_no_later_day_either(filled: Settings) -> None:
    night = date(2024, 4, 10)
    nightly_forecast(filled, TONIGHT)
    made = nightly_forecast(filled, night)
    assert made.bundle.training["last_day"] == "2024-04-09"
    append(filled, [night + timedelta(days=i) for i in range(4)], offset_kelvin=3.0)
    np.testing.assert_array_equal(nightly_forecast(filled, night).sst, made.sst)


@pytest.mark.parametrize("keep_champion", [True, False])
def test_a_replay_from_the_same_snapshot_is_bit_for_bit_the_night(trained: Settings, keep_champion: bool) -> None:
    if not keep_champion:
        Path(Store(trained.store).location_of(CHAMPION)).unlink()
    made = nightly_forecast(trained, TONIGHT)
    append(trained, [LAST_DAY - timedelta(days=1), LAST_DAY], offset_kelvin=1.0)
    replayed = nightly_forecast(trained, TONIGHT, made.snapshot_id)
    assert replayed.sst.values.tobytes() == made.sst.values.tobytes()
    assert replayed.spread.values.tobytes() == made.spread.values.tobytes()
    assert replace(replayed, sst=made.sst, spread=made.spread, bundle=made.bundle) == made
    assert replayed.bundle.id == made.bundle.id
    assert not np.array_equal(nightly_forecast(trained, TONIGHT).sst, made.sst, equal_nan=True)


def breach(settings: Settings, *days: date) -> None:
    """Leave records that found the standing champion's skill lost."""
    promotion = standing_promotion(Store(settings.store))
    assert promotion is not None
    for day in days:
        lost = SkillState(days=60, last_day=day, level=2.0, trace=(2.0,), since=day, excess=0.5, ratio=1.5)
        found = Record(
            as_of=day,
            bundle_id=promotion.bundle_id,
            promoted_at=promotion.promoted_at,
            findings=(),
            skill=lost,
            breached_since=days[0],
        )
        write_record(Store(settings.store), found)


def test_a_champion_found_worse_twice_running_gives_way_until_it_is_promoted_anew(
    trained: Settings, champion: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    breach(trained, LAST_DAY, TONIGHT)
    made = nightly_forecast(trained, TONIGHT)
    assert made.source == ForecastSource.DAMPED_PERSISTENCE
    assert made.bundle.id == champion.damped().id
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert f"damped persistence forecasts: validation of {LAST_DAY} and of {TONIGHT}" in error
    assert nightly_forecast(trained, LAST_DAY).source == ForecastSource.MODEL, "one breach was known that night"
    monkeypatch.setattr(registry, "now_seconds", lambda: 1)
    promote(Store(trained.store), champion.id, "by hand", renew=True)
    assert nightly_forecast(trained, TONIGHT).source == ForecastSource.MODEL


def test_a_damaged_validation_record_never_stops_the_champion(trained: Settings) -> None:
    breach(trained, LAST_DAY, TONIGHT)
    Store(trained.store).write(record_path(TONIGHT), b"torn")
    assert nightly_forecast(trained, TONIGHT).source == ForecastSource.MODEL


def test_a_forecast_of_the_fallback_is_made_again_bit_for_bit_whatever_validation_says_later(
    trained: Settings,
) -> None:
    breach(trained, LAST_DAY, TONIGHT)
    publish_forecast(trained, nightly_forecast(trained, TONIGHT))
    Store(trained.store).delete(record_path(TONIGHT))
    explained = explain(trained, LAST_DAY)
    assert explained.source == ForecastSource.DAMPED_PERSISTENCE
    assert explained.is_identical, explained.verdict


def test_the_sources_of_a_forecast_keep_their_numbers() -> None:
    assert json.dumps({source.name: source for source in ForecastSource}) == (
        '{"NONE": 0, "MODEL": 1, "DAMPED_PERSISTENCE": 2}'
    )


def test_a_damaged_champion_pointer_gives_way_too(trained: Settings, caplog: pytest.LogCaptureFixture) -> None:
    Store(trained.store).write("models/champion.json", b"not json")
    assert nightly_forecast(trained, TONIGHT).source == ForecastSource.DAMPED_PERSISTENCE
    assert "champion.json" in caplog.text
