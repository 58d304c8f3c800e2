"""What each fault of the local Marine Data Store changes, that it changes nothing else, and that a seed is a seed."""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import date, timedelta
from threading import Barrier

import pytest

from datlstm.settings import Region
from datlstm.synthetic.marine_store.exchange import Answer, Request
from datlstm.synthetic.marine_store.faults import CHUNK_FAULTS, CONTENT_FAULTS, WAY_FAULTS, Fault, FaultPlan
from datlstm.synthetic.marine_store.world import Dataset, World, ostia_world

DAY = date(2026, 3, 9)
DAY_BEFORE = date(2026, 3, 8)
NEAR_REAL_TIME = "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2"
REPROCESSED = "METOFFICE-GLO-SST-L4-REP-OBS-SST"
REGION = Region(
    name="bay", title="Bay", south=38, north=39, west=119, east=120, resolution=0.05, minimum_ocean_fraction=0.5
)
WORLD = ostia_world(REGION, 7, DAY)
LOGIN_HOST = "auth.marine.copernicus.eu"
CATALOGUE_HOST = "stac.marine.copernicus.eu"
DATA_HOST = "s3.waw3-1.cloudferro.com"
ARRAYS = f"/mdl-arco-time-045/arco/PRODUCT/{NEAR_REAL_TIME}_202311/timeChunked.zarr"
WHOLE = Answer(body=bytes(range(200)))

LOGIN = Request("POST", LOGIN_HOST, "/realms/MIS/protocol/openid-connect/token", {})
CONFIG = Request("GET", DATA_HOST, "/mdl-metadata/clientsConfigV1.json", {})
CONFIG_COPY = Request("GET", CATALOGUE_HOST, "/clients-config-v1", {})
PRODUCT = Request("GET", DATA_HOST, "/mdl-metadata/metadata/PRODUCT/product.stac.json", {})
METADATA = Request("GET", DATA_HOST, f"{ARRAYS}/.zmetadata", {})
TIME = Request("GET", DATA_HOST, f"{ARRAYS}/time/0", {})
ICE_CHUNK = Request("GET", DATA_HOST, f"{ARRAYS}/sea_ice_fraction/7007.2.5", {})
ELSEWHERE = (LOGIN, CONFIG, CONFIG_COPY, PRODUCT, METADATA, TIME, ICE_CHUNK)


def plan(*faults: Fault, seed: int = 1, dataset_id: str = NEAR_REAL_TIME) -> FaultPlan:
    return FaultPlan(faults, seed, DAY, dataset_id)


def chunk(time: int, latitude: int = 2, longitude: int = 5) -> Request:
    return Request("GET", DATA_HOST, f"{ARRAYS}/analysed_sst/{time}.{latitude}.{longitude}", {})


def hit_chunks(faulty: FaultPlan) -> set[int]:
    return {time for time in range(40) if faulty.answer(chunk(time), WHOLE) != WHOLE}


def damaged(fault: Fault) -> Answer:
    faulty = plan(fault)
    return next(answer for time in range(2) if (answer := faulty.answer(chunk(time), WHOLE)) != WHOLE)


def changed_fields(old: Dataset, new: Dataset) -> dict[str, object]:
    names = (field.name for field in fields(Dataset))
    return {name: getattr(new, name) for name in names if getattr(new, name) != getattr(old, name)}


def shown(faulty: FaultPlan, world: World = WORLD) -> dict[str, object]:
    """Return the changed fields of the dataset that is hit, and see that all else stayed."""
    seen = faulty.world(world)
    before = {dataset.product_id: dataset for dataset in world.datasets}
    changes = {d.product_id: c for d in seen.datasets if (c := changed_fields(before[d.product_id], d))}
    assert replace(seen, datasets=world.datasets) == world
    assert set(changes) <= {world.dataset(faulty.dataset_id).product_id}
    return next(iter(changes.values()), {})


def nights(count: int) -> Iterator[FaultPlan]:
    return (FaultPlan.drawn(3, night, DAY, NEAR_REAL_TIME) for night in range(count))


def test_a_plan_without_faults_changes_nothing() -> None:
    healthy = plan()
    assert healthy.world(WORLD) == WORLD
    assert all(healthy.answer(request, WHOLE) == WHOLE for request in (*ELSEWHERE, chunk(0), chunk(1)))


