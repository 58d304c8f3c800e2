"""What a region's service is made of: one TOML file per region, overridden by ``DATLSTM_*`` environment variables.

``DATLSTM_SETTINGS`` names the file: a shipped region (``bohai``) or a path. Any value is overridden by its path in
capitals, for example ``DATLSTM_MODEL__NAME=datlstm`` or ``DATLSTM_STORE=s3://bucket/prefix``.
"""

import os
import tomllib
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic_settings
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from datlstm.errors import SettingsError
from datlstm.migrations.settings import brought_up

DEFAULT_SETTINGS = "bohai"
PLACEHOLDER = "{region}"
OWN_STORE = (
    f"every region has a store of its own. With {PLACEHOLDER} in it, as DATLSTM_STORE=s3://bucket/sst/{PLACEHOLDER}, "
    "one setting serves them all; or use the settings and the store that belong together"
)

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ArchitectureName = Literal["convlstm", "datlstm", "predrnn", "simvp", "swinlstm-b", "swinlstm-d", "tctn"]
BaselineName = Literal["persistence", "climatology", "damped_persistence"]
Channel = Literal["observed", "tendency", "season", "latitude", "ice"]


class Frozen(BaseModel):
    """Base of every settings section: immutable, and an unknown key is an error."""

    # A traceback tells what was wrong with a secret, not the secret.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class SubBasin(Frozen):
    """A named part of a region that is scored by itself: a box in degrees, edges as those of the region."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    south: Annotated[float, Field(ge=-90, le=90)]
    north: Annotated[float, Field(ge=-90, le=90)]
    west: Annotated[float, Field(ge=-180, le=180)]
    east: Annotated[float, Field(ge=-180, le=180)]


class Region(Frozen):
    """A box of equal cells in degrees and the rule that makes a cell ocean.

    ``south``, ``north``, ``west`` and ``east`` are the outer edges of the box, longitudes in -180 … 180. A cell belongs
    to the first of the ``sub_basins`` that holds its centre, and may belong to none.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    title: str
    south: Annotated[float, Field(ge=-90, le=90)]
    north: Annotated[float, Field(ge=-90, le=90)]
    west: Annotated[float, Field(ge=-180, le=180)]
    east: Annotated[float, Field(ge=-180, le=180)]
    resolution: PositiveFloat
    minimum_ocean_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    sub_basins: tuple[SubBasin, ...] = ()

    @model_validator(mode="after")
    def _box_holds_whole_cells(self) -> Self:
        for low, high, name in ((self.south, self.north, "latitude"), (self.west, self.east, "longitude")):
            cells = (high - low) / self.resolution
            if cells < 2 or abs(cells - round(cells)) > 1e-6:
                raise ValueError(
                    f"region {self.name!r}: {high - low:g} degrees of {name} is not a whole number (at least 2) of "
                    f"cells of {self.resolution:g} degrees; move an edge of the box"
                )
        return self

    @model_validator(mode="after")
    def _areas_have_names_of_their_own(self) -> Self:
        names = ["region", *(basin.name for basin in self.sub_basins)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"region {self.name!r}: sub-basin {', '.join(twice)} shares its name with another, or with the region "
                "as a whole; give it one of its own"
            )
        return self


class CopernicusDataset(Frozen):
    """A dataset of Copernicus Marine. Without a version, the one that is the catalogue's default that day."""

    product: str
    dataset_id: str
    dataset_version: str | None = None


class ReprocessedDataset(CopernicusDataset):
    """OSTIA's reprocessed record."""

    product: str = "SST_GLO_SST_L4_REP_OBSERVATIONS_010_011"
    dataset_id: str = "METOFFICE-GLO-SST-L4-REP-OBS-SST"
    dataset_version: str | None = "202003"


class NearRealTimeDataset(CopernicusDataset):
    """OSTIA in near real time."""

    product: str = "SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001"
    dataset_id: str = "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2"


