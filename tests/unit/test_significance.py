"""Paired tests: sure of a steady gain, not of a lucky one, and silent where there is nothing to say."""

import math

import numpy as np
import pytest

from datlstm.significance import BLOCK_DAYS, RESAMPLES, block_resamples, gain

DAYS, LEADS = 400, 3


def errors(seed: int) -> np.ndarray:
    """Squared errors of days, each like the day before."""
    noise = np.random.default_rng(seed).standard_normal((DAYS, LEADS))
    for day in range(1, DAYS):
        noise[day] = 0.8 * noise[day - 1] + 0.6 * noise[day]
    return np.exp(noise)


def test_a_share_saved_every_day_is_found_with_confidence() -> None:
    rival = errors(1)
    found = gain(0.9 * rival, rival)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.confidence > 0.999


def test_what_is_as_good_is_not_found_better() -> None:
    found = gain(errors(1), errors(2))
    assert found.low < 0 < found.high
    assert found.confidence < 0.975


def test_the_worse_of_two_has_no_confidence() -> None:
    rival = errors(1)
    found = gain(1.1 * rival, rival)
    assert found.high < 0
    assert found.confidence < 0.001


def test_leads_count_alike_however_large_their_errors() -> None:
    rival = errors(1)
    own = rival * [0.5, 1.0, 1.0]
    scale = np.array([1.0, 10.0, 100.0])
    assert gain(own * scale, rival * scale) == pytest.approx(gain(own, rival))
    assert gain(own, rival).mean == pytest.approx(0.5 / 3)


def test_blocks_make_the_interval_of_days_that_resemble_each_other_wider() -> None:
    own, rival = errors(3), errors(4)
    found = gain(own, rival)
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, DAYS, (1000, DAYS))
    single = np.quantile((1 - own[drawn].sum(1) / rival[drawn].sum(1)).mean(1), [0.025, 0.975])
    assert found.high - found.low > 1.3 * (single[1] - single[0])


def test_resamples_are_whole_blocks_of_days_and_the_same_each_time() -> None:
    drawn = block_resamples(100)
    assert (drawn.sum(axis=1) == 5 * BLOCK_DAYS).all()
    np.testing.assert_array_equal(drawn, block_resamples(100))
    # Every day has the same chance, the first and the last too.
    assert np.ptp(drawn.mean(axis=0)) < 0.15


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_a_score_that_is_not_finite_gives_none(spoilt: float) -> None:
    own, rival = errors(1), errors(2)
    own[17, 1] = spoilt
    assert all(map(math.isnan, gain(own, rival)))
    assert all(map(math.isnan, gain(rival, own)))


def test_too_few_days_or_no_difference_give_no_confidence() -> None:
    rival = errors(1)
    assert math.isnan(gain(rival[:LEADS], rival[:LEADS] + 1).confidence)
    assert math.isnan(gain(rival, rival).confidence)
    assert gain(rival, rival).low == 0
    assert math.isnan(gain(rival, 0 * rival).mean)


def test_the_spread_of_independent_errors_is_as_wide_as_theory_says() -> None:
    weights = block_resamples(2000)
    assert weights.shape == (RESAMPLES, 2000)
    means = weights @ np.random.default_rng(1).normal(size=2000) / 2000
    assert means.std() == pytest.approx(2000**-0.5, rel=0.25)
