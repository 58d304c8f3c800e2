"""The published stores' benchmark on a tiny region: invented nights are published, meters count what they say."""

import re
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks.cold_reads import ask
from benchmarks.invented_nights import FIRST_INIT, InventedNights, Table, filled
from benchmarks.published import PARTS, REST, cost_of, keeping, markdown, publications, years
from benchmarks.traffic import clocked, recorded
from datlstm.products import publication
from datlstm.products.forecast import read_init
from datlstm.products.latest import read_latest
from datlstm.settings import Settings
from datlstm.store import Store

DAY = timedelta(days=1)


@pytest.fixture
def nights(settings: Settings) -> InventedNights:
    """A store with two invented nights."""
    return filled(settings, settings.store, 2)


def column(rows: Table, name: str) -> list[float]:
    """Return the first number of each cell of a column."""
    return [float(re.findall(r"[\d.]+", row[name])[0]) for row in rows]


def test_invented_nights_are_published_as_others_and_the_cost_is_whole(nights: InventedNights) -> None:
    folder = Store(nights.settings.store).location_of("").rstrip("/")
    nights.append(2)
    cost = cost_of(partial(publication.publish, nights.settings, nights.draft(3), nights.scores(3, 1)))
    pointer, newest = read_latest(Store(nights.settings.store)), read_init(nights.settings, FIRST_INIT + 3 * DAY)
    assert pointer is not None and newest is not None
    assert (pointer["forecast"]["inits"], pointer["skill"]["scorings"]) == (4, 4)
    assert 270 < newest["sst"].min() < newest["sst"].max() < 305
    assert newest["sst"].isnull().mean() == newest["sst_anomaly"].isnull().mean() > 0
    written = [request.path for request in cost.requests if request.verb == "PUT"]
    roots = ("/forecast.zarr/zarr.json", "/skill.zarr/zarr.json", "/latest.json")
    assert [path for path in written if path.endswith(roots)] == [f"{folder}{root}" for root in roots]
    assert 0 < cost.window < cost.wall
    assert set(cost.wall_by_part) == {*PARTS, REST}
    assert sum(cost.wall_by_part.values()) == pytest.approx(cost.wall)


def test_filling_goes_on_where_the_store_ends(nights: InventedNights) -> None:
    nights.fill(2)
    nights.fill(5)
    assert nights.length() == 5


def test_requests_are_recorded_with_what_they_moved_and_those_in_vain_with_nothing(settings: Settings) -> None:
    store = Store(settings.store)
    with recorded() as requests:
        store.write("a", b"four")
        store.read("a")
        store.read("b")
    assert [(request.verb, request.path.rsplit("/", 1)[-1], request.size) for request in requests] == [
        ("PUT", "a", 4),
        ("GET", "a", 4),
        ("GET", "b", 0),
    ]
    with recorded() as none:
        pass
    store.read("a")
    assert none == []


def test_a_parts_seconds_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = SimpleNamespace(now=0.0)

    def inner() -> None:
        ticks.now += 1

    def outer() -> None:
        ticks.now += 2
        work.inner()

    work = SimpleNamespace(inner=inner, outer=outer)
    with clocked({"in": [(work, "inner")], "out": [(work, "outer")]}, lambda: ticks.now) as seconds:
        work.outer()
        work.inner()
    assert seconds == {"in": 2.0, "out": 2.0}


def test_nights_cost_the_same_requests_whatever_came_before(settings: Settings) -> None:
    rows = years(settings, settings.store, 2)
    assert [row["nights"] for row in rows] == ["1 … 2"] * 3
    assert min(column(rows, "PUT")) > 0
    assert all(value > 0 for value in column(rows, "processor s") + column(rows, "new objects"))


def test_publications_are_told_by_age_and_by_part_and_what_they_keep_by_kind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "quicklook", lambda init, title: b"a picture")
    whole, split = publications(settings, settings.store, [1], rounds=1)
    assert [row["inits"] for row in whole] == ["1"]
    assert [row["part"] for row in split] == [*PARTS, REST]
    kept = {row["of"]: row for row in keeping(settings, settings.store, 1)}
    assert {"forecast.zarr", "skill.zarr", "netcdf", "quicklook", "stac", "latest.json"} <= kept.keys()
    assert (kept["netcdf"]["objects"], kept["latest.json"]["objects"]) == ("2", "1")
    assert float(kept["forecast.zarr"]["raw MB"]) > 0


def test_a_fresh_process_reads_one_document(settings: Settings, s3_store_url: str) -> None:
    store = filled(settings, s3_store_url, 1).settings.store
    answer = ask(f"{store}/forecast.zarr", "newest")
    assert answer["documents"] == 1
    assert answer["requests"]["GET"] > answer["documents"]
    assert answer["bytes"] > 0


def test_a_table_is_markdown() -> None:
    assert markdown([{"a": "1", "b": "2"}]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