class CopernicusSource(Frozen):
    """Which datasets are read, the reprocessed before the near-real-time one, and what bounds a run of the client.

    ``subtract_step`` takes the measured step between them off near-real-time days. ``credentials_block`` names a
    Prefect Secret block that holds ``username`` and ``password``; without it the environment does.
    """

    reprocessed: ReprocessedDataset | None = ReprocessedDataset()
    near_real_time: NearRealTimeDataset = NearRealTimeDataset()
    limit_seconds: PositiveFloat = 600.0
    subtract_step: bool = False
    credentials_block: str | None = None


class FilesSource(Frozen):
    """NetCDF files or one Zarr store: a path, a glob or a URL, and what its variables are called.

    A name left unset is searched for among the field's usual names. Without a mask variable, a cell that is finite
    on any of a year of sampled days is ocean.
    """

    path: str = ""
    product: str = "files"
    version: str = "unversioned"
    attribution: str = "unknown"
    variable: str | None = None
    ice_variable: str | None = None
    mask_variable: str | None = None


class SyntheticSource(Frozen):
    """The invented Bohai: a physical sea drawn from a seed, for demonstration and tests."""

    seed: int = 20260101


class MarineStoreSource(Frozen):
    """A local Marine Data Store of the synthetic sea: an own one while a process runs, or a served one.

    ``endpoint`` and ``certificate`` are what `datlstm marine-store serve` prints.
    """

    endpoint: str | None = None
    certificate: Path | None = None


class RetrySettings(Frozen):
    """How long a night waits for its source.

    After a failure that may pass it tries again, ``attempts`` times in all, after ``first_wait_seconds``, then twice as
    long each time up to ``longest_wait_seconds``, give or take a random part. For days that are not there yet it asks
    every ``poll_minutes`` until ``deadline_hours`` after the night's midnight (UTC).
    """

    attempts: PositiveInt = 6
    first_wait_seconds: PositiveFloat = 30.0
    longest_wait_seconds: PositiveFloat = 960.0
    poll_minutes: PositiveFloat = 15.0
    deadline_hours: PositiveFloat = 12.0


class SourceSettings(Frozen):
    """Where sea surface temperature comes from; ``kind`` chooses, each kind has its own section.

    ``marine-store`` is the official client of ``copernicus`` on a local Marine Data Store of the ``synthetic`` sea.
    """

    kind: Literal["copernicus", "marine-store", "files", "synthetic"] = "copernicus"
    copernicus: CopernicusSource = CopernicusSource()
    marine_store: MarineStoreSource = MarineStoreSource()
    files: FilesSource = FilesSource()
    synthetic: SyntheticSource = SyntheticSource()
    retry: RetrySettings = RetrySettings()

    @property
    def is_synthetic(self) -> bool:
        """Tell whether the days are invented, which everything made of them must say."""
        return self.kind in ("synthetic", "marine-store")


class ArchiveSettings(Frozen):
    """The archive's time axis starts at ``first_day`` for ever.

    ``rolling_days`` are read again every night, ``weekly_rolling_days`` on Sundays, and up to ``upgrade_days`` for
    which a better product has come out since they were read. ``bootstrap_days`` fill an empty archive before its first
    night: with three years two whole ones are there, which marine heatwaves need.
    """

    first_day: date = date(1981, 10, 1)
    chunk_days: PositiveInt = 30
    rolling_days: PositiveInt = 14
    weekly_rolling_days: PositiveInt = 60
    upgrade_days: PositiveInt = 366
    bootstrap_days: PositiveInt = 1096


class QualitySettings(Frozen):
    """Limits of a credible day. ``maximum_jump_kelvin`` bounds the area mean of the day-to-day change's size."""

    minimum_kelvin: PositiveFloat = 271.0
    maximum_kelvin: PositiveFloat = 308.0
    minimum_coverage: Fraction = 0.98
    maximum_jump_kelvin: PositiveFloat = 2.0


