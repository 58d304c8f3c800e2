"""The skill cube: every published forecast scored as its truth arrives, beside the baselines.

The cube is a log: a row holds all scores of one init, and is never changed. When truth arrives or is revised, a new row
of that init follows. The last row of an init counts; the earlier ones say what was known before.
"""

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
from datlstm.cube import Cube
from datlstm.forecasting import reference_forecasts
from datlstm.products.forecast import INIT_TIME, forecast_cube, published_days
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.verification import DEFINITIONS_VERSION, pooled_rmse, score, valid_truth

SKILL_PATH = "skill.zarr"
FORECAST = "forecast"
FORECASTERS = (FORECAST, "persistence", "climatology", "damped_persistence")
METRICS = ("rmse", "mae", "bias", "acc", "n")
PROVENANCE = ("truth_product", "truth_version")
SCORING = "scoring"
NOTHING = {"n": 0, "truth_product": "", "truth_version": ""}


@dataclass(frozen=True)
class VerificationReport:
    """The init days whose scores were written, and those that were looked at and had not changed."""

    scored: list[date] = field(default_factory=list)
    unchanged: list[date] = field(default_factory=list)


def skill_cube(settings: Settings) -> Cube:
    """Return the region's log of scores ``(forecaster, scoring, lead_time)``."""
    return Cube(Store(settings.store), SKILL_PATH, _template(settings), _encoding(settings))


def standing_skill(settings: Settings) -> xr.Dataset | None:
    """Return the scores that count ``(forecaster, init_time, lead_time)``, loaded, or None before the first score."""
    log = skill_cube(settings).open()
    return None if log is None else _standing(log)


def verify(settings: Settings, forecast_date: date) -> VerificationReport:
    """Score every lead of every published forecast whose truth lies before ``forecast_date`` and is new or revised.

    Looks at inits never fully scored, and again at those whose valid days the archive may still revise. All new scores
    of a night are shown in one step. Scores stand as they were where truth is absent. Raises `BundleError` when the
    bundle of a forecast can't be read: its baselines come from there.
    """
    standing = standing_skill(settings)
    due = [
        init
        for init in published_days(settings)
        if init + timedelta(days=1) < forecast_date and _may_change(settings, standing, init, forecast_date)
    ]
    if not due:
        return VerificationReport()
    scored = _score(settings, due, forecast_date)
    with skill_cube(settings).writing() as writer:
        news = _news(scored, _standing(_template(settings) if writer.committed is None else writer.committed))
        if news.sizes[INIT_TIME]:
            writer.stage(_rows(news))
            writer.commit()
    written = news[INIT_TIME].values.astype("datetime64[D]").astype(object).tolist()
    return VerificationReport(written, [init for init in due if init not in written])


def skill_by_lead(settings: Settings) -> xr.DataArray | None:
    """Return the RMSE over all scored inits ``(forecaster, lead_time)`` in °C, or None before the first score."""
    skill = standing_skill(settings)
    return None if skill is None else pooled_rmse(skill)


def _standing(log: xr.Dataset) -> xr.Dataset:
    return log.load().swap_dims(scoring=INIT_TIME).drop_duplicates(INIT_TIME, keep="last").sortby(INIT_TIME)


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


def _score(settings: Settings, inits: list[date], forecast_date: date) -> xr.Dataset:
    """Return the scores of all inits with their provenance; a bundle's inits are scored together."""
    published = forecast_cube(settings).open()
    assert published is not None
    published = published.sel({INIT_TIME: pd.DatetimeIndex(inits)}).load()
    last = min(inits[-1] + timedelta(days=settings.model.lead_days), forecast_date - timedelta(days=1))
    days = _truth(settings, inits[0], last)
    scored = [
        _score_together(settings, Bundle.load(Store(settings.store), str(bundle_id)), made, days)
        for bundle_id, made in published.groupby("model_id")
    ]
    return xr.concat(scored, INIT_TIME).sortby(INIT_TIME)


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


