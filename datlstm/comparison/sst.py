"""Architectures side by side on a sea-surface-temperature archive: one budget, one sample, beside the baselines.

Every architecture is trained by `datlstm.training.retrain` from the same seed, on the same days, under the same stated
budget, and scored by `datlstm.verification` on the same inits, days and cells. Bundles are saved but never promoted.
What was trained once under the same conditions is found again by its record ``benchmark/<name>-<hash>.json``.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.benchmark import Timer

from datlstm.archive import Archive
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.challenger import with_card
from datlstm.ensemble import anomaly_forecaster
from datlstm.errors import DatlstmError, NotEnoughDataError, SettingsError
from datlstm.forecasting import forecast, reference_forecasts
from datlstm.inputs import FIELDS, Inputs
from datlstm.models import Preset, architecture
from datlstm.preparation import prepare
from datlstm.registry import bundle_ids
from datlstm.settings import Settings
from datlstm.significance import gain
from datlstm.store import Store
from datlstm.training import network_config, retrain
from datlstm.verification import pooled_rmse, score, valid_truth
from datlstm.windows import Periods

BLOCK_VALUES = 2**21
"""Values of one forecaster, over inits, leads and cells, that are held at a time."""

TRIAL_STEPS = 10
"""Steps that are taken beforehand, to find how many fit into a budget of minutes."""

PRECISION_INITS = 50
"""Forecasts, spread over the period, that are made in bfloat16 as well."""

Period = tuple[date, date]
Prepared = tuple[str, str]

log = logging.getLogger(__name__)


class Cost(NamedTuple):
    """What a model took: ``minutes`` and ``steps`` of training, ``milliseconds`` of one forecast on one thread.

    ``bfloat16`` is what that precision would cost: the root mean square change of its forecasts, °C.
    """

    parameters: int
    steps: int
    minutes: float
    milliseconds: float
    bfloat16: float


class Skill(NamedTuple):
    """RMSE by lead, °C; the mean over leads of 1 - MSE / MSE of damped persistence, and its 95 % interval."""

    rmse: tuple[float, ...]
    mean: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One forecaster of a comparison; a model without skill failed, and its note says why. A baseline has no cost."""

    forecaster: str
    skill: Skill | None
    cost: Cost | None = None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Rows over one sample: ``inits``, valid ``days`` and ``cells`` that were scored, in a closed ``period``."""

    settings: Settings
    period: Period
    is_test: bool
    inits: int
    days: int
    cells: int
    rows: tuple[Row, ...]


class PrecisionCost(NamedTuple):
    """Root mean square difference, °C, that a lower precision makes: ``by_lead`` ``(lead_time,)`` and over all."""

    overall: float
    by_lead: xr.DataArray


def budgeted(settings: Settings, preset: Preset, *, minutes: float | None = None, steps: int | None = None) -> Settings:
    """Return the settings with a preset and a budget: minutes of training, or optimiser steps, or as they are.

    Steps are rounded up to whole epochs. Raises `SettingsError` when both are given, or one that is not positive.
    """
    if minutes is not None and steps is not None:
        raise SettingsError("a budget is stated in minutes or in steps: give one of them")
    if any(given is not None and given <= 0 for given in (minutes, steps)):
        raise SettingsError("a budget of no minutes or steps trains nothing: give a positive one")
    training = settings.training.model_dump()
    if minutes is not None:
        training |= {"maximum_minutes": minutes}
    if steps is not None:
        epochs = min(training["epochs"], steps)
        windows = math.ceil(steps / epochs) * training["batch_size"]
        training |= {"epochs": epochs, "windows_per_epoch": windows, "maximum_minutes": None}
    return settings.replace(model={**dict(settings.model), "preset": preset}, training=training)


def compare(
    settings: Settings, names: Sequence[str], test: Period | None = None, report: Callable[[str], None] = log.info
) -> Comparison:
    """Train the architectures ``names`` one after another and score them beside the baselines.

    The sample is every forecast whose valid day lies in the closed period ``test``, in the validation period where
    there is none; inputs may reach back before it. A model that fails has a row that says why. ``report`` is told how
    far it is. Raises `SettingsError` for an architecture that does not exist and for test days that trained or selected
    the weights, `NotEnoughDataError` when the archive is too short.
    """
    for name in names:
        architecture(name)
    snapshot = Archive(settings).snapshot_id()
    period = _scored_period(settings, test, snapshot)
    prepared = prepare(settings, snapshot)
    baseline = Bundle.load(Store(settings.store), prepared[1])
    reference = hindcast_scores(settings, baseline, period, snapshot)
    rows = [Row(str(name), skill(reference, str(name))) for name in reference["forecaster"].values]
    for name in dict.fromkeys(names):
        chosen = settings.replace(model={**dict(settings.model), "name": name})
        rows.append(_contender(chosen, prepared, period, snapshot, reference, report))
    sample = reference["n"].sel(forecaster=DAMPED_PERSISTENCE)
    valid_time = sample["init_time"] + sample["lead_time"] * np.timedelta64(1, "D")
    scored = sample.values > 0
    days = len(np.unique(valid_time.values[scored]))
    inits = int(scored.any(axis=1).sum())
    return Comparison(settings, period, test is not None, inits, days, int(sample.max()), tuple(rows))


def hindcast_scores(settings: Settings, bundle: Bundle, period: Period, snapshot_id: str | None = None) -> xr.Dataset:
    """Return the scores, as `datlstm.verification.score`, of a bundle and the baselines fitted with it.

    Scored is every forecast of an archive snapshot (default: the newest) whose valid day lies in the closed
    ``period``, a block of inits at a time. Raises `NotEnoughDataError` when there is none.
    """
    reach = pd.Timedelta(days=bundle.lead_days)
    inits = pd.date_range(pd.Timestamp(period[0]) - reach, pd.Timestamp(period[1]) - pd.Timedelta(days=1))
    size = max(1, BLOCK_VALUES // bundle.damping.size)
    archive = Archive(settings)
    blocks = []
    for start in range(0, len(inits), size):
        block = inits[start : start + size]
        first = block[0] - pd.Timedelta(days=bundle.input_days - 1)
        days = archive.read(first.date(), min((block[-1] + reach).date(), period[1]), snapshot_id)
        blocks.append(_block_scores(bundle, days[list(FIELDS)].load(), block, period))
    scored = xr.concat(blocks, "init_time")
    if not scored["n"].any():
        raise NotEnoughDataError(
            f"no forecast of {bundle.id} can be scored in {period[0]} … {period[1]}: backfill days, or move the period"
        )
    return scored


def precision_cost(bundle: Bundle, days: xr.Dataset, init_times: pd.DatetimeIndex) -> PrecisionCost:
    """Return how far a bundle's forecasts under bfloat16 autocast on the CPU are from those in float32.

    ``days`` and ``init_times`` are as for `datlstm.forecasting.forecast`; cells are weighted by area.
    """
    full = forecast(bundle, days, init_times)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = forecast(bundle, days, init_times)
    scored = score({"bfloat16": reduced}, full, full)
    by_lead = pooled_rmse(scored).sel(forecaster="bfloat16", drop=True)
    return PrecisionCost(float((by_lead**2).mean() ** 0.5), by_lead)


@torch.inference_mode()
def milliseconds_per_forecast(bundle: Bundle) -> float:
    """Return the median time of one forecast by a bundle's network, batch 1, on one CPU thread."""
    mask = bundle.normaliser.ocean_mask
    shape = (1, bundle.input_days, 1, *mask.shape)
    inputs = Inputs(torch.zeros(shape), torch.from_numpy(mask.values).expand(shape), torch.zeros(shape), torch.zeros(1))
    model = anomaly_forecaster(bundle.members(), bundle.recipe, mask, bundle.damping)
    return (
        float(
            Timer("model(inputs)", globals={"model": model, "inputs": inputs})
            .blocked_autorange(min_run_time=0.5)
            .median
        )
        * 1e3
    )


