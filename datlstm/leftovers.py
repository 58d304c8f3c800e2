"""Objects that killed writers left behind and that provably nothing refers to, or ever will."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from datlstm.bundle import MANIFEST
from datlstm.checkpoints import FOLDER as CHECKPOINTS
from datlstm.errors import ProductError
from datlstm.products.forecast import FORECAST_PATH
from datlstm.products.skill import SKILL_PATH
from datlstm.staged import ROOT_DOCUMENT
from datlstm.store import Entry, Store

CUBES = (FORECAST_PATH, SKILL_PATH)
PROBES, DRAFTS = ".leases/probe-", "drafts"
# No night lasts a day. A bundle or a draft may wait for a person to run its flow again.
HIDDEN_DAYS, WAITING_DAYS = 1, 7


def midnight(as_of: date, days: int) -> datetime:
    """Return the start (UTC) of the day so many days before another: what is older than it has that age."""
    return datetime.combine(as_of - timedelta(days=days), time(), UTC)


def remove_leftovers(store: Store, as_of: date) -> list[str]:
    """Delete leftovers that are old enough as of a day, and return their paths.

    Chunks behind what a cube's root document shows, and probes of conditional writes: a day old. Drafts, checkpoints of
    trainings that nobody went on with, and files of bundles that have no manifest: a week. Raises `ProductError` when a
    root document is damaged, `StoreError` when another writer does not finish.
    """
    hidden, waiting = midnight(as_of, HIDDEN_DAYS), midnight(as_of, WAITING_DAYS)
    removed = [path for cube in CUBES for path in _remove_hidden_chunks(store, cube, hidden)]
    probes = [e.path for e in store.entries(".leases") if e.path.startswith(PROBES) and e.modified_at < hidden]
    drafts = [entry.path for entry in store.entries(DRAFTS) if entry.modified_at < waiting]
    for path in [*probes, *drafts, *_old_checkpoints(store, waiting), *_incomplete_bundles(store, waiting)]:
        store.delete(path)
        removed.append(path)
    return removed


def _remove_hidden_chunks(store: Store, cube: str, before: datetime) -> list[str]:
    """Delete chunks that only a killed writer can have left: while the right to write is held here nobody adds any."""
    with store.writer(cube) as confirm:
        root = store.read_json(f"{cube}/{ROOT_DOCUMENT}")
        # Without a root document these may be the chunks of a cube whose root was lost and can be restored.
        if root is None:
            return []
        shown = _chunks_shown(root, store.url_of(cube))
        hidden = [
            entry.path
            for entry in store.entries(cube)
            if entry.modified_at < before and _is_hidden(entry.path.removeprefix(f"{cube}/"), shown)
        ]
        for path in hidden:
            confirm()
            store.delete(path)
    return hidden


def _chunks_shown(root: Mapping[str, Any], place: str) -> dict[str, tuple[int, ...]]:
    """Return of each array how many chunks the committed state has along its dimensions."""
    try:
        arrays = {n: d for n, d in root["consolidated_metadata"]["metadata"].items() if d["node_type"] == "array"}
        return {
            name: tuple(
                -(-size // chunk)
                for size, chunk in zip(
                    document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"], strict=True
                )
            )
            for name, document in arrays.items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ProductError(f"{place}/{ROOT_DOCUMENT} is damaged ({error!r}): restore it from a backup") from error


def _is_hidden(key: str, shown: Mapping[str, tuple[int, ...]]) -> bool:
    name, is_chunk, place = key.partition("/c/")
    numbers = place.split("/")
    if not is_chunk or name not in shown or not all(number.isdecimal() for number in numbers):
        return False
    return any(int(number) >= count for number, count in zip(numbers, shown[name], strict=True))


def _old_checkpoints(store: Store, before: datetime) -> Iterator[str]:
    """Yield the files of trainings of which none was written lately, the manifest first."""
    for entries in _by_folder(store.entries(CHECKPOINTS)).values():
        if all(entry.modified_at < before for entry in entries):
            yield from sorted((entry.path for entry in entries), key=lambda path: not path.endswith(".json"))


def _by_folder(entries: Iterable[Entry]) -> Mapping[str, list[Entry]]:
    folders = defaultdict(list)
    for entry in entries:
        folders[entry.path.rsplit("/", 1)[0]].append(entry)
    return folders


def _incomplete_bundles(store: Store, before: datetime) -> Iterator[str]:
    """Yield the files of bundles whose manifest never came, and none of which was written lately."""
    for folder, entries in _by_folder(entry for entry in store.entries("models") if entry.path.count("/") > 1).items():
        manifest = f"{folder}/{MANIFEST}"
        is_old = all(entry.modified_at < before for entry in entries)
        # Asked again, for it may have come since the listing.
        if is_old and all(entry.path != manifest for entry in entries) and store.read(manifest) is None:
            yield from (entry.path for entry in entries)
