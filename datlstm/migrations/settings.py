"""Settings files of earlier releases: keys that have another name now are read, with a warning that tells it."""

import functools
import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from datlstm.errors import SettingsError
from datlstm.formats import check_format

FORMAT = "format_version"
FORMAT_VERSION = 2
"""Format 1 knows one dataset of Copernicus Marine. A file need not say which format it has."""

log = logging.getLogger(__name__)


def _not(value: Any) -> Any:
    return not value if isinstance(value, bool) else value


def _same(value: Any) -> Any:
    return value


# Old name to new name, and what becomes of the value.
RENAMED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **{
        f"source.copernicus.{key}": (f"source.copernicus.near_real_time.{key}", _same)
        for key in ("product", "dataset_id", "dataset_version")
    },
    "model.options.datlstm.centred_reference_points": ("model.options.datlstm.uncentred_keys", _not),
}


def brought_up(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the content of the settings ``name`` with the keys of this release.

    A file that says it has this release's format is taken as it is. Raises `SettingsError` for a newer format, and for
    a key that is there under both its names.
    """
    content = deepcopy(content)
    found = content.pop(FORMAT, 1)
    check_format(found, FORMAT_VERSION, f"settings {name!r}", SettingsError, older=None)
    for old, (new, translated) in RENAMED.items() if found < FORMAT_VERSION else ():
        section, key = _section_of(content, old)
        if section is not None and key in section:
            value = translated(section.pop(key))
            place, new_key = _section_of(content, new, make=True)
            if place is None or new_key in place:
                raise SettingsError(
                    f"settings {name!r} have {old}, which is called {new} now and is there too: drop one"
                )
            place[new_key] = value
            _warn(name, old, new, f"{value!r}")
    return content


def _section_of(content: dict[str, Any], path: str, *, make: bool = False) -> tuple[dict[str, Any] | None, str]:
    *sections, key = path.split(".")
    section: Any = content
    for name in sections:
        section = section.setdefault(name, {}) if make else section.get(name)
        if not isinstance(section, dict):
            return None, key
    return section, key


@functools.cache
def _warn(name: str, old: str, new: str, value: str) -> None:
    log.warning(
        "settings %r are of an earlier release: %s is called %s now and was read as %s; rename it",
        name,
        old,
        new,
        value,
    )
