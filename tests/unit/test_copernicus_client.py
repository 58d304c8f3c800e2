"""The client's process asks the official client rightly, keeps what was asked, and never waits for anybody.

The client's two entrances are replaced; their signatures, exceptions and description of the catalogue are its own.
"""

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import copernicusmarine
import numpy as np
import pandas as pd
import pytest
import requests
import xarray as xr

from datlstm.errors import TransientSourceError
from datlstm.sources.copernicus import client as client_process
from datlstm.sources.copernicus import process
from datlstm.sources.copernicus.client import answer
from datlstm.sources.copernicus.process import run_client
from datlstm.sources.copernicus.protocol import (
    AskedDataset,
    Delivered,
    Described,
    Failed,
    Finished,
    Message,
    Progress,
    Request,
)

REP, NRT = "METOFFICE-GLO-SST-L4-REP-OBS-SST", "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2"
LAST_REP_DAY, LAST_NRT_DAY = date(2026, 3, 5), date(2026, 3, 10)
FIRST, LAST = date(2026, 3, 1), date(2026, 3, 10)
AXES = {"time": "t", "latitude": "y", "longitude": "x"}
OPEN_SIGNATURE = inspect.signature(copernicusmarine.open_dataset)
DESCRIBE_SIGNATURE = inspect.signature(copernicusmarine.describe)


def ostia(last_day: date, kelvin: float) -> xr.Dataset:
    """What the service holds around the region."""
    time = pd.date_range("2026-02-01", last_day).to_numpy()
    dims, shape = ("time", "latitude", "longitude"), (time.size, 24, 24)
    names = ("analysed_sst", "analysis_error", "sea_ice_fraction", "mask")
    cells = 0.05 * np.arange(24)
    return xr.Dataset(
        {name: (dims, np.full(shape, float(kelvin)), {"units": "kelvin"}) for name in names},
        {"time": time, "latitude": 36.675 + cells, "longitude": 117.675 + cells},
    )


class FakeClient:
    """Answers like the client: a missing day by its neighbour, cells whose centres are inside the box."""

    def __init__(self) -> None:
        self.held: dict[str, xr.Dataset | None] = {REP: ostia(LAST_REP_DAY, 280), NRT: ostia(LAST_NRT_DAY, 285)}
        self.failures: dict[str, Exception] = {}
        self.catalogue = {
            REP: dataset(REP, LAST_REP_DAY, "202003"),
            NRT: dataset(NRT, LAST_NRT_DAY, "202406", "202311"),
        }
        self.asked: list[dict[str, Any]] = []

    def describe(self, **request: Any) -> copernicusmarine.CopernicusMarineCatalogue:
        DESCRIBE_SIGNATURE.bind(**request)
        assert request["raise_on_error"] is True
        named = [self.catalogue[name] for name in self.catalogue if name == request["dataset_id"]]
        product = copernicusmarine.CopernicusMarineProduct.model_construct(product_id="", datasets=named)
        return copernicusmarine.CopernicusMarineCatalogue.model_construct(products=[product])

    def open_dataset(self, **request: Any) -> xr.Dataset | None:
        OPEN_SIGNATURE.bind(**request)
        self.asked.append(request)
        name = request["dataset_id"]
        if name in self.failures:
            raise self.failures[name]
        held = self.held[name]
        if held is None:
            return None
        start, end = (np.datetime64(request[k].replace(tzinfo=None)) for k in ("start_datetime", "end_datetime"))
        box: dict[Hashable, slice] = {
            axis: slice(request[f"minimum_{axis}"], request[f"maximum_{axis}"]) for axis in ("latitude", "longitude")
        }
        days = held.sel(time=slice(start, end)).sel(box)
        return (days if days.sizes["time"] else held.sel(box).sel(time=[start], method="nearest")).chunk(time=1)


def axis(name: str, minimum: float, maximum: float, **announced: Any) -> copernicusmarine.CopernicusMarineCoordinate:
    unset = {
        "step": None, "values": None, "chunking_length": 1, "chunk_type": None, "chunk_reference_coordinate": None,
        "chunk_geometric_factor": None, "coordinate_unit": "", "minimum_value": minimum, "maximum_value": maximum,
    }  # fmt: skip
    return copernicusmarine.CopernicusMarineCoordinate(coordinate_id=name, axis=AXES[name], **unset | announced)


