"""What all architectures share: the closed loop, heads and padding."""

import pytest
import torch
from torch import Tensor

from datlstm.models.frames import RecurrentConfig, RecurrentNetwork, fitting_patch, pad_to, read_out


class Doubling(RecurrentNetwork):
    """Doubles the frame it is fed and counts its steps."""

    def step(self, frame: Tensor, forcing: Tensor | None, state: int | None) -> tuple[Tensor, int]:
        return 2 * frame, (state or 0) + 1


def test_rollout_feeds_back_its_predictions_with_their_gradient() -> None:
    frames = torch.tensor([1.0, 10.0], requires_grad=True)
    output = Doubling(RecurrentConfig(height=1, width=1))(frames.view(1, 2, 1, 1, 1), 3)
    assert output.flatten().tolist() == [2, 20, 40, 80]
    output[0, -1].sum().backward()
    assert frames.grad is not None and frames.grad.tolist() == [0, 8]


def test_frames_beyond_those_forecast_at_once_are_forecast_from_them() -> None:
    class Counting(RecurrentNetwork):
        def step(self, frame: Tensor, forcing: Tensor | None, state: int | None) -> tuple[Tensor, int]:
            assert forcing is not None and forcing.item() == (state or 0)
            return torch.cat([frame + 1, frame + 2], dim=1), (state or 0) + 1

    network = Counting(RecurrentConfig(height=1, width=1, forcing_channels=1, direct_leads=2))
    forcing = torch.arange(7.0).view(1, 7, 1, 1, 1)
    assert network(torch.tensor([5.0, 10.0, 20.0]).view(1, 3, 1, 1, 1), 5, forcing).flatten().tolist() == [
        21,
        22,
        23,
        24,
        25,
    ]


def test_heads_bound_pass_or_add() -> None:
    output, newest = torch.tensor([0.0, 3.0]), torch.tensor([7.0, 7.0])
    assert read_out("sigmoid", output, newest).tolist() == pytest.approx([0.5, 0.9526], abs=1e-4)
    assert read_out("linear", output, newest).tolist() == [0, 3]
    assert read_out("increment", output, newest).tolist() == [7, 10]


def test_padding_adds_zeros_below_and_to_the_right() -> None:
    padded = pad_to(torch.ones(1, 2, 2), (3, 4))
    assert padded.tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]]


@pytest.mark.parametrize(("size", "patch"), [((96, 96), 6), ((64, 64), 4), ((20, 40), 2), ((8, 100), 1)])
def test_the_fitting_patch_leaves_at_most_sixteen_tokens_along_the_shorter_side(
    size: tuple[int, int], patch: int
) -> None:
    assert fitting_patch(*size) == patch