def _news(scored: xr.Dataset, standing: xr.Dataset) -> xr.Dataset:
    """Return the inits whose scores change, merged with those that stand where there is no truth now."""
    old = standing.reindex({INIT_TIME: scored[INIT_TIME]}, fill_value=NOTHING | {"scored_at": np.datetime64("NaT")})
    has_truth = scored["n"].isel(forecaster=0, drop=True) > 0
    changed = has_truth & ~np.logical_and.reduce([_equal(scored[name], old[name]) for name in (*METRICS, *PROVENANCE)])
    merged = xr.Dataset({name: xr.where(has_truth, scored[name], old[name]) for name in (*METRICS, *PROVENANCE)})
    merged["scored_at"] = xr.where(changed, np.datetime64(now_seconds(), "s"), old["scored_at"])
    return merged.isel({INIT_TIME: changed.any("lead_time").values})


def _equal(new: xr.DataArray, old: xr.DataArray) -> xr.DataArray:
    """Return, by ``(init_time, lead_time)``, whether two fields are the same for all forecasters."""
    same = (new == old) | (new.isnull() & old.isnull())
    return same.all("forecaster") if "forecaster" in same.dims else same


def _rows(news: xr.Dataset) -> dict[str, np.ndarray]:
    text = np.dtypes.StringDType()
    by_lead = {name: news[name].transpose(INIT_TIME, "lead_time").values for name in (*PROVENANCE, "scored_at")}
    return {
        **{name: news[name].transpose("forecaster", INIT_TIME, "lead_time").values for name in METRICS},
        **{name: by_lead[name].astype(text) for name in PROVENANCE},
        "scored_at": by_lead["scored_at"].astype("datetime64[s]").astype("int64"),
        INIT_TIME: news[INIT_TIME].values.astype("datetime64[D]").astype("int32"),
    }


def _template(settings: Settings) -> xr.Dataset:
    leads = settings.model.lead_days
    dims, shape = ("forecaster", SCORING, "lead_time"), (len(FORECASTERS), 0, leads)
    text = np.zeros((0, leads), np.dtypes.StringDType())
    long_names = {
        "rmse": "root mean square error",
        "mae": "mean absolute error",
        "bias": "mean error, forecast minus truth",
        "acc": "uncentred anomaly correlation",
    }
    metrics = {
        name: (dims, np.zeros(shape, "float32"), {"long_name": long_name, "units": "1" if name == "acc" else "kelvin"})
        for name, long_name in long_names.items()
    }
    return xr.Dataset(
        {
            **metrics,
            "n": (dims, np.zeros(shape, "int32"), {"long_name": "number of cells scored", "units": "1"}),
            "truth_product": (dims[1:], text, {"long_name": "product the truth came from"}),
            "truth_version": (dims[1:], text, {"long_name": "version of that product"}),
            "scored_at": (dims[1:], np.zeros((0, leads), "datetime64[s]"), {"long_name": "when the score was written"}),
        },
        {
            "forecaster": ("forecaster", np.array(FORECASTERS, np.dtypes.StringDType())),
            INIT_TIME: (SCORING, np.zeros(0, "datetime64[ns]"), {"standard_name": "forecast_reference_time"}),
            "lead_time": ("lead_time", np.arange(1, leads + 1, dtype="int32"), {"units": "days"}),
        },
        {
            "Conventions": "CF-1.11",
            "title": f"{settings.region.title}: skill of the sea surface temperature forecasts",
            "definitions_version": DEFINITIONS_VERSION,
            "comment": (
                "Errors in kelvin (equal to °C), cosine-latitude weighted over the cells all forecasters have. "
                "A log: of several rows of the same init_time the last counts."
            ),
        },
    )


def _encoding(settings: Settings) -> dict[str, dict[str, Any]]:
    leads, nan = settings.model.lead_days, np.float32(np.nan)
    block = {"chunks": (len(FORECASTERS), daily.LARGE_CHUNK, leads)}
    per_lead = {"chunks": (daily.LARGE_CHUNK, leads)}
    never = {"_FillValue": np.iinfo("int64").min, "fill_value": np.iinfo("int64").min}
    return {
        **dict.fromkeys(METRICS[:4], {**block, "_FillValue": nan, "fill_value": nan}),
        "n": block,
        **dict.fromkeys(PROVENANCE, per_lead),
        "scored_at": {**per_lead, **never, "units": daily.SECOND_UNITS, "dtype": "int64"},
        INIT_TIME: {"chunks": (daily.LARGE_CHUNK,), "units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"},
    }
