"""The table of a comparison on sea surface temperature, for a terminal and as Markdown."""

from rich.markup import escape
from rich.table import Column, Table

from datlstm.comparison.sst import Comparison, Cost, Skill
from datlstm.significance import BLOCK_DAYS

TABLE_WIDTH = 200


def markdown(comparison: Comparison) -> str:
    """Return the table as Markdown, what it was measured on below it."""
    header, rows = _cells(comparison)
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{conditions(comparison)}\n"


def terminal_table(comparison: Comparison) -> Table:
    """Return the table for a terminal, `TABLE_WIDTH` columns wide or more."""
    header, rows = _cells(comparison)
    numbers = (Column(name, justify="right", no_wrap=True) for name in header[1:-1])
    columns = [Column(header[0], no_wrap=True), *numbers, Column(header[-1])]
    table = Table(*columns, box=None, padding=(0, 0, 0, 1), pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def conditions(comparison: Comparison) -> str:
    """Return in words what the table was measured on."""
    training, (first, last) = comparison.settings.training, comparison.period
    kind = "test" if comparison.is_test else "validation, on which the weights were selected:"
    windows = training.windows_per_epoch or "all"
    budget = f"{training.epochs} epochs of {windows} windows"
    if training.maximum_minutes is not None:
        budget = f"{training.maximum_minutes:g} minutes, in at most {training.epochs} epochs"
    return (
        f"RMSE in °C by lead in days; {kind} {first} … {last}: {comparison.inits} inits, {comparison.days} valid days, "
        f"{comparison.cells} cells. Skill is the mean over leads of 1 - MSE / MSE of damped persistence, its 95 % "
        f"interval by blocks of {BLOCK_DAYS} days. Budget of each model: {budget}, batches of {training.batch_size}, "
        f"seed {training.seed}, {training.precision}. Milliseconds of one forecast on one CPU thread; bf16 is "
        "the root mean square change of the forecasts in that precision, they are always published in float32."
    )


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    leads = comparison.settings.model.lead_days
    cost = ["preset", "parameters", "steps", "minutes", "ms", "bf16 °C"]
    header = ["model", *cost, *map(str, range(1, leads + 1)), "skill %", "95 %", "note"]
    rows = []
    for row in comparison.rows:
        is_model = row.cost is not None or row.skill is None
        cells = [row.forecaster.replace("_", " "), comparison.settings.model.preset if is_model else ""]
        cells += _cost_cells(row.cost) + _skill_cells(row.skill, leads)
        rows.append([*cells, row.note])
    return header, rows


def _cost_cells(cost: Cost | None) -> list[str]:
    if cost is None:
        return [""] * len(Cost._fields)
    return [
        f"{cost.parameters:,}",
        str(cost.steps),
        f"{cost.minutes:.1f}",
        f"{cost.milliseconds:.1f}",
        f"{cost.bfloat16:.4f}",
    ]


def _skill_cells(skill: Skill | None, leads: int) -> list[str]:
    if skill is None:
        return ["-"] * (leads + 2)
    low, high = (f"{100 * bound:+z.2f}" for bound in skill.interval)
    return [*(f"{rmse:.4f}" for rmse in skill.rmse), f"{100 * skill.mean:+z.2f}", f"{low} … {high}"]
