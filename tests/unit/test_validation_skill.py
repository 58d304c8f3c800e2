"""The champion's daily skill, whose days are charted and against what, and the verdict."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from datlstm import registry
from datlstm.bundle import Bundle
from datlstm.registry import promote, standing_promotion
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.validation.skill_check import check_skill
from datlstm.validation.skill_series import SkillSeries, skill_series
from tests.nights import verify
from tests.skill_logs import days_from, write_history, write_inits, write_scores

FIRST_INIT = date(2024, 1, 1)
CARD_RATIO = 0.9


def with_card(bundle: Bundle, factor: float, own: float = CARD_RATIO) -> Bundle:
    """Another bundle whose card says that its RMSE is that share of damped persistence's."""
    card = {"rmse": {"datlstm": [own * 0.3] * 4, "damped_persistence": [0.3] * 4}}
    return replace(bundle, weights={name: factor * value for name, value in bundle.weights.items()}, card=card)


@pytest.fixture
def store(trained: Settings) -> Store:
    return Store(trained.store)


@pytest.fixture
def chosen(champion: Bundle, store: Store) -> str:
    """A champion with a card of its own."""
    bundle_id = with_card(champion, 2.0).save(store)
    promote(store, bundle_id, "for the test")
    return bundle_id


@pytest.fixture
def former(champion: Bundle, store: Store) -> str:
    """A bundle that was champion before."""
    return with_card(champion, 3.0, 1.0).save(store)


def series_of(settings: Settings, as_of: date) -> SkillSeries | None:
    promotion = standing_promotion(Store(settings.store))
    assert promotion is not None
    return skill_series(settings, promotion, as_of)


def noise(seed: int, count: int) -> np.ndarray:
    return 0.02 * np.random.default_rng(seed).standard_normal(count)


def test_a_day_s_skill_is_the_mean_error_over_damped_persistence_s_less_what_the_card_says(
    trained: Settings, chosen: str
) -> None:
    end = write_history(trained, FIRST_INIT, [chosen] * 20, lambda day: np.log(CARD_RATIO) + 0.01 * day)
    series = series_of(trained, end)
    assert series is not None
    # The first day has one lead of four, too few.
    np.testing.assert_array_equal(series.charted.days, days_from(FIRST_INIT, 20)[1:])
    np.testing.assert_allclose(series.charted.excess, 0.01 * np.arange(1, 20), atol=1e-6)
    np.testing.assert_allclose(series.charted.ratio, np.log(CARD_RATIO) + series.charted.excess, atol=1e-6)
    assert series.reference.days.size == 0


def test_nothing_on_or_after_the_day_is_charted(trained: Settings, chosen: str) -> None:
    write_history(trained, FIRST_INIT, [chosen] * 20, lambda day: 0.0 * day)
    series = series_of(trained, date(2024, 1, 10))
    assert series is not None and str(series.charted.days[-1]) == "2024-01-09"


def test_forecasts_of_others_count_neither_for_nor_against_the_champion(
    trained: Settings, chosen: str, former: str
) -> None:
    end = write_history(trained, FIRST_INIT, [former] * 10 + [""] * 10 + [chosen] * 10, lambda day: 0.0 * day)
    series = series_of(trained, end)
    assert series is not None
    np.testing.assert_array_equal(series.charted.days, days_from(FIRST_INIT, 30)[21:])


def test_only_the_leads_that_the_champion_made_are_compared(trained: Settings, chosen: str, former: str) -> None:
    write_inits(trained, FIRST_INIT, [former] * 3 + [chosen] * 3)
    days = days_from(FIRST_INIT, 6)
    bar = np.full((6, 4), 0.3)
    model = bar * np.array([1.0, 1.0, 5.0, 5.0])
    write_scores(trained, days, {"forecast": model, "damped_persistence": bar})
    series = series_of(trained, date(2024, 2, 1))
    assert series is not None
    assert series.charted.ratio[0] == pytest.approx(0.0, abs=1e-6)
    assert series.charted.ratio[-1] == pytest.approx(np.log(7 / 3), abs=1e-6)


