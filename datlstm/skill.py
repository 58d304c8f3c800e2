"""The skill cube: every published forecast scored as its truth arrives, beside the baselines."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from datlstm import daily
from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.clock import now_seconds
from datlstm.cube import INIT_TIME, Cube
from datlstm.forecasting import reference_forecasts
from datlstm.products import forecast_cube, published_days
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.verification import DEFINITIONS_VERSION, pooled_rmse, score, valid_truth

SKILL_PATH = "skill.zarr"
FORECAST = "forecast"
FORECASTERS = (FORECAST, "persistence", "climatology", "damped_persistence")
METRICS = ("rmse", "mae", "bias", "acc", "n")
PROVENANCE = ("truth_product", "truth_version")
SCORES = ("forecaster", INIT_TIME, "lead_time")


@dataclass(frozen=True)
class VerificationReport:
    """The init days whose scores were written, and those that were looked at and had not changed."""

    scored: list[date] = field(default_factory=list)
    unchanged: list[date] = field(default_factory=list)


def skill_cube(settings: Settings) -> Cube:
    """Return the region's skill cube ``(forecaster, init_time, lead_time)``."""
    return Cube(Store(settings.store), SKILL_PATH, _template(settings), _encoding(settings))


def verify(settings: Settings, forecast_date: date) -> VerificationReport:
    """Score every lead of every published forecast whose truth lies before ``forecast_date`` and is new or revised.

    Looks at inits never fully scored, and again at those whose valid days the archive may still revise. Scores stand
    as they were where truth is absent. Raises `BundleError` when the bundle of a forecast can't be read: its baselines
    come from there.
    """
    standing = skill_cube(settings).open()
    report = VerificationReport()
    due = [
        init
        for init in published_days(settings)
        if init + timedelta(days=1) < forecast_date and _may_change(settings, standing, init, forecast_date)
    ]
    for fields in _score(settings, due, forecast_date):
        written = _write_if_new(settings, fields, standing)
        (report.scored if written else report.unchanged).append(_day(fields))
    return report


def skill_by_lead(settings: Settings) -> xr.DataArray | None:
    """Return the RMSE over all scored inits ``(forecaster, lead_time)`` in °C, or None before the first score."""
    cube = skill_cube(settings).open()
    return None if cube is None else pooled_rmse(cube[["rmse", "n"]].load())


def _may_change(settings: Settings, standing: xr.Dataset | None, init: date, forecast_date: date) -> bool:
    horizon = settings.model.lead_days + settings.archive.rolling_days
    if forecast_date - timedelta(days=horizon + 1) <= init:
        return True
    day = np.datetime64(init, "ns")
    return (
        standing is None
        or day not in standing[INIT_TIME].values
        or bool((standing["n"].sel({INIT_TIME: day, "forecaster": FORECAST}) == 0).any())
    )


def _score(settings: Settings, inits: list[date], forecast_date: date) -> Iterator[xr.Dataset]:
    """Yield the scores of each init with their provenance, ascending; a bundle's inits are scored together."""
    if not inits:
        return
    published = forecast_cube(settings).open()
    assert published is not None
    published = published.sel({INIT_TIME: pd.DatetimeIndex(inits)}).load()
    last = min(inits[-1] + timedelta(days=settings.model.lead_days), forecast_date - timedelta(days=1))
    days = _truth(settings, inits[0], last)
    scored = [
        _score_together(settings, Bundle.load(Store(settings.store), str(bundle_id)), made, days)
        for bundle_id, made in published.groupby("model_id")
    ]
    together = xr.concat(scored, INIT_TIME).sortby(INIT_TIME)
    yield from (together.isel({INIT_TIME: i}) for i in range(len(inits)))


def _truth(settings: Settings, first_day: date, last_day: date) -> xr.Dataset:
    archive = Archive(settings)
    days = archive.read(first_day, last_day)
    provenance = archive.open()[["source_product", "source_version"]].reindex(time=days["time"], fill_value="")
    return days.merge(provenance).load()


def _score_together(settings: Settings, bundle: Bundle, published: xr.Dataset, days: xr.Dataset) -> xr.Dataset:
    leads = settings.model.lead_days
    references = reference_forecasts(bundle, days["sst"], pd.DatetimeIndex(published[INIT_TIME].values))
    forecasts = {FORECAST: published["sst"]} | {
        name: field.isel(lead_time=slice(0, leads)) for name, field in references.items()
    }
    scored = score(forecasts, valid_truth(days["sst"], published["valid_time"]), forecasts["climatology"])
    for metric, variable in (("truth_product", "source_product"), ("truth_version", "source_version")):
        origin = days[variable].reindex(time=np.unique(published["valid_time"]), fill_value="")
        scored[metric] = origin.sel(time=published["valid_time"]).drop_vars("time")
    return scored


