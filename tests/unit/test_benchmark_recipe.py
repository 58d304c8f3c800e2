"""The benchmarks of the recipe: what they leave out is left out, and least squares are least on what they saw."""

from dataclasses import replace

import numpy as np
import torch

from benchmarks.ablation import BASE, WITHOUT, changed, variants
from benchmarks.predictability import gained, sums_by_year
from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.forecasting import raw_estimates
from datlstm.inputs import FIELDS
from datlstm.preparation import prepare
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.training import TrainingData
from tests.conftest import LAST_DAY
from tests.unit.test_training import INITS


def test_each_ingredient_is_left_out_alone(settings: Settings) -> None:
    base = changed(settings, BASE)
    assert base.model.recipe == settings.model.recipe.model_copy(update={"members": 1})
    for changes in WITHOUT.values():
        chosen = changed(base, changes)
        differing = {name for name in chosen.model_dump() if getattr(chosen, name) != getattr(base, name)}
        assert differing == set(changes)
    fed_back = changed(base, WITHOUT["each forecast fed back"])
    assert fed_back.model.options == {settings.model.name: {"direct_leads": 0}}


def test_a_silent_network_leaves_the_regression(trained: Settings, champion: Bundle) -> None:
    silent = dict(variants("as it is", champion))["without what the network adds"]
    days = Archive(trained).read(INITS[0].date().replace(day=1), LAST_DAY)[list(FIELDS)].load()
    kept = {key: torch.zeros_like(value) if ".coefficients." in key else value for key, value in silent.weights.items()}
    whole, regressed, damped = (
        raw_estimates(bundle, days, INITS) for bundle in (champion, silent, replace(silent, weights=kept))
    )
    np.testing.assert_allclose(damped["mean"], damped["damped"], atol=1e-6)
    assert float(abs(regressed["mean"] - regressed["damped"]).max()) > 1e-3
    assert float(abs(whole["mean"] - regressed["mean"]).max()) > 1e-3


def test_no_other_years_fit_better_than_the_years_themselves(trained: Settings) -> None:
    cube_path, baseline_id = prepare(trained)
    baseline = Bundle.load(Store(trained.store), baseline_id)
    damping = torch.from_numpy(baseline.damping.fillna(0.0).values).float()
    sums = sums_by_year(TrainingData.open(trained, cube_path, baseline), damping)
    first, *others = sorted(sums)
    itself = gained(sums, [first], [first])
    assert (itself > 0).all()
    assert all((gained(sums, [other], [first]) <= itself + 1e-6).all() for other in others)
