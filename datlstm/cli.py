"""``datlstm …``: the verbs of the flows, for hands."""

import json
import os
import sys
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from datlstm import store_cli
from datlstm.clock import now, today
from datlstm.comparison import cli as benchmark
from datlstm.errors import DatlstmError, SettingsError
from datlstm.logs import write_json
from datlstm.settings import ArchitectureName, BaselineName, Settings, load_settings, shipped_regions
from datlstm.synthetic.marine_store import cli as marine_store

# Prefect reads these at import: its embedded server needs longer than its default on a small machine, and says nothing
# to the outside.
PREFECT_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "datlstm",
    "DO_NOT_TRACK": "1",
}

R = TypeVar("R")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Nightly sea-surface-temperature forecasts: ingest, forecast, verify, publish, retrain.",
    epilog="Every value of a settings file can be overridden, for example DATLSTM_STORE=s3://bucket/prefix.",
)
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(marine_store.app, name="marine-store")
app.add_typer(store_cli.app, name="store")
console = Console()
errors = Console(stderr=True)

SettingsName = Annotated[
    str | None,
    typer.Option(
        "--settings",
        "-s",
        help=f"A region ({', '.join(shipped_regions())}) or a TOML file. Default: DATLSTM_SETTINGS, else bohai.",
    ),
]
Architecture = Annotated[
    ArchitectureName | None, typer.Option("--architecture", "-a", help="Default: the settings' model.")
]
Promote = Annotated[bool, typer.Option(help="Make it champion if the gate finds it better.")]
Remote = Annotated[bool, typer.Option("--remote", help="Have a worker of the Prefect server do it (PREFECT_API_URL).")]
AsOf = Annotated[datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="As of this day. Default: today.")]


@app.command()
def nightly(
    forecast_date: Annotated[
        datetime | None,
        typer.Option(
            "--date", formats=["%Y-%m-%d"], help="The night (UTC); input are the days before it. Default: today."
        ),
    ] = None,
    settings: SettingsName = None,
    bootstrap: Annotated[
        bool, typer.Option(help="First fill an empty archive and train a first model, as far as either is missing.")
    ] = False,
) -> None:
    """Run one night: ingest what is new, forecast, score what can be scored, publish."""
    chosen = _settings(settings)
    if bootstrap:
        _announce_bootstrap(chosen)
    from flows.nightly import nightly as flow

    _guarded(lambda: flow(forecast_date=_day(forecast_date), settings=settings, bootstrap=bootstrap))
    _show_products(chosen)


@app.command()
def backfill(
    first_day: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="Default: the source's first day.")
    ] = None,
    last_day: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Default: the source's last day.")
    ] = None,
    again: Annotated[bool, typer.Option(help="Read finished years again too.")] = False,
    settings: SettingsName = None,
) -> None:
    """Fill the archive with past days, a year a commit; run it again after a kill and it goes on."""
    _settings(settings)
    from flows.backfill import backfill as flow

    console.print(_guarded(lambda: flow(_day(last_day), _day(first_day), settings, again)))


@app.command("product-step")
def product_step(settings: SettingsName = None) -> None:
    """Measure the step between the reprocessed and the near-real-time product, a map for each month, and store it.

    The archive must hold a year or more of reprocessed days that the other product has too.
    """
    from datlstm.product_overlap import measure_step
    from datlstm.sources import open_source
    from datlstm.store import Store

    chosen = _settings(settings)

    def act() -> str:
        measured = measure_step(chosen, open_source(chosen))
        measured.save(Store(chosen.store))
        return measured.summary()

    console.print(_guarded(act), highlight=False, soft_wrap=True)


@app.command()
def retrain(
    settings: SettingsName = None,
    architecture: Architecture = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How long to train at most.")] = None,
    promote: Promote = True,
    remote: Remote = False,
) -> None:
    """Train a model from scratch on the archive, score it, and promote it if it is better than what forecasts now.

    Ctrl-C or SIGTERM leaves a checkpoint, from which `datlstm resume` goes on.
    """
    _run_retrain(remote, settings=settings, architecture=architecture, epochs=epochs, promote=promote)


@app.command()
def finetune(
    settings: SettingsName = None,
    base: Annotated[str | None, typer.Option(help="The bundle to train on. Default: the champion.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How long to train at most.")] = None,
    promote: Promote = True,
    remote: Remote = False,
) -> None:
    """Train a model on, at a low rate, on the days since it was trained, and then as `retrain` does."""
    _run_retrain(remote, settings=settings, finetune=True, base=base, epochs=epochs, promote=promote)