def _write_if_new(settings: Settings, scored: xr.Dataset, standing: xr.Dataset | None) -> bool:
    """Write one init's scores, keeping those that stand where there is no truth now."""
    has_truth = scored["n"].values[0] > 0
    fields = {name: scored[name].transpose(..., "lead_time").values for name in (*METRICS, *PROVENANCE)}
    fields |= {name: np.where(has_truth, fields[name], "") for name in PROVENANCE}
    scored_at = np.where(has_truth, now_seconds(), 0)
    day = scored[INIT_TIME].values
    if standing is not None and day in standing[INIT_TIME].values:
        old = standing.sel({INIT_TIME: day}).load()
        fields = {name: np.where(has_truth, values, old[name].values) for name, values in fields.items()}
        same = np.logical_and.reduce([_equal(values, old[name].values) for name, values in fields.items()])
        if same.all():
            return False
        scored_at = np.where(same, old["scored_at"].values.astype("datetime64[s]").astype("int64"), scored_at)
    elif standing is not None and not has_truth.any():
        # The first of all is written even without truth: the axis must start where the forecasts do.
        return False
    fields["scored_at"] = scored_at
    skill_cube(settings).write(_day(scored), {n: np.expand_dims(v, v.ndim - 1) for n, v in fields.items()})
    return True


def _day(scored: xr.Dataset) -> date:
    return scored[INIT_TIME].values.astype("datetime64[D]").item()


def _equal(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return, by lead, whether two fields ``(…, lead_time)`` are the same."""
    both_nan = (new != new) & (old != old)
    same = (new == old) | both_nan
    return np.asarray(same.reshape(-1, same.shape[-1]).all(axis=0))


def _template(settings: Settings) -> xr.Dataset:
    leads = settings.model.lead_days
    by_forecaster = (len(FORECASTERS), 0, leads)
    text = np.zeros((0, leads), np.dtypes.StringDType())
    long_names = {
        "rmse": "root mean square error",
        "mae": "mean absolute error",
        "bias": "mean error, forecast minus truth",
        "acc": "uncentred anomaly correlation",
    }
    metrics = {
        name: (
            SCORES,
            np.zeros(by_forecaster, "float32"),
            {"long_name": text, "units": "1" if name == "acc" else "kelvin"},
        )
        for name, text in long_names.items()
    }
    return xr.Dataset(
        {
            **metrics,
            "n": (SCORES, np.zeros(by_forecaster, "int32"), {"long_name": "number of cells scored", "units": "1"}),
            "truth_product": (SCORES[1:], text, {"long_name": "product the truth came from"}),
            "truth_version": (SCORES[1:], text, {"long_name": "version of that product"}),
            "scored_at": (
                SCORES[1:],
                np.zeros((0, leads), "datetime64[s]"),
                {"long_name": "when the score was written"},
            ),
        },
        {
            "forecaster": ("forecaster", np.array(FORECASTERS, np.dtypes.StringDType())),
            INIT_TIME: (INIT_TIME, np.zeros(0, "datetime64[ns]"), {"standard_name": "forecast_reference_time"}),
            "lead_time": ("lead_time", np.arange(1, leads + 1, dtype="int32"), {"units": "days"}),
        },
        {
            "Conventions": "CF-1.11",
            "title": f"{settings.region.title}: skill of the sea surface temperature forecasts",
            "definitions_version": DEFINITIONS_VERSION,
            "comment": "Errors in kelvin (equal to °C), cosine-latitude weighted over the cells all forecasters have.",
        },
    )


def _encoding(settings: Settings) -> dict[str, dict[str, Any]]:
    leads, nan = settings.model.lead_days, np.float32(np.nan)
    block = {"chunks": (len(FORECASTERS), 366, leads)}
    per_lead = {"chunks": (366, leads)}
    return {
        **dict.fromkeys(METRICS[:4], {**block, "_FillValue": nan, "fill_value": nan}),
        "n": block,
        "truth_product": per_lead,
        "truth_version": per_lead,
        "scored_at": {**per_lead, "units": daily.SECOND_UNITS, "dtype": "int64"},
        INIT_TIME: {"chunks": (daily.LARGE_CHUNK,), "units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"},
    }
