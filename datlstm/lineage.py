"""What a forecast came from, beside its bundle and its archive state: the settings, as a hash, and the code."""

import functools
import hashlib
import json
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datlstm.errors import StoreError
from datlstm.settings import Settings
from datlstm.store import Store

HASH_LENGTH = 12
GIT_SECONDS = 10
# Settings that change no value of a forecast. All others are hashed, new ones too.
NOT_IN_HASH = {
    "store": "where things lie; moved, they are the same",
    "dask_scheduler": "where is computed, not what",
    "retention": "what is taken away later",
    "training.grace_seconds": "how long a training that is to stop may take",
    "validation": "what is watched; which rung forecasts is recorded with the forecast",
    "notify": "who is told of a night",
    "metrics": "where a night's numbers are left",
    "logs": "how the logs are written",
    "source.retry": "how long a night waits for its source",
    "source.copernicus.limit_seconds": "how long a run of the client may take",
    "source.copernicus.credentials_block": "who asks, and nothing about secrets is told",
    "source.files.path": "where the files lie, maybe with a key in it; their product and version are hashed",
    "source.marine_store": "where the local store answers",
}


def settings_hash(settings: Settings) -> str:
    """Return 12 hexadecimal digits that change with any setting that determines a forecast, but for `NOT_IN_HASH`."""
    return hashlib.sha256(canonical_json(settings)).hexdigest()[:HASH_LENGTH]


def canonical_json(settings: Settings) -> bytes:
    """Return the settings that determine a forecast as JSON: sorted keys, no spaces, the same for equal settings."""
    document = settings.model_dump(mode="json")
    for place in NOT_IN_HASH:
        *sections, key = place.split(".")
        del functools.reduce(lambda section, name: section[name], sections, document)[key]
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def record_settings(settings: Settings) -> str:
    """Write what `settings_hash` stands for to the store, once, and return the hash."""
    store, name = Store(settings.store), settings_hash(settings)
    if store.read(_path(name)) is None:
        store.write(_path(name), canonical_json(settings))
    return name


def changed_settings(settings: Settings, recorded_hash: str) -> dict[str, tuple[Any, Any]]:
    """Return what differs between recorded settings and these: ``section.key`` to the recorded and the present value.

    Raises `StoreError` when there is no record of that hash, or it is not the one that was written.
    """
    store = Store(settings.store)
    content = store.read(_path(recorded_hash))
    if content is None or hashlib.sha256(content).hexdigest()[:HASH_LENGTH] != recorded_hash:
        state = "is not there" if content is None else "is not what was recorded"
        raise StoreError(
            f"{store.url_of(_path(recorded_hash))} {state}, so nobody can tell which settings that were: restore it "
            "from a backup"
        )
    then, now = (_leaves(json.loads(document)) for document in (content, canonical_json(settings)))
    return {key: (then.get(key), now.get(key)) for key in sorted(then | now) if then.get(key) != now.get(key)}


@functools.cache
def code_version() -> str:
    """Return the package's version; from a git checkout with the commit, and ``-dirty`` when files were changed."""
    checkout = Path(__file__).parents[1]
    package = version("datlstm")
    # A wheel may lie inside the checkout of something else.
    if not (checkout / ".git").exists():
        return package
    describe = ("git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=9", "--exclude=*")
    try:
        found = subprocess.run(describe, capture_output=True, text=True, check=True, timeout=GIT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return package
    return f"{package}+{found.stdout.strip()}"


def _path(recorded_hash: str) -> str:
    return f"lineage/settings/{recorded_hash}.json"


def _leaves(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        is_section = isinstance(value, Mapping)
        found |= _leaves(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
    return found
