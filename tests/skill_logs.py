"""Years of published scores without a forecast: what validation reads of the cubes, written straight to them."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta

import numpy as np
import xarray as xr

from datlstm.grid import Grid
from datlstm.ladder import ForecastSource
from datlstm.products.forecast import forecast_cube
from datlstm.products.skill import FINAL, FORECASTERS, skill_cube, stage
from datlstm.products.structure import forecast_template
from datlstm.settings import Settings
from datlstm.verification import DEFINITIONS_VERSION

EPOCH = np.datetime64("1970-01-01", "D")


def days_from(first_init: date, count: int) -> np.ndarray:
    """The days after an init, datetime64[D]."""
    return np.datetime64(first_init, "D") + np.arange(1, count + 1)


def write_inits(settings: Settings, first_init: date, made_by: list[str]) -> None:
    """Publish empty forecasts from consecutive days by bundles of these ids, by nobody where the id is empty."""
    template = forecast_template(settings, Grid.from_region(settings.region))
    sizes = {**template.sizes, "init_time": len(made_by)}
    init = (np.datetime64(first_init, "D") - EPOCH).astype(int) + np.arange(len(made_by))
    rows = {}
    for name, field in template.variables.items():
        if "init_time" in field.dims:
            shape = tuple(sizes[dim] for dim in field.dims)
            kind = field.dtype.kind
            dtype = "int64" if kind in "Mm" else field.dtype
            rows[str(name)] = np.full(shape, np.nan if kind == "f" else "" if kind in "OTU" else 0, dtype)
    rows["init_time"] = init.astype("int32")
    rows["valid_time"] = (init[:, None] + np.arange(1, settings.model.lead_days + 1)).astype("int32")
    rows["model_id"] = np.array(made_by, np.dtypes.StringDType())
    rows["forecast_source"] = np.array([ForecastSource.MODEL if name else 0 for name in made_by], "int8")
    with forecast_cube(settings).writing() as writer:
        writer.stage(rows)
        writer.commit()


def write_scores(settings: Settings, days: np.ndarray, rmse: Mapping[str, np.ndarray]) -> None:
    """Publish a row for each day: ``rmse`` (day, lead_time) kelvin by forecaster, the others' NaN."""
    leads = settings.model.lead_days
    empty = skill_cube(settings)._template
    shape = (days.size, *(empty.sizes[name] for name in ("forecaster", "area", "surface", "lead_time")))
    values = np.full(shape, np.nan)
    for name, by_lead in rmse.items():
        values[:, FORECASTERS.index(name)] = by_lead[:, None, None, :]
    dims = ("scoring", "forecaster", "area", "surface", "lead_time")
    lags = np.arange(1, leads + 1).astype("timedelta64[D]")
    text = {
        name: ("scoring", np.full(days.size, "test", object)) for name in ("truth_product", "truth_version", "reason")
    }
    moments = np.zeros(days.size, "datetime64[s]")
    rows = xr.Dataset(
        {
            **dict.fromkeys(("rmse", "mae", "bias", "acc"), (dims, values)),
            "n": (dims, np.ones(shape, "int32")),
            "flip_flop": (dims[:-1], np.zeros(shape[:-1])),
            **text,
            **dict.fromkeys(("truth_ingested_at", "scored_at"), ("scoring", moments)),
            "status": ("scoring", np.full(days.size, FINAL, "int8")),
            "definitions_version": ("scoring", np.full(days.size, DEFINITIONS_VERSION, "int16")),
        },
        {
            "valid_time": ("scoring", days.astype("datetime64[ns]")),
            "init_time": (("scoring", "lead_time"), (days[:, None] - lags).astype("datetime64[ns]")),
        },
    )
    with skill_cube(settings).writing() as writer:
        stage(writer, rows)
        writer.commit()


def write_history(
    settings: Settings, first_init: date, made_by: list[str], log_ratio: Callable[[np.ndarray], np.ndarray]
) -> date:
    """Publish inits, and scores of all days they reach but the last leads; return the day after the last scored.

    ``log_ratio`` gives of days, counted from the first scored, the log of the model's RMSE over damped persistence's.
    """
    write_inits(settings, first_init, made_by)
    days = days_from(first_init, len(made_by))
    leads = np.arange(1, settings.model.lead_days + 1)
    damped = np.broadcast_to(0.2 * np.sqrt(leads), (days.size, leads.size))
    model = damped * np.exp(log_ratio(np.arange(days.size)))[:, None]
    write_scores(settings, days, {"forecast": model, "damped_persistence": damped})
    return first_init + timedelta(days=days.size + 1)
