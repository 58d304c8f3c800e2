"""The local Marine Data Store is taken for the real one by the unmodified official client, and lets nobody past it.

The client runs in one child process, which answers all questions of this file at once: its import takes seconds.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import xarray as xr

from datlstm.settings import Region
from datlstm.synthetic.bohai import ostia_dataset
from datlstm.synthetic.coast import CellBox, cells_of
from datlstm.synthetic.marine_store import MarineStore, arrays, catalogue, content, days
from datlstm.synthetic.marine_store.exchange import Answer, Request
from datlstm.synthetic.marine_store.world import World, ostia_world

# Where the sea freezes, and across the ends of both kinds of chunk.
REGION = Region(name="liaodong", title="Liaodong Bay", south=40.3, north=40.9, west=120.9, east=121.5, resolution=0.05)
SEED, LAST_DAY = 7, date(2026, 3, 31)
NEAR_REAL_TIME, REPROCESSED = "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2", "METOFFICE-GLO-SST-L4-REP-OBS-SST"
MISSING, BLANK, PRELIMINARY = date(2026, 3, 20), date(2026, 3, 22), date(2026, 3, 24)
FIRST_READ, LAST_READ = date(2026, 3, 18), date(2026, 3, 31)
VARIABLES = ["analysed_sst", "analysis_error", "sea_ice_fraction", "mask"]
HALF_A_STEP = 0.005
CHUNK_HOST = "s3.waw3-1.cloudferro.com"
LOGIN = "https://auth.marine.copernicus.eu/realms/MIS/protocol/openid-connect/token"
ACCOUNT = {"username": "demo", "password": "demo"}

CHILD = """
import json, sys
from datetime import UTC, date, datetime, time
import copernicusmarine, numpy, requests

asked, folder = json.load(sys.stdin), sys.argv[1]

def read(name, dataset_id, first, last, password="demo", **options):
    box = dict(zip(("minimum_longitude", "maximum_longitude", "minimum_latitude", "maximum_latitude"), asked["box"]))
    days = copernicusmarine.open_dataset(
        dataset_id=dataset_id, username="demo", password=password, coordinates_selection_method="inside",
        start_datetime=datetime.combine(date.fromisoformat(first), time.min, UTC),
        end_datetime=datetime.combine(date.fromisoformat(last), time.max, UTC), **box, **options,
    ).load()
    days.drop_encoding().to_netcdf(f"{folder}/{name}.nc", engine="h5netcdf")

results = {}
for name, question in asked["questions"].items():
    try:
        results[name] = read(name, **question)
    except Exception as error:
        results[name] = type(error).__name__
described = copernicusmarine.describe(
    dataset_id=asked["described"], disable_progress_bar=True, raise_on_error=True, show_all_versions=True
)
[version] = described.products[0].datasets[0].versions
results["described"] = version.label, sorted(service.service_name for service in version.parts[0].services)
results["announced"] = version.parts[0].get_coordinates()["time"][0].maximum_value
results["outside"] = []
for address in ("https://example.com/", "http://example.org/"):
    try:
        results["outside"].append(requests.get(address).status_code)
    except requests.exceptions.ProxyError as error:
        results["outside"].append("403" in str(error))
