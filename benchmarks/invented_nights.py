"""Nights without a model: forecasts and scores of the right form and about the right weight, any number of them.

Fields are smooth anomalies on OSTIA's multiples of 0.01 K, damped by lead over a seasonal climatology: as hard to
compress as what damped persistence gives. Inits follow one another from `FIRST_INIT` on.
"""

from datetime import date, timedelta

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter

from datlstm import daily
from datlstm.archive import LAND, SEA, Archive
from datlstm.areas import area_names
from datlstm.grid import Grid
from datlstm.ingest import ingest
from datlstm.lineage import code_version, settings_hash
from datlstm.products.forecast import INIT_TIME, forecast_cube, stage_forecast
from datlstm.products.skill import DIMS, FORECASTERS, SCORING, SURFACES, skill_cube, stage
from datlstm.products.structure import forecast_template
from datlstm.settings import Settings, SourceSettings
from datlstm.sources import open_source
from datlstm.verification import DEFINITIONS_VERSION, METRICS

FIRST_INIT = date(2025, 1, 1)
ARCHIVED_DAYS = 30
BATCH = 73
SMOOTH_CELLS = 8
ANOMALIES = 16
PACKING_KELVIN = 0.01
DAMPING = 0.9


Table = list[dict[str, str]]
"""Rows of equal columns."""


def filled(settings: Settings, root: str, count: int) -> "InventedNights":
    """Return the nights of the store below ``root`` that is called after a number of them, and has at least these."""
    own = settings.replace(store=f"{root}/{count}")
    found(own)
    nights = InventedNights(own)
    nights.fill(count)
    return nights


def found(settings: Settings) -> None:
    """Give a store the small archive of the synthetic sea that nights take ocean mask and attribution from."""
    if not Archive(settings).exists():
        synthetic = settings.replace(source=SourceSettings(kind="synthetic"))
        ingest(synthetic, FIRST_INIT - timedelta(days=ARCHIVED_DAYS), FIRST_INIT, open_source(synthetic))