@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        (Fault.UPDATING, {"updating_since": DAY}),
        (Fault.RETIRED, {"retired_on": DAY}),
        (Fault.RENAMED, {"dataset_id": f"{NEAR_REAL_TIME}-RENAMED"}),
        (Fault.NEW_VERSION, {"version": "202703"}),
        (Fault.MISSING_DAY, {"missing_days": frozenset({DAY})}),
        (Fault.BLANK_DAY, {"blank_days": frozenset({DAY})}),
        (Fault.CATALOGUE_AHEAD, {"last_day": DAY_BEFORE, "announced_last_day": DAY}),
        (Fault.CATALOGUE_BEHIND, {"announced_last_day": DAY_BEFORE}),
        (Fault.UNSCALED, {"unscaled": frozenset({"analysed_sst"})}),
        (Fault.SHIFTED, {"stamp_shift": timedelta(days=1)}),
        (Fault.SHIFTED_HOURS, {"stamp_shift": timedelta(hours=7)}),
    ],
)
def test_a_fault_of_a_dataset_changes_its_own_fields_and_no_answer(fault: Fault, changes: dict[str, object]) -> None:
    assert shown(plan(fault)) == changes
    assert all(plan(fault).answer(request, WHOLE) == WHOLE for request in (*ELSEWHERE, chunk(0), chunk(1)))


def test_a_preliminary_day_is_off_by_some_tenths_of_a_kelvin_either_way() -> None:
    errors = []
    for seed in range(200):
        changes = shown(plan(Fault.PRELIMINARY, seed=seed))
        assert list(changes) == ["preliminary_days"]
        preliminary = changes["preliminary_days"]
        assert isinstance(preliminary, dict) and list(preliminary) == [DAY]
        errors.append(preliminary[DAY])
    assert all(0.2 <= abs(error) <= 0.8 and error == round(error, 2) for error in errors)
    assert {error > 0 for error in errors} == {True, False}


def test_days_that_were_faulty_before_stay_so() -> None:
    earlier = {"missing_days": frozenset({DAY_BEFORE}), "blank_days": frozenset({DAY_BEFORE})}
    world = WORLD.changed(NEAR_REAL_TIME, **earlier, preliminary_days={DAY_BEFORE: 0.5})
    seen = plan(Fault.MISSING_DAY, Fault.BLANK_DAY, Fault.PRELIMINARY).world(world).dataset(NEAR_REAL_TIME)
    assert seen.missing_days == seen.blank_days == set(seen.preliminary_days) == {DAY, DAY_BEFORE}
    assert seen.preliminary_days[DAY_BEFORE] == 0.5


def test_a_catalogue_that_is_ahead_never_invents_days() -> None:
    world = ostia_world(REGION, 7, DAY - timedelta(days=5))
    assert shown(plan(Fault.CATALOGUE_AHEAD), world) == {"announced_last_day": DAY}


def test_faults_hit_the_dataset_of_the_plan() -> None:
    seen = plan(Fault.RENAMED, Fault.BLANK_DAY, dataset_id=REPROCESSED).world(WORLD)
    assert seen.dataset(NEAR_REAL_TIME) == WORLD.dataset(NEAR_REAL_TIME)
    assert seen.dataset(f"{REPROCESSED}-RENAMED").blank_days == {DAY}


def test_a_plan_for_a_dataset_that_is_not_served_is_refused() -> None:
    with pytest.raises(KeyError, match="NO-SUCH-DATASET"):
        plan(Fault.BLANK_DAY, dataset_id="NO-SUCH-DATASET").world(WORLD)


def test_a_wrong_password_is_another_password_of_the_account_and_nothing_else() -> None:
    seen = plan(Fault.WRONG_PASSWORD).world(WORLD)
    assert seen.password != WORLD.password
    assert replace(seen, password=WORLD.password) == WORLD


@pytest.mark.parametrize(
    ("fault", "reached"),
    [
        (Fault.LOGIN_DOWN, [LOGIN]),
        (Fault.LOGIN_HANGS, [LOGIN]),
        (Fault.CATALOGUE_DOWN, [CONFIG, CONFIG_COPY, PRODUCT]),
        (Fault.CATALOGUE_HANGS, [CONFIG, CONFIG_COPY, PRODUCT]),
        (Fault.STORM, [METADATA, TIME, ICE_CHUNK]),
        (Fault.STORM_PASSES, [CONFIG, CONFIG_COPY, PRODUCT, METADATA, TIME, ICE_CHUNK]),
        *((fault, []) for fault in sorted(CHUNK_FAULTS)),
    ],
)
def test_a_fault_of_the_way_reaches_its_own_requests_and_leaves_the_world(fault: Fault, reached: list[Request]) -> None:
    faulty = plan(fault)
    assert [request for request in ELSEWHERE if faulty.answer(request, WHOLE) != WHOLE] == reached
    assert faulty.world(WORLD) == WORLD


