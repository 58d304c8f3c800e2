"""Quick-look pictures of a forecast."""

import io

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

PANEL_LEADS = (1, 4, 7, 10)
LAND_COLOUR = "#d8d2c4"
ZERO_CELSIUS_KELVIN = 273.15


def quicklook(init: xr.Dataset, title: str) -> bytes:
    """Return a PNG of one published init: SST in °C at four leads above its anomaly in kelvin.

    ``init`` holds ``sst`` and ``sst_anomaly`` ``(lead_time, latitude, longitude)`` kelvin and ``valid_time``.
    """
    leads = [lead for lead in PANEL_LEADS if lead in init["lead_time"].values]
    celsius = init["sst"].sel(lead_time=leads) - ZERO_CELSIUS_KELVIN
    anomaly = init["sst_anomaly"].sel(lead_time=leads)
    figure = Figure(
        figsize=(3.2 * len(leads), 1.2 + 2 * min(2.9 * _height_by_width(celsius), 4.0)), layout="constrained"
    )
    axes = figure.subplots(2, len(leads), squeeze=False)
    _row(figure, axes[0], celsius, "SST (°C)", "turbo", *np.nanpercentile(celsius, (0.5, 99.5)))
    limit = max(0.5, float(np.nanpercentile(abs(anomaly), 99.5)))
    _row(figure, axes[1], anomaly, "anomaly (K)", "RdBu_r", -limit, limit)
    for axis, lead in zip(axes[0], leads, strict=True):
        day = str(init["valid_time"].sel(lead_time=lead).values)[:10]
        axis.set_title(f"day {lead}: {day}", fontsize=10)
    figure.suptitle(title, wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _row(
    figure: Figure, axes: np.ndarray, fields: xr.DataArray, label: str, colours: str, low: float, high: float
) -> None:
    for axis, field in zip(axes, fields, strict=True):
        drawn = _map(axis, field, colours, low, high)
    figure.colorbar(drawn, ax=list(axes), label=label, shrink=0.85)


def _height_by_width(field: xr.DataArray) -> float:
    latitude, longitude = field["latitude"], field["longitude"]
    width = float(longitude[-1] - longitude[0]) * np.cos(np.deg2rad(float(latitude.mean())))
    return float(latitude[-1] - latitude[0]) / width


def _map(axis: Axes, field: xr.DataArray, colours: str, low: float, high: float) -> QuadMesh:
    axis.set_facecolor(LAND_COLOUR)
    axis.set_aspect(1 / np.cos(np.deg2rad(float(field["latitude"].mean()))))
    axis.tick_params(labelsize=7)
    return axis.pcolormesh(field["longitude"], field["latitude"], field, cmap=colours, vmin=low, vmax=high)
