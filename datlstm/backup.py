"""A second copy of everything in a store, and the way back from it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from datlstm.archive import PATH as ARCHIVE_PATH
from datlstm.errors import StoreError
from datlstm.products.forecast import FORECAST_PATH
from datlstm.products.latest import LATEST
from datlstm.products.skill import SKILL_PATH
from datlstm.registry import CHAMPION
from datlstm.staged import ROOT_DOCUMENT
from datlstm.store import ICECHUNK_BRANCH, Entry, Store

WRITTEN_BY_NIGHTS = (ARCHIVE_PATH, FORECAST_PATH, SKILL_PATH)
# What everything else is found from: copied after it, in this order.
ROOTS = (
    f"{ARCHIVE_PATH}/{ICECHUNK_BRANCH}",
    CHAMPION,
    f"{FORECAST_PATH}/{ROOT_DOCUMENT}",
    f"{SKILL_PATH}/{ROOT_DOCUMENT}",
    LATEST,
)
OF_RUNNING_WRITERS = (".leases/", ".locks/", "drafts/")
# Two servers' clocks may differ by less than this; leases ask for as much.
CLOCK_MARGIN = timedelta(seconds=120)
TRANSFERS = 8


@dataclass(frozen=True)
class CopyReport:
    """How many objects and bytes were copied, and how many objects were there already."""

    copied: int
    size: int
    unchanged: int

    def __str__(self) -> str:
        """Return the report in one line."""
        return f"{self.copied} objects copied ({self.size / 1e6:.1f} MB), {self.unchanged} were there already"


def back_up(source: Store, target: Store) -> CopyReport:
    """Bring a copy up to date with a store that may be in use.

    First everything is copied while nights may write; then, with the writers of archive and cubes kept waiting, what
    changed meanwhile, and last the documents that lead to it. So the copy holds a whole night at any instant, also
    when this is killed. Nothing is taken out of the copy. Raises `StoreError` when a writer does not finish, or a store
    can't be read or written.
    """
    if source.url == target.url:
        raise StoreError(f"{source.url} can't be its own backup: give another URL")
    first = _copy(source, target, [path for path in _due(source, target) if path not in ROOTS])
    with ExitStack() as held:
        for name in WRITTEN_BY_NIGHTS:
            held.enter_context(source.writer(name))
        due = _due(source, target)
        second = _copy(source, target, [path for path in due if path not in ROOTS])
        roots = _copy(source, target, [path for path in ROOTS if path in due], workers=1)
    objects = len(_entries(source))
    copied = {*first, *second, *roots}
    return CopyReport(len(copied), sum((first | second | roots).values()), objects - len(copied))


def restore(source: Store, target: Store, part: str = "") -> CopyReport:
    """Copy a backup, or what lies below one of its paths, to where there is nothing.

    Raises `StoreError` when the backup has nothing there, or the target has something: it is never overwritten.
    """
    wanted = _below(source, part)
    if not wanted:
        raise StoreError(f"{source.url_of(part)} holds nothing: is this the backup's URL, and the part's path?")
    standing = _below(target, part)
    if standing:
        raise StoreError(
            f"{target.url_of(part)} holds {len(standing)} objects, such as {standing[0]}, and nothing is overwritten: "
            "move them away first"
        )
    copied = _copy(source, target, [path for path in wanted if path not in ROOTS])
    copied |= _copy(source, target, [path for path in ROOTS if path in wanted], workers=1)
    return CopyReport(len(copied), sum(copied.values()), 0)


def _entries(store: Store) -> dict[str, Entry]:
    return {entry.path: entry for entry in store.entries("") if not entry.path.startswith(OF_RUNNING_WRITERS)}


def _below(store: Store, part: str) -> list[str]:
    return [path for path in _entries(store) if path == part or path.startswith(f"{part}/" if part else "")]


def _due(source: Store, target: Store) -> list[str]:
    """Return the paths whose copy is absent, of another size, or not surely younger."""
    copies = _entries(target)
    return [path for path, entry in _entries(source).items() if not _is_current(entry, copies.get(path))]


def _is_current(entry: Entry, copy: Entry | None) -> bool:
    return copy is not None and copy.size == entry.size and copy.modified_at - entry.modified_at > CLOCK_MARGIN


def _copy(source: Store, target: Store, paths: Sequence[str], workers: int = TRANSFERS) -> dict[str, int]:
    """Copy objects and return their sizes; one that is gone by now was not needed any more."""
    with ThreadPoolExecutor(workers) as pool:
        sizes = dict(zip(paths, pool.map(_copier(source, target), paths), strict=True))
    return {path: size for path, size in sizes.items() if size is not None}


def _copier(source: Store, target: Store) -> Callable[[str], int | None]:
    def copy(path: str) -> int | None:
        content = source.read(path)
        if content is not None:
            target.write(path, content)
        return None if content is None else len(content)

    return copy