def _scored_period(settings: Settings, test: Period | None, snapshot_id: str) -> Period:
    validation = Periods.of(settings, Archive(settings).usable_days(snapshot_id)).validation
    if test is None:
        return validation
    if not validation[1] < test[0] <= test[1]:
        raise SettingsError(
            f"test period {test[0]} … {test[1]}: it must follow {validation[1]}, the last day that trained or selected "
            "the weights; move it, or set training.last_day and training.validation_last_day"
        )
    return test


def _contender(
    settings: Settings,
    prepared: Prepared,
    period: Period,
    snapshot_id: str,
    reference: xr.Dataset,
    report: Callable[[str], None],
) -> Row:
    name = settings.model.name
    try:
        bundle, record = _trained(settings, prepared, report)
        report(f"{name}: hindcasts of {period[0]} … {period[1]}")
        scored = hindcast_scores(settings, bundle, period, snapshot_id)
        _check_complete(scored, reference)
        cost = _cost(settings, bundle, record, period, snapshot_id)
        return Row(name, skill(scored, name), cost, _note(bundle))
    # What torch raises, out of memory above all, must not lose the hours that the others took.
    except (DatlstmError, RuntimeError) as error:
        log.debug("%s failed", name, exc_info=True)
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        report(f"{name} failed: {reason}")
        return Row(name, None, note=reason)


