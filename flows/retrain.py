"""Train or fine-tune a challenger and let the gate decide."""

from prefect import flow, runtime

from datlstm.settings import ArchitectureName, PositiveInt, load_settings
from tasks.prepare import prepare_finetuning, prepare_training
from tasks.remote import start_remotely
from tasks.train import finetune_challenger, has_interrupted, judge_challenger, resume_challenger, train_challenger


def run_name() -> str:
    """Name a run after its region."""
    given = runtime.flow_run.parameters
    verb = next((verb for verb in ("resume", "finetune") if given.get(verb)), "retrain")
    region = load_settings(given.get("settings")).region.name
    return " ".join(filter(None, [f"{region},", verb, given.get("architecture")]))


@flow(name="retrain", result_serializer="json", flow_run_name=run_name)
def retrain(
    settings: str | None = None,
    architecture: ArchitectureName | None = None,
    epochs: PositiveInt | None = None,
    finetune: bool = False,
    base: str | None = None,
    resume: bool = False,
    promote: bool = True,
) -> str:
    """Train an architecture from scratch, or a bundle on; promote it if it is better; return what came of it.

    A run that died and is scheduled again goes on from its last checkpoint by itself.

    Args:
        settings: A shipped region's name or the path of a settings file. Default: DATLSTM_SETTINGS, else bohai.
        architecture: What to train, or which of several interrupted trainings to resume. Default: the settings' model.
        epochs: How long to train at most. Default: as the settings say. A resumed training keeps its own.
        finetune: Train a bundle on, at a low rate, on the days since it was trained and a replay of those it knows.
        base: The bundle to fine-tune. Default: the champion.
        resume: Go on with the training of the region that was interrupted last, on its own data and settings.
        promote: Make the model champion if the gate finds it better; off, it is only trained and judged.
    """
    if resume or (_was_rescheduled() and has_interrupted(settings, architecture)):
        challenger = resume_challenger(settings, architecture)
    elif finetune:
        cube, base_id = prepare_finetuning(settings, base)
        challenger = finetune_challenger(settings, cube, base_id, epochs)
    else:
        cube, baseline = prepare_training(settings)
        challenger = train_challenger(settings, cube, baseline, architecture, epochs)
    return judge_challenger(settings, challenger, promote)


def start(**parameters: str | int | bool | None) -> str:
    """Have the workers of a Prefect server run this flow; return the run's name and where to look at it."""
    return start_remotely("retrain/retrain", **parameters)


def _was_rescheduled() -> bool:
    return int(runtime.flow_run.run_count or 0) > 1