class NormaliserSettings(Frozen):
    """Harmonic climatology, and a linear trend once the training years are enough to carry one."""

    harmonics: Annotated[int, Field(ge=1, le=10)] = 4
    minimum_trend_years: PositiveFloat = 10.0
    minimum_scale_kelvin: PositiveFloat = 0.05


class Recipe(Frozen):
    """What an architecture is put into.

    ``channels`` is what its networks see beside the anomaly, ``regression`` the linear regression that an operational
    network adds to, ``members`` how many networks are trained from different initial weights: the forecast is their
    mean.
    """

    channels: tuple[Channel, ...] = ("observed", "tendency", "season", "latitude", "ice")
    regression: bool = True
    members: PositiveInt = 1


class ModelSettings(Frozen):
    """The architecture by name, its preset, and each architecture's own options over that preset.

    ``reference`` is the published model, ``operational`` a small one that adds changes to damped persistence.
    """

    name: str = "datlstm"
    preset: Literal["reference", "operational"] = "operational"
    input_days: Annotated[int, Field(ge=2)] = 10
    lead_days: PositiveInt = 10
    options: dict[str, dict[str, Any]] = {}
    recipe: Recipe = Recipe()


class TrainingSettings(Frozen):
    """Training period and effort.

    Unset days are derived from the archive: the last ``validation_days`` validate, all before them train. A training
    that is asked to stop has ``grace_seconds`` to write a checkpoint before it is killed; a Prefect worker gives a
    cancelled run 30 s in all. ``weigh_leads`` has each lead count in the loss by the inverse of what damped persistence
    errs there.
    """

    first_day: date | None = None
    last_day: date | None = None
    validation_last_day: date | None = None
    validation_days: PositiveInt = 366
    epochs: PositiveInt = 30
    windows_per_epoch: PositiveInt | None = None
    validation_windows: PositiveInt = 128
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    sign_flips: bool = True
    weigh_leads: bool = True
    weight_average_decay: Fraction = 0.98
    patience: PositiveInt = 6
    maximum_missing_fraction: Fraction = 0.2
    seed: int = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt = 1
    threads: PositiveInt = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    compile: bool = False
    maximum_minutes: PositiveFloat | None = None
    grace_seconds: Annotated[float, Field(gt=0, le=25)] = 20.0


class FinetuningSettings(Frozen):
    """How a fine-tuning differs from a training.

    A share ``replay`` of the windows is of days that the base was trained on, the others have newer ones; without
    ``windows_per_epoch`` each of these comes once. Days up to ``gap_days`` before the validation period are left out,
    so that an early stop is not earned by what yesterday's weather says of today's.
    """

    epochs: PositiveInt = 4
    windows_per_epoch: PositiveInt | None = None
    learning_rate: PositiveFloat = 1e-4
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.5
    gap_days: Annotated[int, Field(ge=0)] = 30


class GateSettings(Frozen):
    """What a challenger must prove on the validation period to become champion; see `datlstm.gate.judge`.

    Seasons are those of three months, December the first.
    """

    minimum_days: PositiveInt = 365
    minimum_days_of_season: Annotated[int, Field(ge=0)] = 60
    largest_loss: Fraction = 0.02
    maximum_bias_kelvin: PositiveFloat = 0.1
    better_from_day: PositiveInt = 3


class ForecastSettings(Frozen):
    """How far the ladder goes down: model up to ``maximum_model_age_days``, damped persistence up to the second."""

    maximum_model_age_days: PositiveInt = 5
    maximum_age_days: PositiveInt = 15
    maximum_missing_inputs: Annotated[int, Field(ge=0)] = 3


class HeatwaveSettings(Frozen):
    """Years whose days make the marine heatwave climatology and threshold.

    Unset: the archive's whole years, the last 30 at most. With fewer than ``minimum_years`` no category is told.
    """

    first_year: int | None = None
    last_year: int | None = None
    minimum_years: PositiveInt = 2


class ProductSettings(Frozen):
    """What is derived from a forecast: the temperatures, °C, whose crossing is flagged, and marine heatwaves."""

    warm_celsius: tuple[float, ...] = (24.0, 28.0, 30.0)
    freezing_celsius: float = -1.8
    heatwave: HeatwaveSettings = HeatwaveSettings()