json.dump(results, sys.stdout)
"""


def shown_world() -> World:
    """Both datasets, and copies of the near-real-time one with what goes wrong in datasets."""
    world = ostia_world(REGION, SEED, LAST_DAY)
    near_real_time, reprocessed = world.datasets
    # Short records: a whole geographic chunk is drawn for any day of it.
    healthy = replace(near_real_time, first_day=date(2026, 1, 1))
    reprocessed = replace(reprocessed, first_day=date(2024, 1, 1), last_day=date(2024, 2, 29))
    odd = replace(
        healthy,
        dataset_id="ODD",
        missing_days=frozenset({MISSING}),
        blank_days=frozenset({BLANK}),
        preliminary_days={PRELIMINARY: 0.456},
        stamp_shift=timedelta(hours=7),
        unscaled=frozenset({"analysis_error"}),
        announced_last_day=LAST_DAY + timedelta(days=1),
    )
    updating = replace(healthy, dataset_id="UPDATING", updating_since=date(2026, 3, 1))
    retired = replace(healthy, dataset_id="RETIRED", retired_on=date(2026, 3, 1))
    datasets = (healthy, reprocessed, odd, updating, retired)
    return replace(world, datasets=datasets)


@dataclass(frozen=True)
class Client:
    """What the client answered, and what the store saw of it."""

    folder: Path
    results: dict[str, Any]
    requests: list[Request]
    refused: list[str]

    def days(self, question: str) -> xr.Dataset:
        assert self.results[question] is None, self.results[question]
        return xr.load_dataset(self.folder / f"{question}.nc", engine="h5netcdf")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    folder = tmp_path_factory.mktemp("client")
    near_real_time = {"dataset_id": NEAR_REAL_TIME, "first": str(FIRST_READ), "last": str(LAST_READ)}
    questions = {
        "reprocessed": {"dataset_id": REPROCESSED, "first": "2024-01-10", "last": "2024-01-23"},
        "near_real_time": near_real_time | {"service": "arco-geo-series"},
        "geo_chunked": near_real_time | {"service": "arco-time-series"},
        "odd": near_real_time | {"dataset_id": "ODD"},
        "wrong_password": near_real_time | {"password": "wrong"},
        "too_late": {"dataset_id": NEAR_REAL_TIME, "first": "2026-06-01", "last": "2026-06-02"},
        "unknown": near_real_time | {"dataset_id": "UNKNOWN"},
        "wrong_version": near_real_time | {"dataset_version": "199901"},
        "updating": near_real_time | {"dataset_id": "UPDATING", "raise_if_updating": True},
        "retired": near_real_time | {"dataset_id": "RETIRED"},
    }
    box = (REGION.west, REGION.east, REGION.south, REGION.north)
    asked = {"box": box, "questions": questions, "described": "ODD"}
    with MarineStore(shown_world()) as store:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1", **store.environment}
        command = [sys.executable, "-c", CHILD, str(folder)]
        ran = subprocess.run(
            command, env=environment, input=json.dumps(asked), capture_output=True, text=True, timeout=120, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return Client(folder, json.loads(ran.stdout), list(store.requests), list(store.refused))


def drawn(first_day: date, last_day: date, like: xr.Dataset) -> xr.Dataset:
    """The same days and cells straight from the generator, on the store's own box."""
    truth = ostia_dataset(box(), first_day, last_day, SEED).compute()
    return truth.sel(latitude=like["latitude"], longitude=like["longitude"], method="nearest")


def box() -> CellBox:
    return cells_of(REGION).grown(4)


def assert_same(given: xr.Dataset, truth: xr.Dataset, names: list[str]) -> None:
    assert given.sizes == truth.sizes
    for name in names:
        np.testing.assert_allclose(given[name].to_numpy(), truth[name].to_numpy(), rtol=0, atol=HALF_A_STEP)


def test_the_client_reads_reprocessed_days_as_they_are_drawn_land_ice_and_errors_included(client: Client) -> None:
    given = client.days("reprocessed")
    truth = drawn(date(2024, 1, 10), date(2024, 1, 23), given)
    assert_same(given, truth, VARIABLES)
    assert list(given["time"].to_numpy()) == list(truth["time"].dt.floor("D").to_numpy())
    land = given["mask"] == 2
    assert land.any() and (given["mask"] == 1).any() and (given["mask"] == 9).any()
    assert given["analysed_sst"].isnull().equals(land)


def near_real_time_offset(like: xr.Dataset, first_day: date) -> np.ndarray:
    offset = []
    for index in range(like.sizes["time"]):
        day = first_day + timedelta(days=index)
        offset.append(days.step_kelvin(box(), day.month) + days.daily_noise_kelvin(box(), SEED, day))
    wide = xr.DataArray(
        np.stack(offset), dims=arrays.DIMS, coords={"latitude": box().latitude, "longitude": box().longitude}
    )
    return wide.sel(latitude=like["latitude"], longitude=like["longitude"], method="nearest").to_numpy()


