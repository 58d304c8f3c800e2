"""What is derived from a forecast: marine heatwave categories, temperatures crossed, and how fast the sea changes.

The forecast is one deterministic field, so all of this is told as flags and values, not as probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from datlstm.errors import ProductError, SettingsError
from datlstm.products.heatwave import (
    CATEGORIES,
    MINIMUM_DURATION_DAYS,
    NOT_TOLD,
    REFERENCES,
    HeatwaveBaseline,
    categories,
)
from datlstm.settings import Settings

KELVIN = 273.15
TENDENCY_DAYS = 3
# A heatwave's run that reaches the first forecast day is long enough with these; cooling needs fewer.
OBSERVED_DAYS = MINIMUM_DURATION_DAYS - 1
NO_FORECAST = 64
MAXIMUM_WARM = 5
DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class DerivedVariable:
    """How one derived variable ``(lead_time, latitude, longitude)`` looks wherever it is published.

    ``fill_value`` is what land holds, and a night without a forecast. ``fill_is_missing`` tells whether decoders are to
    turn it into NaN (``_FillValue``); they then turn integers into floats, which flag masks can't be taken from.
    """

    dtype: str
    fill_value: float
    fill_is_missing: bool
    attributes: Mapping[str, Any]


def variables(settings: Settings) -> dict[str, DerivedVariable]:
    """Return the derived variables by name.

    Raises `SettingsError` for more warm temperatures than an int8 has bits for, or the same one twice.
    """
    flags = _flags(settings)
    return {
        "heatwave_category": DerivedVariable(
            "int8",
            NOT_TOLD,
            True,
            {
                "long_name": "marine heatwave category of the forecast day",
                "flag_values": list(range(len(CATEGORIES))),
                "flag_meanings": " ".join(CATEGORIES),
                "references": REFERENCES,
                "comment": (
                    "Hobday et al. (2016, 2018): on one of at least 5 consecutive days above the 90th percentile of "
                    "the time of year, observed days before the init among them, how many times the threshold's "
                    "distance from the climatology the day's anomaly is. A run that the last lead cuts short of 5 days "
                    "is none. heatwave_baseline tells the years and the source of climatology and threshold; missing "
                    f"on land and without a baseline. {_DETERMINISTIC}"
                ),
                **_DERIVED,
            },
        ),
        "threshold_flags": DerivedVariable(
            "int8",
            NO_FORECAST,
            False,
            {
                "long_name": "temperatures that the forecast crosses",
                "flag_masks": list(flags.values()),
                "flag_meanings": " ".join(flags),
                "comment": (
                    f"Above is strictly above. Freezing is {settings.products.freezing_celsius:g} degC. 0 is a sea "
                    f"cell that crosses none; land and a missing forecast are no_forecast alone. {_DETERMINISTIC}"
                ),
                **_DERIVED,
            },
        ),
        "sst_tendency_3d": DerivedVariable(
            "float32",
            np.nan,
            True,
            {
                "standard_name": "tendency_of_sea_water_temperature",
                "long_name": "change of the foundation temperature per day over 3 days, negative when the sea cools",
                "units": "kelvin day-1",
                "units_metadata": "temperature: difference",
                "comment": (
                    "(sst at the valid time - sst 3 days before it) / 3; up to lead 3 the earlier day is "
                    f"an observed one. {_DETERMINISTIC}"
                ),
                **_DERIVED,
            },
        ),
    }


def derive(
    settings: Settings, sst: xr.DataArray, observed: xr.DataArray, baseline: HeatwaveBaseline | None
) -> xr.Dataset:
    """Return the variables of `variables`, each ``(lead_time, latitude, longitude)``, missing ones filled.

    ``sst`` is a forecast ``(lead_time, latitude, longitude)`` kelvin, NaN on land, with the coordinate
    ``valid_time(lead_time)``; ``observed`` ``(time, latitude, longitude)`` kelvin, NaN where missing, holds at least
    the last `OBSERVED_DAYS` days, the init day the last. Fewer would cut heatwaves short; more change nothing, for the
    fifth of consecutive days is one of a heatwave already. Raises `ProductError` when the days do not follow one
    another.
    """
    structure = variables(settings)
    series = _series(sst, observed)
    made = {
        "heatwave_category": _category(series, baseline),
        "threshold_flags": _threshold_flags(settings, series),
        "sst_tendency_3d": (series - series.shift(time=TENDENCY_DAYS)) / TENDENCY_DAYS,
    }
    leads = sst.sizes["lead_time"]
    return xr.Dataset(
        {
            name: (sst.dims, made[name].values[-leads:].astype(variable.dtype), dict(variable.attributes))
            for name, variable in structure.items()
        },
        sst.coords,
    )


_DERIVED = {"coverage_content_type": "modelResult", "ancillary_variables": "mask forecast_source"}
_DETERMINISTIC = "Derived from one deterministic forecast: it is no probability."


def _flags(settings: Settings) -> dict[str, int]:
    """Return each flag's bit by its meaning: warm temperatures as set, freezing, no forecast."""
    warm = [f"above_{celsius:g}_degC" for celsius in settings.products.warm_celsius]
    if len(warm) > MAXIMUM_WARM or len(set(warm)) < len(warm):
        raise SettingsError(
            f"products.warm_celsius has {len(warm)} temperatures, {', '.join(warm)}: give at most {MAXIMUM_WARM}, "
            "each once"
        )
    return {name: 1 << bit for bit, name in enumerate([*warm, "at_or_below_freezing"])} | {"no_forecast": NO_FORECAST}


def _series(sst: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Return observed and forecast days as one daily series ``(time, latitude, longitude)`` float32, as published."""
    forecast = sst.drop_vars("lead_time").rename(lead_time="time").assign_coords(time=sst["valid_time"].values)
    fields = [
        days.reset_coords(drop=True).astype("float32")
        for days in (observed.isel(time=slice(-OBSERVED_DAYS, None)), forecast)
    ]
    series = xr.concat(fields, "time", join="exact")
    if observed.sizes["time"] < OBSERVED_DAYS or not (np.diff(series["time"].values) == DAY).all():
        raise ProductError(
            f"a forecast from {_day(sst['valid_time'].values[0] - DAY)} is derived from with the {OBSERVED_DAYS} "
            f"observed days up to it, and got {observed.sizes['time']} up to {_day(observed['time'].values[-1])}"
        )
    return series


def _category(series: xr.DataArray, baseline: HeatwaveBaseline | None) -> xr.DataArray:
    return xr.full_like(series, NOT_TOLD, "int8") if baseline is None else categories(series, baseline)


def _threshold_flags(settings: Settings, series: xr.DataArray) -> xr.DataArray:
    products, bits = settings.products, _flags(settings)
    crossed = [series > celsius + KELVIN for celsius in products.warm_celsius]
    crossed.append(series <= products.freezing_celsius + KELVIN)
    flags = sum(xr.where(cells, bit, 0) for cells, bit in zip(crossed, bits.values(), strict=False))
    return xr.where(series.isnull(), NO_FORECAST, flags)


def _day(time: np.datetime64) -> str:
    return str(time)[:10]