def dataset(
    dataset_id: str, last_day: date, *versions: str, retired_on: str | None = None, **announced: Any
) -> copernicusmarine.CopernicusMarineDataset:
    """The catalogue's description of a dataset, in the client's own classes."""
    milliseconds = [pd.Timestamp(day).timestamp() * 1000 for day in ("2007-01-01", last_day)]
    axes = [
        axis("time", *milliseconds),
        axis("latitude", -89.975, 89.975, **announced or {"step": 0.05}),
        axis("longitude", -179.975, 179.975, step=0.05),
    ]
    variable = copernicusmarine.CopernicusMarineVariable(
        short_name="analysed_sst", standard_name=None, units=None, bbox=None, coordinates=axes
    )
    service = copernicusmarine.CopernicusMarineService(
        service_name="arco-time-series", service_short_name=None, service_format="zarr", uri="", variables=[variable],
        platforms_metadata=None, arco_sparse_type=None,
    )  # fmt: skip
    part = copernicusmarine.CopernicusMarinePart.model_construct(
        name="default", services=[service], retired_date=retired_on
    )
    return copernicusmarine.CopernicusMarineDataset(
        dataset_id=dataset_id, dataset_name="", product_id="", digital_object_identifier=None,
        versions=[copernicusmarine.CopernicusMarineVersion(label=label, parts=[part]) for label in versions],
    )  # fmt: skip


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(copernicusmarine, "open_dataset", fake.open_dataset)
    monkeypatch.setattr(copernicusmarine, "describe", fake.describe)
    return fake


Ask = Callable[..., list[Message]]


@pytest.fixture
def ask(client: FakeClient, tmp_path: Path) -> Ask:
    """Ask for days of the datasets, or of others; gives what is reported."""

    def ask_for(first_day: date | None, last_day: date | None, **changes: Any) -> list[Message]:
        told: list[Message] = []
        answer(request(first_day, last_day, **{"folder": str(tmp_path)} | changes), told.append)
        return told

    return ask_for


def request(first_day: date | None, last_day: date | None, **changes: Any) -> Request:
    asked = [AskedDataset(dataset_id=REP, version="202003"), AskedDataset(dataset_id=NRT, version=None)]
    usual: dict[str, Any] = {
        "username": "jeanne.baret", "password": "étoile", "datasets": asked, "first_day": first_day,
        "last_day": last_day, "south": 37, "north": 37.5, "west": 118, "east": 118.5, "folder": "",
        "loopback_only": False,
    }  # fmt: skip
    return Request(**usual | changes)


def only(kind: type[Message], told: list[Message]) -> Any:
    (found,) = [message for message in told if isinstance(message, kind)]
    return found


def delivered(told: list[Message]) -> dict[str, xr.Dataset]:
    found = {}
    for message in told:
        if isinstance(message, Delivered):
            with xr.open_dataset(message.path, engine="h5netcdf", decode_timedelta=False) as opened:
                found[message.dataset_id] = opened.load()
    return found


def numbers(days: xr.Dataset) -> list[int]:
    return days["time"].dt.day.to_numpy().tolist()


def whole_day(first_day: date, last_day: date) -> tuple[datetime, datetime]:
    start = datetime(first_day.year, first_day.month, first_day.day, tzinfo=UTC)
    return start, datetime(last_day.year, last_day.month, last_day.day, 23, 59, 59, 999999, tzinfo=UTC)


