"""From a trained challenger to a verdict: judge it, promote it, and say what came of it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.errors import BundleError
from datlstm.gate import Verdict, judge
from datlstm.registry import champion_id, promote
from datlstm.settings import Settings
from datlstm.skill_card import CHAMPION, skill_card
from datlstm.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of a challenger: the gate's verdict, and the champion it was compared with.

    ``was_promoted`` is false as well for a better one that was only to be trained and judged.
    """

    challenger: Bundle
    verdict: Verdict
    was_promoted: bool
    champion_before: str | None

    def __str__(self) -> str:
        """Return the outcome in one line."""
        return f"{self.challenger.id} {self._state()}: {self.verdict.reason}"

    def report(self) -> str:
        """Return the outcome as Markdown: what was trained on what, how it scores, and what to do next."""
        training = self.challenger.training
        losses = training["validation_losses"]
        facts = {
            "architecture": self.challenger.forecaster,
            "training days": f"{training['first_day']} … {training['last_day']}",
            "validation days": " … ".join(self.challenger.card["period"]),
            "archive state": self.challenger.archive_snapshot,
            "epochs": f"{training['epochs']} of at most {training['settings']['epochs']}",
            "validation loss": f"untrained {training['untrained_validation_loss']:.4f}, "
            f"best {training['validation_loss']:.4f} in epoch {losses.index(min(losses)) + 1}",
        }
        rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
        return (
            f"# {self.challenger.id} {self._state()}\n\n{self.verdict.reason}\n\n| | |\n|---|---|\n{rows}\n"
            f"RMSE in °C by lead in days, on {self.challenger.card['days']} validation days:\n\n"
            f"{self._skill_table()}\n{self._next()}\n"
        )

    def _state(self) -> str:
        if self.was_promoted:
            return "is champion"
        return "would be champion" if self.verdict.promoted else "was not promoted"

    def _skill_table(self) -> str:
        scores = self.challenger.card["rmse"]
        names = [self.challenger.forecaster, DAMPED_PERSISTENCE, *([CHAMPION] if CHAMPION in scores else [])]
        leads = range(1, len(scores[DAMPED_PERSISTENCE]) + 1)
        lines = [["forecaster", *map(str, leads)], ["---"] * (len(leads) + 1)]
        lines += [[name.replace("_", " "), *_hundredths(scores[name])] for name in names]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def _next(self) -> str:
        if self.was_promoted and self.champion_before:
            return f"It forecasts from the next night on. Back to {self.champion_before}: `datlstm rollback`."
        if self.was_promoted:
            return "It forecasts from the next night on, as the first champion."
        advice = "To make it champion" + ("" if self.verdict.promoted else " all the same")
        return f"{advice}: `datlstm promote {self.challenger.id}`."


def with_card(settings: Settings, bundle: Bundle, champion: Bundle | None) -> Bundle:
    """Return a bundle with its skill card, on which stands also what the gate says to it. Raises as `skill_card`."""
    card = skill_card(settings, bundle, champion)
    verdict = judge(card, bundle.forecaster, champion, settings.gate)
    return replace(bundle, card={**card, "verdict": {"promoted": verdict.promoted, "reason": verdict.reason}})


def judge_challenger(settings: Settings, bundle_id: str, *, may_promote: bool) -> Outcome:
    """Let the gate judge a saved bundle, and promote it if it is better and may be. Raises as `promote`."""
    store = Store(settings.store)
    challenger = Bundle.load(store, bundle_id)
    champion = comparable_champion(settings)
    verdict = judge(challenger.card, challenger.forecaster, champion, settings.gate)
    was_promoted = verdict.promoted and may_promote
    if was_promoted:
        promote(store, bundle_id, verdict.reason)
    return Outcome(challenger, verdict, was_promoted, champion.id if champion else None)


def comparable_champion(settings: Settings) -> Bundle | None:
    """Return the champion; None where there is none, or none that can be compared with, which is told."""
    store = Store(settings.store)
    try:
        chosen = champion_id(store)
        if chosen is None:
            return None
        champion = Bundle.load(store, chosen)
        champion.check_matches(settings)
    except BundleError as error:
        log.error("the champion can't be compared with, any better model than the bar replaces it: %s", error)
        return None
    return champion


def _hundredths(scores: Sequence[float]) -> list[str]:
    return [f"{score:.2f}" for score in scores]
