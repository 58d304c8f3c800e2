"""Scores of frames against values worked out by hand."""

import math

import numpy as np
import pytest

from datlstm.comparison.frame_scores import score

RANDOM = np.random.default_rng(0)


def frames(value: float, shape: tuple[int, ...] = (2, 3, 1, 8, 8)) -> np.ndarray:
    return np.full(shape, value, np.float32)


def uniform(shape: tuple[int, ...] = (2, 3, 1, 8, 8)) -> np.ndarray:
    return RANDOM.random(shape, dtype=np.float32)


def test_errors_are_summed_over_channels_and_cells_and_averaged_over_frames() -> None:
    shape = (2, 3, 2, 8, 8)
    estimates = frames(0.5, shape)
    estimates[0, 0] = 0.75
    scores = score([(estimates, frames(0.25, shape))])
    cells = 2 * 8 * 8
    assert scores.mse == pytest.approx(cells * (5 * 0.25**2 + 0.5**2) / 6)
    assert scores.mae == pytest.approx(cells * (5 * 0.25 + 0.5) / 6)


def test_signal_to_noise_is_averaged_over_frames_and_not_taken_of_the_mean_error() -> None:
    estimates = frames(0.0, (1, 2, 1, 8, 8))
    estimates[0, 0], estimates[0, 1] = 0.1, 0.01
    scores = score([(estimates, frames(0.0, (1, 2, 1, 8, 8)))])
    assert scores.psnr == pytest.approx((20 + 40) / 2, abs=1e-5)


@pytest.mark.parametrize(("name", "data_range"), [("ssim", 1.0), ("ssim_range_2", 2.0)])
def test_similarity_of_flat_frames_is_that_of_their_brightness_at_the_stated_range(
    name: str, data_range: float
) -> None:
    """Without variance SSIM is (2 a b + c) / (a a + b b + c), c = (0.01 range)^2 (Wang et al. 2004, eq. 13)."""
    a, b, c = 0.02, 0.06, (0.01 * data_range) ** 2
    scores = score([(frames(a), frames(b))])
    assert getattr(scores, name) == pytest.approx((2 * a * b + c) / (a * a + b * b + c), rel=1e-4)


def test_similarity_is_one_and_signal_to_noise_infinite_for_a_perfect_forecast() -> None:
    truth = uniform()
    scores = score([(truth, truth)])
    assert (scores.mse, scores.mae, scores.ssim, scores.ssim_range_2) == pytest.approx((0, 0, 1, 1))
    assert scores.psnr == math.inf


def test_a_wider_range_flatters_a_forecast() -> None:
    scores = score([(uniform(), uniform())])
    assert scores.ssim < scores.ssim_range_2 < 1


def test_estimates_outside_the_range_of_frames_are_clamped() -> None:
    truth = (uniform() > 0.5).astype(np.float32)
    scores = score([(3 * truth - 1, truth)])
    assert scores.mse == 0


def test_scores_do_not_depend_on_how_frames_are_batched() -> None:
    estimates, truth = uniform((5, 2, 3, 9, 7)), uniform((5, 2, 3, 9, 7))
    whole = score([(estimates, truth)])
    parts = score((estimates[i : i + 2], truth[i : i + 2]) for i in (0, 2, 4))
    assert parts.model_dump() == pytest.approx(whole.model_dump())


def test_a_forecast_that_is_not_finite_is_never_scored_as_if_it_were() -> None:
    estimates = uniform()
    estimates[1, 2, 0, 4, 4] = np.nan
    assert all(math.isnan(value) for value in score([(estimates, uniform())]).model_dump().values())


def test_no_frame_has_no_score() -> None:
    with pytest.raises(ValueError, match="no frame to score"):
        score([])
