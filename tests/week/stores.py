"""What stores say, in a form in which two of them can be compared."""

import hashlib
from collections.abc import Iterator

import xarray as xr

from datlstm.archive import Archive
from datlstm.registry import champion_id
from datlstm.settings import Settings
from datlstm.store import Store

WHEN_WRITTEN = ("created_at", "ingested_at", "truth_ingested_at", "scored_at", "archive_snapshot")
"""What tells one run from another by design: clock times, and the random ids of archive states."""

PAGES = ("site", "quicklook")
NAMES = ("netcdf", "stac")
"""Of these the names are compared; their contents hold times of making."""


def contents(settings: Settings) -> dict[str, object]:
    """Return everything that the stores say, but for when it was written and where they are."""
    return dict(_contents(settings))


def _contents(settings: Settings) -> Iterator[tuple[str, object]]:
    store = Store(settings.store)
    cubes = {name: opened(store, name) for name in ("forecast", "skill")}
    for name, dataset in {"archive": Archive(settings).open().load(), **cubes}.items():
        kept = dataset.drop_vars(WHEN_WRITTEN, errors="ignore")
        yield name, kept.to_dict(data=False)
        for variable in kept.variables:
            yield f"{name}/{variable}", hashlib.sha256(str(kept[variable].values.tolist()).encode()).hexdigest()
    yield "champion", champion_id(store)
    snapshots = filter(None, map(str, cubes["forecast"]["archive_snapshot"].values))
    own = [store.url, store.location_of("").rstrip("/"), *snapshots]
    for path in [path for place in PAGES for path in store.list(place)] + ["latest.json"]:
        content = store.read(path) or b""
        for name in own:
            content = content.replace(name.encode(), b"OWN")
        yield path, hashlib.sha256(content).hexdigest()
    for place in NAMES:
        yield place, store.list(place)


def opened(store: Store, name: str) -> xr.Dataset:
    """Return a cube, read whole."""
    return xr.open_zarr(store.zarr(f"{name}.zarr", read_only=True), decode_timedelta=False).load()
