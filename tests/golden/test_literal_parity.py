"""The literal renderings that benchmarks measure against, beside arrays recorded from the published implementations."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.literal import DATLSTM, PUBLISHED, SWINLSTM_D, EncoderDecoder, Sizes
from datlstm import published
from datlstm.models import build
from tests.golden.recorded import load

KINDS = {"dat": DATLSTM, "swind": SWINLSTM_D}
CASES = ("dat_small_w4", "dat_oddeven_w2", "dat_threelevel", "swind_small", "swind_oddeven")
NO_GRADIENT = -1.0


def literal_of(arrays: dict[str, NDArray[Any]]) -> EncoderDecoder:
    """Build the rendering of a case with the recorded weights; it must miss none of its own."""
    recorded = json.loads(str(arrays["meta"]))
    config = recorded["cfg"]
    taken = {key: config[key] for key in ("embed", "down", "up", "heads", "groups", "window") if key in config}
    model = EncoderDecoder(KINDS[recorded["kind"]], Sizes(height=config["img"], width=config["img"], **taken))
    weights = {key[3:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("sd/")}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert missing == []
    return model.eval()


def forecast(model: EncoderDecoder, arrays: dict[str, NDArray[Any]]) -> Tensor:
    """Run the recorded inputs."""
    output: Tensor = model(torch.from_numpy(arrays["x"]), arrays["y"].shape[1])
    return output


@pytest.mark.parametrize("case", CASES)
def test_warm_up_and_forecast_equal_the_published_model(case: str) -> None:
    arrays = load(case)
    with torch.no_grad():
        output = forecast(literal_of(arrays), arrays)
    assert np.abs(output.numpy() - arrays["out_eval"]).max() <= 1e-5


@pytest.mark.parametrize("case", ["dat_small_w4", "swind_small"])
def test_gradient_norms_equal_the_published_model(case: str) -> None:
    arrays = load(case)
    model = literal_of(arrays)
    target = torch.from_numpy(np.concatenate([arrays["x"][:, 1:], arrays["y"]], axis=1))
    torch.nn.functional.mse_loss(forecast(model, arrays), target).backward()
    norms = {name: value.grad.norm().item() for name, value in model.named_parameters() if value.grad is not None}
    recorded = dict(zip(arrays["grad_names"].tolist(), arrays["grad_norms"].tolist(), strict=True))
    # A constant added to all keys changes no attention: the exact gradient is zero and the recorded one rounding noise.
    expected = {key: norm for key, norm in recorded.items() if norm != NO_GRADIENT and not key.endswith("proj_k.bias")}
    assert {key: norms[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert all(norms[key] <= 1e-8 for key in norms.keys() - expected.keys())


@pytest.mark.parametrize(("name", "live"), [("datlstm", 18_916_809), ("swinlstm-d", 20_191_969 - 1_346_560)])
def test_published_sizes_hold_every_parameter_that_the_published_model_runs(name: str, live: int) -> None:
    model = EncoderDecoder(*PUBLISHED[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == live


@pytest.mark.parametrize(("name", "case"), [("datlstm", "dat_small_w4"), ("swinlstm-d", "swind_small")])
def test_its_weights_convert_to_the_architecture_of_the_same_name(name: str, case: str) -> None:
    arrays = load(case)
    literal = literal_of(arrays)
    config, weights = published.convert(name, literal.state_dict(), height=32, width=32)
    model = build(name, config).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        ours = model(torch.from_numpy(arrays["x"]), arrays["y"].shape[1])
        torch.testing.assert_close(ours, forecast(literal, arrays), atol=1e-5, rtol=0)
