"""What the archive takes up: backfilled, after nights of a commit each, and after its old states were taken away.

``python -m benchmarks.archive_sizes --settings FILE --from 1982-01-01 --to 2018-12-31 --nights 365`` backfills all but
the last nights, which then come one by one, each with the rolling window that a night reads again. With a source of
files the days are real. Sizes are those of files; states are taken away as of now.
"""

import argparse
import tempfile
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from datlstm.archive import FIELDS, Archive
from datlstm.clock import now
from datlstm.ingest import backfill, ingest_window
from datlstm.settings import Settings, load_settings
from datlstm.sources import open_source
from datlstm.store import Store


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--settings", required=True)
    parser.add_argument("--from", dest="first", type=date.fromisoformat, required=True)
    parser.add_argument("--to", dest="last", type=date.fromisoformat, required=True)
    parser.add_argument("--nights", type=int, default=365)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(given.settings).replace(store=Path(folder).as_uri())
        # The axis begins where the days do, so that the share of values that are there is told of days.
        settings = settings.replace(archive=settings.archive.model_copy(update={"first_day": given.first}))
        source = open_source(settings)
        backfilled_to = given.last - timedelta(days=given.nights)
        list(backfill(settings, given.first, backfilled_to, source))
        print("| state | days | raw SST MB | archive MB | share of raw SST | objects |\n|---|---|---|---|---|---|")
        show(settings, "backfilled, a commit a year")
        for i in range(given.nights):
            ingest_window(settings, backfilled_to + timedelta(days=i + 2), source)
        show(settings, f"{given.nights} nights later, a commit a night")
        Archive(settings).expire(now(), keep=())
        show(settings, "old states taken away")
        stored = Archive(settings).open()
        shares = ", ".join(f"{name} {float(np.isfinite(stored[name]).mean()):.0%}" for name in FIELDS)
        print(f"\nShare of values that are there: {shares}")


def show(settings: Settings, state: str) -> None:
    """Print the row of a state."""
    entries, sst = Store(settings.store).entries("archive"), Archive(settings).open()["sst"]
    size = sum(entry.size for entry in entries)
    row = (state, sst.sizes["time"], f"{sst.nbytes / 1e6:.1f}", f"{size / 1e6:.1f}", f"{size / sst.nbytes:.2f}")
    print(f"| {' | '.join(map(str, row))} | {len(entries)} |", flush=True)


if __name__ == "__main__":
    main()
