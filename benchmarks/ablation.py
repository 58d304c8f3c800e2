"""What each ingredient of the recipe is worth: the settings' model trained without it, under one budget of steps.

``python -m benchmarks.ablation --settings FILE.toml --from 2015-01-01 --to 2018-12-31 [--steps 250]`` reads the
archive of ``DATLSTM_STORE``, and prints what is saved of the mean square error of damped persistence, %, on the mean
over leads and by lead, in the validation period and in a test period after it. One member, but in the row of three.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

from datlstm.archive import Archive
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.comparison.sst import budgeted, hindcast_scores, skill
from datlstm.ensemble import build_members
from datlstm.preparation import prepare
from datlstm.settings import Settings, load_settings
from datlstm.training import retrain
from datlstm.verification import pooled_rmse
from datlstm.windows import Periods

BASE = {"model": {"recipe": {"members": 1}}, "training": {"devices": 1}}
WITHOUT: dict[str, dict[str, Any]] = {
    "as it is": {},
    "each forecast fed back": {"model": {"options": {"direct_leads": 0}}},
    "no regression": {"model": {"recipe": {"regression": False}}},
    "no season, latitude, ice, tendency": {"model": {"recipe": {"channels": ["observed"]}}},
    "no sign flips": {"training": {"sign_flips": False}},
    "leads weighed alike": {"training": {"weigh_leads": False}},
    "no average of the weights": {"training": {"weight_average_decay": 0.0}},
    "three members": {"model": {"recipe": {"members": 3}}},
}


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--from", dest="first", type=date.fromisoformat, required=True)
    parser.add_argument("--to", dest="last", type=date.fromisoformat, required=True)
    arguments = parser.parse_args()
    settings = load_settings(arguments.settings)
    snapshot = Archive(settings).snapshot_id()
    validation = Periods.of(settings, Archive(settings).usable_days(snapshot)).validation
    prepared = prepare(settings, snapshot)
    leads = range(1, settings.model.lead_days + 1)
    print("| ingredient | minutes | validation % | test % | 95 % | " + " | ".join(map(str, leads)) + " |")
    print("|---" * (5 + len(leads)) + "|")
    for name, changes in WITHOUT.items():
        chosen = budgeted(changed(changed(settings, BASE), changes), "operational", steps=arguments.steps)
        started = time.perf_counter()
        bundle = retrain(chosen, *prepared)
        minutes = (time.perf_counter() - started) / 60
        for label, variant in variants(name, bundle):
            selected = skill(hindcast_scores(chosen, variant, validation, snapshot), variant.forecaster)
            scored = hindcast_scores(chosen, variant, (arguments.first, arguments.last), snapshot)
            tested, rmse = skill(scored, variant.forecaster), pooled_rmse(scored)
            saved = 100 * (1 - (rmse.sel(forecaster=variant.forecaster) / rmse.sel(forecaster=DAMPED_PERSISTENCE)) ** 2)
            interval = " … ".join(f"{100 * bound:.1f}" for bound in tested.interval)
            cells = [label, f"{minutes:.1f}", f"{100 * selected.mean:.2f}", f"{100 * tested.mean:.2f}", interval]
            print("|", " | ".join([*cells, *(f"{value:.1f}" for value in saved.values)]), "|", flush=True)


def changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    """Return the settings with some values of ``model``, its ``recipe`` and options, and ``training`` replaced."""
    model = dict(changes.get("model", {}))
    if "recipe" in model:
        model["recipe"] = {**settings.model.recipe.model_dump(), **model["recipe"]}
    if "options" in model:
        model["options"] = {settings.model.name: model["options"]}
    training = {**settings.training.model_dump(), **changes.get("training", {})}
    return settings.replace(model={**settings.model.model_dump(), **model}, training=training)


def variants(name: str, bundle: Bundle) -> Iterator[tuple[str, Bundle]]:
    """Yield a trained bundle, and the first also without its calibration, and without what its network adds."""
    yield name, bundle
    if name == next(iter(WITHOUT)):
        yield "not calibrated", replace(bundle, calibration=None)
        fresh = build_members(bundle.forecaster, bundle.config, bundle.recipe, bundle.input_days, bundle.lead_days)
        silent = {key: value for key, value in fresh.state_dict().items() if ".network." in key}
        yield "without what the network adds", replace(bundle, weights={**bundle.weights, **silent}, calibration=None)


if __name__ == "__main__":
    main()
