"""What a backfill through the official client costs, year by year, and whether that grows with the archive.

``python -m benchmarks.ingest --from 1982-01-01 --to 2021-12-31`` serves the local Marine Data Store in a process of its
own, backfills a region from it, and prints wall and processor seconds of every year and the peak memory of the service
and of its client. Figures are read as ratios of one run.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np

from datlstm.ingest import backfill
from datlstm.settings import load_settings
from datlstm.sources import open_source

YEARS_COMPARED = 5


@contextmanager
def served(region: str, last_day: date) -> Iterator[None]:
    """Serve the local store in another process, and lead this one to it."""
    command = [sys.executable, "-m", "datlstm", "marine-store", "serve", "-s", region, "--last-day", str(last_day)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            name, value = process.stdout.readline().removeprefix("export ").strip().split("=", 1)
            os.environ[name] = value.strip("'")
        try:
            yield
        finally:
            process.terminate()


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def megabytes(folder: Path) -> float:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Backfill and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--region", default="bohai-64")
    arguments.add_argument("--from", dest="first", type=date.fromisoformat, default=date(1982, 1, 1))
    arguments.add_argument("--to", dest="last", type=date.fromisoformat, default=date(2021, 12, 31))
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(given.region, date(given.last.year + 3, 1, 1)):
        settings = load_settings(given.region).replace(store=Path(folder).as_uri())
        source = open_source(settings)
        print("| year | days | wall s | processor s | archive MB | objects |\n|---|---|---|---|---|---|")
        walls: list[float] = []
        works: list[float] = []
        wall, work = time.perf_counter(), processor_seconds()
        for first, _, report in backfill(settings, given.first, given.last, source):
            assert report is not None
            walls.append(time.perf_counter() - wall)
            works.append(processor_seconds() - work)
            objects = sum(1 for path in Path(folder).rglob("*") if path.is_file())
            days = len(report.upsert.added)
            size = megabytes(Path(folder))
            print(f"| {first.year} | {days} | {walls[-1]:.1f} | {works[-1]:.1f} | {size:.0f} | {objects} |", flush=True)
            wall, work = time.perf_counter(), processor_seconds()
        list(backfill(settings, given.first, given.last, source))
        again = time.perf_counter() - wall
    peak = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ratio = np.mean(works[-YEARS_COMPARED:]) / np.mean(works[:YEARS_COMPARED])
    print(
        f"\n{len(walls)} years in {sum(walls):.0f} s, {sum(works):.0f} s of processor; the last {YEARS_COMPARED} years "
        f"took {ratio:.2f} times the processor time of the first {YEARS_COMPARED}; asked again, all is finished after "
        f"{again:.1f} s. Peak memory: {peak[0]:.0f} MiB this process, {peak[1]:.0f} MiB its largest child."
    )


if __name__ == "__main__":
    main()
