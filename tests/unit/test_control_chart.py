"""The chart keeps quiet in control, correlated as daily scores are, and tells a lasting rise within weeks."""

import numpy as np
import pytest
from scipy.signal import lfilter

from datlstm.validation.control_chart import Chart, Tuning, chart, cumulative_sum, harmonic_terms

TUNING = Tuning(float(np.log(1.2)), 3.0)
NONE, NO_DAYS = np.array([]), np.array([], "datetime64[D]")


def days(count: int) -> np.ndarray:
    return np.datetime64("2020-01-01", "D") + np.arange(count)


def correlated(seed: int, count: int, deviation: float, correlation: float = 0.9) -> np.ndarray:
    """A stationary first-order autoregression."""
    noise = np.random.default_rng(seed).standard_normal(count + 100)
    return lfilter([np.sqrt(1 - correlation**2) * deviation], [1, -correlation], noise)[100:]


def charted(values: np.ndarray, reference_days: int, tuning: Tuning = TUNING) -> Chart:
    """The chart of what follows the first days, which are the reference."""
    when = days(values.size)
    return chart(when[reference_days:], values[reference_days:], when[:reference_days], values[:reference_days], tuning)


def first_alarm(made: Chart) -> float:
    above = np.flatnonzero(made.level > made.threshold)
    return float(above[0]) if above.size else np.inf


def test_the_sum_grows_by_what_is_above_the_allowance_and_never_falls_below_zero() -> None:
    level = cumulative_sum(np.array([0.5, 2.0, 1.5, -4.0, 1.5]), 1.0)
    np.testing.assert_allclose(level, [0.0, 1.0, 1.5, 0.0, 0.5])


def test_many_series_are_summed_as_each_alone() -> None:
    values = np.random.default_rng(0).standard_normal((50, 3))
    together = cumulative_sum(values, 0.2)
    for i in range(3):
        np.testing.assert_array_equal(together[:, i], cumulative_sum(values[:, i], 0.2))


@pytest.mark.parametrize(("deviation", "longest_delay"), [(0.05, 14), (0.1, 45), (0.2, 150)])
def test_in_control_years_seldom_alarm_and_a_fifth_more_error_is_told(deviation: float, longest_delay: int) -> None:
    alarms, delays = 0, []
    for seed in range(30):
        values = correlated(seed, 4 * 365, deviation) + 0.1 * np.cos(harmonic_terms(days(4 * 365))[:, 1])
        made = charted(values, 3 * 365)
        alarms += first_alarm(made) < np.inf
        raised = made.excess + TUNING.rise * (np.arange(made.excess.size) >= 60)
        delays.append(np.argmax(np.append(cumulative_sum(raised, TUNING.allowance)[60:], np.inf) > made.threshold))
    # Once in three years is one year in 3.5; of 30 such years 14 are far beyond chance.
    assert alarms < 14
    assert np.median(delays) <= longest_delay


def test_a_season_that_the_reference_has_is_no_loss() -> None:
    season = 0.4 * harmonic_terms(days(3 * 365))[:, 1]
    values = season + correlated(1, 3 * 365, 0.03)
    assert first_alarm(charted(values, 2 * 365)) == np.inf
    assert first_alarm(chart(days(365), values[-365:], NO_DAYS, NONE, TUNING)) < np.inf


def test_the_threshold_is_higher_for_a_short_reference_correlated_values_and_rarer_false_alarms() -> None:
    values = correlated(3, 5 * 365, 0.2)
    usual = charted(values[-4 * 365 :], 3 * 365).threshold
    assert charted(values[: 2 * 365], 365).threshold > usual
    assert charted(correlated(3, 4 * 365, 0.2, 0.0), 3 * 365).threshold < usual
    assert charted(values[-4 * 365 :], 3 * 365, Tuning(TUNING.rise, 30.0)).threshold > usual


def test_the_same_series_gives_the_same_chart() -> None:
    values = correlated(4, 2 * 365, 0.1)
    first, second = charted(values, 365), charted(values, 365)
    assert first.threshold == second.threshold
    np.testing.assert_array_equal(first.level, second.level)


@pytest.mark.parametrize("reference_days", [0, 365])
def test_one_freak_day_is_no_alarm(reference_days: int) -> None:
    values = correlated(5, 365 + reference_days, 0.05)
    values[reference_days + 100] = 50.0
    assert first_alarm(charted(values, reference_days)) == np.inf


def test_a_series_without_any_spread_still_needs_ten_days_of_the_rise() -> None:
    values = np.zeros(2 * 365)
    values[400:] = TUNING.rise
    assert 10 <= first_alarm(charted(values, 365)) - (400 - 365) <= 11


def test_without_a_reference_twice_the_error_is_told_within_six_weeks_and_nothing_is_not() -> None:
    quiet = correlated(6, 365, 0.1)
    assert first_alarm(chart(days(365), quiet, NO_DAYS, NONE, TUNING)) == np.inf
    assert first_alarm(chart(days(365), quiet + np.log(2), NO_DAYS, NONE, TUNING)) <= 42
