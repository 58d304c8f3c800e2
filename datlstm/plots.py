"""Quick-look pictures of a forecast."""

import io
from datetime import date

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from datlstm.products.outlook import HEATWAVE, in_heatwave

PANEL_LEADS = (1, 4, 7, 10)
LAND_COLOUR = "#d8d2c4"
ZERO_CELSIUS_KELVIN = 273.15
OUTLINE_FINENESS = 4


def quicklook_path(init_day: date) -> str:
    """Return the path in the store of one init's picture."""
    return f"quicklook/{init_day}.png"


def quicklook(init: xr.Dataset, title: str) -> bytes:
    """Return a PNG of one published init: SST in °C at four leads above its anomaly in kelvin.

    ``init`` holds ``sst`` and ``sst_anomaly`` ``(lead_time, latitude, longitude)`` kelvin and ``valid_time``. Where it
    says that cells are in a marine heatwave, these are outlined.
    """
    leads = [lead for lead in PANEL_LEADS if lead in init["lead_time"].values]
    celsius = init["sst"].sel(lead_time=leads) - ZERO_CELSIUS_KELVIN
    anomaly = init["sst_anomaly"].sel(lead_time=leads)
    figure = Figure(
        figsize=(3.2 * len(leads), 1.2 + 2 * min(2.5 * _height_by_width(celsius), 4.0)), layout="constrained"
    )
    axes = figure.subplots(2, len(leads), squeeze=False)
    _row(figure, axes[0], celsius, "SST (°C)", "turbo", *np.nanpercentile(celsius, (0.5, 99.5)))
    limit = max(0.5, float(np.nanpercentile(abs(anomaly), 99.5)))
    _row(figure, axes[1], anomaly, "anomaly (K)", "RdBu_r", -limit, limit)
    for axis, lead in zip(axes[0], leads, strict=True):
        day = str(init["valid_time"].sel(lead_time=lead).values)[:10]
        axis.set_title(f"day {lead}: {day}", fontsize=10)
    if HEATWAVE in init and (hot := in_heatwave(init).sel(lead_time=leads)).any():
        for axis, cells in zip(axes.T, hot, strict=True):
            _outline(axis, cells)
        title += "\noutlined: marine heatwave"
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


def _outline(axes: np.ndarray, cells: xr.DataArray) -> None:
    """Draw a line around the chosen cells on every map of a day: on finer cells, for contours run through centres."""
    if not cells.any():
        return
    fine = cells.values.repeat(OUTLINE_FINENESS, 0).repeat(OUTLINE_FINENESS, 1)
    longitude, latitude = (_fine_centres(cells[name].values) for name in ("longitude", "latitude"))
    for axis in axes:
        axis.contour(longitude, latitude, fine, levels=[0.5], colors="black", linewidths=0.7)


def _fine_centres(centres: np.ndarray) -> np.ndarray:
    step = (centres[1] - centres[0]) / OUTLINE_FINENESS
    return centres[0] + step * (np.arange(centres.size * OUTLINE_FINENESS) - (OUTLINE_FINENESS - 1) / 2)