class TestDescription:
    def test_catalogue_alone_is_asked_when_no_day_is(self, client: FakeClient, ask: Ask) -> None:
        rep, nrt, end = ask(None, None)
        assert isinstance(rep, Described)
        assert isinstance(nrt, Described)
        assert (rep.dataset_id, rep.version, rep.first_day, rep.last_day) == (
            REP, "202003", date(2007, 1, 1), LAST_REP_DAY,
        )  # fmt: skip
        assert (nrt.dataset_id, nrt.last_day) == (NRT, LAST_NRT_DAY)
        assert (rep.latitude.minimum, rep.latitude.maximum, rep.latitude.step) == (-89.975, 89.975, 0.05)
        assert isinstance(end, Finished)
        assert client.asked == []

    def test_version_left_open_is_the_catalogues_default(self, client: FakeClient, ask: Ask) -> None:
        told = ask(LAST, LAST)
        assert [message.version for message in told if isinstance(message, Described)] == ["202003", "202406"]
        assert client.asked[0]["dataset_version"] == "202406"

    def test_pinned_version_is_found_among_others(self, client: FakeClient, ask: Ask) -> None:
        told = ask(LAST, LAST, datasets=[AskedDataset(dataset_id=NRT, version="202311")])
        assert only(Described, told).version == "202311"
        assert client.asked[0]["dataset_version"] == "202311"

    def test_announced_retirement_is_told(self, client: FakeClient, ask: Ask) -> None:
        client.catalogue[REP] = dataset(REP, LAST_REP_DAY, "202003", retired_on="2026-06-01T00:00:00Z")
        told = ask(None, None, datasets=[AskedDataset(dataset_id=REP, version=None)])
        assert only(Described, told).retired_on == "2026-06-01T00:00:00Z"

    def test_version_that_is_gone_fails(self, client: FakeClient, ask: Ask) -> None:
        told = ask(None, None, datasets=[AskedDataset(dataset_id=NRT, version="201904")])
        failed = only(Failed, told)
        assert failed.classes[0] == "DatasetVersionNotFound"
        assert "202406" in failed.words

    def test_dataset_the_catalogue_lacks_fails(self, client: FakeClient, ask: Ask) -> None:
        failed = only(Failed, ask(None, None, datasets=[AskedDataset(dataset_id="SST-V3", version=None)]))
        assert failed.dataset_id == "SST-V3"
        assert failed.classes[0] == "DatasetNotFound"


class TestRequest:
    def test_whole_days_are_asked_in_utc(self, client: FakeClient, ask: Ask) -> None:
        ask(date(2026, 3, 2), date(2026, 3, 3))
        (asked,) = client.asked
        assert (asked["start_datetime"], asked["end_datetime"]) == whole_day(date(2026, 3, 2), date(2026, 3, 3))
        assert asked["start_datetime"].tzinfo is UTC
        assert asked["end_datetime"].tzinfo is UTC

    def test_dataset_being_updated_is_refused_and_variables_come_in_one_call(
        self, client: FakeClient, ask: Ask
    ) -> None:
        ask(FIRST, FIRST)
        (asked,) = client.asked
        assert asked["raise_if_updating"] is True
        assert set(asked["variables"]) == {"analysed_sst", "analysis_error", "sea_ice_fraction", "mask"}
        assert (asked["username"], asked["password"]) == ("jeanne.baret", "étoile")

    def test_box_is_one_native_cell_larger_and_gives_the_cells_inside(self, client: FakeClient, ask: Ask) -> None:
        (days,) = delivered(ask(FIRST, FIRST)).values()
        (asked,) = client.asked
        assert asked["coordinates_selection_method"] == "inside"
        np.testing.assert_allclose(days["latitude"], 36.975 + 0.05 * np.arange(12), atol=1e-9)
        np.testing.assert_allclose(days["longitude"], 117.975 + 0.05 * np.arange(12), atol=1e-9)

    def test_step_is_derived_from_values_where_none_is_announced(self, client: FakeClient, ask: Ask) -> None:
        values = [-89.75 + 0.5 * i for i in range(360)]
        client.catalogue[REP] = dataset(REP, LAST_REP_DAY, "202003", values=values, minimum_value=None)
        assert only(Described, ask(FIRST, FIRST)).latitude.minimum == -89.75
        assert client.asked[0]["minimum_latitude"] == pytest.approx(36.5, abs=0.01)

    @pytest.mark.parametrize("south", [36.975, 37.025, 37.075, 37.125])
    def test_edge_of_the_region_on_a_centre_takes_that_cells_neighbour_too(
        self, client: FakeClient, ask: Ask, south: float
    ) -> None:
        (days,) = delivered(ask(FIRST, FIRST, south=south)).values()
        assert float(days["latitude"][0]) == pytest.approx(south - 0.05)

    def test_box_never_leaves_the_globe(self, client: FakeClient, ask: Ask) -> None:
        ask(FIRST, FIRST, south=-90, north=90, west=-180, east=180)
        asked = client.asked[0]
        box = [asked[f"{end}_{name}"] for name in ("latitude", "longitude") for end in ("minimum", "maximum")]
        assert box == [-90, 90, -180, 180]


