"""An evaluation as a person reads it: Markdown tables by lead, season, sub-basin and ice, the method named below."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import numpy as np
import xarray as xr

from datlstm.archive import Archive
from datlstm.areas import ALL_SURFACES, ICE_FREE, REGION
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.evaluation import evaluate, of_bundle
from datlstm.forecasting import BASELINES
from datlstm.products.heatwave import baseline as heatwave_baseline
from datlstm.settings import Settings
from datlstm.significance import BLOCK_DAYS, CONFIDENCE
from datlstm.skill_card import comparison, days_of_seasons, totals
from datlstm.verification import DEFINITIONS_VERSION

LATER_FROM = 3
"""Day from which the weather of the init says little: a gain is harder there, and shown by itself."""

Row = tuple[str, np.ndarray]


def evaluate_bundle(settings: Settings, bundle: Bundle, period: tuple[date, date]) -> str:
    """Return the report on a bundle's hindcasts of a closed period of valid days, from the archive's newest state.

    Marine heatwaves count from the years before the period. Raises as `datlstm.evaluation.evaluate`, and `BundleError`
    for the bundle of another region.
    """
    bundle.check_matches(settings)
    snapshot_id = Archive(settings).snapshot_id()
    contenders = {} if bundle.forecaster in BASELINES else {bundle.forecaster: of_bundle(bundle)}
    heatwaves = heatwave_baseline(settings, period[0], snapshot_id)
    daily = evaluate(settings, contenders, bundle, period, snapshot_id, heatwaves)
    return report(daily, bundle.forecaster, bundle.id, period)


def report(daily: xr.Dataset, own: str, bundle_id: str, period: tuple[date, date]) -> str:
    """Return the evaluation `datlstm.evaluation.evaluate` of a forecaster and its baselines as Markdown."""
    whole = daily.sel(area=REGION, surface=ALL_SURFACES, drop=True)
    pooled = totals(whole)
    others = [str(name) for name in daily["forecaster"].values if name != own]
    days = int(whole["n"].isel(forecaster=0).any("lead_time").sum())
    parts = [
        f"# {bundle_id}, {period[0]} … {period[1]}",
        f"{days} valid days, {int(whole['n'].max())} cells; definitions version {DEFINITIONS_VERSION}.",
        "## By lead",
        _table(daily, dict(_by_lead(pooled, [own, *others]))),
        "## Against the baselines",
        _against(daily, own, [name for name in reversed(BASELINES) if name in others]),
        "## By season, sub-basin and ice: RMSE, and beside it damped persistence's",
        _table(daily, dict(_by_part(daily, own))),
        "## Is it blurred, and does it know what it does not know",
        _table(daily, dict(_shape(daily, pooled, own))),
    ]
    return "\n\n".join(parts) + "\n"


def _by_lead(pooled: xr.Dataset, names: Sequence[str]) -> Iterator[Row]:
    for metric, unit in (("rmse", "RMSE °C"), ("mae", "MAE °C"), ("bias", "bias °C"), ("acc", "ACC")):
        for name in names:
            values = pooled[metric].sel(forecaster=name).values
            if metric == "rmse" or name in (names[0], DAMPED_PERSISTENCE):
                yield f"{unit}, {_spoken(name)}", values


def _by_part(daily: xr.Dataset, own: str) -> Iterator[Row]:
    def rows(label: str, part: xr.Dataset) -> Iterator[Row]:
        rmse = totals(part)["rmse"]
        if np.isfinite(rmse).any():
            for name in (own, DAMPED_PERSISTENCE):
                yield f"{label}, {_spoken(name)}", rmse.sel(forecaster=name).values

    whole = daily.sel(area=REGION, surface=ALL_SURFACES, drop=True)
    for season, chosen in days_of_seasons(daily).items():
        yield from rows(season, whole.isel(valid_time=chosen))
    for area in daily["area"].values:
        if area != REGION:
            yield from rows(_spoken(str(area)), daily.sel(area=area, surface=ALL_SURFACES, drop=True))
    ice_free = daily.sel(area=REGION, surface=ICE_FREE, drop=True)
    if bool((ice_free["n"] != whole["n"]).any()):
        yield from rows("ice-free cells", ice_free)


def _shape(daily: xr.Dataset, pooled: xr.Dataset, own: str) -> Iterator[Row]:
    one = daily.sel(forecaster=own)
    for name in (own, DAMPED_PERSISTENCE):
        other = daily.sel(forecaster=name)
        yield (
            f"gradient power over the truth's, {_spoken(name)}",
            (other["gradient"].mean("valid_time") / other["truth_gradient"].mean("valid_time")).values,
        )
    power = (one["power"].mean("valid_time") / one["truth_power"].mean("valid_time")).transpose("band", ...)
    for band in power["band"].values:
        yield f"power over the truth's, wavelengths {band}", power.sel(band=band).values
    if "crps" in pooled:
        yield "CRPS °C", pooled["crps"].sel(forecaster=own).values
        yield "spread over RMSE", (pooled["spread"] / pooled["rmse"]).sel(forecaster=own).values
    if "hits" in daily:
        whole = one.sel(area=REGION, surface=ALL_SURFACES, drop=True)
        hits, misses, alarms = (whole[name].sum("valid_time") for name in ("hits", "misses", "false_alarms"))
        yield "marine heatwave cells that were forecast (hit rate)", (hits / (hits + misses)).values
        yield "of the forecast ones, none came (false alarm ratio)", (alarms / (hits + alarms)).values


def _against(daily: xr.Dataset, own: str, rivals: Sequence[str]) -> str:
    lines = [
        "| rival | MSE saved, mean over leads | 95 % | Diebold-Mariano | RMSE at lead, least … most gained |",
        "|---|---|---|---|---|",
    ]
    later = daily.sel(lead_time=slice(LATER_FROM, None))
    compared = [(_spoken(rival), daily, rival) for rival in rivals]
    if DAMPED_PERSISTENCE in rivals and later.sizes["lead_time"]:
        compared.insert(1, (f"{_spoken(DAMPED_PERSISTENCE)}, from day {LATER_FROM} on", later, DAMPED_PERSISTENCE))
    for label, chosen, rival in compared:
        found = comparison(chosen, own, rival)
        gained = sorted(-100 * loss for loss in found["loss"]["lead"].values() if loss is not None)
        numbers = [found[name] for name in ("gain", "low", "high", "confidence")]
        gain, low, high, confidence = (np.nan if value is None else 100 * value for value in numbers)
        span = f"{gained[0]:+.1f} … {gained[-1]:+.1f} %" if gained else "-"
        lines.append(f"| {label} | {gain:.1f} % | {low:.1f} … {high:.1f} % | {confidence:.1f} % | {span} |")
    note = f"Interval by blocks of {BLOCK_DAYS} days; what is better with {100 * CONFIDENCE:.0f} % has both above."
    return "\n".join(lines) + f"\n\n{note}"


def _table(daily: xr.Dataset, rows: Mapping[str, np.ndarray]) -> str:
    leads = [str(lead) for lead in daily["lead_time"].values]
    lines = [f"| lead (d) | {' | '.join(leads)} |", "|---" * (len(leads) + 1) + "|"]
    lines += [f"| {label} | {' | '.join(_cell(value) for value in values)} |" for label, values in rows.items()]
    return "\n".join(lines)


def _cell(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "-"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
