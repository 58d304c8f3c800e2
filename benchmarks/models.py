"""Speed and memory of every architecture, of the product beside literal renderings, and how both grow with the work.

``python -m benchmarks.models`` measures forecasts of 10 frames from 10 by each architecture and preset; with
``--literal`` DatLSTM and SwinLSTM-D beside `benchmarks.literal`, equal weights, runs in turns; with ``--scaling`` time
and memory by frame size and by leads. All in one process, on one thread unless ``--threads`` says otherwise.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from benchmarks.literal import PUBLISHED, EncoderDecoder, Kind, Sizes
from benchmarks.meters import (
    COMPILED,
    FP32,
    MEBIBYTE,
    WAYS,
    Run,
    describe,
    forecasting,
    median_seconds,
    operations,
    peak_bytes,
    peak_operations,
    seconds,
    training,
)
from datlstm import published
from datlstm.compute import torch_threads
from datlstm.models import ARCHITECTURES, Preset, build, configure

SIDES = (32, 64, 96, 128)
LEADS = (5, 10, 20)

Table = list[dict[str, str]]
"""Rows of equal columns."""


class Case(NamedTuple):
    """What is forecast: a batch of ``frames`` frames of a size, ``leads`` frames ahead."""

    size: tuple[int, int]
    batch: int
    frames: int
    leads: int
    device: torch.device

    def inputs(self) -> Tensor:
        """Return invented frames ``(B, T, 1, H, W)`` in 0 … 1."""
        return torch.rand(self.batch, self.frames, 1, *self.size, device=self.device)


def network(name: str, preset: Preset, case: Case) -> nn.Module:
    """Return an architecture of fresh weights for a case."""
    height, width = case.size
    config = configure(name, preset, height=height, width=width, input_frames=case.frames, lead_frames=case.leads)
    return build(name, config).to(case.device)


def architectures(names: Sequence[str], presets: Sequence[Preset], case: Case, repeats: int) -> Table:
    """Return one row per architecture, preset and way; all but parameters and memory are per frame forecast."""
    peaks = {way.dtype: peak_operations(case.device, way.dtype) for way in WAYS[case.device.type]}
    measured_rows = (_rows(name, preset, case, repeats, peaks) for name, preset in product(names, presets))
    return [row for rows in measured_rows for row in rows]


def _rows(
    name: str, preset: Preset, case: Case, repeats: int, peaks: Mapping[torch.dtype, float]
) -> Iterator[dict[str, str]]:
    model, frames = network(name, preset, case), case.inputs()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counted = operations(forecasting(model, frames, case.leads, FP32))
    for way in WAYS[case.device.type]:
        forward = median_seconds(forecasting(model, frames, case.leads, way), case.device, repeats)
        train = training(model, frames, case.leads, way)
        both = median_seconds(train, case.device, repeats)
        yield {
            "model": name,
            "preset": preset,
            "M parameters": f"{parameters / 1e6:.3f}",
            "GFLOP per frame": f"{counted / case.leads / 1e9:.4f}",
            "way": str(way),
            "forward ms per frame": f"{forward / case.leads * 1e3:.2f}",
            "with backward": f"{both / case.leads * 1e3:.2f}",
            "training peak MiB": f"{peak_bytes(train, case.device) / MEBIBYTE:.1f}",
            "% of matmul peak": f"{100 * counted / forward / peaks[way.dtype]:.1f}",
        }


def beside_literal(name: str, kind: Kind, sizes: Sizes, case: Case, repeats: int, *, compiled: bool = False) -> Table:
    """Return how many times the product is faster, and its share of memory, beside the rendering of equal weights.

    The rendering runs in fp32 throughout, and is never compiled. ``compiled`` adds compiled training where the device's
    ways have none: on a CPU it takes minutes before the first step.
    """
    rendering = EncoderDecoder(kind, replace(sizes, height=case.size[0], width=case.size[1])).to(case.device)
    config, weights = published.convert(name, rendering.state_dict(), height=case.size[0], width=case.size[1])
    plain, recomputing = (build(name, {**config, "checkpoint_steps": steps}).to(case.device) for steps in (False, True))
    for model in (plain, recomputing):
        model.load_state_dict(weights)
    frames, leads, ways = case.inputs(), case.leads, WAYS[case.device.type]
    training_ways = dict.fromkeys((*ways, COMPILED) if compiled else ways)
    forwards = {f"forward, {way}": forecasting(plain, frames, leads, way) for way in ways}
    trainings = {f"training, {way}": training(plain, frames, leads, way) for way in training_ways}
    # What is recomputed needs the generator's state, which a graph can't read while it is captured.
    repeatable = [way for way in ways if way.launch != "graph"]
    trainings |= {f"training, steps recomputed, {way}": training(recomputing, frames, leads, way) for way in repeatable}
    rows = _in_turns(forecasting(rendering, frames, leads, FP32), forwards, case.device, repeats)
    rows += _in_turns(training(rendering, frames, leads, FP32), trainings, case.device, repeats)
    return [{"model": name, **row} for row in rows]


def _in_turns(literal: Run, ours: Mapping[str, Run], device: torch.device, repeats: int) -> Table:
    runs = (literal, *ours.values())
    peaks = [_settled_peak(run, device) / MEBIBYTE for run in runs]
    rounds = [[seconds(run, device) for run in runs] for _ in range(repeats)]
    rows: Table = []
    for index, work in enumerate(ours, start=1):
        low, middle, high = quantiles((times[0] / times[index] for times in rounds), n=4, method="inclusive")
        rows.append(
            {
                "product": work,
                "s": f"{min(times[index] for times in rounds):.3f}",
                "literal s": f"{min(times[0] for times in rounds):.3f}",
                "times faster": f"{middle:.2f} ({low:.2f} to {high:.2f})",
                "peak MiB": f"{peaks[index]:.1f}",
                "literal MiB": f"{peaks[0]:.1f}",
                "share of memory": f"{peaks[index] / peaks[0]:.2f}",
            }
        )
    return rows


def _settled_peak(run: Run, device: torch.device) -> int:
    run()
    return peak_bytes(run, device)


def scaling(names: Sequence[str], presets: Sequence[Preset], case: Case, repeats: int) -> Table:
    """Return how time and memory of a forward in fp32 grow along ``SIDES`` of square frames and along ``LEADS``."""
    series = [case._replace(size=(side, side)) for side in SIDES], [case._replace(leads=leads) for leads in LEADS]
    grown = (_growth(name, preset, cases, repeats) for name, preset, cases in product(names, presets, series))
    return [row for rows in grown for row in rows]


def _growth(name: str, preset: Preset, cases: Sequence[Case], repeats: int) -> Iterator[dict[str, str]]:
    costs = [_forward_cost(network(name, preset, case), case, repeats) for case in cases]
    first_time, first_memory = costs[0]
    for case, (time, memory) in zip(cases, costs, strict=True):
        yield {
            "model": name,
            "preset": preset,
            "cells": "x".join(map(str, case.size)),
            "leads": str(case.leads),
            "forward ms": f"{time * 1e3:.1f}",
            "times the first": f"{time / first_time:.2f}",
            "peak MiB": f"{memory / MEBIBYTE:.1f}",
            "times the first's": f"{memory / first_memory:.2f}",
        }


def _forward_cost(model: nn.Module, case: Case, repeats: int) -> tuple[float, int]:
    run = forecasting(model, case.inputs(), case.leads, FP32)
    return median_seconds(run, case.device, repeats), peak_bytes(run, case.device)


def markdown(rows: Table) -> str:
    """Return a markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--literal", action="store_true", help="beside literal renderings")
    parser.add_argument("--compiled", action="store_true", help="with --literal: compiled training on CPU as well")
    mode.add_argument("--scaling", action="store_true", help="by frame size and by leads")
    parser.add_argument("--device", choices=WAYS, default="cpu")
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--presets", nargs="+", choices=get_args(Preset), default=get_args(Preset))
    parser.add_argument("--size", nargs=2, type=int, default=(64, 64), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=10, help="input frames")
    parser.add_argument("--leads", type=int, default=10, help="frames to forecast")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs, at least 2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here too")
    return parser.parse_args(words)


def measured(options: argparse.Namespace) -> Table:
    """Return the rows that the command line asks for."""
    case = Case(tuple(options.size), options.batch, options.frames, options.leads, torch.device(options.device))
    if options.literal:
        known = [name for name in options.models if name in PUBLISHED]
        tables = (
            beside_literal(name, *PUBLISHED[name], case, options.repeats, compiled=options.compiled) for name in known
        )
        return [row for table in tables for row in table]
    if options.scaling:
        return scaling(options.models, options.presets, case, options.repeats)
    return architectures(options.models, options.presets, case, options.repeats)


def main() -> None:
    """Print one markdown table under a line on the machine and the case."""
    options = arguments()
    torch.manual_seed(0)
    with torch_threads(options.threads):
        table = markdown(measured(options))
        machine = describe(torch.device(options.device))
    height, width = options.size
    case = f"{height} x {width} cells, batch {options.batch}, {options.leads} leads from {options.frames} frames"
    report = f"{machine}; {case}\n\n{table}\n"
    print(report)
    if options.markdown is not None:
        options.markdown.write_text(report)


if __name__ == "__main__":
    main()
