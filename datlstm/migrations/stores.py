"""What format each part of a store has, and how one of an earlier release is brought to this one's.

A migration becomes visible in one step, or leaves the old whole; run again, it does what is left. Each takes the right
to write what it changes, so a night that runs meanwhile is waited for.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import zarr

from datlstm import archive, bundle, product_step, registry, windows
from datlstm.errors import ArchiveError, BundleError, DatlstmError, ProductError
from datlstm.formats import check_format
from datlstm.migrations import archive as archive_migration
from datlstm.migrations import cubes
from datlstm.products import latest, skill, structure
from datlstm.products.forecast import FORECAST_PATH, forecast_cube
from datlstm.products.skill import SKILL_PATH, skill_cube
from datlstm.settings import Settings
from datlstm.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FormatState:
    """The format of one part of a store: ``found`` is None where there is none of it.

    ``todo`` says what migrating does, ``done`` what it did, ``problem`` why it can't be; empty where
    it is not so.
    """

    name: str
    found: int | None
    current: int
    todo: str = ""
    done: str = ""
    problem: str = ""

    def __str__(self) -> str:
        """Return it in one line, for a person."""
        if self.problem:
            return f"can't be used: {self.problem}"
        if self.found is None:
            return "none yet"
        if self.todo:
            return f"format {self.found} → {self.current}: {self.done or f'to do: {self.todo}'}"
        how = "as this release has it" if self.found == self.current else "which this release reads as it is"
        return f"format {self.found}, {how}"


@dataclass(frozen=True)
class _Part:
    """How the format of a part is found, and, where earlier ones can be brought up, what that does and how."""

    name: str
    current: int
    error: type[DatlstmError]
    find: Callable[[Settings], int | None]
    todo: str = ""
    migrate: Callable[[Settings], None] | None = None
    is_read_as_it_is: bool = False


def examine(settings: Settings) -> list[FormatState]:
    """Return the format of every part of the region's store; nothing is written."""
    return [_state(part, settings) for part in PARTS]


def migrate(settings: Settings) -> Iterator[FormatState]:
    """Bring every part that has an earlier format to this release's, and tell of each what was done.

    A part that can't be brought up does not keep the others from it.
    """
    for part in PARTS:
        state = _state(part, settings)
        if state.todo and part.migrate is not None:
            try:
                part.migrate(settings)
            except DatlstmError as error:
                yield FormatState(part.name, state.found, part.current, problem=f"{error}")
                continue
            log.info("%s: format %s brought to %s", part.name, state.found, part.current)
            yield FormatState(part.name, state.found, part.current, part.todo, f"done: {part.todo}")
        else:
            yield state


def _state(part: _Part, settings: Settings) -> FormatState:
    try:
        found = part.find(settings)
        if found is not None:
            what = Store(settings.store).url_of(part.name)
            may_be_older = part.migrate is not None or part.is_read_as_it_is
            check_format(found, part.current, what, part.error, older=None if may_be_older else "make it anew")
    except DatlstmError as error:
        return FormatState(part.name, None, part.current, problem=f"{error}")
    return FormatState(part.name, found, part.current, part.todo if found not in (None, part.current) else "")


def _of_forecasts(settings: Settings) -> Any:
    cube = forecast_cube(settings)
    state = cube.open_any()
    return None if state is None else cube.format_of(state)


def _of_skill(settings: Settings) -> Any:
    cube = skill_cube(settings)
    state = cube.open_any()
    if state is not None:
        return cube.format_of(state)
    return 1 if cubes.is_half_moved(Store(settings.store)) else None


def _numbered(store: Store, paths: list[str]) -> Any:
    """Return the highest format that documents name, as the one that has to be known to read them all."""
    documents = [document for document in map(store.read_json, paths) if isinstance(document, dict)]
    formats = [document.get("format_version", 1) for document in documents]
    return max(formats, default=None)


def _of_bundles(settings: Settings) -> Any:
    store = Store(settings.store)
    return _numbered(store, [f"models/{name}/{bundle.MANIFEST}" for name in registry.bundle_ids(store)])


def _of_training_cubes(settings: Settings) -> Any:
    formats = list(_training_cubes(settings).values())
    newest = max(formats, default=None)
    return newest if newest is None or newest > windows.FORMAT_VERSION else min(formats)


def _training_cubes(settings: Settings) -> dict[str, Any]:
    """Return the format of each training cube by its path."""
    store = Store(settings.store)
    roots = [path for path in store.list("training") if path.endswith(".zarr/zarr.json") and path.count("/") == 2]
    paths = [path.rsplit("/", 1)[0] for path in roots]
    groups = {path: zarr.open_group(store.zarr(path, read_only=True), mode="r") for path in paths}
    return {path: group.attrs.get("format_version", 1) for path, group in groups.items()}


def _remove_training_cubes(settings: Settings) -> None:
    store = Store(settings.store)
    with store.writer("training"):
        for cube, found in _training_cubes(settings).items():
            if found < windows.FORMAT_VERSION:
                for path in sorted(store.list(cube), key=lambda path: path.count("/")):
                    store.delete(path)


def _of(path: str) -> Callable[[Settings], Any]:
    return lambda settings: _numbered(Store(settings.store), [path])


PARTS = (
    _Part(
        archive.PATH,
        archive.FORMAT_VERSION,
        ArchiveError,
        archive_migration.format_version,
        "the analysis error, unknown until now, is added in one commit; earlier states stay and are read as they are",
        archive_migration.migrate,
    ),
    _Part(
        FORECAST_PATH,
        structure.FORMAT_VERSION,
        ProductError,
        _of_forecasts,
        "what follows from the published temperatures alone is derived from them, the rest is marked as missing; what "
        "is published stays",
        cubes.migrate_forecasts,
    ),
    _Part(
        SKILL_PATH,
        skill.FORMAT_VERSION,
        ProductError,
        _of_skill,
        f"moved to {cubes.ASIDE}; the next night, or `datlstm verify`, scores all published forecasts again",
        cubes.move_skill_aside,
    ),
    _Part(latest.LATEST, latest.FORMAT_VERSION, ProductError, _of(latest.LATEST)),
    _Part("models", bundle.FORMAT_VERSION, BundleError, _of_bundles, is_read_as_it_is=True),
    _Part(registry.CHAMPION, registry.FORMAT_VERSION, BundleError, _of(registry.CHAMPION)),
    _Part(product_step.CURRENT, product_step.FORMAT_VERSION, ProductError, _of(product_step.CURRENT)),
    _Part(
        "training",
        windows.FORMAT_VERSION,
        ProductError,
        _of_training_cubes,
        "those of earlier releases are deleted; the next training writes its own",
        _remove_training_cubes,
    ),
)
"""Every part of a store that has a format, the order that they are migrated in."""
