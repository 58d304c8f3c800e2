"""The gate: what a challenger must prove, on its card, to become champion. What is not proven is refused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.calibration import SEASONS
from datlstm.forecasting import BASELINES
from datlstm.settings import GateSettings
from datlstm.significance import CONFIDENCE
from datlstm.skill_card import CHAMPION


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger may become champion, and why."""

    promoted: bool
    reason: str


def judge(card: Mapping[str, Any], forecaster: str, champion: Bundle | None, chosen: GateSettings) -> Verdict:
    """Decide on a challenger's skill card, where ``forecaster`` is its own name.

    It must have enough days of every season; a bias over all leads below ``maximum_bias_kelvin``; be better than
    damped persistence at every lead from ``better_from_day`` on; and, against the champion where there is one and every
    baseline, be better on the mean over leads with 95 % confidence, by bootstrap and by Diebold and Mariano's test, and
    nowhere worse by more than ``largest_loss``: at any lead, in any season, in any sub-basin. A score that is missing
    or not finite refuses.
    """
    try:
        objections = list(_objections(card, forecaster, champion, chosen))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Verdict(False, f"its card lacks a score that the gate asks for, or holds one that is none ({error!r})")
    if objections:
        return Verdict(False, "; ".join(objections))
    rivals = [DAMPED_PERSISTENCE, *([CHAMPION] if champion else [])]
    told = (
        f"mean square error {100 * _number(of['gain']):.1f} % below {_spoken(rival)} "
        f"({100 * _number(of['low']):.1f} … {100 * _number(of['high']):.1f} %)"
        for rival in rivals
        for of in [card["against"][rival]]
    )
    return Verdict(True, f"{' and '.join(told)}, on {card['days']} validation days")


def _objections(
    card: Mapping[str, Any], forecaster: str, champion: Bundle | None, chosen: GateSettings
) -> Iterator[str]:
    yield from _too_few(card, chosen)
    biases = [_number(bias) for bias in _leads(card["bias"][forecaster])]
    bias = sum(biases) / len(biases)
    if abs(bias) >= chosen.maximum_bias_kelvin:
        yield f"bias {bias:+.3f} °C, and {chosen.maximum_bias_kelvin:g} is the limit"
    if champion is not None and card["champion"] != champion.id:
        yield f"its card compares it with {card['champion'] or 'no champion'}, and {champion.id} is champion now"
        return
    places = {
        "lead": [str(lead) for lead in range(1, len(biases) + 1)],
        "season": [season for season in SEASONS if _number(card["days_of_seasons"][season])],
        "area": card["areas"],
    }
    losses = card["against"][DAMPED_PERSISTENCE]["loss"]["lead"]
    late = [lead for lead in places["lead"][chosen.better_from_day - 1 :] if _number(losses[lead]) >= 0]
    if late:
        yield f"no better than damped persistence at lead {', '.join(late)}"
    for rival in (*BASELINES, *([CHAMPION] if champion else [])):
        yield from _not_better(rival, card["against"][rival], places, chosen)


def _too_few(card: Mapping[str, Any], chosen: GateSettings) -> Iterator[str]:
    if _number(card["days"]) < chosen.minimum_days:
        yield (
            f"{card['days']} validation days were scored and {chosen.minimum_days} are needed: backfill more, or raise "
            "training.validation_days"
        )
    days = card["days_of_seasons"]
    few = [season for season in SEASONS if _number(days[season]) < chosen.minimum_days_of_season]
    if few:
        yield f"fewer than {chosen.minimum_days_of_season} validation days in {', '.join(few)}"


def _not_better(
    rival: str, against: Mapping[str, Any], places: Mapping[str, Sequence[str]], chosen: GateSettings
) -> Iterator[str]:
    gain, low, high, confidence = (_number(against[name]) for name in ("gain", "low", "high", "confidence"))
    if low <= 0 or confidence < CONFIDENCE:
        yield (
            f"not better than {_spoken(rival)} with 95 % confidence: mean square error {100 * gain:+.2f} % saved "
            f"({100 * low:+.2f} … {100 * high:+.2f} %), Diebold-Mariano {100 * confidence:.1f} %"
        )
    for kind, wanted in places.items():
        for where in wanted:
            loss = _number(against["loss"][kind][where])
            if loss > chosen.largest_loss:
                yield f"RMSE {100 * loss:.1f} % above that of {_spoken(rival)} at {kind} {where}"


def _leads(values: Sequence[float]) -> Sequence[float]:
    if not values:
        raise ValueError("no lead")
    return values


def _number(value: float | None) -> float:
    """Return a number of a card. Raises `TypeError` for what is missing or was not finite."""
    if value is None or not abs(value) < float("inf"):
        raise TypeError("a score is not a finite number")
    return value


def _spoken(name: str) -> str:
    return name.replace("_", " ")
