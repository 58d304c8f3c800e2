"""The model benchmark's harness on tiny networks: its tables are whole, and its meters count what they say."""

import math
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import benchmarks.models
from benchmarks.literal import DATLSTM, SWINLSTM_D, Kind, Sizes
from benchmarks.meters import (
    BF16,
    FP32,
    MEBIBYTE,
    describe,
    forecasting,
    operations,
    peak_bytes,
    peak_operations,
    seconds,
    training,
)
from benchmarks.models import Case, Table, architectures, arguments, beside_literal, markdown, measured
from datlstm.compute import torch_threads
from datlstm.models import ARCHITECTURES

CPU = torch.device("cpu")
CASE = Case((16, 16), 1, 2, 1, CPU)
TINY = Sizes(embed=8, down=(2,), up=(2,), heads=(2, 2), groups=(1, 1), window=2)


def numbers(rows: Table) -> list[float]:
    """Return every number in a table's cells; a word such as fp32 is none."""
    cells = [cell for row in rows for cell in row.values()]
    return [float(word) for cell in cells for word in re.findall(r"(?<!\w)(?:nan|inf|\d+\.?\d*)(?!\w)", cell)]


def column(rows: Table, *names: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


class Scaled(nn.Module):
    """Forecasts the newest frame, changed by one matrix; notes its mode and precision at each call of any copy."""

    seen: ClassVar[list[tuple[bool, torch.dtype]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(16))

    def forward(self, frames: Tensor, lead_frames: int) -> Tensor:
        """Map ``(B, T, C, H, W)`` to ``(B, lead_frames, C, H, W)``."""
        estimates = frames[:, -1:].expand(-1, lead_frames, -1, -1, -1) @ self.weight
        self.seen.append((self.training, estimates.dtype))
        return estimates


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Measure as the harness does unless told otherwise: on one thread."""
    with torch_threads(1):
        yield


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_has_a_row_of_finite_numbers_for_each_precision(name: str) -> None:
    rows = architectures([name], ["operational"], CASE, repeats=2)
    assert column(rows, "model", "preset", "way") == [(name, "operational", "fp32"), (name, "operational", "bf16")]
    assert all(float(row[key]) > 0 for row in rows for key in ("forward ms per frame", "with backward"))
    assert all(math.isfinite(number) for number in numbers(rows))


@pytest.mark.parametrize(("name", "kind", "sizes"), [("datlstm", DATLSTM, TINY), ("swinlstm-d", SWINLSTM_D, TINY)])
def test_a_literal_rendering_is_compared_in_every_precision_with_and_without_recomputed_steps(
    name: str, kind: Kind, sizes: Sizes
) -> None:
    rows = beside_literal(name, kind, sizes, CASE, repeats=2)
    works = ("forward", "training", "training, steps recomputed")
    assert column(rows, "model", "product") == [(name, f"{work}, {way}") for work in works for way in ("fp32", "bf16")]
    assert all(math.isfinite(number) for number in numbers(rows))


def test_growth_is_told_relative_to_the_smallest_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.models, "SIDES", (8, 16))
    monkeypatch.setattr(benchmarks.models, "LEADS", (1, 8))
    words = "--scaling --models convlstm --presets operational --size 16 16 --frames 1 --leads 2 --repeats 2"
    rows = measured(arguments(words.split()))
    assert column(rows, "cells", "leads") == [
        ("8x8", "2"),
        ("16x16", "2"),
        ("16x16", "1"),
        ("16x16", "8"),
    ]
    assert [row["times the first"] for row in rows if row["cells"] == "8x8" or row["leads"] == "1"] == ["1.00", "1.00"]
    assert float(rows[-1]["times the first"]) > 0


def test_the_command_line_measures_the_named_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def recorded(names: list[str], presets: list[str], case: Case, repeats: int) -> Table:
        asked.update(names=names, presets=presets, case=case, repeats=repeats)
        return [{"model": "convlstm"}]

    monkeypatch.setattr(benchmarks.models, "architectures", recorded)
    measured(arguments("--models convlstm --presets operational --size 8 16 --batch 3 --frames 4 --leads 5".split()))
    assert asked == {
        "names": ["convlstm"],
        "presets": ["operational"],
        "case": Case((8, 16), 3, 4, 5, CPU),
        "repeats": 5,
    }


def test_a_table_is_markdown() -> None:
    assert markdown([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"


def test_the_machine_is_described_by_threads_and_versions() -> None:
    assert re.search(rf", {torch.get_num_threads()} threads?; Python 3\.\d+\.\d+, torch ", describe(CPU))


def test_operations_count_a_products_multiplications_and_additions() -> None:
    left, right = torch.rand(3, 5), torch.rand(5, 7)
    assert operations(lambda: left @ right) == 2 * 3 * 5 * 7
    run = forecasting(Scaled(), torch.rand(1, 2, 1, 8, 16), 4, FP32)
    assert operations(run) == 2 * 4 * 8 * 16 * 16


def test_peak_memory_is_what_one_call_needs_at_once() -> None:
    def run() -> None:
        for _ in range(3):
            torch.ones(24 * MEBIBYTE // 4).sum()

    assert 20 < peak_bytes(run, CPU) / MEBIBYTE < 40


def test_a_run_that_needs_more_memory_earlier_leaves_no_trace() -> None:
    torch.ones(64 * MEBIBYTE // 4).sum()
    assert peak_bytes(lambda: torch.ones(8 * MEBIBYTE // 4).sum(), CPU) < 20 * MEBIBYTE


def test_more_work_takes_longer_than_less() -> None:
    small, large = torch.rand(16, 16), torch.rand(512, 512)
    assert 0 < seconds(lambda: small @ small, CPU) < seconds(lambda: [large @ large for _ in range(20)], CPU)
    assert peak_operations(CPU, torch.float32) > 0


def test_forecasts_run_in_evaluation_and_training_in_training_mode_in_the_asked_precision() -> None:
    Scaled.seen.clear()
    for make in (forecasting, training):
        for way in (FP32, BF16):
            make(Scaled(), torch.rand(1, 2, 1, 16, 16), 1, way)()
    assert Scaled.seen == [
        (False, torch.float32),
        (False, torch.bfloat16),
        (True, torch.float32),
        (True, torch.bfloat16),
    ]


def test_training_needs_a_backward_and_leaves_the_given_network_as_it_was() -> None:
    model, frames = Scaled().eval(), torch.rand(1, 2, 1, 16, 16)
    forward, both = (operations(make(model, frames, 1, FP32)) for make in (forecasting, training))
    assert both == 2 * forward
    assert model.weight.grad is None
    assert not model.training
