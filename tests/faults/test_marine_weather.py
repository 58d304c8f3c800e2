"""Every fault of the local Marine Data Store, through the real client: what the operator reads, what the archive holds.

Whatever happens, all that was there stays, and no day is ever stored that is not the truth.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from shutil import copytree

import pytest
import xarray as xr

from datlstm.errors import DatlstmError, NotYetAvailableError, PermanentSourceError, TransientSourceError
from datlstm.settings import load_settings
from datlstm.synthetic.marine_store import MarineStore
from datlstm.synthetic.marine_store.content import LOGIN_HOST
from datlstm.synthetic.marine_store.exchange import Answer, Request
from datlstm.synthetic.marine_store.faults import Fault, FaultPlan
from tests.faults.marine import CLIENT_WAITS, NEAR_REAL_TIME, archived, ingest_for, talking_to, world_of, wrong_days

NIGHT = date(2024, 6, 5)
NEWEST = NIGHT - timedelta(days=1)
DAYS_OLD = 3
"""The archive is this much behind, so a night has three new days to bring."""
REPROCESSED_LAG_DAYS = 10
HANG_LIMIT_SECONDS = 10.0
LOGINS_DOWN = 3


@dataclass(frozen=True)
class Outcome:
    """What a fault leads to: how many of the three new days come, and the words the operator reads."""

    new_days: int
    words: str
    error: type[DatlstmError] | None = None
    hangs: bool = False


STOPPED = Outcome(
    0, r"did not finish in 10 s \(.* had answered\) and was stopped: try again", TransientSourceError, True
)
GONE = r"DatasetNotFound.*look in the provider's notices whether it was renamed or retired, and correct dataset_id"
NO_CHUNK = r"7 days \(.*\) not taken, for up to \d+ of \d+ sea cells have no value: a chunk is missing or forbidden"
OUTCOMES: dict[Fault, Outcome] = {
    Fault.LOGIN_DOWN: Outcome(
        0, "CouldNotConnectToAuthenticationSystem; try again, and if it stays so look at", TransientSourceError
    ),
    Fault.LOGIN_HANGS: STOPPED,
    Fault.WRONG_PASSWORD: Outcome(
        0, "InvalidUsernameOrPassword.*correct COPERNICUSMARINE_SERVICE_USERNAME and", PermanentSourceError
    ),
    Fault.CATALOGUE_DOWN: Outcome(0, "catalogue's description.*too many 500.*try again", TransientSourceError),
    Fault.CATALOGUE_HANGS: Outcome(0, "catalogue's description.*Read timed out.*try again", TransientSourceError),
    Fault.STORM: STOPPED,
    Fault.STORM_PASSES: Outcome(0, "too many 503 error responses.*try again", TransientSourceError),
    Fault.UPDATING: Outcome(0, "DatasetUpdating.*come back later", NotYetAvailableError),
    Fault.RETIRED: Outcome(0, GONE, PermanentSourceError),
    Fault.RENAMED: Outcome(0, GONE, PermanentSourceError),
    Fault.NEW_VERSION: Outcome(
        0, r"'202311' cannot be found.*Available versions are: \['\d{6}'\]; .*dataset_version", PermanentSourceError
    ),
    Fault.HANGS: STOPPED,
    Fault.DRIP: STOPPED,
    Fault.DROPPED: STOPPED,
    Fault.DROPPED_PASSES: Outcome(3, ""),
    Fault.TRUNCATED: Outcome(0, "blosc decompression.*try again", TransientSourceError),
    Fault.GARBLED: Outcome(0, "blosc decompression.*try again", TransientSourceError),
    Fault.MISSING_CHUNK: Outcome(0, NO_CHUNK, NotYetAvailableError),
    Fault.FORBIDDEN_CHUNK: Outcome(0, NO_CHUNK, NotYetAvailableError),
    Fault.MISSING_DAY: Outcome(2, "1 missing .2024-06-04."),
    Fault.BLANK_DAY: Outcome(2, "2024-06-04 not taken, for up to 228 of 228 sea cells have no value"),
    Fault.PRELIMINARY: Outcome(3, ""),
    Fault.CATALOGUE_AHEAD: Outcome(2, "1 missing .2024-06-04."),
    Fault.CATALOGUE_BEHIND: Outcome(3, ""),
    Fault.UNSCALED: Outcome(
        0, "analysed_sst is between .* its scale factor or offset is missing or has changed", PermanentSourceError
    ),
    Fault.SHIFTED: Outcome(
        0, "days came as the archive's day beside them, so their stamps are wrong", TransientSourceError
    ),
    Fault.SHIFTED_HOURS: Outcome(0, "stamped 2024-06-04T07:00:00, where midnight or noon", PermanentSourceError),
}


LIKE_ANOTHER = {
    Fault.LOGIN_HANGS: Fault.HANGS,
    Fault.STORM: Fault.HANGS,
    Fault.DRIP: Fault.HANGS,
    Fault.DROPPED: Fault.HANGS,
    Fault.RENAMED: Fault.RETIRED,
    Fault.GARBLED: Fault.TRUNCATED,
    Fault.FORBIDDEN_CHUNK: Fault.MISSING_CHUNK,
    Fault.CATALOGUE_AHEAD: Fault.MISSING_DAY,
}
"""Faults that end as another does, tried among the long tests."""


@pytest.fixture(scope="module")
def store(settings_file: Path) -> Iterator[MarineStore]:
    """A store that is healthy unless a test says otherwise."""
    with MarineStore(world_of(load_settings(str(settings_file)), NIGHT, REPROCESSED_LAG_DAYS)) as served:
        yield served
        assert served.refused == []


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own patience is not what is tested."""
    for variable, seconds in CLIENT_WAITS.items():
        monkeypatch.setenv(variable, seconds)


