"""Attention of the shared layers: fused kernels and plain products are the same function."""

import pytest
import torch

from datlstm.models.layers import attend


@pytest.mark.parametrize(
    ("shape", "keys", "bias"),
    [((2, 3, 10, 4), 6, (2, 3, 10, 6)), ((2, 5, 3, 9, 4), 9, (3, 9, 9)), ((2, 5, 3, 9, 4), 9, (5, 3, 9, 9))],
)
def test_fused_attention_equals_plain_products(shape: tuple[int, ...], keys: int, bias: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    query = torch.randn(shape, dtype=torch.float64)
    key, value = torch.randn(2, *shape[:-2], keys, shape[-1], dtype=torch.float64)
    learnt = torch.randn(bias, dtype=torch.float64)
    torch.testing.assert_close(attend(query, key, value, learnt, fused=True), attend(query, key, value, learnt))


def test_autocast_does_not_round_the_bias_of_fused_attention() -> None:
    query, key, value = torch.zeros(3, 1, 1, 2, 8, dtype=torch.bfloat16)
    value[..., 1, :] = 1
    # The nearest number that bfloat16 has to 257 is 256.
    bias = torch.tensor([[257.0, 256.0], [256.0, 256.0]]).expand(1, 1, 2, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = attend(query, key, value, bias, fused=True)
    assert mixed[0, 0, :, 0].tolist() == pytest.approx([0.269, 0.5], abs=2e-3)
