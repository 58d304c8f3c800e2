"""Maintenance: what keeps the stores small and quick, part by part, as of a night; published cubes stay as they are.

Each part may be killed at any instant and run again: nothing that anybody refers to is lost, and the next run does what
was left. No clock is read: ages count back from the night.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from datlstm.archive import PATH as ARCHIVE_PATH
from datlstm.archive import Archive
from datlstm.bundle import MANIFEST
from datlstm.checkpoints import FOLDER as CHECKPOINTS
from datlstm.checkpoints import manifests
from datlstm.errors import BundleError, DatlstmError, StoreError
from datlstm.leftovers import CUBES, DRAFTS, midnight, remove_leftovers
from datlstm.products.forecast import published_days
from datlstm.products.series import FOLDER as SERIES_FOLDER
from datlstm.products.series import due_years, series_path, write_series
from datlstm.registry import bundle_ids
from datlstm.settings import Settings
from datlstm.staged import ROOT_DOCUMENT
from datlstm.store import Store, as_json

TRAINING_FOLDER, CATALOGUE_FOLDER = "training", "stac"
NETCDF, QUICKLOOK = ("netcdf", ".nc"), ("quicklook", ".png")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Usage:
    """What a part's places in the store hold: number of objects, and bytes."""

    objects: int
    size: int

    def __str__(self) -> str:
        """Return both, for a person."""
        return f"{self.objects} objects, {self.size / 1e6:.1f} MB"


@dataclass(frozen=True)
class PartReport:
    """What a part of maintenance took away, kept or made, and the room its places took before and after.

    ``failure`` is the error's text, empty when there was none.
    """

    part: str
    done: str = ""
    before: Usage | None = None
    after: Usage | None = None
    failure: str = ""

    def __str__(self) -> str:
        """Return the report in one line."""
        return f"**failed**: {self.failure}" if self.failure else f"{self.done}; {self.before} → {self.after}"


@dataclass(frozen=True)
class MaintenanceReport:
    """The reports of all parts, as of a night."""

    as_of: date
    parts: tuple[PartReport, ...]

    @property
    def failed(self) -> list[PartReport]:
        """The parts that ended in an error."""
        return [part for part in self.parts if part.failure]


def maintain(settings: Settings, as_of: date) -> MaintenanceReport:
    """Run every part of maintenance; one that fails does not keep the others from running."""
    reports = []
    for part in PARTS:
        try:
            reports.append(run_part(settings, as_of, part))
        except Exception as error:  # of any kind: the other parts have nothing to do with it
            log.log(logging.ERROR, "%s: %s", part, error, exc_info=not isinstance(error, DatlstmError))
            reports.append(PartReport(part, failure=f"{type(error).__name__}: {error}"))
    return MaintenanceReport(as_of, tuple(reports))


def run_part(settings: Settings, as_of: date, part: str) -> PartReport:
    """Run one of `PARTS`. Raises what it raises: `StoreError`, `ArchiveError`, `BundleError`, `ProductError`."""
    act, places = PARTS[part]
    store, archive = Store(settings.store), Archive(settings)
    if archive.exists():
        archive.open()  # refuses the store of another region, before anything of it is taken away
    before = _usage(store, places)
    done = act(settings, as_of)
    return PartReport(part, done, before, _usage(store, places))


def expire_archive_states(settings: Settings, as_of: date) -> str:
    """Take away archive states older than ``retention.archive_states_days``, but for those a bundle was trained on.

    Raises `BundleError`, with nothing taken away, when a manifest does not say what its bundle was trained on.
    """
    archive, days = Archive(settings), settings.retention.archive_states_days
    if days is None or not archive.exists():
        return "nothing to do"
    report = archive.expire(midnight(as_of, days), _trained_on(Store(settings.store)))
    gone = f"; {len(report.unknown)} that bundles name are not in this archive" if report.unknown else ""
    return f"{report.expired} states expired, {report.left} kept{gone}"