@pytest.fixture(scope="module")
def before(store: MarineStore, settings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores as an earlier, healthy night left them."""
    folder = tmp_path_factory.mktemp("before") / "store"
    ingest_for(talking_to(store, load_settings(str(settings_file)), folder), NIGHT - timedelta(days=DAYS_OLD))
    return folder


@pytest.fixture(scope="module")
def truth(
    store: MarineStore, settings_file: Path, before: Path, tmp_path_factory: pytest.TempPathFactory
) -> xr.Dataset:
    """What the archive holds after a healthy night."""
    folder = copytree(before, tmp_path_factory.mktemp("truth") / "store")
    settings = talking_to(store, load_settings(str(settings_file)), folder)
    ingest_for(settings, NIGHT)
    return archived(settings)


@pytest.fixture
def disturbed(store: MarineStore, before: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fault]:
    """One fault in the store."""
    store.faults = FaultPlan((request.param,), 1, NEWEST, NEAR_REAL_TIME)
    yield request.param
    store.faults = None


def test_the_plan_is_covered_wholly() -> None:
    assert set(OUTCOMES) == set(Fault)
    assert all(OUTCOMES[fault] == OUTCOMES[other] for fault, other in LIKE_ANOTHER.items())


@pytest.mark.parametrize(
    "disturbed",
    [pytest.param(fault, marks=[pytest.mark.long] if fault in LIKE_ANOTHER else []) for fault in Fault],
    indirect=True,
)
def test_a_fault_is_named_and_nothing_is_lost_or_wrong(
    disturbed: Fault,
    store: MarineStore,
    before: Path,
    truth: xr.Dataset,
    settings_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = OUTCOMES[disturbed]
    folder = copytree(before, tmp_path / "store")
    limit = {"limit_seconds": HANG_LIMIT_SECONDS} if expected.hangs else {}
    settings = talking_to(store, load_settings(str(settings_file)), folder, **limit)
    had = archived(settings)
    with caplog.at_level(logging.INFO, "datlstm"):
        if expected.error is None:
            told = str(ingest_for(settings, NIGHT))
        else:
            with pytest.raises(DatlstmError) as raised:
                ingest_for(settings, NIGHT)
            assert type(raised.value) is expected.error
            told = str(raised.value)
    read = told + caplog.text
    assert re.search(expected.words, read), read
    assert "x-cop" not in read

    has = archived(settings)
    assert set(had["time"].values) <= set(has["time"].values)
    assert has.sizes["time"] - had.sizes["time"] == expected.new_days
    assert wrong_days(settings, truth) == ([str(NEWEST)] if disturbed is Fault.PRELIMINARY else [])


def test_a_preliminary_day_is_replaced_when_it_is_revised(
    store: MarineStore, before: Path, truth: xr.Dataset, settings_file: Path, tmp_path: Path
) -> None:
    settings = talking_to(store, load_settings(str(settings_file)), copytree(before, tmp_path / "store"))
    store.faults = FaultPlan((Fault.PRELIMINARY,), 1, NEWEST, NEAR_REAL_TIME)
    ingest_for(settings, NIGHT)
    store.faults = None
    assert ingest_for(settings, NIGHT).upsert.revised == [NEWEST]
    assert wrong_days(settings, truth) == []


class LoginDownAtFirst(FaultPlan):
    """The first logins answer 503: more than the client tries by itself."""

    logins = count()

    def __init__(self) -> None:
        super().__init__((), 0, NEWEST, NEAR_REAL_TIME)

    def answer(self, request: Request, answer: Answer) -> Answer:
        if request.host == LOGIN_HOST and next(self.logins) < LOGINS_DOWN:
            return Answer(503)
        return answer


def test_a_failure_that_passes_is_sat_out_by_trying_again(
    store: MarineStore,
    before: Path,
    truth: xr.Dataset,
    settings_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = talking_to(store, load_settings(str(settings_file)), copytree(before, tmp_path / "store"))
    store.faults = LoginDownAtFirst()
    report = ingest_for(settings, NIGHT, patient=True)
    store.faults = None
    assert report.missing == []
    assert archived(settings).identical(truth)
    assert "CouldNotConnectToAuthenticationSystem" in caplog.text
    assert "Next attempt in" in caplog.text
