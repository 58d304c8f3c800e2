"""DatLSTM against arrays recorded from the published implementation: outputs, states, loss and gradients."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from datlstm.models.datlstm import DatLSTM, DatLSTMConfig

CASES = ("dat_small_w4", "dat_oddeven_w2")
NO_GRADIENT = -1.0

RENAMED = (
    (r"^embed\.projection", "Downsample.patch_embed.proj"),
    (r"^embed\.norm", "Downsample.patch_embed.norm"),
    (r"^encoder\.(\d+)\.blocks", r"Downsample.layers.\1.Dat.layers"),
    (r"^decoder\.(\d+)\.blocks", r"Upsample.layers.\1.Dat.layers"),
    (r"^merging", "Downsample.downsample"),
    (r"^expanding\.(\d+)\.expansion", r"Upsample.upsample.\1.expand"),
    (r"^expanding", "Upsample.upsample"),
    (r"^inflate\.convolution", "Upsample.Unembed.Conv"),
    (r"(layers\.\d+)\.reduction", r"\1.red"),
    (r"feed_forward\.0", "mlp.fc1"),
    (r"feed_forward\.2", "mlp.fc2"),
    (r"(layers\.\d*[02468])\.attention\.relative_bias$", r"\1.window_attn.relative_position_bias_table"),
    (r"(layers\.\d*[02468])\.attention\.(qkv|output)", r"\1.window_attn.proj_\2"),
    (r"attention\.relative_bias\.table", "dat_attn.rpe_table"),
    (r"attention\.query", "dat_attn.proj_q"),
    (r"attention\.output", "dat_attn.proj_output"),
    (r"proj_output", "proj_out"),
    (r"attention\.offset_convolution", "dat_attn.conv_offset.0"),
    (r"attention\.offset_norm", "dat_attn.conv_offset.1.norm"),
    (r"attention\.offset\.", "dat_attn.conv_offset.3."),
)


def reference_keys(name: str) -> list[str]:
    """Return the published names of a parameter; the published model keeps keys and values apart."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return [name.replace("attention.key_value", f"dat_attn.proj_{part}") for part in "kv"][: 1 + ("key_value" in name)]


def from_reference(name: str, shape: torch.Size, arrays: Mapping[str, NDArray[np.float32]], prefix: str) -> Tensor:
    """Return the recorded values of one of our parameters."""
    parts = [torch.from_numpy(arrays[prefix + key]) for key in reference_keys(name)]
    return torch.cat([part.flatten(1) if part.ndim > 1 else part for part in parts]).reshape(shape)


def configuration(recorded: Mapping[str, Any]) -> DatLSTMConfig:
    """Translate a recorded configuration."""
    image = recorded["img"]
    height, width = (image, image) if isinstance(image, int) else image
    taken = {key: recorded[key] for key in ("embed", "down", "up", "heads", "groups", "window")}
    return DatLSTMConfig(height=height, width=width, offset_range=recorded.get("orf", 2), drop_path=0, **taken)


@cache
def load(case: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of a case."""
    with np.load(Path(__file__).parent / f"{case}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def model_of(arrays: Mapping[str, NDArray[Any]]) -> DatLSTM:
    """Build the model of a case with the recorded weights."""
    model = DatLSTM(configuration(json.loads(str(arrays["meta"]))["cfg"]))
    weights = {name: from_reference(name, value.shape, arrays, "sd/") for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    return model


def forecast(model: DatLSTM, arrays: Mapping[str, NDArray[Any]]) -> Tensor:
    """Run the recorded inputs."""
    output: Tensor = model(torch.from_numpy(arrays["x"]), arrays["y"].shape[1])
    return output


@cache
def trained(case: str) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of one backward pass in training mode."""
    arrays = load(case)
    model = model_of(arrays).train()
    target = torch.from_numpy(np.concatenate([arrays["x"][:, 1:], arrays["y"]], axis=1))
    loss = torch.nn.functional.mse_loss(forecast(model, arrays), target)
    loss.backward()
    return loss.item(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("case", CASES)
def test_warm_up_and_forecast_equal_the_published_model(case: str) -> None:
    arrays = load(case)
    with torch.no_grad():
        output = forecast(model_of(arrays).eval(), arrays)
    assert np.abs(output.numpy() - arrays["out_eval"]).max() <= 1e-5


def test_states_after_one_step_equal_the_published_model() -> None:
    arrays = load("dat_small_w4")
    cells = ("down0", "down1", "up0", "up1")
    before, after = (
        [(torch.from_numpy(arrays[f"{when}/{cell}/h"]), torch.from_numpy(arrays[f"{when}/{cell}/c"])) for cell in cells]
        for when in ("state0", "state1")
    )
    with torch.no_grad():
        _, states = model_of(arrays).eval().step(torch.from_numpy(arrays["x"][:1, 1]), before)
    torch.testing.assert_close(states, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_loss_equals_the_published_model(case: str) -> None:
    assert trained(case)[0] == pytest.approx(float(load(case)["loss"]), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradient_norms_equal_the_published_model(case: str) -> None:
    arrays, gradients = load(case), trained(case)[1]
    recorded = dict(zip(arrays["grad_names"], arrays["grad_norms"], strict=True))
    ours = {
        key: part.norm().item()
        for name, gradient in gradients.items()
        for keys in [reference_keys(name)]
        for key, part in zip(keys, gradient.chunk(len(keys)), strict=True)
    }
    assert set(ours) == {key for key, norm in recorded.items() if norm != NO_GRADIENT}
    # A constant added to all keys changes no attention: the exact gradient is zero and the recorded one rounding noise.
    constant = {key for key in ours if key.endswith("proj_k.bias")}
    assert all(ours[key] <= 1e-8 for key in constant)
    for key in ours.keys() - constant:
        assert ours[key] == pytest.approx(recorded[key], rel=1e-4), key


@pytest.mark.parametrize("case", CASES)
def test_recorded_gradients_equal_the_published_model(case: str) -> None:
    arrays, gradients = load(case), trained(case)[1]
    checked = 0
    for name, gradient in gradients.items():
        if all(f"grad/{key}" in arrays for key in reference_keys(name)):
            expected = from_reference(name, gradient.shape, arrays, "grad/")
            assert (gradient - expected).abs().max() <= 2e-4 * expected.abs().max(), name
            checked += 1
    assert checked == sum(key.startswith("grad/") for key in arrays)
