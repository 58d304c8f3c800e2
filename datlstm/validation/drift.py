"""When a loss of skill asks for a retraining: at the second breach running, once for each episode."""

from uuid import NAMESPACE_URL, UUID, uuid5

from datlstm.store import Store
from datlstm.validation import skill_check
from datlstm.validation.record import FOLDER, Record

REQUESTED = f"{FOLDER}/requested.json"


def reason_to_retrain(store: Store, record: Record) -> str | None:
    """Return why the champion should be retrained now, None when nothing asks for it or it was requested already."""
    if not record.is_second_breach or store.read_json(REQUESTED) == _episode(record):
        return None
    return next(finding.message for finding in record.findings if finding.name == skill_check.NAME)


def episode_id(region: str, record: Record) -> UUID:
    """Return an id of the episode that a breach belongs to, the same whoever asks and however often."""
    return uuid5(NAMESPACE_URL, f"datlstm:{region}:{_episode(record)}")


def note_request(store: Store, record: Record) -> None:
    """Note that the retraining of this episode was requested."""
    store.write_json(REQUESTED, _episode(record))


def _episode(record: Record) -> dict[str, str | int | None]:
    return {
        "bundle_id": record.bundle_id,
        "promoted_at": record.promoted_at,
        "breached_since": str(record.breached_since),
    }
