"""Train a challenger, and let the gate decide."""

from dataclasses import replace
from time import monotonic

from prefect.logging import get_run_logger

from datlstm.bundle import Bundle
from datlstm.errors import BundleError
from datlstm.registry import champion_id, judge, promote
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.training import retrain
from datlstm.verification import skill_card
from tasks.step import step


@step()
def train_challenger(settings_name: str | None, cube_path: str, baseline_id: str) -> str:
    """Train the architecture of the settings, score it on the validation period, save it, and return its bundle's id.

    Raises `NotEnoughDataError`, `SettingsError`, `BundleError`.
    """
    settings = load_settings(settings_name)
    logger = get_run_logger()
    started = monotonic()

    def report(epoch: int, loss: float) -> None:
        left = (monotonic() - started) / epoch * (settings.training.epochs - epoch)
        logger.info(
            "epoch %d of %d: validation loss %.4f, at most %.0f s left", epoch, settings.training.epochs, loss, left
        )

    bundle = retrain(settings, cube_path, baseline_id, report)
    bundle = replace(bundle, card=skill_card(settings, bundle, _champion(settings)))
    return bundle.save(Store(settings.store))


@step()
def judge_challenger(settings_name: str | None, bundle_id: str) -> str:
    """Promote the challenger if the gate lets it through, and return the verdict in one line."""
    settings = load_settings(settings_name)
    store = Store(settings.store)
    champion = _champion(settings)
    verdict = judge(Bundle.load(store, bundle_id), champion.id if champion else None)
    if verdict.promoted:
        promote(store, bundle_id, verdict.reason)
    message = f"{bundle_id} {'is champion' if verdict.promoted else 'was not promoted'}: {verdict.reason}"
    get_run_logger().info(message)
    return message


def _champion(settings: Settings) -> Bundle | None:
    store = Store(settings.store)
    try:
        chosen = champion_id(store)
        if chosen is None:
            return None
        champion = Bundle.load(store, chosen)
        champion.check_matches(settings)
    except BundleError as error:
        get_run_logger().error(
            "the champion can't be compared with, any better model than the bar replaces it: %s", error
        )
        return None
    return champion