@app.command()
def resume(
    settings: SettingsName = None, architecture: Architecture = None, promote: Promote = True, remote: Remote = False
) -> None:
    """Go on with the training that was interrupted last, on its own data and settings, and then as `retrain` does."""
    _run_retrain(remote, settings=settings, architecture=architecture, resume=True, promote=promote)


@app.command()
def verify(as_of: AsOf = None, settings: SettingsName = None) -> None:
    """Score published forecasts whose truth has arrived, publish the scores, and print the skill by lead."""
    from datlstm.products.publication import publish
    from datlstm.products.scoring import score

    chosen = _settings(settings)
    scores = _guarded(lambda: score(chosen, _day(as_of) or today()))
    if scores is None:
        console.print("no truth is new or revised, the scores stand")
    else:
        console.print(f"{len(_guarded(lambda: publish(chosen, None, scores)).scored)} days scored")
    _guarded(lambda: _show_skill(chosen))


@app.command()
def models(settings: SettingsName = None) -> None:
    """List the model bundles with their mean RMSE over leads in validation; the champion is marked."""
    _guarded(lambda: _show_models(_settings(settings)))


@app.command()
def promote(bundle_id: str, settings: SettingsName = None) -> None:
    """Make a bundle the champion by hand, past the gate; the champion itself forecasts again if skill was lost."""
    from datlstm.bundle import Bundle
    from datlstm.registry import promote as point_to
    from datlstm.store import Store

    chosen = _settings(settings)

    def act() -> None:
        store = Store(chosen.store)
        Bundle.load(store, bundle_id).check_matches(chosen)
        point_to(store, bundle_id, "promoted by hand", renew=True)

    _guarded(act)
    console.print(f"{bundle_id} is champion")


@app.command()
def rollback(settings: SettingsName = None) -> None:
    """Go back to the champion before the last promotion."""
    from datlstm.registry import rollback as point_back
    from datlstm.store import Store

    chosen = _settings(settings)
    console.print(f"{_guarded(lambda: point_back(Store(chosen.store)))} is champion again")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="The NetCDF file to write.")],
    init: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Default: the newest forecast.")] = None,
    settings: SettingsName = None,
) -> None:
    """Write one published forecast as a CF and ACDD conforming NetCDF file."""
    from datlstm.products.forecast import published_days
    from datlstm.products.netcdf import export_netcdf

    chosen = _settings(settings)

    def act() -> date:
        day = _day(init) or (published_days(chosen) or [today()])[-1]
        export_netcdf(chosen, day, path)
        return day

    console.print(f"forecast from {_guarded(act)} written to {path}")


@app.command()
def explain(
    init: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="The init, the forecast's last observed day.")],
    settings: SettingsName = None,
) -> None:
    """Show what a published forecast was made of, and make it again; exits with 1 unless that gives the same bits."""
    from datlstm.explanation import explain as explain_init

    chosen = _settings(settings)
    found = _guarded(lambda: explain_init(chosen, init.date()))
    for name, text in found.lines():
        console.print(f"{name:<9} {escape(text)}", highlight=False, soft_wrap=True)
    raise typer.Exit(int(not found.is_identical))


@app.command()
def maintain(as_of: AsOf = None, settings: SettingsName = None) -> None:
    """Take away what is older than the settings' retention, and make the yearly copies; exits with 1 on a failure."""
    from datlstm.maintenance import maintain as act

    chosen = _settings(settings)
    report = _guarded(lambda: act(chosen, _day(as_of) or today()))
    for part in report.parts:
        console.print(f"{part.part:<15} {escape(str(part))}", highlight=False, soft_wrap=True)
    raise typer.Exit(int(bool(report.failed)))


@app.command()
def validate(as_of: AsOf = None, settings: SettingsName = None) -> None:
    """Check archive, forecast and skill as of a day and keep the record; exits with 1 on a breach or a failed check.

    After the second record running that finds skill lost, nights forecast with damped persistence if that is better.
    """
    from datlstm.validation.checks import validate as act

    chosen = _settings(settings)
    record = _guarded(lambda: act(chosen, _day(as_of) or today()))
    colours = {"ok": "green", "warn": "yellow", "breach": "red", "failed": "red"}
    for finding in record.findings:
        console.print(
            f"[{colours[finding.state]}]{finding.state:<6}[/] {finding.name:<15} {escape(finding.message)}",
            highlight=False,
            soft_wrap=True,
        )
    raise typer.Exit(int(any(finding.state in ("breach", "failed") for finding in record.findings)))