def test_near_real_time_days_differ_from_reprocessed_ones_by_the_known_step_and_noise(client: Client) -> None:
    given = client.days("near_real_time")
    truth = drawn(FIRST_READ, LAST_READ, given)
    assert_same(given, truth, ["analysis_error", "sea_ice_fraction", "mask"])
    offset = near_real_time_offset(given, FIRST_READ)
    expected = truth["analysed_sst"].to_numpy() + offset
    np.testing.assert_allclose(given["analysed_sst"].to_numpy(), expected, rtol=0, atol=HALF_A_STEP + 1e-4)


def test_both_services_give_the_same_values_from_their_own_chunks(client: Client) -> None:
    xr.testing.assert_identical(client.days("geo_chunked"), client.days("near_real_time"))
    paths = [request.path for request in client.requests]
    assert any("/mdl-arco-geo-045/arco/" in path and path.endswith(".zarr/analysed_sst/0.163.188") for path in paths)
    assert any("/mdl-arco-time-045/arco/" in path and path.endswith(".zarr/analysed_sst/76.2.5") for path in paths)


def test_everything_that_the_client_reads_says_that_it_is_synthetic(client: Client) -> None:
    attributes = client.days("near_real_time").attrs
    assert attributes["source_product"] == "SYNTHETIC-SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001"
    assert attributes["source_version"] == "SYNTHETIC-202311"
    assert attributes["synthetic_seed"] == SEED
    assert "not observed" in client.days("near_real_time")["analysed_sst"].attrs["comment"].lower()


def test_a_missing_day_is_absent_a_blank_one_has_only_its_mask_and_a_preliminary_one_is_off(client: Client) -> None:
    odd, healthy = client.days("odd"), client.days("near_real_time")
    asked = {FIRST_READ + timedelta(days=index) for index in range(14)}
    assert {date.fromisoformat(str(stamp)[:10]) for stamp in odd["time"].to_numpy()} == asked - {MISSING}
    assert set(odd["time"].dt.hour.to_numpy()) == {7}
    odd = odd.assign_coords(time=odd["time"].dt.floor("D"))
    blank = odd.sel(time=str(BLANK))
    assert all(bool(blank[name].isnull().all()) for name in VARIABLES[:-1])
    others = [str(day) for day in sorted(asked - {MISSING, BLANK, PRELIMINARY})]
    others_given, others_healthy = (d.sel(time=np.array(others, "datetime64[ns]")) for d in (odd, healthy))
    assert_same(others_given, others_healthy, ["analysed_sst", "sea_ice_fraction", "mask"])
    np.testing.assert_array_equal(odd["mask"], healthy["mask"].sel(time=odd["time"]))
    change = (odd - healthy)["analysed_sst"].sel(time=str(PRELIMINARY))
    assert float(change.min()) == pytest.approx(0.46) == float(change.max())


def test_an_unscaled_variable_comes_in_packed_numbers(client: Client) -> None:
    day = str(LAST_READ)
    packed, kelvin = (client.days(name)["analysis_error"].sel(time=day) for name in ("odd", "near_real_time"))
    np.testing.assert_allclose(packed.to_numpy().squeeze(), 100 * kelvin.to_numpy(), atol=1e-6)


def test_the_client_raises_what_it_raises_at_the_real_service(client: Client) -> None:
    expected = {
        "wrong_password": "InvalidUsernameOrPassword",
        "too_late": "CoordinatesOutOfDatasetBounds",
        "unknown": "DatasetNotFound",
        "wrong_version": "DatasetVersionNotFound",
        "updating": "DatasetUpdating",
        "retired": "KeyError",
    }
    assert {question: client.results[question] for question in expected} == expected


