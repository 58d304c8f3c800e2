"""The archive's way from format 1, which has no analysis error, to format 2."""

import icechunk
import zarr

from datlstm.archive import ANALYSIS_ERROR_ATTRIBUTES, BRANCH, FORMAT_VERSION, PATH, Archive
from datlstm.cube import add_empty
from datlstm.errors import ArchiveError
from datlstm.settings import Settings
from datlstm.store import Store, explained


def format_version(settings: Settings) -> int | None:
    """Return the format of the newest state, None where there is no archive.

    Raises `ArchiveError` for the archive of another region, or of a newer format.
    """
    archive = Archive(settings)
    return int(archive.open().attrs["format_version"]) if archive.exists() else None


def migrate(settings: Settings) -> None:
    """Add the analysis error to the newest state, NaN on every day, in one commit; nothing else changes.

    Earlier states keep their ids and contents. Killed at any moment, the archive is as it was. Raises `ArchiveError` as
    `format_version`, and when another writer was first.
    """
    store = Store(settings.store)
    with store.writer(PATH), explained(store.url_of(PATH)):
        if format_version(settings) == FORMAT_VERSION:
            return
        session = icechunk.Repository.open(store.icechunk(PATH)).writable_session(BRANCH)
        group = zarr.open_group(session.store, mode="r+")
        temperature = group["sst"]
        assert isinstance(temperature, zarr.Array)
        add_empty(session.store, "analysis_error", temperature, temperature.shape)
        fill = {"_FillValue": temperature.attrs["_FillValue"]}
        group["analysis_error"].attrs.put({**ANALYSIS_ERROR_ATTRIBUTES, **fill})
        group.attrs["format_version"] = FORMAT_VERSION
        try:
            session.commit(f"format 1 to {FORMAT_VERSION}: the analysis error, unknown until now")
        except icechunk.ConflictError as error:
            raise ArchiveError(
                f"another process wrote {store.url_of(PATH)} at the same time and was first: run this again"
            ) from error
