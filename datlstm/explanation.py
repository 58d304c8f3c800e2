"""What a published forecast came from, and whether it comes out of that again, bit for bit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.archive import PATH as ARCHIVE_PATH
from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.errors import ArchiveError, BundleError, DatlstmError, NotEnoughDataError, ProductError, StoreError
from datlstm.forecasting import probabilistic
from datlstm.inputs import FIELDS
from datlstm.ladder import ForecastSource, NightlyForecast
from datlstm.lineage import changed_settings, code_version
from datlstm.products.forecast import draft_against, forecast_cube, read_init, shown
from datlstm.products.heatwave import HeatwaveBaseline
from datlstm.quality import UNUSABLE
from datlstm.registry import bundle_ids, champion_id
from datlstm.settings import Settings
from datlstm.store import Store, explained


@dataclass(frozen=True)
class InputDay:
    """A day the forecast read: whether it was usable then, and the product and version it came from."""

    day: date
    is_usable: bool
    product: str
    version: str


@dataclass(frozen=True)
class Difference:
    """In how many cells (of all leads) a variable is another one than published, and by how much at most.

    ``largest`` is in the variable's unit, infinite where a value stands against none.
    """

    variable: str
    cells: int
    largest: float


@dataclass(frozen=True)
class Explanation:
    """The lineage of one published init, and what came of making it again.

    ``differences`` is None when it could not be made again; ``missing`` says what of its lineage is gone.
    ``changed_settings`` gives the recorded and the present value of each setting that is another one now, None when
    there is no record; ``code_now`` is the version that explains.
    """

    init_day: date
    source: ForecastSource
    model_id: str
    is_champion: bool
    archive_snapshot: str
    settings_hash: str
    code_version: str
    code_now: str
    inputs: tuple[InputDay, ...]
    changed_settings: Mapping[str, tuple[Any, Any]] | None
    differences: tuple[Difference, ...] | None
    missing: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        """Tell whether the forecast was made again and is the published one, bit for bit."""
        return self.differences == ()

    @property
    def verdict(self) -> str:
        """One line: identical, how it differs and why as far as known, or that it can't be made again."""
        if self.differences is None:
            return "can't be made again"
        if not self.differences:
            return "identical, bit for bit"
        found = "; ".join(f"{d.variable} differs in {d.cells} cells by up to {d.largest:.3g}" for d in self.differences)
        return f"{found}: {self._reason()}"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what a person reads: a name and a text, line by line."""
        standing = "champion still" if self.is_champion else "not the champion now"
        rung = "damped persistence" if self.source is ForecastSource.DAMPED_PERSISTENCE else f"model, {standing}"
        yield "forecast", f"from {self.init_day} by {self.model_id} ({rung})"
        yield "archive", self.archive_snapshot
        for given in self.inputs:
            origin = f"{given.product} {given.version}".strip()
            yield "input", f"{given.day} {origin if given.is_usable else 'missing'}"
        yield "settings", f"{self.settings_hash}{self._settings_now()}"
        same = self.code_version == self.code_now
        yield "code", self.code_version + ("" if same else f"; now {self.code_now}")
        for gone in self.missing:
            yield "missing", gone
        yield "verdict", self.verdict

    def _settings_now(self) -> str:
        if not self.changed_settings:
            return ""
        changes = (f"{key} was {then}, is {now}" for key, (then, now) in self.changed_settings.items())
        return f"; since then: {', '.join(changes)}"

    def _reason(self) -> str:
        reasons = []
        if self.code_version != self.code_now:
            reasons.append(f"the code was {self.code_version} and is {self.code_now}")
        if self.changed_settings:
            reasons.append(f"the settings differ in {', '.join(self.changed_settings)}")
        return "; ".join(reasons) or (
            "settings and code are the same, so the published values were changed, or libraries or processor differ"
        )


def explain(settings: Settings, init_day: date) -> Explanation:
    """Show what a published forecast was made of and make it again from that.

    Nothing is written. Raises `ProductError` when no forecast was published from that day, or it can't be decoded.
    """
    init = _published(settings, init_day)
    store = Store(settings.store)
    text = {name: str(init[name].item()) for name in ("model_id", "archive_snapshot", "settings_hash", "code_version")}
    source = ForecastSource(int(init["forecast_source"]))
    missing: list[str] = []
    inputs: tuple[InputDay, ...] = ()
    differences = changed = None
    try:
        changed = changed_settings(settings, text["settings_hash"])
    except StoreError as error:
        missing.append(f"settings record: {error}")
    try:
        bundle = _bundle(store, text["model_id"], source)
    except BundleError as error:
        missing.append(f"bundle: {error}")
        bundle = None
    days = 1 if bundle is None else bundle.input_days
    try:
        inputs = _inputs(settings, init_day, days, text["archive_snapshot"])
        if bundle is not None:
            differences = _compare(init, _made_again(settings, bundle, init, init_day))
    except (ArchiveError, StoreError, NotEnoughDataError) as error:
        missing.append(f"archive state: expired (retention.archive_states_days) or never here: {error}")
    except ProductError as error:
        missing.append(f"heatwave baseline: {error}")
    return Explanation(
        init_day,
        source,
        text["model_id"],
        _is_champion(store, text["model_id"]),
        text["archive_snapshot"],
        text["settings_hash"],
        text["code_version"],
        code_version(),
        inputs,
        changed,
        differences,
        tuple(missing),
    )


def _published(settings: Settings, init_day: date) -> xr.Dataset:
    try:
        init = read_init(settings, init_day)
    except (RuntimeError, ValueError) as error:  # what codecs raise on bytes that are not theirs
        cause = str(error).strip().split("\n", 1)[0]
        raise ProductError(
            f"the forecast from {init_day} can't be decoded ({cause}): restore forecast.zarr from a backup"
        ) from error
    if init is None:
        raise ProductError(f"no forecast was published from {init_day}: open the cube's init_time for those that were")
    return init


def _bundle(store: Store, model_id: str, source: ForecastSource) -> Bundle:
    """Return the bundle of that id, which for damped persistence may be the other half of a saved model."""
    try:
        return Bundle.load(store, model_id)
    except BundleError:
        others = bundle_ids(store) if source is ForecastSource.DAMPED_PERSISTENCE else []
        for half in filter(None, (_damped_half(store, other) for other in others)):
            if half.id == model_id:
                return half
        raise


def _damped_half(store: Store, bundle_id: str) -> Bundle | None:
    try:
        return Bundle.load(store, bundle_id).damped()
    except BundleError:
        return None


def _is_champion(store: Store, model_id: str) -> bool:
    try:
        return champion_id(store) == model_id
    except DatlstmError:
        return False


def _inputs(settings: Settings, init_day: date, days: int, snapshot_id: str) -> tuple[InputDay, ...]:
    known = Archive(settings).provenance(snapshot_id)
    wanted = [init_day - timedelta(days=back) for back in reversed(range(days))]
    columns = [
        known[name].reindex(wanted, fill_value=absent).tolist()
        for name, absent in (("quality", int(UNUSABLE)), ("source_product", ""), ("source_version", ""))
    ]
    return tuple(
        InputDay(day, not int(quality) & UNUSABLE, str(product), str(version))
        for day, quality, product, version in zip(wanted, *columns, strict=True)
    )


def _made_again(settings: Settings, bundle: Bundle, init: xr.Dataset, init_day: date) -> xr.Dataset:
    store, snapshot_id = Store(settings.store), str(init["archive_snapshot"].item())
    baseline_id = str(init["heatwave_baseline"].item())
    baseline = HeatwaveBaseline.load(store, baseline_id) if baseline_id else None
    first = init_day - timedelta(days=bundle.input_days - 1)
    with explained(store.url_of(ARCHIVE_PATH)):
        inputs = Archive(settings).read(first, init_day, snapshot_id)[list(FIELDS)].load()
        made = probabilistic(bundle, inputs, pd.DatetimeIndex([pd.Timestamp(init_day)])).isel(init_time=0)
        made = made.isel(lead_time=slice(0, init.sizes["lead_time"]))
        source, age, missing = (int(init[name]) for name in ("forecast_source", "input_age_days", "n_missing_inputs"))
        again = NightlyForecast(
            init_day, made["sst"], made["sst_spread"], ForecastSource(source), bundle, snapshot_id, age, missing
        )
        as_then = settings.replace(model=settings.model.model_copy(update={"lead_days": init.sizes["lead_time"]}))
        return shown(forecast_cube(as_then), draft_against(as_then, again, baseline))


def _compare(published: xr.Dataset, made: xr.Dataset) -> tuple[Difference, ...]:
    fields = [str(name) for name, field in published.data_vars.items() if "latitude" in field.dims]
    found = (_difference(name, published[name].values, made[name].values) for name in fields)
    return tuple(difference for difference in found if difference.cells)


def _difference(variable: str, published: np.ndarray, made: np.ndarray) -> Difference:
    one, other = published.astype("float64"), made.astype("float64")
    differs = ~((one == other) & (np.signbit(one) == np.signbit(other)) | np.isnan(one) & np.isnan(other))
    sizes = np.abs(one - other)[differs]
    return Difference(variable, int(differs.sum()), float(np.nan_to_num(sizes, nan=np.inf).max(initial=0.0)))
