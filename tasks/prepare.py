"""Fit the normaliser and write the training cube."""

from prefect.logging import get_run_logger

from datlstm.compute import dask_compute
from datlstm.preparation import prepare
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