class RetentionSettings(Frozen):
    """What maintenance takes away, counted from the night it runs for; unset keeps for ever.

    Forecasts and scores always stay. Archive states older than ``archive_states_days`` go, but for those that a bundle
    was trained on; training cubes but for the newest ``training_cubes``.
    """

    netcdf_days: PositiveInt | None = None
    quicklook_days: PositiveInt | None = None
    archive_states_days: PositiveInt | None = 400
    training_cubes: PositiveInt = 2


class ValidationSettings(Frozen):
    """What validation looks at, and when it says that skill was lost.

    Days of the last ``window_days`` are checked. The skill chart is tuned to a champion whose RMSE is ``skill_loss``
    (a share) above what is expected of it, so that one without loss is reported once in ``false_alarm_years``; with
    fewer than ``minimum_scored_days`` it does not judge.
    """

    window_days: PositiveInt = 60
    skill_loss: PositiveFloat = 0.2
    false_alarm_years: PositiveFloat = 3.0
    minimum_scored_days: Annotated[int, Field(ge=10)] = 14


class NotifySettings(Frozen):
    """Who is told of a night.

    ``block`` is the slug of a Prefect notification block, such as ``slack-webhook/ops``, through which a night that
    failed or needs a person is told. ``heartbeat_url`` is asked for after every night without a failure, and with
    ``/fail`` after the others, as healthchecks.io has it; who knows it can silence it, so only the environment may hold
    it. A night must be recorded within ``silence_hours`` after the midnight (UTC) that ends the one before.
    """

    block: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")] | None = None
    heartbeat_url: SecretStr | None = None
    silence_hours: PositiveFloat = 14.0

    @field_validator("heartbeat_url")
    @classmethod
    def _is_asked_over_http(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not given.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("expected a URL that begins with https:// or http://")
        return given


class MetricsSettings(Frozen):
    """Where each night leaves its numbers for node_exporter's textfile collector: a path that ends in ``.prom``.

    ``{region}`` in it is the region's name.
    """

    textfile: Annotated[str, Field(pattern=r"^/.*\.prom$")] | None = None


class LogSettings(Frozen):
    """How ``datlstm …`` writes its logs: for a person, or as one JSON object a line."""

    format: Literal["text", "json"] = "text"


class Settings(Frozen):
    """Everything one region's service needs to know, but for secrets.

    ``{region}`` in ``store`` stands for the region's name.
    """

    region: Region
    store: str = Field(default_factory=lambda: (Path.cwd() / "store").as_uri())
    source: SourceSettings = SourceSettings()
    archive: ArchiveSettings = ArchiveSettings()
    quality: QualitySettings = QualitySettings()
    normaliser: NormaliserSettings = NormaliserSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    finetuning: FinetuningSettings = FinetuningSettings()
    gate: GateSettings = GateSettings()
    forecast: ForecastSettings = ForecastSettings()
    products: ProductSettings = ProductSettings()
    retention: RetentionSettings = RetentionSettings()
    validation: ValidationSettings = ValidationSettings()
    notify: NotifySettings = NotifySettings()
    metrics: MetricsSettings = MetricsSettings()
    logs: LogSettings = LogSettings()
    dask_scheduler: str | None = None

    @field_validator("store")
    @classmethod
    def _store_of_the_region(cls, store: str, given: ValidationInfo) -> str:
        region: Region | None = given.data.get("region")
        own = store.replace(PLACEHOLDER, region.name) if region else store
        if region and ("{" in own or "}" in own):
            raise ValueError(f"{store!r} has a brace that is not of {PLACEHOLDER}, the one placeholder: correct it")
        return own

    def replace(self, **sections: Any) -> Self:
        """Return a copy with whole sections (or fields) replaced, validated again."""
        return self.model_validate({**dict(self), **sections})

    def with_training_of(self, architecture: ArchitectureName | None, epochs: int | None) -> Self:
        """Return a copy with another architecture and number of epochs, where they are given."""
        model = {**dict(self.model), **({"name": architecture} if architecture else {})}
        training = {**dict(self.training), **({"epochs": epochs} if epochs else {})}
        return self.replace(model=model, training=training)

    def with_finetuning_of(self, epochs: int | None) -> Self:
        """Return a copy with another number of epochs of a fine-tuning, where it is given."""
        return self.replace(finetuning={**dict(self.finetuning), **({"epochs": epochs} if epochs else {})})

    def for_finetuning(self, architecture: str, input_days: int, lead_days: int) -> Self:
        """Return a copy whose model is that of a base, and whose training is as its fine-tuning is to be."""
        chosen = self.finetuning
        effort = {name: getattr(chosen, name) for name in ("epochs", "windows_per_epoch", "learning_rate")}
        model = {"name": architecture, "input_days": input_days, "lead_days": lead_days}
        return self.replace(model={**dict(self.model), **model}, training={**dict(self.training), **effort})


class _OverriddenSettings(Settings, BaseSettings):
    """Settings as they are loaded. What is made of them later, by `replace`, the environment must not touch again."""

    model_config = SettingsConfigDict(env_prefix="DATLSTM_", env_nested_delimiter="__")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose content arrives as keyword arguments."""
        return env_settings, init_settings


class CopernicusCredentials(BaseSettings):
    """The client's own environment variables, ``COPERNICUSMARINE_SERVICE_USERNAME`` and ``…_PASSWORD``."""

    model_config = SettingsConfigDict(env_prefix="COPERNICUSMARINE_SERVICE_", frozen=True, extra="ignore")

    username: SecretStr | None = None
    password: SecretStr | None = None


def shipped_regions() -> list[str]:
    """Return the names of the region files that come with the project."""
    folder = resources.files("deployments") / "regions"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_settings(name_or_path: str | None = None) -> Settings:
    """Read a region's settings file and the environment.

    ``name_or_path`` is a shipped region's name or a TOML file; unset, ``DATLSTM_SETTINGS`` decides, else ``bohai``.
    Raises `SettingsError` for an absent file, invalid TOML, an unknown key or a bad value.
    """
    chosen = name_or_path or os.environ.get("DATLSTM_SETTINGS") or DEFAULT_SETTINGS
    content = brought_up(_read_toml(chosen), chosen)
    _refuse_unknown_variables()
    if "heartbeat_url" in content.get("notify", {}):
        raise SettingsError(
            f"{chosen}: notify.heartbeat_url is a secret: take it out, and set DATLSTM_NOTIFY__HEARTBEAT_URL instead"
        )
    try:
        return Settings(**dict(_OverriddenSettings(**content)))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"settings {chosen!r} or DATLSTM_* variables are not valid: {problems}") from error
    except pydantic_settings.SettingsError as error:
        raise SettingsError(
            f"a DATLSTM_* variable is not valid JSON: {error}; set single values by their path"
        ) from error


def _read_toml(chosen: str) -> dict[str, Any]:
    path = Path(chosen)
    shipped = resources.files("deployments") / "regions" / f"{chosen}.toml"
    is_path = path.suffix == ".toml"
    if not (path.is_file() if is_path else shipped.is_file()):
        raise SettingsError(
            f"no settings {chosen!r}: give a path ending in .toml or one of {', '.join(shipped_regions())}"
        )
    try:
        return tomllib.loads((path if is_path else shipped).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{chosen} is not valid TOML: {error}") from error


def _refuse_unknown_variables() -> None:
    known = {f"DATLSTM_{field.upper()}" for field in Settings.model_fields} | {"DATLSTM_SETTINGS"}
    for variable in os.environ:
        if variable.startswith("DATLSTM_") and variable.split("__")[0] not in known:
            raise SettingsError(f"environment variable {variable} is not a setting; known: {', '.join(sorted(known))}")
