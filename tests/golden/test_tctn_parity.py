"""TCTN against arrays recorded from the published implementation: outputs, loss and gradients, weights converted."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from datlstm.errors import WeightsError
from datlstm.models import build
from datlstm.published import convert

NO_GRADIENT = -1.0


@cache
def load() -> dict[str, NDArray[Any]]:
    """Read all arrays of the case."""
    with np.load(Path(__file__).parent / "x_tctn.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def recorded() -> dict[str, Any]:
    """Return the recorded configuration."""
    configuration: dict[str, Any] = json.loads(str(load()["meta"]))["cfg"]
    return configuration


def published() -> dict[str, Tensor]:
    """Return the recorded state dict."""
    arrays = load()
    return {key.removeprefix("sd/"): torch.from_numpy(arrays[key]) for key in arrays if key.startswith("sd/")}


def converted(entries: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Convert entries for the recorded frames."""
    height, width = load()["frames"].shape[-2:]
    return convert("tctn", entries, **{"height": height, "width": width, "heads": recorded()["heads"], **options})


def model_of() -> nn.Module:
    """Build the model with the recorded weights, without dropout."""
    config, weights = converted(published())
    model = build("tctn", config)
    model.load_state_dict(weights)
    return model.eval()


def patched(frames: Tensor) -> Tensor:
    """Return frames in the recorded layout ``(B, T, patch**2, h, w)``."""
    patch = recorded()["patch"]
    return rearrange(frames, "b t 1 (h p) (w q) -> b t (p q) h w", p=patch, q=patch)


@pytest.mark.parametrize(("name", "lead_frames"), [("out_teacher", 1), ("out_rollout", 3)])
def test_estimates_equal_the_published_model(name: str, lead_frames: int) -> None:
    arrays = load()
    frames = torch.from_numpy(arrays["frames"])
    with torch.no_grad():
        output = model_of()(frames[:, : frames.shape[1] - lead_frames], lead_frames)
    assert np.abs(patched(output).numpy() - arrays[name]).max() <= 1e-5


def test_teacher_forced_loss_and_gradient_norms_equal_the_published_model() -> None:
    arrays, model = load(), model_of()
    frames = torch.from_numpy(arrays["frames"])
    loss = F.mse_loss(model(frames[:, :-1], 1), frames[:, 1:])
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-5)

    entries = {key: value.requires_grad_() for key, value in published().items()}
    _, weights = converted(entries)
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    # Conversion only reorders: carrying our gradients back through it sorts them by published entry.
    gradients = torch.autograd.grad(
        list(weights.values()), list(entries.values()), [ours[name] for name in weights], allow_unused=True
    )
    norms = dict(zip(arrays["grad_names"].tolist(), arrays["grad_norms"].tolist(), strict=True))
    for key, gradient in zip(entries, gradients, strict=True):
        # Tensors without a gradient in the published model take no part in ours.
        found = NO_GRADIENT if gradient is None else gradient.norm().item()
        assert found == pytest.approx(norms[key], rel=1e-4), key


def test_options_are_read_off_the_recorded_shapes() -> None:
    config, _ = converted(published())
    read = {key: config[key] for key in ("patch", "depth", "layers")}
    assert read == {key: recorded()[key] for key in read}
    assert config["frame_channels"] == 1 and config["head"] == "linear" and config["pooled_norm"] is True


def test_an_entry_that_belongs_to_no_layer_is_refused() -> None:
    with pytest.raises(WeightsError, match="adapter.weight"):
        converted({**published(), "adapter.weight": torch.zeros(1)})


def test_a_state_dict_that_lacks_an_entry_is_refused() -> None:
    with pytest.raises(WeightsError, match="GN2.bias"):
        converted({key: value for key, value in published().items() if key != "decoder.decoder.1.GN2.bias"})


def test_options_that_contradict_the_shapes_are_refused() -> None:
    with pytest.raises(WeightsError, match="embed.wide.weight"):
        converted(published(), forcing_channels=1)
