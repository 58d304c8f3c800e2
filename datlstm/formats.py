"""The format version that every store, bundle and settings file carries, and what one of another format is told."""

from importlib.metadata import version
from typing import SupportsInt

from datlstm.errors import DatlstmError

MIGRATE = "run `datlstm migrate`"


def check_format(
    found: object, current: int, what: str, error: type[DatlstmError], *, older: str | None = MIGRATE
) -> None:
    """Raise an error of the given type unless ``found`` is the current format, or None stands for ``older``.

    ``older`` is what to do about an earlier format, None where the caller reads it as it is. A newer one is refused
    always: what it means is not known here.
    """
    release = version("datlstm")
    number = int(found) if isinstance(found, SupportsInt) and not isinstance(found, bool) else 0
    if number < 1:
        raise error(f"{what} says that it has format {found!r}, which is none: restore it from a backup")
    if number > current:
        raise error(
            f"{what} has format {found}, and datlstm {release} knows none above {current}: a newer release wrote it; "
            "install that one again, or restore what it has written from a backup made before"
        )
    if number < current and older is not None:
        raise error(f"{what} has format {found} of an earlier release, and datlstm {release} needs {current}: {older}")
