"""What a training starts from: the normaliser and the damping, fitted, and the training cube, written."""

from typing import Any

from datlstm.archive import Archive
from datlstm.baselines import fit_damping
from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.normalise import Normaliser
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
