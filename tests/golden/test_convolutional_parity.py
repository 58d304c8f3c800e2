"""ConvLSTM and PredRNN against arrays recorded from the published implementations: outputs, loss and gradients."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from datlstm.errors import WeightsError
from datlstm.models import build
from datlstm.models.convlstm import to_patches
from datlstm.published import convert

CASES = ("convlstm", "predrnn")
NO_GRADIENT = -1.0


@cache
def load(case: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of a case."""
    with np.load(Path(__file__).parent / f"x_{case}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def published(case: str) -> dict[str, Tensor]:
    """Return the recorded state dict."""
    arrays = load(case)
    return {key.removeprefix("sd/"): torch.from_numpy(arrays[key]) for key in arrays if key.startswith("sd/")}


def model_of(case: str) -> nn.Module:
    """Build the model of a case with the recorded weights."""
    height, width = load(case)["frames"].shape[-2:]
    config, weights = convert(case, published(case), height=height, width=width)
    model = build(case, config)
    model.load_state_dict(weights)
    return model


def estimates(case: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return estimates and truth of all frames after the first, in the recorded layout ``(B, T, h, w, patch**2)``."""
    arrays = load(case)
    recorded = json.loads(str(arrays["meta"]))["cfg"]
    frames = torch.from_numpy(arrays["frames"])
    output = model(frames[:, : recorded["Tin"]], recorded["Tout"])
    patched = [to_patches(part.flatten(0, 1), recorded["patch"]).movedim(1, -1) for part in (output, frames[:, 1:])]
    return patched[0].reshape(arrays["out"].shape), patched[1].reshape(arrays["out"].shape)


@pytest.mark.parametrize("case", CASES)
def test_estimates_equal_the_published_model(case: str) -> None:
    with torch.no_grad():
        output, _ = estimates(case, model_of(case).eval())
    assert np.abs(output.numpy() - load(case)["out"]).max() <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_norms_equal_the_published_model(case: str) -> None:
    arrays, model = load(case), model_of(case).train()
    entries = {key: value.requires_grad_() for key, value in published(case).items()}
    height, width = arrays["frames"].shape[-2:]
    _, weights = convert(case, entries, height=height, width=width)

    loss = F.mse_loss(*estimates(case, model))
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-5)

    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    upstream = [ours[name] for name in weights]
    # Conversion only joins and reorders: carrying our gradients back through it sorts them by published entry.
    gradients = torch.autograd.grad(list(weights.values()), list(entries.values()), upstream, allow_unused=True)
    recorded = dict(zip(arrays["grad_names"].tolist(), arrays["grad_norms"].tolist(), strict=True))
    for (key, entry), gradient in zip(entries.items(), gradients, strict=True):
        # Tensors without a gradient in the published model take no part in ours.
        assert (gradient is None) == (recorded[key] == NO_GRADIENT), key
        if gradient is not None:
            assert gradient.shape == entry.shape
            assert gradient.norm().item() == pytest.approx(recorded[key], rel=1e-4), key


@pytest.mark.parametrize("case", CASES)
def test_options_are_read_off_the_recorded_shapes(case: str) -> None:
    recorded = json.loads(str(load(case)["meta"]))["cfg"]
    config, _ = convert(case, published(case), height=16, width=16)
    read = {"hidden": config["hidden"], "filter": config["kernel"], "patch": config["patch"]}
    assert read == {key: recorded[key] for key in read}
    assert config["frame_channels"] == 1 and config["layer_norm"] is False and config["head"] == "linear"


@pytest.mark.parametrize(("case", "other"), [("convlstm", "predrnn"), ("predrnn", "convlstm")])
def test_weights_of_the_other_architecture_are_refused(case: str, other: str) -> None:
    with pytest.raises(WeightsError, match="choose another architecture"):
        convert(case, published(other), height=16, width=16)


@pytest.mark.parametrize("case", CASES)
def test_an_entry_that_belongs_to_no_layer_is_refused(case: str) -> None:
    with pytest.raises(WeightsError, match="adapter.weight"):
        convert(case, {**published(case), "adapter.weight": torch.zeros(1)}, height=16, width=16)