@pytest.mark.parametrize(
    ("fault", "request_", "status", "word"),
    [
        (Fault.LOGIN_DOWN, LOGIN, 503, b"Unavailable"),
        (Fault.CATALOGUE_DOWN, PRODUCT, 500, b"Error"),
        (Fault.STORM, METADATA, 503, b"<Code>SlowDown</Code>"),
        (Fault.STORM_PASSES, METADATA, 503, b"<Code>SlowDown</Code>"),
    ],
)
def test_a_service_that_is_down_says_so_at_once(fault: Fault, request_: Request, status: int, word: bytes) -> None:
    answer = plan(fault).answer(request_, WHOLE)
    assert answer.status == status
    assert word in answer.body
    assert answer.wait_seconds == 0


@pytest.mark.parametrize(
    ("fault", "request_"),
    [(Fault.LOGIN_HANGS, LOGIN), (Fault.CATALOGUE_HANGS, PRODUCT), (Fault.CATALOGUE_HANGS, CONFIG)],
)
def test_a_service_that_hangs_keeps_its_answer_back(fault: Fault, request_: Request) -> None:
    assert plan(fault).answer(request_, WHOLE) == replace(WHOLE, wait_seconds=3600)


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (Fault.HANGS, replace(WHOLE, wait_seconds=3600)),
        (Fault.DRIP, replace(WHOLE, bytes_per_second=20)),
        (Fault.DROPPED, replace(WHOLE, sent_bytes=100)),
        (Fault.DROPPED_PASSES, replace(WHOLE, sent_bytes=100)),
        (Fault.TRUNCATED, replace(WHOLE, body=bytes(range(100)))),
        (Fault.GARBLED, replace(WHOLE, body=bytes(range(255, 55, -1)))),
    ],
)
def test_a_damaged_chunk_is_damaged_in_one_way(fault: Fault, answer: Answer) -> None:
    assert damaged(fault) == answer


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [(Fault.MISSING_CHUNK, 404, b"NoSuchKey"), (Fault.FORBIDDEN_CHUNK, 403, b"AccessDenied")],
)
def test_a_chunk_that_is_not_given_answers_as_the_object_store_does(fault: Fault, status: int, code: bytes) -> None:
    answer = damaged(fault)
    assert answer.status == status
    assert code in answer.body


@pytest.mark.parametrize("fault", sorted(CHUNK_FAULTS))
@pytest.mark.parametrize("seed", range(5))
def test_of_two_neighbouring_chunks_exactly_one_is_hit(fault: Fault, seed: int) -> None:
    faulty = plan(fault, seed=seed)
    for neighbour in (chunk(7008), chunk(7007, latitude=3), chunk(7007, longitude=6)):
        hits = [faulty.answer(request, WHOLE) != WHOLE for request in (chunk(7007), neighbour)]
        assert sorted(hits) == [False, True]


def test_the_newest_chunk_is_hit_under_about_half_of_the_seeds() -> None:
    hits = sum(plan(Fault.GARBLED, seed=seed).answer(chunk(7007), WHOLE) != WHOLE for seed in range(400))
    assert 150 < hits < 250


@pytest.mark.parametrize("fault", sorted(CHUNK_FAULTS))
def test_an_absent_chunk_has_nothing_to_damage(fault: Fault) -> None:
    absent = Answer(404, b"<Code>NoSuchKey</Code>")
    assert all(plan(fault).answer(chunk(time), absent) == absent for time in range(4))


@pytest.mark.parametrize(
    ("fault", "request_"),
    [(Fault.STORM_PASSES, METADATA), (Fault.STORM_PASSES, PRODUCT), (Fault.STORM_PASSES, chunk(3))],
)
def test_a_passing_storm_answers_the_third_request_for_each_path(fault: Fault, request_: Request) -> None:
    faulty = plan(fault)
    other = Request("GET", DATA_HOST, f"{ARRAYS}/latitude/0", {})
    assert [faulty.answer(request_, WHOLE).status for _ in range(4)] == [503, 503, 200, 200]
    assert faulty.answer(other, WHOLE).status == 503


