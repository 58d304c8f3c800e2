"""Files of weights: published state dicts are read, converted networks are kept with their configuration.

Nothing here can carry code: a PyTorch file is read for its tensors alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from datlstm.errors import SettingsError, WeightsError
from datlstm.models import build

READERS = (".npz", ".pt", ".pth", ".safetensors")


def read_entries(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file: ``.safetensors``, ``.pt`` or ``.pth``, or ``.npz``.

    In an ``.npz`` the entries may stand below ``sd/``, beside other arrays. Raises `WeightsError` for a file that is
    absent, damaged, of another kind, or holds anything but tensors.
    """
    if path.suffix not in READERS:
        raise WeightsError(f"{path} is of no known kind: give a file ending in {', '.join(READERS)}")
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    try:
        entries = _read(path)
    # A damaged or unsafe file shows in errors of many types, some without a common base.
    except Exception as error:
        raise WeightsError(f"{path} can't be read as a state dict: {error}") from error
    if not all(isinstance(value, Tensor) for value in entries.values()):
        raise WeightsError(f"{path} holds more than tensors by name: save the model's state_dict() alone")
    return entries


def write_network(path: Path, name: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write weights with the architecture's name and configuration, from which `load_network` builds it again.

    Raises `WeightsError` for a path that can't be written.
    """
    metadata = {"architecture": name, "config": json.dumps(dict(config))}
    try:
        safetensors.torch.save_file(dict(weights), path, metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path} can't be written: {error}") from error


def load_network(path: Path) -> nn.Module:
    """Return the network of a file written by `write_network`, in evaluation mode.

    Raises `WeightsError` for a file that is damaged or was not written by it.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        network = build(metadata["architecture"], json.loads(metadata["config"]))
        network.load_state_dict(safetensors.torch.load_file(path))
    except (
        OSError,
        safetensors.SafetensorError,
        SettingsError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise WeightsError(f"{path} is not a network written by `datlstm convert-weights`: {error}") from error
    return network.eval()


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if path.suffix == ".npz":
        # Numpy leaves a file open that it opened itself and found damaged.
        with path.open("rb") as file, np.load(file) as arrays:
            names = [name for name in arrays.files if name.startswith("sd/")] or arrays.files
            return {name.removeprefix("sd/"): torch.from_numpy(arrays[name]) for name in names}
    return dict(torch.load(path, map_location="cpu", weights_only=True))