def _cost(settings: Settings, bundle: Bundle, record: dict[str, Any], period: Period, snapshot_id: str) -> Cost:
    parameters = sum(parameter.numel() for parameter in bundle.members().parameters())
    inits = pd.date_range(*period)[:: max(1, (period[1] - period[0]).days // PRECISION_INITS)]
    first = inits[0] - pd.Timedelta(days=bundle.input_days - 1)
    days = Archive(settings).read(first.date(), period[1], snapshot_id)[list(FIELDS)].load()
    change = precision_cost(bundle, days, inits).overall
    return Cost(parameters, record["steps"], record["minutes"], milliseconds_per_forecast(bundle), change)


def _note(bundle: Bundle) -> str:
    is_better = bundle.training["validation_loss"] < bundle.training["untrained_validation_loss"]
    return "" if is_better else "no epoch beat the untrained network, whose weights are kept"


def _trained(settings: Settings, prepared: Prepared, report: Callable[[str], None]) -> tuple[Bundle, dict[str, Any]]:
    """Return a bundle, trained now or before, with the record of its training."""
    name, store = settings.model.name, Store(settings.store)
    path = f"benchmark/{name}-{_conditions(settings, prepared)}.json"
    record = store.read_json(path)
    if record is not None and record["bundle_id"] in bundle_ids(store):
        report(f"{name}: trained before, {record['bundle_id']}")
        return Bundle.load(store, record["bundle_id"]), record
    paced = _paced(settings, prepared, report)
    started = time.perf_counter()
    with _step_times() as steps:
        bundle = retrain(
            paced, *prepared, lambda epoch, loss: report(f"{name}: epoch {epoch}, validation loss {loss:.4f}")
        )
    minutes = (time.perf_counter() - started) / 60
    bundle = with_card(settings, bundle, None)
    record = {"bundle_id": bundle.save(store), "steps": len(steps), "minutes": minutes}
    store.write_json(path, record)
    return bundle, record


def _conditions(settings: Settings, prepared: Prepared) -> str:
    """Return a hash of all that a training follows from."""
    model, training = settings.model, settings.training.model_dump(mode="json")
    chosen = [model.name, model.input_days, model.lead_days, model.recipe.model_dump(mode="json")]
    conditions = [*chosen, network_config(settings), training, prepared, version("datlstm")]
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:12]


def _paced(settings: Settings, prepared: Prepared, report: Callable[[str], None]) -> Settings:
    """Return settings whose epochs, and so the whole course of the learning rate, fill a budget of minutes.

    Without this the clock would stop a slow model where its learning rate is still rising. Raises `SettingsError` when
    the budget is too short for two steps.
    """
    training = settings.training
    if training.maximum_minutes is None:
        return settings
    report(f"{settings.model.name}: a trial, to find how many steps fit into {training.maximum_minutes:g} minutes")
    trial = {"epochs": 1, "windows_per_epoch": TRIAL_STEPS * training.batch_size}
    validated: list[float] = []
    with _step_times() as steps:
        retrain(
            settings.replace(training=training.model_copy(update=trial)),
            *prepared,
            lambda epoch, loss: validated.append(time.perf_counter()),
        )
    if len(steps) < 2:
        raise SettingsError(
            f"{training.maximum_minutes:g} minutes are too few for {settings.model.name}, which takes longer for two "
            "steps; give more minutes or a smaller training.batch_size"
        )
    seconds_a_step, validation = (steps[-1] - steps[0]) / (len(steps) - 1), validated[-1] - steps[-1]
    seconds = 60 * training.maximum_minutes
    # Validation must not eat more than half of a short budget.
    epochs = min(training.epochs, max(1, int(seconds / (2 * validation))))
    per_epoch = max(1, int((seconds / epochs - validation) / seconds_a_step))
    report(f"{settings.model.name}: {epochs} epochs of {per_epoch} steps")
    effort = {"epochs": epochs, "windows_per_epoch": per_epoch * training.batch_size}
    return settings.replace(training=training.model_copy(update=effort))


@contextmanager
def _step_times() -> Iterator[list[float]]:
    """Collect the time, seconds, of every optimiser step inside the block."""
    times: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    try:
        yield times
    finally:
        handle.remove()


def _block_scores(bundle: Bundle, days: xr.Dataset, inits: pd.DatetimeIndex, period: Period) -> xr.Dataset:
    sst = days["sst"]
    forecasts = {bundle.forecaster: forecast(bundle, days, inits), **reference_forecasts(bundle, sst, inits)}
    valid_time = forecasts["climatology"]["valid_time"]
    first, last = (np.datetime64(day, "ns") for day in period)
    truth = valid_truth(sst, valid_time).where((valid_time >= first) & (valid_time <= last))
    return score(forecasts, truth, forecasts["climatology"])


def _check_complete(scored: xr.Dataset, reference: xr.Dataset) -> None:
    """Raise `NotEnoughDataError` unless a model forecasts every cell that the baselines do."""
    found, wanted = (int(sample["n"].isel(forecaster=0).sum()) for sample in (scored, reference))
    if found != wanted:
        raise NotEnoughDataError(
            f"its forecasts are finite in {found} of {wanted} cells of the sample: it diverged; lower "
            "training.learning_rate"
        )


def skill(scored: xr.Dataset, name: str) -> Skill:
    """Return a forecaster's skill from `hindcast_scores`; see `datlstm.significance`."""
    square = (scored["rmse"].astype("float64") ** 2 * scored["n"]).fillna(0.0)
    own, bar = (square.sel(forecaster=of).transpose("init_time", ...).values for of in (name, DAMPED_PERSISTENCE))
    saved = gain(own, bar)
    rmse = pooled_rmse(scored).sel(forecaster=name).values.tolist()
    return Skill(tuple(rmse), saved.mean, (saved.low, saved.high))
