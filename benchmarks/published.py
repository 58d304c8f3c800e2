"""What published stores cost those who read them and the night that writes them, and whether that grows with their age.

``python -m benchmarks.published cold publications nights keeping --folder DIR`` measures on the local S3 server and on
files below a folder, with invented nights of a region: reads by fresh processes with xarray and s3fs alone, one
publication after another into stores of several ages in turns, years night by night, and what all of it takes up.
Stores that are in the folder from an earlier run are taken as they are. Figures are read as ratios of one run; requests
and bytes are exact.
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple
from uuid import uuid4

import xarray as xr

from benchmarks.cold_reads import cold_reads, point_reads
from benchmarks.invented_nights import Table, filled
from benchmarks.traffic import Request, Target, clocked, recorded
from datlstm.cube import Cube, CubeWriter
from datlstm.products import publication, stac
from datlstm.products.forecast import FORECAST_PATH
from datlstm.products.latest import LATEST
from datlstm.settings import Settings, load_settings
from datlstm.staged import ROOT_DOCUMENT, StagedZarr
from datlstm.store import Store
from datlstm.store_server import StoreServer

BUCKET = "published"
BLOCK_NIGHTS = 256
EDGE_NIGHTS = 50
VERBS = ("GET", "PUT", "DELETE")
PARTS: dict[str, Sequence[Target]] = {
    "picture": [(publication, "quicklook")],
    "forecast rows staged": [(publication, "stage_forecast")],
    "skill rows staged": [(publication, "stage")],
    "skill summary": [(publication, "summary"), (publication, "skill_by_lead"), (publication, "standing")],
    "NetCDF, made twice": [(publication, "netcdf_bytes"), (stac, "netcdf_bytes")],
    "STAC": [(publication, "documents")],
    "page": [(publication, "page")],
    "what is there read and compared": [(publication, "_news")],
    "both commits": [(CubeWriter, "commit")],
    "other objects written": [(Store, "write")],
    "cubes opened": [(Cube, "open")],
    "arrays' own documents": [(StagedZarr, "follow_up")],
}
REST = "leases, the whole log read, the rest"


class Cost(NamedTuple):
    """What one piece of work took: seconds of the wall and of this process, by part too, and requests."""

    wall: float
    processor: float
    requests: list[Request]
    wall_by_part: dict[str, float]
    processor_by_part: dict[str, float]

    def count(self, verb: str) -> int:
        """Return the number of requests of a kind."""
        return sum(request.verb == verb for request in self.requests)

    def moved(self, verb: str) -> int:
        """Return the bytes that requests of a kind moved."""
        return sum(request.size for request in self.requests if request.verb == verb)

    @property
    def window(self) -> float:
        """Seconds from the moment the first root was visible to the one ``latest.json`` was."""
        ends = {request.path: request.ended_at for request in self.requests if request.verb == "PUT"}
        first, last = (
            next(end for path, end in ends.items() if path.endswith(name))
            for name in (f"{FORECAST_PATH}/{ROOT_DOCUMENT}", f"/{LATEST}")
        )
        return last - first


def cost_of(work: Callable[[], object]) -> Cost:
    """Do a piece of work, and return what it took."""
    clocks = time.perf_counter, time.process_time
    with (
        recorded() as requests,
        clocked(PARTS, clocks[0]) as wall_by_part,
        clocked(PARTS, clocks[1]) as processor_by_part,
    ):
        starts = [clock() for clock in clocks]
        work()
        wall, processor = (clock() - start for clock, start in zip(clocks, starts, strict=True))
    wall_by_part[REST] = wall - sum(wall_by_part.values())
    processor_by_part[REST] = processor - sum(processor_by_part.values())
    return Cost(wall, processor, requests, wall_by_part, processor_by_part)


@contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """Serve object storage below a folder, this process writing and readers reading it; give where stores go."""
    with StoreServer(folder / "s3") as server:
        server.make_bucket(BUCKET)
        os.environ.update(server.environment)
        yield {"S3": f"s3://{BUCKET}", "files": (folder / "files").absolute().as_uri()}


def publications(settings: Settings, root: str, ages: Sequence[int], rounds: int) -> tuple[Table, Table]:
    """Return what a whole publication costs at several ages, in turns, and where its seconds go."""
    stores = {age: filled(settings, root, age) for age in ages}
    costs: dict[int, list[Cost]] = {age: [] for age in ages}
    for counts in range(-1, rounds):
        for age, nights in stores.items():
            night = nights.length()
            drafts = nights.draft(night), nights.scores(night, 1)
            cost = cost_of(partial(publication.publish, nights.settings, *drafts))
            # The first in a process also pays for imports and fonts.
            costs[age] += [cost] * (counts >= 0)
    whole = [_publication(root, age, own, costs[ages[0]]) for age, own in costs.items()]
    return whole, [_split(part, costs) for part in (*PARTS, REST)]


def _split(part: str, costs: dict[int, list[Cost]]) -> dict[str, str]:
    row = {"part": part}
    for age, own in costs.items():
        wall, processor = (
            1e3 * median(by_part[part] for by_part in clock)
            for clock in ([c.wall_by_part for c in own], [c.processor_by_part for c in own])
        )
        row |= {f"{age}: wall ms": f"{wall:.0f}", f"{age}: processor ms": f"{processor:.0f}"}
    return row


def _publication(root: str, age: int, costs: Sequence[Cost], first: Sequence[Cost]) -> dict[str, str]:
    processor, base = (median(cost.processor for cost in own) for own in (costs, first))
    windows = sorted(1e3 * cost.window for cost in costs)
    return {
        "store": root.split(":")[0],
        "inits": f"{age}",
        "wall s": f"{median(cost.wall for cost in costs):.2f}",
        "processor s": f"{processor:.2f}",
        "times the first": f"{processor / base:.2f}",
        **{verb: f"{median(cost.count(verb) for cost in costs):.0f}" for verb in VERBS},
        "kB read": f"{median(cost.moved('GET') for cost in costs) / 1e3:.0f}",
        "kB written": f"{median(cost.moved('PUT') for cost in costs) / 1e3:.0f}",
        "window ms": f"{median(windows):.0f} ({windows[0]:.0f} … {windows[-1]:.0f})",
    }


def years(settings: Settings, url: str, count: int) -> Table:
    """Return what the rows of each night cost, night by night from an empty store on, by block of nights."""
    nights = filled(settings, url, 0)
    costs = [cost_of(partial(nights.append, night)) for night in range(count)]
    seen: set[str] = set()
    new = []
    for cost in costs:
        written = {request.path for request in cost.requests if request.verb == "PUT"}
        new.append(len(written - seen))
        seen |= written
    edge = min(EDGE_NIGHTS, count)
    blocks = [(0, edge), *((i, min(i + BLOCK_NIGHTS, count)) for i in range(0, count, BLOCK_NIGHTS))]
    blocks.append((count - edge, count))
    return [_block(url, span, costs, new) for span in blocks]


def _block(url: str, span: tuple[int, int], costs: Sequence[Cost], new: Sequence[int]) -> dict[str, str]:
    own, first = costs[slice(*span)], costs[:EDGE_NIGHTS]
    processor, base = (median(cost.processor for cost in each) for each in (own, first))
    written = [cost.moved("PUT") / 1e3 for cost in own]
    return {
        "store": url.split(":")[0],
        "nights": f"{span[0] + 1} … {span[1]}",
        "wall s": f"{median(cost.wall for cost in own):.2f}",
        "processor s": f"{processor:.2f}",
        "times the first": f"{processor / base:.2f}",
        **{verb: f"{median(cost.count(verb) for cost in own):.0f}" for verb in VERBS},
        "new objects": f"{sum(new[slice(*span)]) / len(own):.2f}",
        "kB written": f"{sum(written) / len(own):.0f} ({min(written):.0f} … {max(written):.0f})",
    }


def keeping(settings: Settings, root: str, age: int) -> Table:
    """Return what is kept of a store's nights, by kind of object: number, size, and of a cube what it is raw."""
    store = Store(filled(settings, root, age).settings.store)
    inits = _length(store, FORECAST_PATH, "init_time")
    sizes: dict[str, list[int]] = defaultdict(list)
    for entry in store.entries(""):
        sizes[entry.path.split("/")[0]].append(entry.size)
    table = []
    for path in sorted(sizes.keys() - {"archive", ".leases", ".locks"}):
        raw = _raw(store, path) if path.endswith(".zarr") else None
        table.append(
            {
                "of": path,
                "inits": f"{inits}",
                "objects": f"{len(sizes[path])}",
                "MB": f"{sum(sizes[path]) / 1e6:.2f}",
                "raw MB": f"{raw / 1e6:.2f}" if raw else "",
                "share of raw": f"{sum(sizes[path]) / raw:.2f}" if raw else "",
            }
        )
    return table