@app.command()
def migrate(
    settings: SettingsName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Bring what earlier releases wrote to this release's formats; exits with 1 when something can't be brought."""
    from datlstm.migrations.stores import examine
    from datlstm.migrations.stores import migrate as act

    chosen = _settings(settings)
    failed = False
    for state in _guarded(lambda: examine(chosen) if dry_run else act(chosen)):
        failed |= bool(state.problem)
        console.print(f"{state.name:<15} {escape(str(state))}", highlight=False, soft_wrap=True)
    raise typer.Exit(int(failed))


@app.command("convert-weights")
def convert_weights(
    published: Annotated[Path, typer.Argument(help="The published state dict: .safetensors, .pt, .pth or .npz.")],
    path: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    name: Annotated[str, typer.Option("--model", help="The architecture, for example swinlstm-d.")],
    height: Annotated[int | None, typer.Option(help="Height of the frames, where the weights don't tell.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the frames, where the weights don't tell.")] = None,
    options: Annotated[str, typer.Option(help="Further options of the configuration, as JSON.")] = "{}",
) -> None:
    """Convert weights of a published implementation, with the configuration that their shapes tell."""
    from datlstm.published import convert
    from datlstm.published.files import read_entries, write_network

    sizes = {side: cells for side, cells in (("height", height), ("width", width)) if cells}

    def act() -> int:
        config, weights = convert(name, read_entries(published), **{**_json_object(options), **sizes})
        write_network(path, name, config, weights)
        return sum(value.numel() for value in weights.values())

    console.print(f"{_guarded(act):,} parameters of a {name} written to {path}", highlight=False)


@app.command()
def hindcast(
    first_day: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first init day.")],
    last_day: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="The last init day.")],
    bundle_id: Annotated[str | None, typer.Option("--bundle", help="Default: the champion.")] = None,
    baseline: Annotated[
        BaselineName | None, typer.Option(help="Forecast with it, not the model of the bundle.")
    ] = None,
    settings: SettingsName = None,
) -> None:
    """Forecast from every day of a period with one bundle, into a cube of its own; goes on where it was interrupted."""
    from datlstm.hindcast import hindcast, hindcast_cube
    from datlstm.registry import forecaster

    chosen, first, last = _settings(settings), first_day.date(), last_day.date()

    def act() -> None:
        bundle = forecaster(chosen, bundle_id)
        if baseline is not None:
            bundle = bundle.baseline(baseline)
        for progress in hindcast(chosen, bundle, first, last):
            console.print(f"to {progress.last_day}: {progress.forecasts} forecasts made", highlight=False)
        console.print(hindcast_cube(chosen, bundle.id, first).url, soft_wrap=True, highlight=False)

    _guarded(act)


@app.command()
def evaluate(
    first_day: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first valid day.")],
    last_day: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="The last valid day.")],
    bundle_id: Annotated[str | None, typer.Option("--bundle", help="Default: the champion.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the report there, as Markdown.")] = None,
    settings: SettingsName = None,
) -> None:
    """Score one bundle's hindcasts of a period beside the baselines, by lead, season, sub-basin and ice."""
    from datlstm.evaluation_report import evaluate_bundle
    from datlstm.registry import forecaster

    chosen, period = _settings(settings), (first_day.date(), last_day.date())
    report = _guarded(lambda: evaluate_bundle(chosen, forecaster(chosen, bundle_id), period))
    if output is not None:
        output.write_text(report, encoding="utf-8")
    console.print(report, markup=False, highlight=False, soft_wrap=True)


@app.command()
def doctor(settings: SettingsName = None, as_of: AsOf = None) -> None:
    """Say what is configured, reachable, stale or missing; exits with 1 when something failed."""
    from datlstm.doctor import examine

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    failed = False
    for check in examine(_settings(settings), _day(as_of) or today()):
        failed |= check.state == "fail"
        console.print(
            f"[{colours[check.state]}]{check.state:<5}[/] {check.name:<10} {escape(check.message)}", soft_wrap=True
        )
    raise typer.Exit(int(failed))


@app.command()
def status(
    settings: SettingsName = None,
    as_of: AsOf = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for machines.")] = False,
    as_openmetrics: Annotated[bool, typer.Option("--openmetrics", help="As OpenMetrics gauges.")] = False,
) -> None:
    """Say from the stores alone how the service does: exits with 1 when a person is needed, silence included."""
    from datlstm.metrics import openmetrics
    from datlstm.status import end_of, examine
    from datlstm.status_cli import show

    chosen, day = _settings(settings), _day(as_of) or today()
    found = examine(chosen, now() if day == today() else end_of(day))
    if as_json or as_openmetrics:
        typer.echo(openmetrics(found) if as_openmetrics else found.model_dump_json(indent=2), nl=as_json)
    else:
        show(chosen, found, console)
    raise typer.Exit(int(bool(found.needs)))


def _settings(name: str | None) -> Settings:
    for variable, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    chosen = _guarded(lambda: load_settings(name))
    if chosen.logs.format == "json":
        write_json()
    return chosen


def _run_retrain(remote: bool, **parameters: Any) -> None:
    _settings(parameters["settings"])
    from flows import retrain as flow

    if remote:
        name = parameters["settings"] or os.environ.get("DATLSTM_SETTINGS")
        console.print(_guarded(lambda: flow.start(**{**parameters, "settings": name})), highlight=False, soft_wrap=True)
        console.print("its worker's own DATLSTM_* variables count; when it is done: `datlstm models`", highlight=False)
    else:
        console.print(_guarded(lambda: flow.retrain(**parameters)))


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--options is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SettingsError(f'--options is not a JSON object such as {{"offset_range": 1}}: {text}')
    return value


def _day(given: datetime | None) -> date | None:
    return given.date() if given else None


def _guarded(act: Callable[[], R]) -> R:
    try:
        return act()
    except DatlstmError as error:
        _fail(error)


def _fail(error: DatlstmError) -> NoReturn:
    errors.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
    sys.exit(1)


def _announce_bootstrap(settings: Settings) -> None:
    from datlstm.archive import Archive

    if not _guarded(Archive(settings).exists):
        console.print(
            f"First run: {settings.archive.bootstrap_days} days of archive are filled and a small "
            f"{settings.model.name} is trained on them. This takes about five minutes on two cores; later nights take "
            "under one."
        )


def _show_products(settings: Settings) -> None:
    from datlstm.products.forecast import FORECAST_PATH, published_days
    from datlstm.products.skill import SKILL_PATH
    from datlstm.store import Store

    store = Store(settings.store)
    console.print(f"\nforecast  {store.location_of(FORECAST_PATH)}", soft_wrap=True)
    console.print(f"skill     {store.location_of(SKILL_PATH)}", soft_wrap=True)
    console.print(f"page      {store.url_of('site/index.html')}", soft_wrap=True)
    _guarded(lambda: _show_skill(settings))
    console.print("\nOpen it with:\n", highlight=False)
    console.print("  import xarray as xr", highlight=False)
    newest = _guarded(lambda: published_days(settings))[-1]
    opening = f'  xr.open_zarr("{store.location_of(FORECAST_PATH)}").sel(init_time="{newest}")'
    console.print(opening, highlight=False, markup=False, soft_wrap=True)


def _show_skill(settings: Settings) -> None:
    from datlstm.products.skill import FORECASTERS, standing_skill
    from datlstm.products.skill_summary import skill_by_lead

    standing = standing_skill(settings)
    if standing is None:
        console.print("skill: no forecast's truth has arrived yet", highlight=False)
        return
    skill = skill_by_lead(standing)
    leads = [Column(str(lead), justify="right", no_wrap=True) for lead in skill["lead_time"].values]
    table = Table(Column("RMSE °C, lead in d", no_wrap=True), *leads, box=None, padding=(0, 0, 0, 1), pad_edge=False)
    for name in FORECASTERS:
        values = skill.sel(forecaster=name).values
        table.add_row(name.replace("_", " "), *(f"{v:.2f}" if v == v else "–" for v in values))
    console.print(table)


def _show_models(settings: Settings) -> None:
    from datlstm.bundle import Bundle
    from datlstm.registry import bundle_ids, champion_id
    from datlstm.store import Store

    store = Store(settings.store)
    champion = champion_id(store)
    columns = ("bundle", "trained on", "RMSE °C", "")
    table = Table(*(Column(name, no_wrap=True) for name in columns), box=None, padding=(0, 0, 0, 1), pad_edge=False)
    for bundle_id in bundle_ids(store):
        bundle = Bundle.load(store, bundle_id)
        rmse = bundle.card.get("rmse", {}).get(bundle.forecaster)
        table.add_row(
            bundle_id,
            f"{bundle.training['first_day']}…{bundle.training['last_day']}",
            f"{sum(rmse) / len(rmse):.3f}" if rmse else "–",
            "champion" if bundle_id == champion else "",
        )
    console.print(table)
