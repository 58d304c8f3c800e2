"""Write the training cube, for a training or for a fine-tuning."""

from prefect.logging import get_run_logger

from datlstm.compute import dask_compute
from datlstm.preparation import prepare
from datlstm.preparation import prepare_finetuning as prepare_for_base
from datlstm.settings import load_settings
from tasks.step import step


@step()
def prepare_training(settings_name: str | None) -> tuple[str, str]:
    """Return the training cube's path in the store and the id of the baseline bundle fitted with it.

    Raises `NotEnoughDataError` and `ArchiveError`.
    """
    settings = load_settings(settings_name)
    with dask_compute(settings):
        cube, baseline = prepare(settings)
    get_run_logger().info("training cube %s, baseline %s", cube, baseline)
    return cube, baseline


@step()
def prepare_finetuning(settings_name: str | None, bundle_id: str | None = None) -> tuple[str, str]:
    """Return the training cube's path in the store and the id of the bundle to be fine-tuned.

    Raises `NotEnoughDataError`, `ArchiveError` and `BundleError`.
    """
    settings = load_settings(settings_name)
    with dask_compute(settings):
        cube, base = prepare_for_base(settings, bundle_id)
    get_run_logger().info("training cube %s, base %s", cube, base)
    return cube, base
