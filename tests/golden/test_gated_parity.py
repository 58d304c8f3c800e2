"""DatLSTM and both SwinLSTMs against arrays recorded from the published implementations, weights converted."""

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import literal
from datlstm.models import build
from datlstm.models.layers import GatedCell
from datlstm.published import convert
from tests.golden.recorded import entries, from_recipe, gradient_norms, load, meta

ARCHITECTURE = {"dat": "datlstm", "swind": "swinlstm-d", "swinb": "swinlstm-b"}
CASES = (
    "dat_small_w4",
    "dat_oddeven_w2",
    "dat_defaultinit",
    "dat_threelevel",
    "dat_full_recipe",
    "swind_small",
    "swind_oddeven",
    "swinb_small",
    "swinb_twolayer",
)


@cache
def published(case: str) -> dict[str, Tensor]:
    """Return the recorded weights of a case, or those of the recipe that it was recorded with."""
    recorded = entries(case)
    if recorded:
        return recorded
    shapes = literal.EncoderDecoder(*literal.PUBLISHED["datlstm"]).state_dict()
    return {name: from_recipe(name, tuple(value.shape), meta(case)["seed"]) for name, value in shapes.items()}


def converted(case: str, state: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Convert a recorded state dict for the recorded frames."""
    height, width = load(case)["x"].shape[-2:]
    return convert(ARCHITECTURE[case.split("_")[0]], state, height=height, width=width, **options)


def model_of(case: str) -> nn.Module:
    """Build the model of a case with the recorded weights, and no block ever dropped."""
    config, weights = converted(case, published(case), drop_path=0.0)
    model = build(ARCHITECTURE[case.split("_")[0]], config)
    model.load_state_dict(weights)
    return model


@cache
def trained(case: str) -> tuple[Tensor, float, dict[str, Tensor]]:
    """Return output, loss and gradients of one backward pass in training mode."""
    arrays, model = load(case), model_of(case).train()
    output = model(torch.from_numpy(arrays["x"]), arrays["y"].shape[1])
    target = torch.from_numpy(np.concatenate([arrays["x"][:, 1:], arrays["y"]], axis=1))
    loss = torch.nn.functional.mse_loss(output, target)
    loss.backward()
    return output.detach(), loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def published_gradients(case: str) -> dict[str, Tensor]:
    """Return our gradients by published name: convert names as numbers, then follow each number to its place."""
    floating = {name: value for name, value in published(case).items() if value.is_floating_point()}
    ends = np.cumsum([value.numel() for value in floating.values()])
    places = {
        name: torch.arange(end - value.numel(), end, dtype=torch.float64).reshape(value.shape)
        for (name, value), end in zip(floating.items(), ends, strict=True)
    }
    flat = torch.full((int(ends[-1]),), torch.nan)
    _, ours = converted(case, places)
    for name, gradient in trained(case)[2].items():
        flat[ours[name].long().flatten()] = gradient.flatten()
    parts = {name: flat[place.long()] for name, place in places.items()}
    return {name: part for name, part in parts.items() if part.isfinite().all()}


@pytest.mark.parametrize("case", CASES)
def test_warm_up_and_forecast_equal_the_published_model(case: str) -> None:
    arrays = load(case)
    with torch.no_grad():
        output = model_of(case).eval()(torch.from_numpy(arrays["x"]), arrays["y"].shape[1])
    assert np.abs(output.numpy() - arrays["out_eval"]).max() <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_training_output_and_loss_equal_the_published_model(case: str) -> None:
    output, loss, _ = trained(case)
    assert np.abs(output.numpy() - load(case)["out_train"]).max() <= 1e-5
    assert loss == pytest.approx(float(load(case)["loss"]), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradient_norms_equal_the_published_model(case: str) -> None:
    ours, recorded = published_gradients(case), gradient_norms(case)
    assert set(ours) == set(recorded)
    # A constant added to all keys changes no attention: the exact gradient is zero and the recorded one rounding noise.
    constant = {name for name in ours if name.endswith("proj_k.bias")}
    assert all(ours[name].norm() <= 1e-8 for name in constant)
    for name in ours.keys() - constant:
        assert ours[name].norm().item() == pytest.approx(recorded[name], rel=1e-4), name


@pytest.mark.parametrize("case", CASES)
def test_recorded_gradients_equal_the_published_model(case: str) -> None:
    ours, recorded = published_gradients(case), entries(case, "grad/")
    assert recorded
    for name, expected in recorded.items():
        assert (ours[name] - expected).abs().max() <= 2e-4 * expected.abs().max(), name


@pytest.mark.parametrize("case", ["dat_small_w4", "swind_small"])
def test_states_after_one_step_equal_the_published_model(case: str) -> None:
    arrays = load(case)
    cells = list(dict.fromkeys(key.split("/")[1] for key in arrays if key.startswith("state0/")))
    before, after = (
        [tuple(torch.from_numpy(arrays[f"{when}/{cell}/{part}"]) for part in "hc") for cell in cells]
        for when in ("state0", "state1")
    )
    with torch.no_grad():
        _, states = model_of(case).eval().step(torch.from_numpy(arrays["x"][:1, 1]), None, before)  # type: ignore[operator]
    torch.testing.assert_close(states, after, atol=1e-5, rtol=0)


OUR_MODULES = (
    (r"^(Downsample|ST)\.patch_embed$", "embed"),
    (r"^Downsample\.layers\.(\d+)\.Dat|^Downsample\.layers\.(\d+)\.Swin", r"encoder.\1\2"),
    (r"^Upsample\.layers\.(\d+)\.Dat|^Upsample\.layers\.(\d+)\.Swin", r"decoder.\1\2"),
    (r"coder\.(\d+)\.layers", r"coder.\1.blocks"),
    (r"\.red$", ".reduction"),
    (r"\.mlp$", ".feed_forward"),
    (r"\.(window_attn|dat_attn)", ".attention"),
    (r"\.conv_offset$", ".offset"),
    (r"^Downsample\.downsample", "merging"),
    (r"^Upsample\.upsample", "expanding"),
)


def our_module(name: str, model: nn.Module) -> nn.Module:
    """Return the module that does what a published one does; a stack of blocks ends in its last block."""
    for pattern, replacement in OUR_MODULES:
        name = re.sub(pattern, replacement, name)
    module = model.get_submodule(name)
    return module.blocks[-1] if isinstance(module, GatedCell) else module


@pytest.mark.parametrize("case", ["dat_small_w4", "swind_small"])
def test_every_recorded_inner_output_equals_the_published_model(case: str) -> None:
    # The head is recorded beside the output; of shifted windows only the first one is, of offsets the first group.
    recorded = {key: value for key, value in entries(case, "int/").items() if not key.endswith((".attn", ".Unembed"))}
    plain = {key: value for key, value in recorded.items() if "#" not in key}
    model, found, positions = model_of(case).eval(), dict[str, Tensor](), dict[str, Tensor]()
    for name in plain:
        our_module(name, model).register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
    arrays = load(case)
    cells = list(dict.fromkeys(key.split("/")[1] for key in arrays if key.startswith("state0/")))
    before = [tuple(torch.from_numpy(arrays[f"state0/{cell}/{part}"]) for part in "hc") for cell in cells]
    with torch.no_grad():
        model.step(torch.from_numpy(arrays["x"][:1, 1]), None, before)  # type: ignore[operator]
    for name, expected in plain.items():
        if name.endswith(".conv_offset"):
            offset = found[name][:, 0].mT.unflatten(2, expected.shape[2:])
            attention = our_module(name.removesuffix(".conv_offset"), model)
            positions[name.replace(".conv_offset", "#pos")] = torch.tanh(found[name]) * attention.offset_scale
            torch.testing.assert_close(offset, expected, atol=1e-5, rtol=0)
        else:
            image = expected if expected.ndim == 3 else expected.flatten(2).mT
            torch.testing.assert_close(found[name], image, atol=1e-5, rtol=0)
    for name, moved in positions.items():
        reference = recorded[name.replace("#pos", "#ref")].flatten(2, 3)
        torch.testing.assert_close(moved + reference, recorded[name].flatten(2, 3), atol=1e-5, rtol=0)
        attention = our_module(name.removesuffix("#pos"), model)
        torch.testing.assert_close(attention.reference_points.expand_as(reference), reference, atol=1e-6, rtol=0)
