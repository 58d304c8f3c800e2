"""Two breaches running: when damped persistence forecasts, when a retraining is asked for, and the ways back."""

from dataclasses import replace
from datetime import date, timedelta

import pytest

from datlstm import registry
from datlstm.bundle import Bundle
from datlstm.registry import Promotion, promote, rollback, standing_promotion
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.validation.checks import validate
from datlstm.validation.drift import episode_id, note_request, reason_to_retrain
from datlstm.validation.fallback import fallback_reason
from datlstm.validation.record import Finding, Record, SkillState, read_record, record_path, write_record
from datlstm.validation.report import report
from tests.skill_logs import write_history

NIGHT = date(2024, 6, 1)
CHAMPION = Promotion("laizhou-datlstm-0", 7)
FOUND = Finding(name="skill", state="breach", message="skill was lost")


def record(
    as_of: date, *, level: float = 1.5, ratio: float = 1.3, since: date | None = None, **change: object
) -> Record:
    skill = SkillState(days=60, last_day=as_of, level=level, trace=(0.5, level), since=as_of, excess=0.4, ratio=ratio)
    breached = (since or as_of) if level > 1 else None
    made = Record(
        as_of=as_of,
        bundle_id=CHAMPION.bundle_id,
        promoted_at=7,
        findings=(FOUND,),
        skill=skill,
        breached_since=breached,
    )
    return made.model_copy(update=change)


def days_before(count: int) -> date:
    return NIGHT - timedelta(days=count)


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store)


def test_two_breaches_running_name_the_reason_and_both_ways_back(store: Store) -> None:
    write_record(store, record(days_before(1)))
    assert fallback_reason(store, CHAMPION, NIGHT) is None
    write_record(store, record(NIGHT))
    reason = fallback_reason(store, CHAMPION, NIGHT)
    assert reason is not None
    assert "2024-05-31" in reason and "2024-06-01" in reason
    assert "datlstm retrain" in reason and "datlstm promote laizhou-datlstm-0" in reason


@pytest.mark.parametrize(
    "newest",
    [
        record(NIGHT, level=0.9),
        record(NIGHT, ratio=0.95),
        record(NIGHT, promoted_at=8),
        record(NIGHT, bundle_id="other"),
    ],
    ids=["recovered", "better than damped persistence", "promoted anew", "another champion"],
)
def test_the_newest_record_decides_whether_the_champion_forecasts(store: Store, newest: Record) -> None:
    for made in (record(days_before(2)), record(days_before(1)), newest):
        write_record(store, made)
    assert fallback_reason(store, CHAMPION, days_before(1)) is not None
    assert fallback_reason(store, CHAMPION, NIGHT) is None


def test_records_after_the_night_and_older_than_a_week_say_nothing_of_it(store: Store) -> None:
    for back in (-1, 0, 7):
        write_record(store, record(days_before(back)))
    assert fallback_reason(store, CHAMPION, NIGHT) is None
    write_record(store, record(days_before(6)))
    assert fallback_reason(store, CHAMPION, NIGHT) is not None


@pytest.mark.parametrize("content", [b"not json", b"{}", b"[1]"])
def test_a_damaged_record_is_logged_and_the_champion_forecasts(
    store: Store, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    for back in (0, 1, 2):
        write_record(store, record(days_before(back)))
    store.write(record_path(days_before(1)), content)
    assert fallback_reason(store, CHAMPION, NIGHT) is None
    assert "2024-05-31.json is not a record" in caplog.text


def test_a_retraining_is_asked_for_at_the_second_breach_once_an_episode(store: Store) -> None:
    first, second, third = (record(days_before(back), since=days_before(3)) for back in (3, 2, 1))
    assert reason_to_retrain(store, first) is None
    assert reason_to_retrain(store, second) == "skill was lost"
    note_request(store, second)
    assert reason_to_retrain(store, second) is None
    assert reason_to_retrain(store, third) is None
    later = record(NIGHT, since=days_before(1))
    assert reason_to_retrain(store, later) == "skill was lost"
    assert reason_to_retrain(store, record(NIGHT, since=days_before(3), promoted_at=9)) == "skill was lost"
    assert episode_id("laizhou", second) == episode_id("laizhou", third)
    assert len({episode_id("laizhou", second), episode_id("laizhou", later), episode_id("bohai", second)}) == 3


def test_a_loss_of_skill_that_leaves_the_champion_better_asks_for_a_retraining_all_the_same(store: Store) -> None:
    assert reason_to_retrain(store, record(NIGHT, ratio=0.9, since=days_before(1))) == "skill was lost"


def test_the_report_says_what_follows_and_draws_the_chart() -> None:
    assert "If the next validation finds so too" in report(record(NIGHT))
    second = report(record(NIGHT, since=days_before(1)))
    assert "since 2024-05-31**: damped persistence forecasts until" in second
    assert "`▃█`" in second
    assert "the champion goes on forecasting" in report(record(NIGHT, ratio=0.9, since=days_before(1)))
    assert "lost skill" not in report(record(NIGHT, level=0.4))


@pytest.fixture
def drifted(trained: Settings, champion: Bundle) -> Settings:
    """A service whose champion has had twice the RMSE of damped persistence for two months."""
    card = {"rmse": {"datlstm": [0.3] * 4, "damped_persistence": [0.3] * 4}}
    weights = {name: 2 * value for name, value in champion.weights.items()}
    store = Store(trained.store)
    chosen = replace(champion, weights=weights, card=card).save(store)
    promote(store, chosen, "for the test")
    assert write_history(trained, date(2024, 4, 1), [chosen] * 60, lambda day: 0.7 + 0.0 * day) == NIGHT
    return trained


def test_validations_of_a_drifted_champion_chain_to_a_fallback_that_a_renewal_ends_and_a_rollback_too(
    drifted: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(drifted.store)
    promotion = standing_promotion(store)
    assert promotion is not None
    first, second = validate(drifted, NIGHT), validate(drifted, NIGHT + timedelta(days=2))
    assert (first.breached_since, second.breached_since) == (NIGHT, NIGHT)
    assert (first.is_second_breach, second.is_second_breach) == (False, True)
    assert fallback_reason(store, promotion, NIGHT + timedelta(days=2)) is not None
    before = store.read(record_path(second.as_of))
    assert validate(drifted, second.as_of) == second
    assert store.read(record_path(second.as_of)) == before
    monkeypatch.setattr(registry, "now_seconds", lambda: promotion.promoted_at + 1)
    promote(store, promotion.bundle_id, "by hand", renew=True)
    renewed = standing_promotion(store)
    assert renewed is not None and fallback_reason(store, renewed, NIGHT + timedelta(days=2)) is None
    assert not validate(drifted, NIGHT + timedelta(days=3)).breach
    rollback(store)
    former = standing_promotion(store)
    assert former is not None and fallback_reason(store, former, NIGHT + timedelta(days=3)) is None


def test_after_an_unreadable_record_a_breach_counts_as_the_first(
    drifted: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(drifted.store)
    store.write(record_path(NIGHT), b"torn")
    assert validate(drifted, NIGHT + timedelta(days=1)).breached_since == NIGHT + timedelta(days=1)
    assert "counts as the first" in caplog.text
    assert read_record(store, NIGHT + timedelta(days=1)) is not None
