"""The regression's features are what they are said to be, land or no land, and it starts from nothing."""

import math

import pytest
import torch

from datlstm.models.regression import LAGS, SLOPES, WIDTHS, Regression

DAYS, HEIGHT, WIDTH, LEADS = 10, 8, 12, 4


@pytest.fixture
def regression() -> Regression:
    return Regression(DAYS, LEADS)


def sea(seed: int = 0, missing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    observed = torch.rand(2, DAYS, 1, HEIGHT, WIDTH, generator=generator) >= missing
    observed[..., :3, :4] = missing == 0
    return torch.randn(observed.shape, generator=generator) * observed, observed


def parts(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales ``(B, scales, lags, H, W)`` and the slopes."""
    count = (len(WIDTHS) + 2) * len(LAGS)
    return features[:, :count].unflatten(1, (len(WIDTHS) + 2, len(LAGS))), features[:, count:]


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_scales_add_up_to_the_newest_frame_and_the_changes_before_it(
    regression: Regression, missing: float
) -> None:
    frames, observed = sea(missing=missing)
    whole = parts(regression.features(frames, observed))[0].sum(1)
    both = observed[:, -1, 0]
    torch.testing.assert_close(whole[:, 0][both], frames[:, -1, 0][both], atol=1e-5, rtol=0)
    for place, (near, far) in enumerate(zip(LAGS, LAGS[1:], strict=False), start=1):
        both = observed[:, -1 - near, 0] & observed[:, -1 - far, 0]
        change = frames[:, -1 - near, 0] - frames[:, -1 - far, 0]
        torch.testing.assert_close(whole[:, place][both], change[both], atol=1e-5, rtol=0)


def test_the_last_scale_is_the_mean_over_what_was_observed(regression: Regression) -> None:
    frames, observed = sea(missing=0.4)
    mean = parts(regression.features(frames, observed))[0][:, -1, 0]
    for sample in range(2):
        expected = frames[sample, -1, 0][observed[sample, -1, 0]].mean()
        torch.testing.assert_close(mean[sample], expected.expand(HEIGHT, WIDTH), atol=1e-6, rtol=0)


def test_what_was_not_observed_plays_no_part(regression: Regression) -> None:
    frames, observed = sea(missing=0.3)
    disturbed = frames + 1e3 * ~observed
    # Frames are 0 where nothing was observed; nothing rests on that.
    torch.testing.assert_close(
        regression.features(disturbed * observed, observed), regression.features(frames, observed)
    )
    found = regression.features(frames, observed)
    assert torch.isfinite(found).all()
    blind = regression.features(0 * frames, torch.zeros_like(observed))
    assert not blind.any()


def test_slopes_are_those_of_a_plane(regression: Regression) -> None:
    north, east = torch.meshgrid(torch.arange(HEIGHT) * 0.5, torch.arange(WIDTH) * 2.0, indexing="ij")
    frames = (north + east).expand(1, DAYS, 1, HEIGHT, WIDTH)
    slopes = parts(regression.features(frames, torch.ones_like(frames, dtype=torch.bool)))[1]
    assert slopes.shape[1] == 2 * len(SLOPES)
    inner = slopes[0, :, 4:-4, 5:-5]
    for place, slope in enumerate((1.0, 4.0) * len(SLOPES)):
        torch.testing.assert_close(inner[place], torch.full_like(inner[place], slope))


def test_it_starts_from_nothing_and_follows_the_season(regression: Regression) -> None:
    features = regression.features(*sea())
    phase = torch.tensor([0.0, math.pi])
    assert not regression(features, phase).any()
    assert regression(features, phase).shape == (2, LEADS, 1, HEIGHT, WIDTH)
    regression.fit_scale(features.square().mean((0, 2, 3)))
    scaled = features / regression.feature_scale[:, None, None]
    torch.testing.assert_close(scaled.square().mean((0, 2, 3)), torch.ones(features.shape[1]))
    # The cosine of the first feature: opposite in winter and in summer.
    torch.nn.init.ones_(regression.coefficients.weight[:, 1:2])
    first = scaled[:, :1].unsqueeze(1).expand(-1, LEADS, -1, -1, -1)
    told = regression(features, phase)
    torch.testing.assert_close(told[0] / told[1], -first[0] / first[1], rtol=1e-3, atol=1e-3)


def test_few_input_days_have_fewer_tendencies() -> None:
    assert Regression(1, LEADS).lags == [0]
    assert Regression(4, LEADS).lags == [0, 1, 2, 3]
    short = Regression(3, LEADS)
    frames, observed = sea()
    assert short.features(frames[:, :3], observed[:, :3]).shape[1] == len(short.feature_scale) == 3 * 5 + 4