class TestBestFirst:
    def test_second_is_not_asked_when_the_first_has_all(self, client: FakeClient, ask: Ask) -> None:
        told = ask(FIRST, LAST_REP_DAY)
        assert [asked["dataset_id"] for asked in client.asked] == [REP]
        assert list(delivered(told)) == [REP]
        assert isinstance(told[-1], Finished)

    def test_first_is_asked_as_far_as_it_is_announced_and_the_second_from_there(
        self, client: FakeClient, ask: Ask
    ) -> None:
        days = delivered(ask(FIRST, LAST))
        assert {name: numbers(piece) for name, piece in days.items()} == {REP: [1, 2, 3, 4, 5], NRT: [6, 7, 8, 9, 10]}
        rep, nrt = client.asked
        assert (rep["start_datetime"], rep["end_datetime"]) == whole_day(FIRST, LAST_REP_DAY)
        assert (nrt["start_datetime"], nrt["end_datetime"]) == whole_day(date(2026, 3, 6), LAST)

    def test_second_is_asked_from_the_first_day_that_the_first_lacks(self, client: FakeClient, ask: Ask) -> None:
        held = client.held[REP]
        assert held is not None
        client.held[REP] = held.drop_sel(time=np.datetime64("2026-03-03", "ns"))
        days = delivered(ask(FIRST, LAST_REP_DAY))
        assert numbers(days[REP]) == [1, 2, 4, 5]
        assert numbers(days[NRT]) == [3, 4, 5]

    def test_first_is_not_asked_for_days_after_its_end(self, client: FakeClient, ask: Ask) -> None:
        ask(date(2026, 3, 7), LAST)
        assert [asked["dataset_id"] for asked in client.asked] == [NRT]

    def test_last_is_asked_beyond_what_is_announced(self, client: FakeClient, ask: Ask) -> None:
        ask(LAST, date(2026, 3, 12))
        assert client.asked[0]["end_datetime"] == whole_day(LAST, date(2026, 3, 12))[1]

    def test_days_before_any_record_are_not_asked(self, client: FakeClient, ask: Ask) -> None:
        told = ask(date(2006, 1, 1), date(2006, 1, 2))
        assert client.asked == []
        assert isinstance(told[-1], Finished)


class TestAnswers:
    def test_neighbour_given_for_a_missing_day_is_dropped(self, client: FakeClient, ask: Ask) -> None:
        held = client.held[NRT]
        assert held is not None
        client.held[NRT] = held.drop_sel(time=np.datetime64("2026-03-08", "ns"))
        told = ask(date(2026, 3, 8), date(2026, 3, 8))
        assert delivered(told) == {}
        assert isinstance(told[-1], Finished)

    def test_noon_stamps_belong_to_their_day(self, client: FakeClient, ask: Ask) -> None:
        held = client.held[NRT]
        assert held is not None
        client.held[NRT] = held.assign_coords(time=held["time"] + np.timedelta64(12, "h"))
        assert numbers(delivered(ask(date(2026, 3, 7), date(2026, 3, 8)))[NRT]) == [7, 8]

    def test_packing_of_the_service_is_not_carried_into_the_file(self, client: FakeClient, ask: Ask) -> None:
        held = client.held[NRT]
        assert held is not None
        held["analysed_sst"][:] = 280.0051
        held["analysed_sst"].encoding = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15}
        held["analysed_sst"].encoding["_FillValue"] = -32768
        days = delivered(ask(LAST, LAST))[NRT]
        np.testing.assert_array_equal(days["analysed_sst"], 280.0051)
        assert days["analysed_sst"].attrs["units"] == "kelvin"

    def test_progress_is_told_in_chunks(self, client: FakeClient, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client_process, "PROGRESS_SECONDS", 0.0)
        held = client.held[NRT]
        assert held is not None
        client.held[NRT] = held.chunk(time=1).map(lambda chunks: chunks.map_blocks(lambda chunk: chunk + 1))
        progress = [told for told in ask(date(2026, 3, 6), LAST) if isinstance(told, Progress)]
        done = [told.done for told in progress]
        assert done == sorted(set(done))
        assert 4 * 5 <= done[-1] <= progress[-1].total


