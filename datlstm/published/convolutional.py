"""The ConvLSTM and PredRNN of OpenSTL (Tan et al. 2023): their options, read off the shapes, and their weights."""

from math import isqrt
from typing import Any

import torch
from torch import Tensor

from datlstm.errors import WeightsError
from datlstm.published.state import PublishedState

Options = dict[str, Any]
Weights = dict[str, Tensor]

# The published ConvLSTM carries the output layers of a PredRNN cell and never runs them.
UNUSED_IN_CONVLSTM = r"^cell_list\.\d+\.(conv_o\.\d+|conv_last)\."
UNUSED_IN_PREDRNN = r"(?!)"


def convlstm(state: PublishedState) -> tuple[Options, Weights]:
    """Return options and weights of a ConvLSTM; only layer norm tells the frame's size.

    The patch is the largest that fits the channels: give ``frame_channels`` and ``patch`` where a square number of
    channels, such as 4, makes up a frame.
    """
    options, weights = _network(state)
    for index, hidden in enumerate(options["hidden"]):
        published, ours = f"cell_list.{index}", f"cells.{index}.gates"
        parts = [_convolution(state, f"{published}.{map_}", 4 * hidden, options) for map_ in ("conv_x", "conv_h")]
        if options["layer_norm"]:
            weights |= {f"{ours}.parts.{i}.{key}": value for i, part in enumerate(parts) for key, value in part.items()}
        else:
            weights[f"{ours}.weight"] = torch.cat([part["convolution.weight"] for part in parts], dim=1)
    state.check_rest(UNUSED_IN_CONVLSTM)
    return options, weights


def predrnn(state: PublishedState) -> tuple[Options, Weights]:
    """Return options and weights of a PredRNN, as `convlstm` does."""
    options, weights = _network(state)
    for index in range(len(options["hidden"])):
        cell = _predrnn_cell(state, f"cell_list.{index}", options)
        weights |= {f"cells.{index}.{key}": value for key, value in cell.items()}
    state.check_rest(UNUSED_IN_PREDRNN)
    return options, weights


def _network(state: PublishedState) -> tuple[Options, Weights]:
    channels = state.shape("conv_last.weight")[0]
    patch = max(side for side in range(1, isqrt(channels) + 1) if channels % side**2 == 0)
    cells = range(state.count("cell_list"))
    options = {
        "patch": patch,
        "frame_channels": channels // patch**2,
        "hidden": [state.shape(f"cell_list.{index}.conv_h.0.weight")[1] for index in cells],
        "kernel": state.shape("cell_list.0.conv_x.0.weight")[-1],
        "layer_norm": state.has("cell_list.0.conv_x.1.weight"),
    }
    if options["layer_norm"]:
        rows, columns = state.shape("cell_list.0.conv_x.1.weight")[1:]
        options |= {"height": rows * patch, "width": columns * patch}
    return options, {"readout.weight": state.take("conv_last.weight")}


def _predrnn_cell(state: PublishedState, cell: str, options: Options) -> Weights:
    width = options["hidden"][0]
    maps, hidden, climbing, output = (
        _convolution(state, f"{cell}.conv_{map_}", gates * width, options)
        for map_, gates in (("x", 7), ("h", 4), ("m", 3), ("o", 1))
    )
    maps = {key: _output_gate_fourth(value) for key, value in maps.items()}
    reduction = {"reduction.weight": state.take(f"{cell}.conv_last.weight")}
    if options["layer_norm"]:
        parts = {"gates.maps": maps, "gates.hidden": hidden, "gates.climbing": climbing, "output": output}
        return reduction | {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    temporal, spatial = maps["convolution.weight"].split([4 * width, 3 * width])
    return reduction | {
        "gates.temporal.weight": torch.cat([temporal, hidden["convolution.weight"]], dim=1),
        "gates.spatial.weight": torch.cat([spatial, climbing["convolution.weight"]], dim=1),
        "output.weight": output["convolution.weight"],
    }


def _convolution(state: PublishedState, name: str, outputs: int, options: Options) -> Weights:
    kernel, shape = options["kernel"], state.shape(f"{name}.0.weight")
    if (shape[0], *shape[2:]) != (outputs, kernel, kernel):
        raise WeightsError(
            f"{name}.0.weight has shape {shape}, this architecture needs {outputs} channels and a kernel of "
            f"{kernel} x {kernel}: choose another architecture"
        )
    found = {"convolution.weight": state.take(f"{name}.0.weight")}
    if options["layer_norm"]:
        found |= {f"norm.{part}": state.take(f"{name}.1.{part}") for part in ("weight", "bias")}
    return found


def _output_gate_fourth(parameter: Tensor) -> Tensor:
    # Published: three gates of the memory, three of the climbing one, the output gate. Ours keeps a memory's together.
    temporal, spatial, output = parameter.split([size * parameter.shape[0] // 7 for size in (3, 3, 1)])
    return torch.cat([temporal, output, spatial])