def test_the_catalogue_announces_version_services_and_last_day_as_the_dataset_says(client: Client) -> None:
    assert client.results["described"] == ["202311", ["arco-geo-series", "arco-time-series"]]
    announced = LAST_DAY + timedelta(days=1)
    midnight = (announced - date(1970, 1, 1)).days * 86_400_000
    assert client.results["announced"] == midnight + 7 * 3_600_000


def test_a_host_outside_the_store_gets_403_and_is_recorded(client: Client) -> None:
    assert client.results["outside"] == [True, 403]
    assert client.refused == ["example.com", "example.org"]


def test_the_real_client_asks_nobody_but_the_stores_hosts(client: Client) -> None:
    assert {request.host for request in client.requests} <= content.HOSTS
    asked_for = {request.path.rsplit("/", 1)[1] for request in client.requests}
    assert {"token", "userinfo", "clientsConfigV1.json", "product.stac.json", "dataset.stac.json"} <= asked_for


@pytest.fixture
def world() -> World:
    return shown_world()


@pytest.fixture
def store(world: World) -> Iterator[MarineStore]:
    with MarineStore(world) as served:
        yield served


def session(store: MarineStore) -> requests.Session:
    """A plain HTTPS client of the store."""
    opened = requests.Session()
    opened.trust_env = False
    opened.proxies = {"http": store.endpoint, "https": store.endpoint}
    opened.verify = str(store.certificate)
    return opened


@dataclass(frozen=True)
class Slowed:
    """Faults of the way alone: every answer is changed alike."""

    changes: dict[str, Any]

    def world(self, world: World) -> World:
        return world

    def answer(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, **self.changes)


def test_login_wants_the_password_and_userinfo_the_token(store: MarineStore) -> None:
    userinfo = LOGIN.replace("token", "userinfo")
    with session(store) as client:
        wrong = client.post(LOGIN, data=ACCOUNT | {"password": "wrong"})
        token = client.post(LOGIN, data=ACCOUNT).json()["access_token"]
        known = client.get(userinfo, headers={"Authorization": f"Bearer {token}"})
        unknown = client.get(userinfo, headers={"Authorization": "Bearer invented"})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_grant")
    assert known.json()["preferred_username"] == "demo"
    assert unknown.status_code == 401


def chunk_path(world: World, name: str, layout: arrays.Layout = arrays.TIME_CHUNKED) -> str:
    return f"{arrays.root(world.dataset(NEAR_REAL_TIME), layout)}/{name}"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "analysed_sst/0.0.0", 404, b"NoSuchKey"),
        ("GET", "analysed_sst/90.2.5", 404, b"NoSuchKey"),
        ("GET", "analysed_sst/0.2", 404, b"NoSuchKey"),
        ("GET", "nothing/.zarray", 404, b"NoSuchKey"),
        ("PUT", "analysed_sst/0.2.5", 403, b"AccessDenied"),
    ],
)
def test_objects_that_are_not_there_are_answered_as_by_an_object_store(
    world: World, method: str, path: str, status: int, code: bytes
) -> None:
    answer = content.answer(world, Request(method, CHUNK_HOST, chunk_path(world, path), {}))
    assert answer.status == status
    assert b"<Code>" + code + b"</Code>" in answer.body


def test_a_dataset_that_was_never_issued_again_has_no_version_in_its_path(world: World) -> None:
    dataset = replace(world.dataset(NEAR_REAL_TIME), version="default")
    assert f"/{NEAR_REAL_TIME}/timeChunked.zarr" in arrays.root(dataset, arrays.TIME_CHUNKED)
    [item] = [path for path in catalogue.documents(replace(world, datasets=(dataset,))) if "dataset.stac" in path]
    assert item.endswith(f"/{NEAR_REAL_TIME}/dataset.stac.json")


def test_a_bucket_cannot_be_listed(world: World) -> None:
    assert content.answer(world, Request("GET", CHUNK_HOST, "/mdl-arco-time-045", {})).status == 403