def test_a_year_of_predecessors_is_the_reference_each_against_its_own_card(
    trained: Settings, chosen: str, former: str
) -> None:
    end = write_history(
        trained,
        date(2022, 1, 1),
        [former] * 400 + [chosen] * 60,
        lambda day: np.where(day < 400, 0, np.log(CARD_RATIO)),
    )
    series = series_of(trained, end)
    assert series is not None
    assert series.charted.days.size == 59 and series.reference.days.size == 400
    # On the last day of the reference half the leads are the champion's, and so are the errors of all.
    np.testing.assert_allclose(series.reference.excess[:-1], 0, atol=1e-6)
    np.testing.assert_allclose(series.charted.excess, 0, atol=1e-6)


def test_the_first_champion_s_first_year_is_its_reference_and_the_chart_starts_after_it(
    trained: Settings, chosen: str
) -> None:
    end = write_history(trained, date(2022, 1, 1), [chosen] * 500, lambda day: 0.0 * day)
    series = series_of(trained, end)
    assert series is not None
    assert (series.reference.days.size, series.charted.days.size) == (365, 134)
    assert series.reference.days[-1] < series.charted.days[0]


def test_a_champion_as_good_as_its_card_is_ok(trained: Settings, chosen: str) -> None:
    end = write_history(trained, FIRST_INIT, [chosen] * 60, lambda day: np.log(CARD_RATIO) + noise(1, day.size))
    finding, state = check_skill(trained, end)
    assert finding.state == "ok" and state is not None and state.level < 0.2
    assert "its card, for want of a year of scores" in finding.message


def test_a_champion_that_loses_a_fifth_of_its_skill_breaches_within_three_weeks_where_a_year_is_known(
    trained: Settings, chosen: str
) -> None:
    lost = write_history(
        trained, date(2022, 1, 1), [chosen] * 450, lambda day: 0.3 * (day >= 430) - 0.4 + noise(2, day.size)
    )
    early, _ = check_skill(trained, lost - timedelta(days=21))
    finding, state = check_skill(trained, lost)
    assert (early.state, finding.state) == ("ok", "breach")
    assert state is not None and state.since == date(2023, 3, 8)
    assert state.excess == pytest.approx(np.expm1(0.3), abs=0.02)
    assert "skill was lost" in finding.message and "datlstm retrain" in finding.message
    # It still beats damped persistence, so there is nothing better to fall back on.
    assert state.ratio < 1


def test_too_few_days_are_told_and_never_a_breach(trained: Settings, chosen: str) -> None:
    end = write_history(trained, FIRST_INIT, [chosen] * 10, lambda day: 5.0 + 0.0 * day)
    finding, state = check_skill(trained, end)
    assert (finding.state, state) == ("ok", None)
    assert "is scored on 9 days, too few to judge: 14 are needed" in finding.message


def test_without_champion_scores_or_card_it_says_so(trained: Settings, champion: Bundle, store: Store) -> None:
    assert "scored on 0 days" in check_skill(trained, FIRST_INIT)[0].message
    bare = replace(with_card(champion, 4.0), card={}).save(store)
    promote(store, bare, "without a card")
    finding, state = check_skill(trained, FIRST_INIT)
    assert (finding.state, state) == ("warn", None) and "no scores on its card" in finding.message
    store.delete("models/champion.json")
    assert check_skill(trained, FIRST_INIT)[0].message.startswith("no champion")


def test_a_renewed_champion_is_charted_from_the_day_after(
    trained: Settings, chosen: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = write_history(trained, FIRST_INIT, [chosen] * 60, lambda day: np.log(3) + 0.0 * day)
    assert check_skill(trained, end)[0].state == "breach"
    renewed_at = int(datetime(2024, 2, 10, 12, tzinfo=UTC).timestamp())
    monkeypatch.setattr(registry, "now_seconds", lambda: renewed_at)
    promote(store, chosen, "by hand", renew=True)
    series = series_of(trained, end)
    assert series is not None and str(series.charted.days[0]) == "2024-02-11"
    promote(store, chosen, "again", renew=False)
    assert series_of(trained, date(2024, 2, 11)) is None


def test_scores_that_a_night_publishes_are_charted(published: Settings) -> None:
    assert verify(published, date(2024, 6, 1)).scored
    series = series_of(published, date(2024, 6, 1))
    assert series is not None
    assert [str(day) for day in series.charted.days[[0, -1]]] == ["2024-05-22", "2024-05-28"]
