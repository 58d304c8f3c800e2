"""What a run of a network costs: time, peak memory and arithmetic, and the most arithmetic that a machine can do.

A run is made by `forecasting` or `training` in one of the `WAYS` of a device, and does the same work at every call.
"""

import ctypes
import mmap
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from datlstm.models import compile_blocks

MEBIBYTE = 2**20
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}

Run = Callable[[], object]


class Way(NamedTuple):
    """A precision, bf16 being autocast, and how kernels are launched."""

    dtype: torch.dtype
    launch: Literal["eager", "compiled", "graph"] = "eager"

    def __str__(self) -> str:
        return PRECISIONS[self.dtype] + ("" if self.launch == "eager" else f" {self.launch}")


FP32, BF16, COMPILED = Way(torch.float32), Way(torch.bfloat16), Way(torch.bfloat16, "compiled")
WAYS = {"cpu": (FP32, BF16), "cuda": (FP32, BF16, COMPILED, Way(torch.bfloat16, "graph"))}


def forecasting(model: nn.Module, frames: Tensor, leads: int, way: Way) -> Run:
    """Return a run of the forecast of ``leads`` frames from ``(B, T, C, H, W)`` by a copy of ``model``."""
    network = _launchable(deepcopy(model).eval(), way)

    # Not inference_mode: in it autocast rounds every weight anew at every step.
    @torch.no_grad()
    def run() -> Tensor:
        with _autocast(frames.device, way):
            estimates: Tensor = network(frames, leads)
        return estimates

    return _captured(run) if way.launch == "graph" else run


def training(model: nn.Module, frames: Tensor, leads: int, way: Way) -> Run:
    """Return a run of forward and backward through a copy of ``model``, without the optimiser's step."""
    network = _launchable(deepcopy(model).train(), way)
    batch, inputs, *frame = frames.shape
    targets = torch.rand(batch, inputs - 1 + leads, *frame, device=frames.device)

    def run() -> None:
        with _autocast(frames.device, way):
            estimates = network(frames, leads)
        F.mse_loss(estimates.float(), targets[:, -estimates.shape[1] :]).backward()
        network.zero_grad(set_to_none=True)

    return _captured(run) if way.launch == "graph" else run


def seconds(run: Run, device: torch.device) -> float:
    """Return the time of one call. On one CPU thread it is processor time, which other work on the machine moves less.

    The first call of a run also pays for what it sets up.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    _wait(device)
    start = clock()
    run()
    _wait(device)
    return clock() - start


def median_seconds(run: Run, device: torch.device, repeats: int) -> float:
    """Return the median time of ``repeats`` calls after a first one that doesn't count."""
    run()
    return median(seconds(run, device) for _ in range(repeats))


def peak_bytes(run: Run, device: torch.device) -> int:
    """Return how far one call raises the memory in use, at its highest; the weights were there before.

    On CPU it is the resident memory that Linux counts, at least one page of it; what earlier calls left behind is
    handed back first.
    """
    if device.type == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    run()
    return max(mmap.PAGESIZE, _resident("VmHWM") - before)


def operations(run: Run) -> int:
    """Return the floating point operations of one call, as torch counts them: products, convolutions, attention."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def peak_operations(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating point operations per second of this machine's best large matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))

    @torch.inference_mode()
    def run() -> Tensor:
        return left @ right

    run()
    return 2 * side**3 / min(seconds(run, device) for _ in range(5))


def describe(device: torch.device) -> str:
    """Return the processor, the threads and the versions that a table was measured with."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].split(":")[1].strip() if names else platform.machine()
    accelerator = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    threads = torch.get_num_threads()
    return (
        f"{accelerator}{processor}, {threads} thread{'s'[: threads > 1]}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _launchable(network: nn.Module, way: Way) -> nn.Module:
    if way.launch == "compiled":
        compile_blocks(network)
    return network


def _captured(run: Run) -> Run:
    # Capture needs a run that has set up everything on a stream of its own; inputs and outputs stay where they are.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


@contextmanager
def _autocast(device: torch.device, way: Way) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16, enabled=way.dtype == torch.bfloat16):
        yield


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kibibytes) * 1024