def test_a_head_request_gives_the_length_and_no_body(store: MarineStore, world: World) -> None:
    address = f"https://{CHUNK_HOST}{chunk_path(world, 'mask/0.2.5')}"
    with session(store) as client:
        head, body = client.head(address), client.get(address).content
    assert (head.headers["content-length"], head.content) == (str(len(body)), b"")


def test_plain_http_is_served_like_tls(store: MarineStore, world: World) -> None:
    path = chunk_path(world, ".zgroup")
    with session(store) as client:
        assert client.get(f"http://{CHUNK_HOST}{path}").json() == client.get(f"https://{CHUNK_HOST}{path}").json()
    assert [request.path for request in store.requests] == [path, path]


def test_the_next_request_sees_another_world(store: MarineStore, world: World) -> None:
    address = f"https://{CHUNK_HOST}/mdl-metadata/dataset_product_id_mapping.json"
    with session(store) as client:
        before = client.get(address).json()
        store.world = replace(world, datasets=(replace(world.dataset(NEAR_REAL_TIME), dataset_id="RENAMED"),))
        after = client.get(address).json()
    assert (NEAR_REAL_TIME in before, "RENAMED" in before) == (True, False)
    assert (NEAR_REAL_TIME in after, "RENAMED" in after) == (False, True)


def test_chunks_across_the_ends_of_drawn_blocks_hold_the_days_of_the_axis(world: World) -> None:
    layout = replace(arrays.GEO_CHUNKED, chunks=(40, 16, 32))
    first, last, missing = date(2024, 1, 1), date(2024, 2, 29), date(2024, 1, 3)
    dataset = replace(world.dataset(REPROCESSED), missing_days=frozenset({missing}))
    pieces = []
    for index in (0, 1):
        raw = arrays.read(world, dataset, layout, f"analysed_sst/{index}.163.188")
        assert raw is not None
        pieces.append(np.frombuffer(days.CODEC.decode(raw), np.int16).reshape(layout.chunks))
    values = np.concatenate(pieces)
    rows, columns = CellBox(2608, 2622, 6016, 6034).within(world.box)
    truth = ostia_dataset(world.box, first, last, SEED)["analysed_sst"].drop_sel(time=f"{missing}T12:00").to_numpy()
    kelvin = np.where(values == -32768, np.nan, 273.15 + 0.01 * values)
    np.testing.assert_allclose(kelvin[:59, :14, :18], truth[:, rows, columns], rtol=0, atol=HALF_A_STEP)
    assert np.isnan(kelvin[59:]).all() and np.isnan(kelvin[:, 14:]).all() and np.isnan(kelvin[:, :, 18:]).all()


def test_outside_the_box_there_is_land_without_values(world: World) -> None:
    dataset = world.dataset(NEAR_REAL_TIME)
    rows, columns = (
        slice(world.box.south - 2048, world.box.north - 2048),
        slice(world.box.west - 5120, world.box.east - 5120),
    )
    for name, outside in (("mask", 2), ("analysed_sst", -32768)):
        raw = arrays.read(world, dataset, arrays.TIME_CHUNKED, f"{name}/0.2.5")
        assert raw is not None
        values = np.frombuffer(days.CODEC.decode(raw), days.dtype_of(name)).reshape(1024, 1024).copy()
        assert (values[rows, columns] != outside).any()
        values[rows, columns] = outside
        assert (values == outside).all()


def test_the_step_is_largest_at_the_coast_in_summer_and_nowhere_past_its_bounds() -> None:
    steps = np.stack([days.step_kelvin(box(), month) for month in range(1, 13)])
    assert steps.min() >= -0.031 and steps.max() <= 0.151
    assert steps.reshape(12, -1).max(axis=1).argmax() == days.WARMEST_MONTH - 1


def test_a_full_cache_forgets_the_oldest_block_and_still_gives_the_same_days(world: World) -> None:
    cache = days._Cache(1)
    blocks = [days._Block(world.box, SEED, False, index) for index in (500, 501, 500)]
    first, _, again = (cache.read(block, "analysed_sst") for block in blocks)
    np.testing.assert_array_equal(first, again)
    assert len(cache._blocks) == 1


