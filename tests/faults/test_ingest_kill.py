"""An ingest killed at its commit never happened, and the next one does all of it."""

from collections.abc import Callable
from datetime import date

import icechunk
import pytest
import xarray as xr

from datlstm.archive import Archive
from datlstm.ingest import backfill, ingest
from datlstm.settings import Settings
from datlstm.sources import open_source


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library may catch it."""


@pytest.fixture
def killed_at_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Run something and die when it is about to commit to the archive."""

    def attempt(write: Callable[[], object]) -> None:
        def kill(*_: object, **__: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(icechunk.Session, "commit", kill)
            write()

    return attempt


def contents(settings: Settings) -> xr.Dataset:
    return Archive(settings).open().load().drop_vars("ingested_at")


def test_a_night_killed_before_its_commit_never_happened(
    settings: Settings, killed_at_commit: Callable[[Callable[[], object]], None]
) -> None:
    source = open_source(settings)
    ingest(settings, date(2023, 1, 1), date(2023, 1, 3), source)
    old, snapshot = contents(settings), Archive(settings).snapshot_id()
    killed_at_commit(lambda: ingest(settings, date(2023, 1, 2), date(2023, 1, 5), source))
    assert Archive(settings).snapshot_id() == snapshot
    xr.testing.assert_identical(contents(settings), old)
    report = ingest(settings, date(2023, 1, 2), date(2023, 1, 5), source)
    assert report.upsert.added == [date(2023, 1, 4), date(2023, 1, 5)]
    assert report.upsert.unchanged == [date(2023, 1, 2), date(2023, 1, 3)]


def test_the_very_first_write_killed_before_its_commit_leaves_no_archive_and_no_obstacle(
    settings: Settings, killed_at_commit: Callable[[Callable[[], object]], None]
) -> None:
    source = open_source(settings)
    killed_at_commit(lambda: ingest(settings, date(2023, 1, 1), date(2023, 1, 3), source))
    assert not Archive(settings).exists()
    ((_, _, report),) = backfill(settings, date(2023, 1, 1), date(2023, 1, 3), source)
    assert report is not None
    assert len(report.upsert.added) == 3
    assert Archive(settings).exists()
