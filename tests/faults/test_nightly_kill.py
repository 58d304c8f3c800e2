"""A night killed at any moment, and run again, leaves what an undisturbed night leaves."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import xarray as xr

from datlstm.archive import Archive
from datlstm.settings import load_settings
from tests.conftest import LAST_DAY

NIGHT = LAST_DAY + timedelta(days=4)
KILLS = 5
WHEN_WRITTEN = ("created_at", "ingested_at", "truth_ingested_at", "scored_at", "archive_snapshot")
"""What tells one run from another by design: clock times, and the random ids of snapshots."""


class Night:
    """``datlstm nightly`` in a process group of its own."""

    def __init__(self, store: Path, settings_file: Path, server: str) -> None:
        environment = {**os.environ, "PREFECT_API_URL": server, "DATLSTM_STORE": store.as_uri()}
        command = [sys.executable, "-m", "datlstm", "nightly", "--date", str(NIGHT), "--settings", str(settings_file)]
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output: list[str] = []
        self._begun = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if "Beginning flow run" in line:
                self._begun.set()
        self._begun.set()

    def wait_until_begun(self) -> float:
        assert self._begun.wait(120)
        return time.monotonic()

    def finish(self) -> None:
        code = self.process.wait(240)
        self._close()
        assert code == 0, "".join(self.output)[-4000:]

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self._reader.join()
        self.process.stdout.close()


def state_of(store: Path, settings_file: Path) -> Iterator[tuple[str, object]]:
    """Everything the store says, but for when it was written."""
    settings = load_settings(str(settings_file)).replace(store=store.as_uri())
    for name, dataset in (
        ("archive", Archive(settings).open()),
        ("forecast", xr.open_zarr(store / "forecast.zarr", decode_timedelta=False)),
        ("skill", xr.open_zarr(store / "skill.zarr", decode_timedelta=False)),
    ):
        kept = dataset.drop_vars(WHEN_WRITTEN, errors="ignore").load()
        yield name, kept.to_dict(data=False)
        for variable in kept.variables:
            yield f"{name}/{variable}", hashlib.sha256(str(kept[variable].values.tolist()).encode()).hexdigest()
    own = [str(store), str(xr.open_zarr(store / "forecast.zarr")["archive_snapshot"].values[-1])]
    for folder in ("models", "site", "quicklook", "training"):
        for path in sorted((store / folder).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                for name in own:
                    content = content.replace(name.encode(), b"OWN")
                digest = hashlib.sha256(content).hexdigest()
                yield path.relative_to(store).as_posix(), digest
    yield "latest.json", (store / "latest.json").read_text().replace(str(store), "STORE")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_night_killed_at_random_moments_and_run_again_leaves_what_one_clean_night_leaves(
    service_store: Path, settings_file: Path, tmp_path: Path, prefect_server: str
) -> None:
    clean, disturbed = tmp_path / "clean", tmp_path / "disturbed"
    shutil.copytree(service_store, clean)
    shutil.copytree(service_store, disturbed)

    undisturbed = Night(clean, settings_file, prefect_server)
    begun = undisturbed.wait_until_begun()
    undisturbed.finish()
    duration = time.monotonic() - begun

    moments = random.Random(20260821)
    for _ in range(KILLS):
        night = Night(disturbed, settings_file, prefect_server)
        night.wait_until_begun()
        time.sleep(moments.uniform(0, duration))
        night.kill()
    Night(disturbed, settings_file, prefect_server).finish()

    assert dict(state_of(disturbed, settings_file)) == dict(state_of(clean, settings_file))