def test_passing_drops_let_the_third_request_for_a_chunk_through_and_others_never() -> None:
    for fault, last in ((Fault.DROPPED_PASSES, None), (Fault.DROPPED, 100)):
        faulty = plan(fault)
        hit = next(chunk(time) for time in range(2) if faulty.hits_chunk(fault, chunk(time).path))
        assert [faulty.answer(hit, WHOLE).sent_bytes for _ in range(4)] == [100, 100, last, last]


def test_a_storm_never_passes() -> None:
    faulty = plan(Fault.STORM)
    assert {faulty.answer(METADATA, WHOLE).status for _ in range(50)} == {503}


def test_two_faults_act_together() -> None:
    both = plan(Fault.MISSING_CHUNK, Fault.MISSING_DAY, Fault.UNSCALED)
    assert hit_chunks(both) == hit_chunks(plan(Fault.MISSING_CHUNK)) != set()
    assert shown(both) == {"missing_days": {DAY}, "unscaled": {"analysed_sst"}}


@pytest.mark.parametrize("faults", [(Fault.STORM_PASSES, Fault.GARBLED), (Fault.GARBLED, Fault.STORM_PASSES)])
def test_a_chunk_that_survives_the_storm_can_still_be_garbled(faults: tuple[Fault, Fault]) -> None:
    both = plan(*faults)
    hit = next(chunk(time) for time in range(2) if both.hits_chunk(Fault.GARBLED, chunk(time).path))
    answers = [both.answer(hit, WHOLE) for _ in range(3)]
    assert [answer.status for answer in answers] == [503, 503, 200]
    assert answers[-1].body == damaged(Fault.GARBLED).body


@pytest.mark.parametrize("fault", list(Fault))
def test_plans_of_the_same_seed_act_alike_in_any_order_of_requests(fault: Fault) -> None:
    requests = [*ELSEWHERE, *map(chunk, range(6))]
    forward, backward = plan(fault), plan(fault)
    there = {request.path: forward.answer(request, WHOLE) for request in requests}
    back = {request.path: backward.answer(request, WHOLE) for request in reversed(requests)}
    assert there == back
    assert forward == backward
    assert forward.world(WORLD) == backward.world(WORLD)


def test_different_seeds_and_faults_hit_different_chunks() -> None:
    by_seed = {frozenset(hit_chunks(plan(Fault.GARBLED, seed=seed))) for seed in range(10)}
    by_fault = {frozenset(hit_chunks(plan(fault))) for fault in CHUNK_FAULTS}
    assert len(by_seed) == len(by_fault) == 2


def test_every_fault_does_something() -> None:
    requests = [*ELSEWHERE, chunk(0), chunk(1)]
    for fault in Fault:
        answers = (plan(fault).answer(request, WHOLE) for request in requests)
        assert plan(fault).world(WORLD) != WORLD or any(answer != WHOLE for answer in answers), fault


@pytest.fixture
def eager_threads() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_attempts_are_counted_once_each_whatever_the_threads() -> None:
    faulty = plan(Fault.STORM_PASSES)
    together = Barrier(4)

    def ask(_: int) -> list[int]:
        return [faulty.answer(request, WHOLE).status for request in map(chunk, range(1500)) if together.wait() >= 0]

    with ThreadPoolExecutor(4) as pool:
        statuses = Counter(status for answers in pool.map(ask, range(4)) for status in answers)
    assert statuses == {503: 3000, 200: 3000}


def test_a_thousand_nights_meet_every_fault_and_four_in_ten_are_healthy() -> None:
    drawn = list(nights(1000))
    sizes = Counter(len(night.faults) for night in drawn)
    assert {fault for night in drawn for fault in night.faults} == set(Fault)
    assert 350 < sizes[0] < 450
    assert 350 < sizes[1] < 450
    assert 150 < sizes[2] < 250


def test_two_faults_of_a_night_are_one_on_the_way_and_one_of_content() -> None:
    pairs = [night.faults for night in nights(500) if len(night.faults) == 2]
    assert all(way in WAY_FAULTS and content in CONTENT_FAULTS for way, content in pairs)


def test_a_night_is_drawn_again_alike_and_nights_and_seeds_differ() -> None:
    assert list(nights(50)) == list(nights(50))
    assert len({night.seed for night in nights(50)}) == 50
    other = [FaultPlan.drawn(4, night, DAY, NEAR_REAL_TIME).faults for night in range(50)]
    assert [night.faults for night in nights(50)] != other


def test_a_drawn_night_keeps_its_day_and_dataset() -> None:
    drawn = FaultPlan.drawn(3, 12, DAY, REPROCESSED)
    assert (drawn.day, drawn.dataset_id) == (DAY, REPROCESSED)