def _length(store: Store, path: str, dimension: str) -> int:
    return xr.open_zarr(store.zarr(path, read_only=True), chunks=None).sizes[dimension]


def _raw(store: Store, path: str) -> int:
    return xr.open_zarr(store.zarr(path, read_only=True), chunks=None, decode_cf=False).nbytes


def markdown(rows: Table) -> str:
    """Return rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure what is asked for, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("cold", "publications", "nights", "keeping"))
    parser.add_argument("--region", default="bohai")
    parser.add_argument("--ages", nargs="+", type=int, default=[1, 365, 3650], help="inits, oldest store last")
    parser.add_argument("--nights", type=int, default=1095)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where stores are kept; none: nowhere")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing, served(given.folder or Path(passing)) as roots:
        for table in _measured(given, load_settings(given.region), roots):
            print(f"{markdown(table)}\n", flush=True)


def _measured(given: argparse.Namespace, settings: Settings, roots: dict[str, str]) -> Iterator[Table]:
    if "cold" in given.parts:
        yield cold_reads(settings, roots["S3"], given.ages, given.repeats)
        yield point_reads(settings, roots["S3"], given.repeats)
    for root in roots.values():
        if "publications" in given.parts:
            yield from publications(settings, root, given.ages, given.repeats)
        if "nights" in given.parts:
            yield years(settings, f"{root}/{uuid4().hex}", given.nights)
    if "keeping" in given.parts:
        yield keeping(settings, roots["files"], given.ages[-2])


if __name__ == "__main__":
    main()
