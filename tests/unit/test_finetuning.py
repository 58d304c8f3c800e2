"""Fine-tuning: from a base that stays as it is, on days since it was trained among those it knows."""

from dataclasses import replace
from datetime import date, timedelta
from threading import Event

import numpy as np
import pytest
import torch

from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.checkpoints import Checkpoints
from datlstm.errors import BundleError, NotEnoughDataError, TrainingInterruptedError
from datlstm.fitting import Draws, EpochSampler
from datlstm.preparation import prepare_finetuning
from datlstm.registry import promote
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.training import TrainingData, finetune, resume, retrain, train_challenger

BASE_LAST_DAY = date(2024, 1, 31)


@pytest.fixture
def grown(trained: Settings, champion: Bundle) -> Settings:
    """A store whose champion was trained on days up to the end of January, and that has two months more to train on."""
    store = Store(trained.store)
    training = {**champion.training, "last_day": str(BASE_LAST_DAY)}
    base = replace(champion, training=training, weights={n: 1.01 * w for n, w in champion.weights.items()})
    promote(store, base.save(store), "the base")
    chosen = {**dict(trained.finetuning), "epochs": 2, "gap_days": 5, "learning_rate": 1e-3}
    return trained.replace(finetuning=chosen)


def test_it_starts_from_the_champion_and_ends_in_another_bundle_of_its_normaliser(grown: Settings) -> None:
    cube, base_id = prepare_finetuning(grown)
    base = Bundle.load(Store(grown.store), base_id)
    losses: list[float] = []
    made = finetune(grown, cube, base_id, lambda number, loss: losses.append(loss))
    assert made.normaliser.id == base.normaliser.id
    np.testing.assert_array_equal(made.damping, base.damping)
    assert (made.forecaster, made.config, made.recipe) == (base.forecaster, base.config, base.recipe)
    assert made.training["base"] == base_id
    assert made.training["first_day"] == base.training["first_day"]
    last = Archive(grown).last_day() - timedelta(days=grown.training.validation_days + 5)
    assert made.training["last_day"] == str(last)
    assert made.training["settings"]["learning_rate"] == 1e-3
    assert len(losses) == made.training["epochs"] == 2
    assert made.training["validation_loss"] == min(losses)
    # A low rate: not far from where it came from, and not there either.
    change = max(float((made.weights[name] - base.weights[name]).abs().max()) for name in base.weights)
    assert 0 < change < 0.1
    assert Bundle.load(Store(grown.store), base_id).id == base_id


def test_what_was_fine_tuned_is_fine_tuned_again_from_its_base(grown: Settings) -> None:
    store = Store(grown.store)
    cube, base_id = prepare_finetuning(grown)
    tuned = finetune(grown, cube, base_id)
    promote(store, tuned.save(store), "it was better")
    assert prepare_finetuning(grown) == (cube, base_id)


def test_an_epoch_mixes_recent_windows_with_a_replay_of_the_past(grown: Settings) -> None:
    cube, base_id = prepare_finetuning(grown)
    base = Bundle.load(Store(grown.store), base_id)
    data = TrainingData.open(grown, cube, base, gap_days=5)
    known = data.windows_until(BASE_LAST_DAY)
    last = [data.days[int(data.training.starts[place]) + 3 + 4 - 1].date() for place in (known - 1, known)]
    assert last == [BASE_LAST_DAY, BASE_LAST_DAY + timedelta(days=1)]
    size = len(data.training)
    sampler = EpochSampler(size, 2 * (size - known), 7, draws=Draws(known, 0.5))
    drawn = list(sampler)
    assert sorted(place for place in drawn if place >= known) == list(range(known, size))
    assert sum(place < known for place in drawn) == size - known
    # Mixed, not one after the other.
    assert 0.3 < np.mean([place >= known for place in drawn[: len(drawn) // 2]]) < 0.7
    again = EpochSampler(size, 2 * (size - known), 7, draws=Draws(known, 0.5), resumed=(0, 11))
    assert list(again) == drawn[11:]


def test_without_days_since_it_was_trained_it_is_refused(trained: Settings, champion: Bundle) -> None:
    cube, base_id = prepare_finetuning(trained)
    assert base_id == champion.id
    with pytest.raises(NotEnoughDataError, match="was trained on days up to 2024-04-01, and no window of newer ones"):
        finetune(trained, cube, base_id)


def test_a_base_without_a_network_or_that_is_not_there_is_refused(trained: Settings, champion: Bundle) -> None:
    damped = champion.damped().save(Store(trained.store))
    with pytest.raises(BundleError, match="has no network to fine-tune"):
        prepare_finetuning(trained, damped)
    with pytest.raises(BundleError, match="no bundle 'nobody'"):
        prepare_finetuning(trained, "nobody")


def test_an_interrupted_one_ends_where_an_uninterrupted_one_does(grown: Settings) -> None:
    cube, base_id = prepare_finetuning(grown)
    whole = finetune(grown, cube, base_id)
    stop = Event()
    with pytest.raises(TrainingInterruptedError):
        resume(grown, Checkpoints.of(grown, cube, base_id), lambda number, loss: stop.set(), stop)
    elsewhere = grown.replace(finetuning={**dict(grown.finetuning), "learning_rate": 0.5})
    found = Checkpoints.newest(elsewhere)
    assert found.manifest.epochs == 1
    assert found.manifest.finetuning == grown.finetuning
    torch.manual_seed(3)
    assert resume(elsewhere, found).id == whole.id


def test_a_fine_tuned_challenger_is_scored_beside_its_base(grown: Settings) -> None:
    cube, base_id = prepare_finetuning(grown)
    challenger = train_challenger(grown, Checkpoints.of(grown, cube, base_id))
    assert challenger.card["champion"] == base_id
    assert set(challenger.card["against"]) == {"champion", "persistence", "climatology", "damped_persistence"}
    assert challenger.card["verdict"]["reason"]


def test_its_checkpoints_are_not_those_of_a_training(grown: Settings) -> None:
    cube, base_id = prepare_finetuning(grown)
    baseline = Bundle.load(Store(grown.store), base_id).damped().save(Store(grown.store))
    runs = {Checkpoints.of(grown, cube, origin).run_id for origin in (base_id, baseline)}
    assert len(runs) == 2
    assert retrain(grown, cube, baseline).training.get("base") is None
