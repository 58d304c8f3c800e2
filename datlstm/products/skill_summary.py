"""Reductions of the skill cube: by lead, by init, over trailing windows.

What they take is the standing scores, `skill.standing_skill`, ``(valid_time, …)``.
"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.areas import ALL_SURFACES, REGION
from datlstm.products.skill import PROVISIONAL
from datlstm.verification import METRICS, pooled

WINDOW_DAYS = {"30": 30, "90": 90, "365": 365, "all": None}
DECIMALS = 4
# What is told of a valid day that was not scored yet; all else is NaN, or not a time.
ABSENT = {
    "n": 0,
    "status": PROVISIONAL,
    "definitions_version": 0,
    "truth_product": "",
    "truth_version": "",
    "reason": "",
}


def skill_by_lead(standing: xr.Dataset) -> xr.DataArray:
    """Return the RMSE over all scored days and the whole region ``(forecaster, lead_time)`` in °C."""
    whole = standing[["rmse", "n"]].sel(area=REGION, surface=ALL_SURFACES, drop=True)
    return pooled(whole.load(), "valid_time")["rmse"]


def by_init(standing: xr.Dataset) -> xr.Dataset:
    """Return the standing scores by init instead of valid day: ``(init_time, lead_time, …)``, loaded.

    What is told of a whole valid day, its truth for one, is told of each of its leads; ``flip_flop`` is left out.
    Where no truth has come yet ``n`` is 0, scores are NaN and texts empty.
    """
    init_time, leads = standing["init_time"].values, standing["lead_time"]
    inits = pd.DatetimeIndex(np.unique(init_time[~np.isnat(init_time)]), name="init_time")
    start = xr.DataArray(inits, dims="init_time", coords={"init_time": inits})
    valid = start + leads * np.timedelta64(1, "D")
    scored = standing.drop_vars(["flip_flop", "init_time"]).load()
    days = scored.reindex(valid_time=np.unique(valid.values), fill_value=ABSENT)
    return days.sel(valid_time=valid, lead_time=leads)


def summary(standing: xr.Dataset) -> dict[str, Any]:
    """Return the standing scores over trailing windows, ready for JSON.

    Of each window of `WINDOW_DAYS`, all of which end on the last scored day: its first and last scored day, their
    number and that of the provisional ones, and by forecaster, area and surface ``rmse``, ``mae``, ``bias``, ``acc``
    and ``n`` by lead, pooled by number of cells, and ``flip_flop``, the mean over days. Rounded to `DECIMALS`; what is
    not there is None.
    """
    scored = standing.load()
    last = scored["valid_time"].values[-1]
    windows = {
        name: scored if days is None else scored.sel(valid_time=slice(last - np.timedelta64(days - 1, "D"), None))
        for name, days in WINDOW_DAYS.items()
    }
    return {
        "lead_days": scored["lead_time"].values.tolist(),
        "definitions_version": int(scored["definitions_version"].values[-1]),
        "windows": {name: _summary_of(window) for name, window in windows.items()},
    }


def _summary_of(window: xr.Dataset) -> dict[str, Any]:
    days = window["valid_time"].values.astype("datetime64[D]")
    scores = pooled(window, "valid_time").assign(flip_flop=window["flip_flop"].mean("valid_time"))
    samples = ("forecaster", "area", "surface")
    tables = {
        name: _plain(scores[name].transpose(*samples, ...).values.tolist()) for name in (*METRICS, "n", "flip_flop")
    }
    forecasters, areas, surfaces = (list(enumerate(scores[name].values.tolist())) for name in samples)
    skill = {
        forecaster: {
            area: {surface: {name: table[i][j][k] for name, table in tables.items()} for k, surface in surfaces}
            for j, area in areas
        }
        for i, forecaster in forecasters
    }
    return {
        "first_day": str(days[0]),
        "last_day": str(days[-1]),
        "days": len(days),
        "provisional_days": int((window["status"] == PROVISIONAL).sum()),
        "skill": skill,
    }


def _plain(values: Any) -> Any:
    """Return numbers, nested as they are, as JSON can tell them."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    # Adding zero turns -0.0, which JSON would tell, into 0.0.
    return values if isinstance(values, int) else None if np.isnan(values) else round(values, DECIMALS) + 0.0
