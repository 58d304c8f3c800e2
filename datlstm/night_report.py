"""What an operator reads of a night: the report, its tables, a small picture, and the notice of one that went wrong."""

import base64
import io
from collections.abc import Sequence

from PIL import Image

from datlstm.errors import ProductError
from datlstm.nights import INGEST, Night, StepState, troubled_since
from datlstm.plots import quicklook_path
from datlstm.products.latest import PAGE
from datlstm.products.skill import FORECAST
from datlstm.settings import Settings
from datlstm.skill_trend import BAR, SkillTrend, SkillWindow, mean_over_leads
from datlstm.status import Status
from datlstm.store import Store

SKILL_NOTE = "RMSE in °C by lead in days; change: of the mean, against as many days before."
PICTURE_WIDTH = 640
PICTURE_COLOURS = 64
Row = dict[str, str]


def headline(night: Night) -> str:
    """Return a night in a few words: all well, the forecast went out but …, or no forecast."""
    if not night.went_out:
        return f"NO FORECAST went out: {', '.join(night.failed)} failed"
    troubles = [f"{name} failed" for name in night.failed]
    troubles += [f"{name} needs a look" for name, step in night.steps.items() if step.state == "warn"]
    troubles += ["somebody is needed"] if night.needs else []
    return f"the forecast went out, but {', '.join(troubles)}" if troubles else "all well"


def report(settings: Settings, status: Status, undelivered: Sequence[str] = ()) -> str:
    """Return the report of the newest night of a status as markdown.

    ``undelivered`` says what of the night could not be told to others.
    """
    night = status.nights[0]
    needs = [*status.needs, *undelivered]
    sections = [
        f"# {settings.region.title}, night of {night.night}: {headline(night)}",
        "\n".join(["## What needs a person", "", *([f"- {need}" for need in needs] or ["Nothing."])]),
        _came_in(night),
        _went_out(settings, night),
        "## Skill\n\n" + _markdown(skill_rows(status.operation.skill), "No forecast's truth has arrived yet."),
        SKILL_NOTE,
        "## Steps\n\n" + _markdown(step_rows(night), "None."),
        f"{night.started_at:%Y-%m-%d %H:%M} … {night.finished_at:%H:%M} UTC, code {night.code_version}.",
    ]
    return "\n\n".join(sections) + "\n"


def notice(status: Status) -> tuple[str, str] | None:
    """Return subject and text of what is told when the newest night failed or needs a person, None when all is well."""
    night, since = status.nights[0], troubled_since(status.nights)
    if since is None:
        return None
    failures = [f"{name} failed: {step.message}" for name, step in night.failed.items()]
    told = list(status.needs) or [*failures, "nothing is to be done unless it stays so"]
    subject = f"{status.region}, night of {night.night}: {headline(night)}"
    return subject, "\n".join([f"since the night of {since}", *(f"- {line}" for line in told)])


def step_rows(night: Night) -> list[Row]:
    """Return a row per step of a night: what came of it, and its seconds."""
    return [
        {"step": name, "state": _marked(step.state), "seconds": f"{step.seconds:.1f}", "what": step.message}
        for name, step in night.steps.items()
    ]


def skill_rows(trend: SkillTrend | None) -> list[Row]:
    """Return the RMSE by lead, °C, of forecasts and damped persistence over the windows, and the period before."""
    if trend is None:
        return []
    return [
        {
            "days": f"{window.days} ({window.scored_days} scored)",
            "RMSE °C": name.replace("_", " "),
            **{f"{lead} d": _number(value) for lead, value in zip(trend.lead_days, window.rmse[name], strict=True)},
            "mean": _number(window.mean(name)),
            "change": _change(window, name),
        }
        for window in trend.windows
        for name in (FORECAST, BAR)
    ]


def picture(settings: Settings, status: Status) -> str | None:
    """Return the newest forecast's picture, made small, as markdown that holds it; None when there is none.

    A link would not do: a browser opens neither ``file://`` nor ``s3://``. Prefect's page shows ``data:image`` URIs.
    Raises `ProductError` when the stored one is damaged, `StoreError` when it can't be read.
    """
    forecast = status.operation.forecast
    content = forecast and Store(settings.store).read(quicklook_path(forecast.init_time))
    if not content or forecast is None:
        return None
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except OSError as error:
        path = Store(settings.store).url_of(quicklook_path(forecast.init_time))
        raise ProductError(f"{path} is no picture: run the night again, which draws it anew") from error
    image.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    buffer = io.BytesIO()
    image.quantize(PICTURE_COLOURS).save(buffer, format="png", optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"![forecast from {forecast.init_time}](data:image/png;base64,{encoded})\n"


def _came_in(night: Night) -> str:
    ingest = night.steps[INGEST]
    lines = ["## What came in", "", f"- {'Failed: ' if ingest.state == 'failed' else ''}{ingest.message}"]
    if (archive := night.archive) is None:
        return "\n".join([*lines, "- The archive holds no usable day."])
    missing = ", ".join(map(str, archive.missing_days)) or "none"
    newest = f"{archive.newest_day} from {archive.product}, {_days(archive.age_days)} old"
    return "\n".join([*lines, f"- Newest day: {newest}.", f"- Missing of the last 30 days: {missing}."])


def _went_out(settings: Settings, night: Night) -> str:
    if (forecast := night.forecast) is None:
        return "## What went out\n\n- Nothing was ever published."
    is_new = "" if night.went_out else " (an earlier night's)"
    return "\n".join(
        [
            "## What went out",
            "",
            f"- Forecast from {forecast.init_time}{is_new}, by {forecast.source}: `{forecast.model_id}`.",
            f"- Its input was {_days(forecast.input_age_days)} old and lacked {_days(forecast.n_missing_inputs)}.",
            f"- Page: `{Store(settings.store).url_of(PAGE)}`",
        ]
    )


def _change(window: SkillWindow, name: str) -> str:
    now, before = window.mean(name), mean_over_leads(window.before.get(name, ()))
    return "–" if now is None or before is None else f"{now - before:+.2f}"


def _markdown(rows: Sequence[Row], otherwise: str) -> str:
    if not rows:
        return otherwise
    lines = ["| " + " | ".join(value.replace("|", "\\|") for value in row.values()) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0]), *lines])


def _marked(state: StepState) -> str:
    return {"ok": "ok", "warn": "look", "failed": "**failed**"}[state]


def _days(count: int) -> str:
    return f"{count} day" if count == 1 else f"{count} days"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
