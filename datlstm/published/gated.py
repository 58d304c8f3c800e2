"""The published DatLSTM, SwinLSTM-D and SwinLSTM-B: their options, read off the shapes, and their weights."""

from collections.abc import Callable
from math import isqrt
from typing import Any

from torch import Tensor

from datlstm.published.state import PublishedState

Options = dict[str, Any]
Weights = dict[str, Tensor]

# Layers that the published models carry and never run, and constants that follow from the shapes.
UNUSED = (
    r"relative_position_index$|\.attn_mask$|^Upsample\.patch_embed\.|\.layers\.\d*[13579]\.red\."
    r"|\.layers\.\d*[02468]\.dat_attn\.|\.layers\.\d*[13579]\.window_attn\."
)


def datlstm(state: PublishedState) -> tuple[Options, Weights]:
    """Return options and weights of a DatLSTM; its first bias table tells the frame's size."""
    options, weights = _encoder_decoder(state, "Dat", _datlstm_attention)
    cells = _cell_names(state, "Dat")
    tables = [state.shape(f"{cell}.layers.0.window_attn.relative_position_bias_table") for cell in cells]
    groups = [_groups(state, cell) for cell in cells]
    options |= {"heads": [heads for _, heads in tables], "groups": groups, "window": (isqrt(tables[0][0]) + 1) // 2}
    odd = f"{cells[0]}.layers.1.dat_attn"
    if state.has(f"{odd}.rpe_table"):
        _, height, width = state.shape(f"{odd}.rpe_table")
        options |= {side: (size + 1) // 2 * options["patch"] for side, size in (("height", height), ("width", width))}
        options["kernel"] = state.shape(f"{odd}.conv_offset.0.weight")[-1]
    state.check_rest(UNUSED)
    return options, weights


def swinlstm_d(state: PublishedState) -> tuple[Options, Weights]:
    """Return options and weights of a SwinLSTM-D; the frame's size is not among them."""
    options, weights = _encoder_decoder(state, "Swin", _swin_attention)
    tables = [state.shape(f"{cell}.layers.0.attn.relative_position_bias_table") for cell in _cell_names(state, "Swin")]
    options |= {"heads": [heads for _, heads in tables[: len(options["down"])]], "window": _window(tables)}
    state.check_rest(UNUSED)
    return options, weights


def swinlstm_b(state: PublishedState) -> tuple[Options, Weights]:
    """Return options and weights of a SwinLSTM-B; the frame's size is not among them."""
    options, weights = _embedding(state, "ST.patch_embed")
    cells = [f"ST.layers.{index}.Swin" for index in range(state.count("ST.layers"))]
    tables = [state.shape(f"{cell}.layers.0.attn.relative_position_bias_table") for cell in cells]
    options |= {"depths": [state.count(f"{cell}.layers") for cell in cells], "window": _window(tables)}
    options["heads"] = [heads for _, heads in tables]
    for index, cell in enumerate(cells):
        weights |= _cell(state, cell, f"cells.{index}", _swin_attention)
    weights |= _inflate(state, "ST.PatchInflated.ConvT")
    state.check_rest(UNUSED)
    return options, weights


Attention = Callable[[PublishedState, str, int], Weights]


def _encoder_decoder(state: PublishedState, kind: str, attention: Attention) -> tuple[Options, Weights]:
    options, weights = _embedding(state, "Downsample.patch_embed")
    levels = state.count("Downsample.layers")
    depths = [state.count(f"{cell}.layers") for cell in _cell_names(state, kind)]
    options |= {"down": depths[:levels], "up": depths[levels:][::-1]}
    for index in range(levels):
        weights |= _cell(state, f"Downsample.layers.{index}.{kind}", f"encoder.{index}", attention)
        merging = f"Downsample.downsample.{index}"
        weights |= _norm(state, f"{merging}.norm", f"merging.{index}.norm")
        weights[f"merging.{index}.reduction.weight"] = state.take(f"{merging}.reduction.weight")
        weights |= _cell(state, f"Upsample.layers.{index}.{kind}", f"decoder.{index}", attention)
        expanding = f"Upsample.upsample.{index}"
        weights |= _norm(state, f"{expanding}.norm", f"expanding.{index}.norm")
        weights[f"expanding.{index}.expansion.weight"] = state.take(f"{expanding}.expand.weight")
    return options, weights | _inflate(state, "Upsample.Unembed.Conv")


def _cell_names(state: PublishedState, kind: str) -> list[str]:
    sides = ("Downsample", "Upsample")
    return [f"{side}.layers.{i}.{kind}" for side in sides for i in range(state.count(f"{side}.layers"))]


def _embedding(state: PublishedState, name: str) -> tuple[Options, Weights]:
    channels, frame_channels, patch, _ = state.shape(f"{name}.proj.weight")
    options = {"embed": channels, "frame_channels": frame_channels, "patch": patch, "head": "sigmoid"}
    return options, _linear(state, f"{name}.proj", "embed.projection") | _norm(state, f"{name}.norm", "embed.norm")


def _inflate(state: PublishedState, name: str) -> Weights:
    return {f"inflate.convolution.{part}": state.take(f"{name}.{part}") for part in ("weight", "bias")}


def _cell(state: PublishedState, name: str, ours: str, attention: Attention) -> Weights:
    weights: Weights = {}
    for index in range(state.count(f"{name}.layers")):
        block, our_block = f"{name}.layers.{index}", f"{ours}.blocks.{index}"
        weights |= _norm(state, f"{block}.norm1", f"{our_block}.norm1")
        weights |= _norm(state, f"{block}.norm2", f"{our_block}.norm2")
        weights |= _linear(state, f"{block}.mlp.fc1", f"{our_block}.feed_forward.0")
        weights |= _linear(state, f"{block}.mlp.fc2", f"{our_block}.feed_forward.2")
        if index % 2 == 0:
            weights |= _linear(state, f"{block}.red", f"{our_block}.reduction")
        found = attention(state, block, index)
        weights |= {f"{our_block}.attention.{name}": value for name, value in found.items()}
    return weights


def _swin_attention(state: PublishedState, block: str, index: int) -> Weights:
    return {
        **_linear(state, f"{block}.attn.qkv", "qkv"),
        **_linear(state, f"{block}.attn.proj", "output"),
        "relative_bias": state.take(f"{block}.attn.relative_position_bias_table"),
    }


def _datlstm_attention(state: PublishedState, block: str, index: int) -> Weights:
    if index % 2 == 0:
        return {
            **_linear(state, f"{block}.window_attn.proj_qkv", "qkv"),
            **_linear(state, f"{block}.window_attn.proj_out", "output"),
            "relative_bias": state.take(f"{block}.window_attn.relative_position_bias_table"),
        }
    attention = f"{block}.dat_attn"
    offset = f"{attention}.conv_offset"
    return {
        **_linear(state, f"{attention}.proj_q", "query"),
        **_linear(state, f"{attention}.proj_out", "output"),
        "key_value.weight": state.linear(f"{attention}.proj_k.weight", f"{attention}.proj_v.weight"),
        "key_value.bias": state.take(f"{attention}.proj_k.bias", f"{attention}.proj_v.bias"),
        "offset_convolution.weight": state.take(f"{offset}.0.weight"),
        "offset_convolution.bias": state.take(f"{offset}.0.bias"),
        **_norm(state, f"{offset}.1.norm", "offset_norm"),
        "offset.weight": state.linear(f"{offset}.3.weight"),
        "relative_bias.table": state.take(f"{attention}.rpe_table"),
    }


def _linear(state: PublishedState, name: str, ours: str) -> Weights:
    return {f"{ours}.weight": state.linear(f"{name}.weight"), f"{ours}.bias": state.take(f"{name}.bias")}


def _norm(state: PublishedState, name: str, ours: str) -> Weights:
    return {f"{ours}.{part}": state.take(f"{name}.{part}") for part in ("weight", "bias")}


def _groups(state: PublishedState, cell: str) -> int:
    # A cell of depth 1 has no deformable attention; the published model still carries one.
    block = f"{cell}.layers.{int(state.has(f'{cell}.layers.1.norm1.weight'))}"
    channels = state.shape(f"{block}.norm1.weight")[0]
    offset = f"{block}.dat_attn.conv_offset.0.weight"
    return channels // state.shape(offset)[0] if state.has(offset) else 1


def _window(tables: list[tuple[int, ...]]) -> int:
    # Grids smaller than the window have a smaller table; the largest one tells the window.
    return max((isqrt(rows) + 1) // 2 for rows, _ in tables)
