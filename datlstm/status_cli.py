"""``datlstm status`` for a person: a screen that is read from top to bottom, what needs a person at its end."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datlstm.night_report import SKILL_NOTE, headline, skill_rows
from datlstm.nights import Night
from datlstm.operation import Operation
from datlstm.settings import Settings
from datlstm.status import SHOWN_NIGHTS, Status

COLOURS = {"ok": "green", "warn": "yellow", "needs": "yellow", "failed": "red"}


def show(settings: Settings, status: Status, console: Console) -> None:
    """Print a status."""
    _line(console, "region", f"{settings.region.title}, {status.moment:%Y-%m-%d %H:%M} UTC")
    for name, text in _facts(status.operation):
        _line(console, name, text)
    for night in status.nights[:SHOWN_NIGHTS]:
        state = "needs" if night.needs and not night.failed else night.state
        told = f"night     {night.night} [{COLOURS[state]}]{state:<6}[/] {escape(_told(night))}"
        console.print(told, highlight=False, soft_wrap=True)
    if rows := skill_rows(status.operation.skill):
        table = Table(*rows[0], box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
        console.print(SKILL_NOTE, highlight=False, soft_wrap=True)
    for need in status.needs:
        console.print(f"[red]needs a person[/]: {escape(need)}", soft_wrap=True, highlight=False)
    if not status.needs:
        console.print("[green]nothing needs a person[/]")


def _facts(operation: Operation) -> list[tuple[str, str]]:
    forecast, archive = operation.forecast, operation.archive
    found = [("champion", operation.champion or "none")]
    if forecast is None:
        found.insert(0, ("forecast", "none"))
    else:
        text = (
            f"from {forecast.init_time}, {forecast.age_days} days old, by {forecast.source}, on input "
            f"{forecast.input_age_days} days old that lacked {forecast.n_missing_inputs}"
        )
        found.insert(0, ("forecast", text))
    if archive is None:
        return [*found, ("archive", "none")]
    missing = ", ".join(map(str, archive.missing_days)) or "none"
    text = f"newest day {archive.newest_day}, {archive.age_days} days old, from {archive.product}"
    return [*found, ("archive", text), ("missing", f"of the last 30 days: {missing}")]


def _told(night: Night) -> str:
    forecast = night.forecast
    made = f"; forecast from {forecast.init_time} by {forecast.source}" if forecast and night.went_out else ""
    seconds = sum(step.seconds for step in night.steps.values())
    attempts = f", attempt {night.attempts}" if night.attempts > 1 else ""
    return f"{headline(night)}{made} ({seconds:.0f} s{attempts})"


def _line(console: Console, name: str, text: str) -> None:
    console.print(f"{name:<9} {escape(text)}", highlight=False, soft_wrap=True)
