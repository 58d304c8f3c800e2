"""Train a challenger and let the gate decide."""

from prefect import flow, runtime

from datlstm.settings import load_settings
from tasks.prepare import prepare_training
from tasks.train import judge_challenger, train_challenger


def run_name() -> str:
    """Name a run after its region."""
    return f"{load_settings(runtime.flow_run.parameters.get('settings')).region.name}, retrain"


@flow(name="retrain", result_serializer="json", flow_run_name=run_name)
def retrain(settings: str | None = None) -> str:
    """Fit the normaliser, train the architecture of the settings from scratch, promote it if it is better.

    Args:
        settings: A shipped region's name or the path of a settings file. Default: DATLSTM_SETTINGS, else bohai.
    """
    cube, baseline = prepare_training(settings)
    challenger = train_challenger(settings, cube, baseline)
    return judge_challenger(settings, challenger)
