"""``datlstm benchmark …``: architectures compared under one budget, for hands."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from datlstm.errors import DatlstmError, SettingsError

if TYPE_CHECKING:
    from datlstm.comparison.frame_training import Budget, Comparison, Row
    from datlstm.comparison.sequences import FrameTask

app = typer.Typer(no_args_is_help=True, help="Compare architectures under one budget of training.")
console = Console()
errors = Console(stderr=True)

Preset = Literal["reference", "operational"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Accelerator = Literal["auto", "cpu", "gpu"]

Models = Annotated[list[str] | None, typer.Option("--model", "-m", help="Repeat for several. Default: all.")]
PresetName = Annotated[
    Preset, typer.Option(help="The published size, or the small one whose forecasts start as persistence.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps of each; give this, --minutes or both.")]
Minutes = Annotated[float | None, typer.Option(help="Minutes of training of each.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sequences a step.")]
LearningRate = Annotated[float, typer.Option(help="Of Adam, constant.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights and training order; the test sequences stay the same.")]
PrecisionName = Annotated[Precision, typer.Option(help="Of training; scores are always made in 32 bits.")]
AcceleratorName = Annotated[Accelerator, typer.Option(help="Where to train and forecast.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
TestDay = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Default: the validation period.")]
Output = Annotated[Path | None, typer.Option(help="Write the table there too: a .json or .md file.")]


@app.command()
def moving_mnist(
    digits: Annotated[
        Path | None,
        typer.Option(help="MNIST's images: IDX, plain or .gz, or NPZ. Default: scikit-learn's small digits."),
    ] = None,
    test_sequences: Annotated[Path | None, typer.Option(help="The published mnist_test_seq.npy.")] = None,
    test_size: Annotated[
        int | None, typer.Option(min=1, help="Test sequences. Default: all published ones, or 1000 made here.")
    ] = None,
    model: Models = None,
    preset: PresetName = "operational",
    steps: Steps = None,
    minutes: Minutes = None,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 1e-3,
    seed: Seed = 0,
    precision: PrecisionName = "32-true",
    accelerator: AcceleratorName = "auto",
    threads: Threads = 1,
    output: Output = None,
) -> None:
    """Forecast ten frames of two bouncing digits from ten."""
    with _reported_errors():
        from datlstm.comparison.frame_training import Budget
        from datlstm.comparison.moving_mnist import moving_mnist_task

        budget = Budget.of(
            steps=steps, minutes=minutes, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
            precision=precision, accelerator=accelerator, threads=threads,
        )  # fmt: skip
        _compare(lambda: moving_mnist_task(digits, test_sequences, test_size), model, preset, budget, output)


@app.command()
def frames(
    data: Annotated[
        Path,
        typer.Argument(
            help="NPZ with arrays train, test and, if wanted, validation: (sequences, frames, channels, height, "
            "width), float32 in 0 … 1 or uint8."
        ),
    ],
    input_frames: Annotated[int, typer.Option(min=1, help="Frames given; the rest of a sequence is forecast.")],
    split: Annotated[
        Literal["validation", "test"], typer.Option(help="What is scored: choose on validation, report on test.")
    ] = "test",
    model: Models = None,
    preset: PresetName = "operational",
    steps: Steps = None,
    minutes: Minutes = None,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 1e-3,
    seed: Seed = 0,
    precision: PrecisionName = "32-true",
    accelerator: AcceleratorName = "auto",
    threads: Threads = 1,
    output: Output = None,
) -> None:
    """Forecast the frames of any data set: TaxiBJ, KTH, Human3.6M or your own, as one array file."""
    with _reported_errors():
        from datlstm.comparison.frame_training import Budget
        from datlstm.comparison.sequences import load_task

        budget = Budget.of(
            steps=steps, minutes=minutes, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
            precision=precision, accelerator=accelerator, threads=threads,
        )  # fmt: skip
        _compare(lambda: load_task(data, input_frames, split), model, preset, budget, output)


@app.command()
def sst(
    settings: Annotated[str | None, typer.Option("--settings", "-s", help="A region or a TOML file.")] = None,
    model: Models = None,
    preset: PresetName = "operational",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each, or give --minutes.")] = None,
    minutes: Minutes = None,
    test_from: TestDay = None,
    test_to: TestDay = None,
    output: Annotated[Path | None, typer.Option(help="Write the table there too: a .md file.")] = None,
) -> None:
    """Forecast sea surface temperature from the archive, beside persistence, climatology and damped persistence."""
    with _reported_errors():
        from datlstm.comparison.sst import budgeted, compare
        from datlstm.comparison.sst_table import TABLE_WIDTH, conditions, markdown, terminal_table
        from datlstm.models import ARCHITECTURES
        from datlstm.settings import load_settings

        _check_output(output, (".md",))
        if (test_from is None) != (test_to is None):
            raise SettingsError("a test period has two ends: give --test-from and --test-to, or neither")
        test = (test_from.date(), test_to.date()) if test_from and test_to else None
        chosen = budgeted(load_settings(settings), preset, minutes=minutes, steps=steps)
        result = compare(chosen, model or sorted(ARCHITECTURES), test, errors.print)
        Console(width=max(console.width, TABLE_WIDTH)).print(terminal_table(result))
        console.print(conditions(result))
        if output is not None:
            output.write_text(markdown(result), encoding="utf-8")


def _compare(
    load: "Callable[[], FrameTask]", models: list[str] | None, preset: Preset, budget: "Budget", output: Path | None
) -> None:
    from datlstm.comparison.frame_training import Comparison, compare
    from datlstm.models import ARCHITECTURES

    _check_output(output)
    task = load()
    rows: list[Row] = []
    for row in compare(task, models or ARCHITECTURES, preset, budget):
        errors.print(f"{row.model}: MSE {row.scores.mse:.2f} after {row.steps} steps", highlight=False)
        rows.append(row)
    facts = {"task": task.title, "note": task.note, "scored_sequences": len(task.scored), "preset": preset}
    result = Comparison.model_validate({**facts, "budget": budget, "rows": rows})
    console.print(f"\n{escape(_title(result))}\n", highlight=False, soft_wrap=True)
    console.print(_table(result))
    if task.note:
        console.print(f"\n[yellow]{escape(task.note)}[/]", highlight=False, soft_wrap=True)
    if output is not None:
        output.write_text(result.model_dump_json(indent=2) if output.suffix == ".json" else _as_markdown(result))


@contextmanager
def _reported_errors() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        errors.print(f'{error}: install it with pip install "datlstm\\[benchmark]"', soft_wrap=True)
        sys.exit(1)
    except DatlstmError as error:
        errors.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


def _check_output(output: Path | None, kinds: tuple[str, ...] = (".json", ".md")) -> None:
    if output is None:
        return
    if output.suffix not in kinds:
        raise SettingsError(f"the table can't be written to {output}: name a {' or '.join(kinds)} file")
    if not output.parent.is_dir():
        raise SettingsError(f"the table can't be written to {output}: make its folder first")


HEADINGS = ("model", "parameters", "steps", "min", "MSE", "MAE", "SSIM", "SSIM, range 2", "PSNR dB")


def _cells(row: "Row") -> tuple[str, ...]:
    scores = row.scores
    cost = (row.model, f"{row.parameters:,}", str(row.steps), f"{row.minutes:.2f}")
    sums, similarities = (scores.mse, scores.mae), (scores.ssim, scores.ssim_range_2)
    return (*cost, *(f"{v:.2f}" for v in sums), *(f"{v:.4f}" for v in similarities), f"{scores.psnr:.2f}")


def _title(result: "Comparison") -> str:
    scored = f"{result.scored_sequences} sequences scored"
    return f"{result.task}, {result.preset} models, {scored}; {result.budget.in_words()}"


def _table(result: "Comparison") -> Table:
    columns = (
        # Broken by hand: the table fits 80 characters.
        Column(name.replace(" ", "\n"), justify="right" if i else "left", no_wrap=True)
        for i, name in enumerate(HEADINGS)
    )
    table = Table(*columns, box=None, padding=(0, 0, 0, 1), pad_edge=False)
    for row in result.rows:
        table.add_row(*_cells(row))
    return table


def _as_markdown(result: "Comparison") -> str:
    lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *map(_cells, result.rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(part for part in (f"**{_title(result)}**", table, result.note) if part) + "\n"