class InventedNights:
    """The nights of one store, the night numbered 0 being that of `FIRST_INIT`; `found` comes first."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._leads = settings.model.lead_days
        self._sea = Archive(settings).ocean_mask().values
        random = np.random.default_rng(0)
        shape = (ANOMALIES, *self._sea.shape)
        smooth = gaussian_filter(random.normal(size=shape), (0, SMOOTH_CELLS, SMOOTH_CELLS), mode="wrap")
        anomaly = smooth / smooth.std() + random.normal(scale=0.05, size=shape)
        self._anomaly = np.round(anomaly / PACKING_KELVIN) * PACKING_KELVIN
        self._damping = DAMPING + 0.02 * smooth[0] / smooth.std()
        self._gradient = np.linspace(-2, 2, self._sea.shape[0])[:, None]
        self._template = forecast_template(settings, Grid.from_region(settings.region))

    def forecasts(self, night: int, count: int) -> dict[str, np.ndarray]:
        """Return forecasts of consecutive nights as `CubeWriter.stage` takes them."""
        days = self._days(night, count)
        valid = days[:, None] + np.arange(1, self._leads + 1, dtype="int32")
        damping = self._damping ** np.arange(self._leads + 1)[:, None, None]
        pattern = self._anomaly[np.arange(night, night + count) % ANOMALIES, None]
        anomaly = np.where(self._sea, damping * pattern, np.nan)
        season = np.sin(2 * np.pi * (np.column_stack([days, valid]) - 110) / 365.25)
        sst = anomaly + 287 + 10 * season[..., None, None] + self._gradient
        warm = np.where(self._sea, anomaly[:, 1:] > 1.5, -1)
        texts = {
            "model_id": "invented-0123456789ab",
            "archive_snapshot": "0123456789ABCDEFGHJK",
            "settings_hash": settings_hash(self.settings),
            "code_version": code_version(),
            "heatwave_baseline": "1991-2020, invented, 01234567",
        }
        return {
            INIT_TIME: days,
            "valid_time": valid,
            "sst": sst[:, 1:].astype("float32"),
            "sst_anomaly": anomaly[:, 1:].astype("float32"),
            "sst_spread": np.sqrt(1.1 - damping[1:] ** 2).astype("float32") + 0 * anomaly[:, 1:].astype("float32"),
            "mask": np.broadcast_to(np.where(self._sea, SEA, LAND), (count, *self._sea.shape)).astype("int8"),
            "heatwave_category": warm.astype("int8"),
            "threshold_flags": np.where(self._sea, warm, 64).astype("int8"),
            "sst_tendency_3d": np.diff(sst, axis=1).astype("float32"),
            "forecast_source": np.full(count, 1, "int8"),
            "input_age_days": np.full(count, 1, "int16"),
            "n_missing_inputs": np.zeros(count, "int16"),
            "created_at": days.astype("int64") * 86400 + 100000,
            **{name: np.full(count, text, np.dtypes.StringDType()) for name, text in texts.items()},
        }

    def draft(self, night: int) -> xr.Dataset:
        """Return one forecast as `draft_forecast` does."""
        rows = self.forecasts(night, 1)
        return xr.Dataset({name: (self._template[name].dims, values) for name, values in rows.items()})

    def scores(self, night: int, count: int) -> xr.Dataset:
        """Return one row of scores for each of consecutive nights as `scoring.score` does."""
        days = self._days(night, count).astype("datetime64[D]")
        leads = np.arange(1, self._leads + 1, dtype="int32")
        labels = {"forecaster": list(FORECASTERS), "area": area_names(self.settings.region), "surface": list(SURFACES)}
        shape = (count, *map(len, labels.values()), self._leads)
        values = np.random.default_rng(night).gamma(4, 0.1, (len(METRICS), *shape))
        moments = days.astype("datetime64[s]")
        texts = {"truth_product": "invented", "truth_version": "1", "reason": "first truth"}
        return xr.Dataset(
            {
                **{name: (DIMS, field) for name, field in zip(METRICS, values, strict=True)},
                "n": (DIMS, np.full(shape, self._sea.sum() // 2)),
                "flip_flop": (DIMS[:-1], values[0].mean(-1)),
                **{name: (SCORING, np.full(count, text, object)) for name, text in texts.items()},
                **{name: (SCORING, moments) for name in ("truth_ingested_at", "scored_at")},
                "status": (SCORING, np.zeros(count, "int8")),
                "definitions_version": (SCORING, np.full(count, DEFINITIONS_VERSION, "int16")),
            },
            {
                "valid_time": (SCORING, days.astype("datetime64[ns]")),
                "init_time": ((SCORING, "lead_time"), (days[:, None] - leads).astype("datetime64[ns]")),
                "lead_time": leads,
                **labels,
            },
        )

    def fill(self, count: int) -> None:
        """Bring the store to a number of nights, many of them in one commit."""
        there = self.length()
        for night in range(there, count, BATCH):
            rows = min(BATCH, count - night)
            with forecast_cube(self.settings).writing() as forecasts, skill_cube(self.settings).writing() as skill:
                forecasts.stage(self.forecasts(night, rows))
                stage(skill, self.scores(night, rows))
                forecasts.commit()
                skill.commit()

    def append(self, night: int) -> None:
        """Publish the rows of one night's forecast and scores, and nothing that is made of them."""
        cube = forecast_cube(self.settings)
        with cube.writing() as forecasts, skill_cube(self.settings).writing() as skill:
            stage_forecast(cube, forecasts, self.draft(night))
            stage(skill, self.scores(night, 1))
            forecasts.commit()
            skill.commit()

    def length(self) -> int:
        """Return how many nights the store has."""
        cube = forecast_cube(self.settings).open()
        return 0 if cube is None else cube.sizes[INIT_TIME]

    def _days(self, night: int, count: int) -> np.ndarray:
        first = (FIRST_INIT - daily.EPOCH).days + night
        return np.arange(first, first + count, dtype="int32")