def test_closing_is_prompt_while_an_answer_hangs(world: World) -> None:
    store = MarineStore(world, faults=Slowed({"wait_seconds": 3600.0}))  # type: ignore[arg-type]
    outcome: list[object] = []

    def ask() -> None:
        with session(store) as client:
            try:
                outcome.append(client.get(f"https://{CHUNK_HOST}/"))
            except requests.exceptions.ConnectionError as error:
                outcome.append(error)

    asking = threading.Thread(target=ask)
    with socket.create_connection(("127.0.0.1", int(store.endpoint.rsplit(":", 1)[1]))):
        asking.start()
        while not store.requests:
            time.sleep(0.01)
        begun = time.monotonic()
        store.close()
        assert time.monotonic() - begun < 1
        asking.join(timeout=5)
    assert [isinstance(thing, requests.exceptions.ConnectionError) for thing in outcome] == [True]


def test_an_answer_is_dropped_in_the_middle_and_one_drips(store: MarineStore, world: World) -> None:
    address = f"https://{CHUNK_HOST}{chunk_path(world, '.zmetadata')}"
    with session(store) as client:
        length = len(client.get(address).content)
        store.faults = Slowed({"sent_bytes": 100})  # type: ignore[assignment]
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match=f"100 bytes read, {length - 100} more"):
            client.get(address)
        store.faults = Slowed({"bytes_per_second": length / 0.3})  # type: ignore[assignment]
        begun = time.monotonic()
        assert len(client.get(address).content) == length
        assert time.monotonic() - begun >= 0.3


def test_a_client_that_leaves_early_is_no_traceback(
    store: MarineStore, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    store.faults = Slowed({"bytes_per_second": 1000.0})  # type: ignore[assignment]
    with session(store) as client:
        response = client.get(f"https://{CHUNK_HOST}{chunk_path(world, '.zmetadata')}", stream=True)
        response.raw.read(10)
        response.close()
    with socket.create_connection(("127.0.0.1", int(store.endpoint.rsplit(":", 1)[1]))) as leaving:
        leaving.sendall(f"CONNECT {CHUNK_HOST}:443 HTTP/1.1\r\n\r\n".encode())
        leaving.recv(1000)
    store.close()
    assert capfd.readouterr().err == ""


def test_no_private_key_is_left_on_disk_and_the_certificate_goes_with_the_store(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with MarineStore(world) as store:
        with session(store) as client:
            client.get(f"https://{CHUNK_HOST}/")
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files == [store.certificate]
        assert "PRIVATE KEY" not in store.certificate.read_text()
    assert not list(tmp_path.iterdir())


SERVE = (
    "import typer\nfrom datlstm.synthetic.marine_store.cli import app\nparent = typer.Typer()\n"
    "parent.add_typer(app, name='marine-store')\nparent()"
)


def test_a_served_store_says_how_to_reach_it_and_ends_at_sigterm(settings_file: Path, tmp_path: Path) -> None:
    options = ["--settings", str(settings_file), "--last-day", "2026-03-31", "--folder", str(tmp_path)]
    command = [sys.executable, "-c", SERVE, "marine-store", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout and serving.stderr
        exports = dict(serving.stdout.readline().removeprefix("export ").strip().split("=", 1) for _ in range(5))
        assert exports["DATLSTM_SOURCE__KIND"] == "marine-store"
        assert exports["DATLSTM_SOURCE__MARINE_STORE__CERTIFICATE"] == str(tmp_path / "ca.pem")
        with requests.Session() as client:
            client.trust_env = False
            client.proxies = {"https": exports["DATLSTM_SOURCE__MARINE_STORE__ENDPOINT"]}
            client.verify = exports["DATLSTM_SOURCE__MARINE_STORE__CERTIFICATE"]
            assert client.post(LOGIN, data=ACCOUNT).status_code == 200
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(timeout=10) == 0
        assert "Traceback" not in serving.stderr.read()
    assert not (tmp_path / "ca.pem").exists()
