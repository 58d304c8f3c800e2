"""Which bundle forecasts: the champion pointer, how it is moved, and the way back."""

import json
from dataclasses import dataclass
from typing import Any

from datlstm.bundle import MANIFEST, Bundle
from datlstm.clock import now_seconds
from datlstm.errors import BundleError
from datlstm.formats import check_format
from datlstm.settings import Settings
from datlstm.store import Store, as_json

CHAMPION = "models/champion.json"
FORMAT_VERSION = 1


class DamagedPointerError(BundleError):
    """The pointer to the champion is not one."""


@dataclass(frozen=True)
class Promotion:
    """Which bundle became champion, and when (seconds since 1970-01-01 UTC).

    ``is_renewal`` tells that it was champion already: a person promoted it again, whatever was known against it.
    """

    bundle_id: str
    promoted_at: int
    is_renewal: bool = False


def standing_promotion(store: Store) -> Promotion | None:
    """Return the promotion that stands, or None before the first. Raises `BundleError` when the pointer is damaged."""
    pointer = _parsed(store, store.read(CHAMPION))
    if pointer is None:
        return None
    return Promotion(str(pointer["bundle_id"]), pointer.get("promoted_at", 0), "renewal" in pointer)


def champion_id(store: Store) -> str | None:
    """Return the id of the bundle that forecasts, or None before the first promotion.

    Raises as `standing_promotion`.
    """
    promotion = standing_promotion(store)
    return promotion.bundle_id if promotion else None


def bundle_ids(store: Store) -> list[str]:
    """Return the ids of all complete bundles."""
    return [path.split("/")[1] for path in store.list("models") if path.endswith(f"/{MANIFEST}")]


def forecaster(settings: Settings, bundle_id: str | None) -> Bundle:
    """Return a bundle, by default the champion. Raises `BundleError` when there is none, or it is damaged."""
    store = Store(settings.store)
    chosen = bundle_id or champion_id(store)
    if chosen is None:
        raise BundleError("there is no champion yet: name a bundle of `datlstm models`, or run `datlstm retrain`")
    return Bundle.load(store, chosen)


def promote(store: Store, bundle_id: str, reason: str, *, renew: bool = False) -> None:
    """Make a bundle the champion, keeping the way back.

    The champion itself stays as it is, unless it is to ``renew`` its promotion: then what validation found against it
    before counts no more, and the way back is the one there was. Raises `BundleError` for a bundle that does not
    verify, `ConflictError` when somebody else moved the pointer meanwhile.
    """
    content, version = store.read_versioned(CHAMPION)
    Bundle.load(store, bundle_id)
    try:
        previous = _parsed(store, content)
    except DamagedPointerError:
        previous = None  # a damaged pointer is what a promotion by hand mends
    pointer = {
        "format_version": FORMAT_VERSION,
        "bundle_id": bundle_id,
        "reason": reason,
        "promoted_at": now_seconds(),
        "previous": previous,
    }
    if previous is not None and previous["bundle_id"] == bundle_id:
        if not renew:
            return
        pointer |= {"renewal": True, "previous": previous["previous"]}
    store.write_if(CHAMPION, as_json(pointer), version)


def rollback(store: Store) -> str:
    """Point back to the champion before the last promotion and return its id.

    Raises `BundleError` when there was none, or when it does not verify; `ConflictError` as `promote`.
    """
    content, version = store.read_versioned(CHAMPION)
    pointer = _parsed(store, content)
    if pointer is None or pointer["previous"] is None:
        raise BundleError("there is no earlier champion to roll back to")
    earlier = Bundle.load(store, pointer["previous"]["bundle_id"])
    store.write_if(CHAMPION, as_json(pointer["previous"]), version)
    return earlier.id


def _parsed(store: Store, content: bytes | None) -> dict[str, Any] | None:
    try:
        pointer = None if content is None else json.loads(content)
    except ValueError:
        pointer = {}
    if pointer is not None and not {"bundle_id", "previous"} <= set(pointer):
        raise DamagedPointerError(
            f"{store.url_of(CHAMPION)} names no bundle: run `datlstm promote` with one of `datlstm models`"
        )
    if pointer is not None:
        check_format(pointer.get("format_version", 1), FORMAT_VERSION, store.url_of(CHAMPION), BundleError)
    return pointer