class TestFailures:
    def test_client_that_gives_up_without_a_word_fails(self, client: FakeClient, ask: Ask) -> None:
        client.held[NRT] = None
        failed = only(Failed, ask(LAST, LAST))
        assert failed.classes[0] == "ValueError"
        assert "gave up" in failed.words

    def test_failure_is_told_with_the_classes_above_it_and_ends_the_run(self, client: FakeClient, ask: Ask) -> None:
        client.failures[NRT] = requests.ReadTimeout("slow")
        told = ask(FIRST, LAST)
        assert list(delivered(told)) == [REP]
        failed = told[-1]
        assert isinstance(failed, Failed)
        assert (failed.dataset_id, failed.asked, failed.words) == (NRT, "2026-03-06 … 2026-03-10", "slow")
        assert failed.classes[:3] == ["ReadTimeout", "Timeout", "RequestException"]
        assert "OSError" in failed.classes

    def test_second_is_not_asked_after_the_first_failed(self, client: FakeClient, ask: Ask) -> None:
        client.failures[REP] = requests.ReadTimeout("slow")
        assert isinstance(ask(FIRST, LAST)[-1], Failed)
        assert [asked["dataset_id"] for asked in client.asked] == [REP]

    def test_failure_while_chunks_are_read_is_told(self, client: FakeClient, ask: Ask) -> None:
        def fail(chunk: xr.DataArray) -> xr.DataArray:
            raise RuntimeError("error during blosc decompression: -1")

        held = client.held[NRT]
        assert held is not None
        chunks = held["analysed_sst"].chunk(time=1)
        client.held[NRT] = held.assign(analysed_sst=chunks.map_blocks(fail, template=chunks))
        failed = only(Failed, ask(LAST, LAST))
        assert failed.classes[0] == "RuntimeError"
        assert "blosc" in failed.words

    def test_folder_that_is_not_there_is_told(self, client: FakeClient, ask: Ask) -> None:
        failed = only(Failed, ask(LAST, LAST, folder="/nowhere/at/all"))
        assert "FileNotFoundError" in failed.classes


# The official client stays out of it: `answer` is replaced by what a client may do to its process.
CHILD = """
import os, sys, time
from datlstm.sources.copernicus import client
from datlstm.sources.copernicus.protocol import Failed, Finished
client.PARENT_LOOK_SECONDS = 0.05
def tell(report, words):
    report(Failed(dataset_id="SST", asked="", classes=["Exception"], words=words))
"""
NOISE = """
def answer(request, report):
    print("INFO - noise")
    os.system("echo noise of a child")
    os.write(1, b"noise below Python")
    try:
        typed = input("username: ")
    except EOFError:
        typed = "nothing: the input is at its end"
    tell(report, f"{typed}; {request.password}; {os.read(0, 1)}")
client.answer = answer
client.main()
"""
ORPHAN = """
client.answer = lambda request, report: (tell(report, "started"), time.sleep(60))
client.main()
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
child.stdin.write(sys.argv[2].encode())
child.stdin.close()
time.sleep(60)
"""


class TestProcess:
    def test_prompt_finds_no_input_and_noise_does_not_reach_the_messages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "COMMAND", [sys.executable, "-c", CHILD + NOISE])
        (told,) = run_client(request(None, None), 60.0, {"PYTHONIOENCODING": "latin-1"})
        assert isinstance(told, Failed)
        assert told.words == "nothing: the input is at its end; étoile; b''"

    def test_process_that_gets_no_request_ends_and_says_so(self) -> None:
        command = [sys.executable, "-m", client_process.__name__]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert "Request" in ended.stderr

    def test_process_ends_soon_after_its_parent_is_killed(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", PARENT, CHILD + ORPHAN, request(None, None).model_dump_json()]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            assert json.loads(parent.stdout.readline())["words"] == "started"
            parent.kill()
            started = time.monotonic()
            # The orphan holds the other end of the pipe for as long as it lives.
            assert parent.stdout.read() == b""
        assert time.monotonic() - started < 10

    def test_interrupted_client_is_an_error_to_the_service(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "COMMAND", [sys.executable, "-c", CHILD + "client.answer = exit\nclient.main()"])
        with pytest.raises(TransientSourceError, match="no report"):
            run_client(request(None, None), 60.0, dict(os.environ))
