"""The gate is closed unless a challenger is provably better: each thing it asks for is refused when it is not there."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from datlstm.bundle import Bundle
from datlstm.gate import judge
from datlstm.settings import GateSettings

CHOSEN = GateSettings(minimum_days=300, minimum_days_of_season=50)
RIVALS = ("persistence", "climatology", "damped_persistence")


def against() -> dict[str, Any]:
    return {
        "gain": 0.08,
        "low": 0.03,
        "high": 0.12,
        "confidence": 0.99,
        "loss": {
            "lead": {"1": 0.01, "2": 0.0, "3": -0.02, "4": -0.03},
            "season": {"DJF": -0.02, "MAM": -0.01, "JJA": 0.015, "SON": -0.01},
            "area": {"bay": -0.01, "strait": 0.019},
        },
    }


def card(**rivals: Any) -> dict[str, Any]:
    return {
        "days": 365,
        "days_of_seasons": {"DJF": 90, "MAM": 92, "JJA": 92, "SON": 91},
        "areas": ["bay", "strait"],
        "champion": None,
        "bias": {"datlstm": [0.01, 0.02, 0.05, -0.09]},
        "against": {rival: against() for rival in RIVALS} | rivals,
    }


def verdict(told: dict[str, Any], champion: Bundle | None = None) -> tuple[bool, str]:
    found = judge(told, "datlstm", champion, CHOSEN)
    return found.promoted, found.reason


def test_a_challenger_that_proves_all_is_promoted_and_the_reason_has_the_numbers() -> None:
    assert verdict(card()) == (
        True,
        "mean square error 8.0 % below damped persistence (3.0 … 12.0 %), on 365 validation days",
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: c.update(days=299), "299 validation days were scored and 300 are needed"),
        (lambda c: c["days_of_seasons"].update(JJA=49, SON=0), "fewer than 50 validation days in JJA, SON"),
        (lambda c: c["bias"].update(datlstm=[0.0, 0.0, -0.2, -0.2]), "bias -0.100 °C, and 0.1 is the limit"),
        (
            lambda c: c["against"]["damped_persistence"]["loss"]["lead"].update({"3": 0.0}),
            "no better than damped persistence at lead 3",
        ),
        (lambda c: c["against"]["persistence"].update(low=0.0), "not better than persistence with 95 % confidence"),
        (lambda c: c["against"]["damped_persistence"].update(confidence=0.94), "Diebold-Mariano 94.0 %"),
        (
            lambda c: c["against"]["damped_persistence"]["loss"]["lead"].update({"1": 0.021}),
            "RMSE 2.1 % above that of damped persistence at lead 1",
        ),
        (lambda c: c["against"]["climatology"]["loss"]["season"].update(JJA=0.03), "of climatology at season JJA"),
        (
            lambda c: c["against"]["damped_persistence"]["loss"]["area"].update(bay=0.5),
            "of damped persistence at area bay",
        ),
    ],
)
def test_what_is_not_proven_is_refused_with_its_reason(spoil: Callable[[dict[str, Any]], None], reason: str) -> None:
    told = card()
    spoil(told)
    promoted, found = verdict(told)
    assert not promoted
    assert reason in found


def test_all_objections_are_told() -> None:
    told = card()
    told["days"], told["bias"]["datlstm"] = 10, [0.3, 0.3, 0.3, 0.3]
    found = verdict(told)[1]
    assert "10 validation days" in found and "bias +0.300" in found


def _leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(node, dict):
        return [path]
    return [leaf for key, value in node.items() for leaf in _leaves(value, (*path, key))]


@pytest.mark.parametrize(
    "path", [path for path in _leaves(card()) if path[-1] != "champion" and path[1:2] != ("persistence",)], ids="/".join
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "absent"])
def test_a_score_that_is_missing_or_not_finite_refuses(path: tuple[str, ...], value: object) -> None:
    told = deepcopy(card())
    node = told
    for key in path[:-1]:
        node = node[key]
    if value != "absent":
        node[path[-1]] = [value, 0.0] if path[0] == "bias" else value
    else:
        del node[path[-1]]
    assert not verdict(told)[0]


@pytest.mark.parametrize("told", [{}, {"rmse": {}}, {"days": 400}, {"against": None}])
def test_a_card_of_another_kind_is_refused(told: dict[str, Any]) -> None:
    promoted, reason = verdict(told)
    assert not promoted
    assert "lacks a score" in reason


def test_a_standing_champion_must_be_beaten_too(champion: Bundle) -> None:
    told = card(champion=against())
    told["champion"] = champion.id
    promoted, reason = verdict(told, champion)
    assert promoted and "below champion" in reason
    told["against"]["champion"]["low"] = -0.01
    assert "not better than champion" in verdict(told, champion)[1]
    del told["against"]["champion"]
    assert not verdict(told, champion)[0]


def test_a_card_that_compares_with_another_champion_is_refused(champion: Bundle) -> None:
    told = card(champion=against())
    told["champion"] = "another"
    assert verdict(told, champion)[1].startswith("its card compares it with another")
    told["champion"] = None
    assert "no champion" in verdict(told, replace(champion, weights={}))[1]
