"""The published TCTN: its options, read off the shapes, and its weights."""

from math import isqrt
from typing import Any

from einops import rearrange
from torch import Tensor

from datlstm.published.state import PublishedState

# The template that the layers were copied from, and layers that the published model never runs.
UNUSED = r"^decoder\.decoderlayer\.|^decoder\.positionnet\.|^decoder_embedding\.conv2\."


def tctn(state: PublishedState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return options and weights of a TCTN; the frame's size and the number of heads are not among them."""
    patch_channels, depth = state.shape("conv_last.weight")[:2]
    layers = state.count("decoder.decoder")
    options = {"patch": isqrt(patch_channels), "depth": depth, "layers": layers, "head": "linear"}
    weights = _planar(state, "decoder_embedding.conv0.0", "embed.wide")
    weights |= _planar(state, "decoder_embedding.conv1.0", "embed.fine")
    for index in range(layers):
        weights |= _layer(state, f"decoder.decoder.{index}", f"layers.{index}")
    weights |= _norm(state, "decoder.GN", "norm")
    weights["last.weight"] = state.take("conv_last.weight").squeeze(2)
    state.check_rest(UNUSED)
    return options, weights


def _layer(state: PublishedState, name: str, ours: str) -> dict[str, Tensor]:
    return {
        **_norm(state, f"{name}.GN1", f"{ours}.norm1"),
        **_planar(state, f"{name}.attention.0.qkv.conv0.0", f"{ours}.attention.qkv.planar"),
        **_planar(state, f"{name}.out.conv0.0", f"{ours}.attention.output.planar"),
        **_norm(state, f"{name}.GN2", f"{ours}.norm2"),
        **_planar(state, f"{name}.feedforward.conv0.0", f"{ours}.widen.planar"),
        **_planar(state, f"{name}.feedforward.conv1.0", f"{ours}.narrow.planar"),
    }


def _planar(state: PublishedState, name: str, ours: str) -> dict[str, Tensor]:
    """Return a convolution of volumes as a planar one of maps stacked on their channels, oldest first."""
    kernel = rearrange(state.take(f"{name}.weight"), "o c t h w -> o (t c) h w")
    return {f"{ours}.weight": kernel, f"{ours}.bias": state.take(f"{name}.bias")}


def _norm(state: PublishedState, name: str, ours: str) -> dict[str, Tensor]:
    return {f"{ours}.{part}": state.take(f"{name}.{part}") for part in ("weight", "bias")}
