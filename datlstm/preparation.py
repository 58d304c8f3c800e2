"""What a training starts from: the normaliser and the damping, fitted, and the training cube, written."""

from typing import Any

from datlstm.archive import Archive
from datlstm.baselines import fit_damping
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.errors import BundleError
from datlstm.normalise import Normaliser
from datlstm.registry import forecaster
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.windows import Periods, write_training_cube


def prepare(settings: Settings, snapshot_id: str | None = None) -> tuple[str, str]:
    """Fit normaliser and damping on the training period, write the training cube with Dask.

    Returns the cube's path and the id of the damped-persistence bundle that holds what was fitted; it is the ladder's
    fallback as well. Raises `NotEnoughDataError` when the archive is too short.
    """
    archive, store = Archive(settings), Store(settings.store)
    snapshot_id = snapshot_id or archive.snapshot_id()
    periods = Periods.of(settings, archive.usable_days(snapshot_id))
    fitted = fit_baseline(settings, periods.training, snapshot_id)
    bundle_id = fitted.save(store)
    return write_training_cube(settings, fitted.normaliser, periods, snapshot_id), bundle_id


def prepare_finetuning(
    settings: Settings, bundle_id: str | None = None, snapshot_id: str | None = None
) -> tuple[str, str]:
    """Write the training cube, up to the archive's newest days, in the normaliser of the bundle to be fine-tuned.

    Returns the cube's path and the base's id: a given bundle's, or the champion's. Where that was fine-tuned itself,
    the one it came from: many small steps would lead away from what was learnt. Raises `BundleError` when there is
    none, or it does not match the settings, and as `prepare`.
    """
    archive, store = Archive(settings), Store(settings.store)
    base = forecaster(settings, bundle_id)
    base = Bundle.load(store, base.training.get("base", base.id))
    if base.forecaster == DAMPED_PERSISTENCE:
        raise BundleError(f"{base.id} has no network to fine-tune: name a bundle of `datlstm models` that has")
    base.check_matches(settings)
    snapshot_id = snapshot_id or archive.snapshot_id()
    usable = [day for day in archive.usable_days(snapshot_id) if str(day) >= base.training["first_day"]]
    periods = Periods.of(settings.for_finetuning(base.forecaster, base.input_days, base.lead_days), usable)
    return write_training_cube(settings, base.normaliser, periods, snapshot_id), base.id


def fit_baseline(settings: Settings, period: tuple[Any, Any], snapshot_id: str) -> Bundle:
    """Return the damped-persistence forecaster fitted on a closed interval of days of an archive snapshot."""
    sst = Archive(settings).read(*period, snapshot_id)["sst"]
    normaliser = Normaliser.fit(sst, settings=settings.normaliser)
    damping = fit_damping(sst, normaliser, settings.model.lead_days)
    training = {"first_day": str(period[0]), "last_day": str(period[1])}
    return Bundle(
        settings.region.name, DAMPED_PERSISTENCE, settings.model.input_days, normaliser, damping, snapshot_id,
        training=training,
    )  # fmt: skip
