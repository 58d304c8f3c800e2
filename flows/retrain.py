"""Train a challenger and let the gate decide."""

from prefect import flow

from tasks.prepare import prepare_training
from tasks.train import judge_challenger, train_challenger


@flow(name="retrain")
def retrain(settings: str | None = None) -> str:
    """Fit the normaliser, train the architecture of the settings from scratch, promote it if it is better.

    Args:
        settings: A shipped region's name or the path of a settings file. Default: DATLSTM_SETTINGS, else bohai.
    """
    cube, baseline = prepare_training(settings)
    challenger = train_challenger(settings, cube, baseline)
    return judge_challenger(settings, challenger)
