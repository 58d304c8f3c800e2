"""The record of a validation as markdown, for people."""

from datlstm.validation.record import Record, SkillState

SIGNS = {"ok": "ok", "warn": "**warn**", "breach": "**BREACH**", "failed": "**FAILED**"}
BARS = "▁▂▃▄▅▆▇█"


def report(record: Record) -> str:
    """Return a table of the findings, what follows from a breach, and the skill chart of the last days."""
    rows = "".join(
        f"| {SIGNS[finding.state]} | {finding.name} | {finding.message.replace('|', chr(92) + '|')} |\n"
        for finding in record.findings
    )
    table = f"# Validation of {record.as_of}\n\n| state | check | finding |\n|---|---|---|\n{rows}"
    return "\n".join([table, *(f"{line}\n" for line in (_follows(record), _chart(record.skill)) if line)])


def _follows(record: Record) -> str:
    if not record.breach:
        return ""
    if not record.is_second_breach:
        return "**The champion lost skill.** If the next validation finds so too, a retraining is requested."
    forecasts = "damped persistence forecasts" if record.is_worse_than_damped else "the champion goes on forecasting"
    return (
        f"**The champion has lost skill since {record.breached_since}**: {forecasts} until another is promoted, or "
        f"`datlstm promote {record.bundle_id}` is run by hand."
    )


def _chart(skill: SkillState | None) -> str:
    if skill is None:
        return ""
    highest = max(1.0, *skill.trace)
    bars = "".join(BARS[round(level / highest * (len(BARS) - 1))] for level in skill.trace)
    return (
        f"Skill chart of {len(skill.trace)} days to {skill.last_day}, a full bar is {highest:.2f} thresholds: `{bars}`"
    )
