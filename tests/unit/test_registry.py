"""The pointer to the champion moves whole, and back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datlstm import registry
from datlstm.bundle import WEIGHTS, Bundle
from datlstm.errors import BundleError, ConflictError
from datlstm.registry import (
    CHAMPION,
    Promotion,
    bundle_ids,
    champion_id,
    promote,
    rollback,
    standing_promotion,
)
from datlstm.settings import Settings
from datlstm.store import Store


@pytest.fixture
def store(trained: Settings) -> Store:
    return Store(trained.store)


@pytest.fixture
def second(champion: Bundle, store: Store) -> str:
    """The id of another bundle in the store."""
    return replace(champion, weights={name: 2 * value for name, value in champion.weights.items()}).save(store)


def test_a_promotion_moves_the_pointer_and_says_why(store: Store, second: str) -> None:
    first = champion_id(store)
    promote(store, second, "it was better")
    assert champion_id(store) == second
    pointer = store.read_json(CHAMPION)
    assert pointer["reason"] == "it was better"
    assert pointer["previous"]["bundle_id"] == first


def test_promoting_the_champion_again_changes_nothing(store: Store) -> None:
    before = store.read(CHAMPION)
    chosen = champion_id(store)
    assert chosen is not None
    promote(store, chosen, "again")
    assert store.read(CHAMPION) == before


def test_renewing_the_champion_s_promotion_dates_it_anew_and_keeps_the_way_back(
    store: Store, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = standing_promotion(store)
    assert first is not None and not first.is_renewal
    promote(store, second, "")
    monkeypatch.setattr(registry, "now_seconds", lambda: 12)
    for _ in range(2):
        promote(store, second, "by hand", renew=True)
        assert standing_promotion(store) == Promotion(second, 12, is_renewal=True)
    assert store.read_json(CHAMPION)["reason"] == "by hand"
    assert rollback(store) == first.bundle_id
    assert standing_promotion(store) == first


def test_promoting_another_by_hand_is_no_renewal(store: Store, second: str) -> None:
    promote(store, second, "by hand", renew=True)
    promotion = standing_promotion(store)
    assert promotion is not None and (promotion.bundle_id, promotion.is_renewal) == (second, False)


def test_a_rollback_restores_the_pointer_before_the_promotion_byte_for_byte(store: Store, second: str) -> None:
    before, first = store.read(CHAMPION), champion_id(store)
    promote(store, second, "")
    assert rollback(store) == first
    assert store.read(CHAMPION) == before


def test_there_is_no_way_back_before_the_first_champion(store: Store, tmp_path: Path) -> None:
    before = store.read(CHAMPION)
    for place in (store, Store((tmp_path / "empty").as_uri())):
        with pytest.raises(BundleError, match="no earlier champion"):
            rollback(place)
    assert store.read(CHAMPION) == before


def test_a_corrupt_or_absent_bundle_is_not_promoted(store: Store, second: str) -> None:
    before = store.read(CHAMPION)
    store.write(f"models/{second}/{WEIGHTS}", b"corrupt")
    with pytest.raises(BundleError, match=WEIGHTS):
        promote(store, second, "by hand")
    with pytest.raises(BundleError, match="no bundle"):
        promote(store, "no-such-bundle", "by hand")
    assert store.read(CHAMPION) == before


def test_an_incomplete_bundle_is_not_listed(store: Store, second: str) -> None:
    assert second in bundle_ids(store)
    store.write("models/half-written/weights.safetensors", b"")
    assert "half-written" not in bundle_ids(store)
    assert len(bundle_ids(store)) == 3


def test_an_empty_store_has_no_champion(tmp_path: Path) -> None:
    assert champion_id(Store((tmp_path / "empty").as_uri())) is None


@pytest.mark.parametrize("content", [b"{}", b"not json", b"[]"])
def test_a_damaged_pointer_is_named_and_a_promotion_by_hand_mends_it(
    champion: Bundle, store: Store, content: bytes
) -> None:
    store.write(CHAMPION, content)
    with pytest.raises(BundleError, match=r"champion\.json"):
        champion_id(store)
    promote(store, champion.id, "by hand")
    assert champion_id(store) == champion.id


@pytest.mark.parametrize("moved", [promote, lambda store, *_: rollback(store)], ids=["promotion", "rollback"])
def test_of_two_who_move_the_pointer_at_once_one_wins_and_the_other_says_so(
    store: Store, second: str, champion: Bundle, monkeypatch: pytest.MonkeyPatch, moved: Callable[..., object]
) -> None:
    promote(store, second, "the way back")
    third = replace(champion, weights={name: 3 * value for name, value in champion.weights.items()}).save(store)
    load = Bundle.load

    def load_while_another_promotes(store: Store, bundle_id: str) -> Bundle:
        monkeypatch.setattr(Bundle, "load", load)
        promote(store, third, "was first")
        return load(store, bundle_id)

    monkeypatch.setattr(Bundle, "load", load_while_another_promotes)
    with pytest.raises(ConflictError, match=r"models/champion\.json: another writer was first"):
        moved(store, champion.id, "was second")
    assert champion_id(store) == third