def remove_training_cubes(settings: Settings, as_of: date) -> str:
    """Delete training cubes but for the newest ``retention.training_cubes``, and what killed writers left of others.

    The cubes of trainings that have checkpoints stay too. While the right to write is held none is being written. A
    cube's root document goes first: then it is not there.
    """
    store = Store(settings.store)
    with store.writer(TRAINING_FOLDER) as confirm:
        entries = [e for e in store.entries(TRAINING_FOLDER) if not e.path.startswith(f"{CHECKPOINTS}/")]
        whole = [
            entry for entry in entries if entry.path.endswith(f".zarr/{ROOT_DOCUMENT}") and entry.path.count("/") == 2
        ]
        ranked = [e.path.rsplit("/", 1)[0] for e in sorted(whole, key=lambda e: (e.modified_at, e.path))]
        needed = {manifest.cube_path for manifest in manifests(store)}
        newest = ranked[-settings.retention.training_cubes :]
        kept = tuple(f"{path}/" for path in ranked if path in newest or path in needed)
        removed = [entry.path for entry in entries if not entry.path.startswith(kept)]
        for path in sorted(removed, key=lambda path: (path.count("/"), path)):
            confirm()
            store.delete(path)
    return f"{len(ranked) - len(kept)} cubes removed, {len(kept)} kept"


def remove_old_files(settings: Settings, as_of: date) -> str:
    """Delete NetCDF files and pictures of inits older than their retention, but for the newest init's.

    An init's catalogue item lets go of a file before the file goes: it never points to nothing.
    """
    store = Store(settings.store)
    newest = max(published_days(settings), default=None)
    items = {path.rsplit("/", 1)[-1]: path for path in store.list(CATALOGUE_FOLDER)}
    removed = []
    for (folder, ending), days in (
        (NETCDF, settings.retention.netcdf_days),
        (QUICKLOOK, settings.retention.quicklook_days),
    ):
        for path in store.list(folder) if days is not None else []:
            day = _init_of(path, ending)
            if day is None or day == newest or day >= as_of - timedelta(days=days or 0):
                continue
            if (item := items.get(f"{day}.json")) is not None:
                _let_go(store, item, path)
            store.delete(path)
            removed.append(path)
    return f"{len(removed)} files removed"


def clean_up(settings: Settings, as_of: date) -> str:
    """Delete what killed writers left and nothing refers to; see `datlstm.leftovers`."""
    return f"{len(remove_leftovers(Store(settings.store), as_of))} leftovers removed"


def write_due_series(settings: Settings, as_of: date) -> str:
    """Make the yearly copies that are due; see `datlstm.products.series`."""
    written = [series_path(year) for year in due_years(settings, as_of) if write_series(settings, year) == "published"]
    return f"{', '.join(written) or 'none'} written"


PARTS: dict[str, tuple[Callable[[Settings, date], str], tuple[str, ...]]] = {
    "archive states": (expire_archive_states, (ARCHIVE_PATH,)),
    "training cubes": (remove_training_cubes, (TRAINING_FOLDER,)),
    "files": (remove_old_files, (NETCDF[0], QUICKLOOK[0])),
    "leftovers": (clean_up, (*CUBES, DRAFTS, CHECKPOINTS, "models", ".leases")),
    "series": (write_due_series, (SERIES_FOLDER,)),
}
"""Each part's function, and the places of the store whose room it tells."""


def without_asset(item: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a STAC item without the assets that lie at a path of the store, whatever form their link has."""
    kept = {name: asset for name, asset in item["assets"].items() if not f"/{asset['href']}".endswith(f"/{path}")}
    return {**item, "assets": kept}


def _let_go(store: Store, item_path: str, path: str) -> None:
    item: Any = store.read_json(item_path)
    try:
        smaller = without_asset(item, path)
    except (TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{store.url_of(item_path)} is not a STAC item ({error!r}): restore it from a backup"
        ) from error
    if smaller != item:
        store.write(item_path, as_json(smaller))


def _trained_on(store: Store) -> set[str]:
    """Return the archive states of all bundles, which every champion of the pointer's chain is one of."""
    states = set()
    for bundle_id in bundle_ids(store):
        path = f"models/{bundle_id}/{MANIFEST}"
        try:
            states.add(str(store.read_json(path)["archive_snapshot"]))  # type: ignore[index]
        except (StoreError, KeyError, TypeError) as error:
            raise BundleError(
                f"{store.url_of(path)} does not say which archive state the bundle was trained on ({error!r}), so none "
                "may expire: restore it from a backup, or delete the bundle"
            ) from error
    return states


def _init_of(path: str, ending: str) -> date | None:
    try:
        return date.fromisoformat(path.rsplit("/", 1)[-1].removesuffix(ending))
    except ValueError:
        return None


def _usage(store: Store, places: tuple[str, ...]) -> Usage:
    sizes = [entry.size for place in places for entry in store.entries(place)]
    return Usage(len(sizes), sum(sizes))
