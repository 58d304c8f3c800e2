"""A training killed with real signals, at random moments, and gone on with ends bit-identical to an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from shutil import copytree

import psutil
import pytest

from datlstm.bundle import Bundle
from datlstm.checkpoints import FOLDER, Checkpoints
from datlstm.preparation import prepare
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.training import retrain
from datlstm.training_run import Began, Epoch, Request, run_training

# Long enough to be hit at random between the first epoch and the last.
EPOCHS, BATCHES = 6, 12
END_SECONDS = 30.0
PARENT = """
import sys
from pathlib import Path
from datlstm.training_run import Request, run_training
run_training(Request.model_validate_json(Path(sys.argv[1]).read_text()), lambda event: print(event, flush=True))
"""


@pytest.fixture
def store(filled_store: Path, tmp_path: Path) -> Path:
    """A filled store of the test's own."""
    return Path(copytree(filled_store, tmp_path / "store"))


@pytest.fixture
def long(settings_file: Path, store: Path) -> Settings:
    """The settings of a training that lasts a few seconds."""
    settings = load_settings(str(settings_file)).replace(store=store.as_uri())
    chosen = {"epochs": EPOCHS, "windows_per_epoch": 8 * BATCHES, "patience": 99, "learning_rate": 3e-3, "seed": 1}
    training = settings.training.model_copy(update=chosen)
    return settings.replace(training=training)


def training_of(parent: subprocess.Popen[str]) -> psutil.Process:
    """The training's process, once it is there."""
    while not (
        children := [c for c in psutil.Process(parent.pid).children() if "training_process" in str(c.cmdline())]
    ):
        time.sleep(0.05)
    return children[0]


class Run:
    """A process that runs a training and tells of its epochs."""

    def __init__(self, command: list[str], environment: dict[str, str], mark: str) -> None:
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._mark, self.output, self._marks = mark, "", threading.Semaphore(0)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.output += line
                if self._mark in line:
                    self._marks.release()

    def wait_for_epochs(self, count: int) -> None:
        for _ in range(count):
            assert self._marks.acquire(timeout=120), self.output

    def end(self, training: psutil.Process) -> float:
        """Wait until nothing of it is left, and return the seconds that took."""
        started = time.monotonic()
        self.process.wait(END_SECONDS)
        psutil.wait_procs([training], END_SECONDS)
        assert not training.is_running()
        self._reader.join()
        return time.monotonic() - started


@pytest.mark.long
def test_killed_at_random_moments_with_or_without_its_parent_and_resumed_it_ends_bit_identical(
    long: Settings, tmp_path: Path
) -> None:
    prepared = prepare(long)
    undisturbed = retrain(long, *prepared)
    assert undisturbed.training["validation_loss"] < undisturbed.training["untrained_validation_loss"]
    moments = random.Random(20260821)
    request = Request(settings=long, cube_path=prepared[0], baseline_id=prepared[1])
    for victim in ("parent", "training"):
        path = tmp_path / "request.json"
        path.write_text(request.model_dump_json(exclude={"parent"}))
        run = Run([sys.executable, "-c", PARENT, str(path)], {}, "validation_loss")
        training = training_of(run.process)
        run.wait_for_epochs(1)
        time.sleep(moments.uniform(0, 1))
        os.kill(run.process.pid if victim == "parent" else training.pid, signal.SIGKILL)
        run.end(training)
        reached = Checkpoints.newest(long).manifest
        assert BATCHES <= reached.steps < EPOCHS * BATCHES
        request = Request(settings=long)
    events: list[Began | Epoch] = []
    bundle = Bundle.load(Store(long.store), run_training(request, events.append))
    assert isinstance(events[0], Began) and 1 <= events[0].epochs_done < EPOCHS
    assert bundle.id == undisturbed.id
    assert bundle.training == undisturbed.training
    assert not Store(long.store).list(FOLDER)


def test_a_flow_that_is_told_to_end_leaves_a_checkpoint_and_no_process(
    long: Settings, settings_file: Path, store: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str
) -> None:
    environment = {
        "DATLSTM_STORE": store.as_uri(),
        "DATLSTM_TRAINING__EPOCHS": "200",
        "DATLSTM_TRAINING__WINDOWS_PER_EPOCH": str(8 * BATCHES),
        "DATLSTM_TRAINING__PATIENCE": "999",
    }
    command = [sys.executable, "-m", "datlstm", "retrain", "--settings", str(settings_file)]
    run = Run(command, {**environment, "PREFECT_API_URL": prefect_server}, "validation loss")
    run.wait_for_epochs(2)
    training = training_of(run.process)
    run.process.terminate()
    assert run.end(training) < long.training.grace_seconds
    assert run.process.returncode != 0
    assert "`datlstm resume`" in run.output
    reached = Checkpoints.newest(long).manifest
    assert 2 <= reached.epochs < reached.training.epochs and reached.state is not None
    path = f"{FOLDER}/{reached.run_id}/manifest.json"
    document = json.loads((store / path).read_text())
    assert document["steps"] == reached.epochs * BATCHES + reached.batches
