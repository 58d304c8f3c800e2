"""Whatever object storage refuses becomes one line, soon, that names the place, the cause and the remedy."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic
from urllib.parse import urlsplit

import botocore.auth
import numpy as np
import pytest
import xarray as xr
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from datlstm import daily
from datlstm.archive import FIELDS, Archive
from datlstm.cube import Cube
from datlstm.errors import StoreError
from datlstm.products.forecast import INIT_TIME
from datlstm.quality import DayQuality
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.store_server import StoreServer
from tests.conftest import PUBLIC_BUCKET

DAY = date(2024, 1, 10)
SOON_SECONDS = 8
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def cube_at(url: str) -> Cube:
    values = xr.DataArray(np.zeros(0, "float32"), dims=INIT_TIME, coords={INIT_TIME: np.zeros(0, "datetime64[ns]")})
    days = {"chunks": (4096,), "units": "days since 1970-01-01", "dtype": "int32", "calendar": "standard"}
    return Cube(Store(url), "c.zarr", values.to_dataset(name="sst"), {INIT_TIME: days})


def write_cube(url: str) -> None:
    with cube_at(url).writing() as writer:
        writer.stage({INIT_TIME: np.array([(DAY - daily.EPOCH).days], "int32"), "sst": np.full(1, 280, "float32")})
        writer.commit()


def write_archive(settings: Settings, value: float) -> None:
    archive = Archive(settings)
    grid = archive.grid
    ocean = xr.DataArray(np.ones(grid.shape, bool), dims=("latitude", "longitude"), coords=grid.coords())
    kelvin = xr.full_like(ocean, value, "float32").expand_dims(
        time=np.array([settings.archive.first_day], "datetime64[ns]")
    )
    fields = dict.fromkeys(FIELDS, kelvin)
    provenance = dict.fromkeys(("source_product", "source_version"), ("time", np.array(["P"], object)))
    day = xr.Dataset({**fields, **provenance, "quality": ("time", np.array([DayQuality.GOOD], "uint8"))})
    archive.upsert(day, ocean, attribution="A")


Act = Callable[[str, Settings], object]
READS: dict[str, Act] = {
    "an object": lambda url, settings: Store(url).read("x"),
    "a listing": lambda url, settings: Store(url).list("x"),
    "a cube": lambda url, settings: cube_at(url).open(),
    "an archive": lambda url, settings: Archive(settings.replace(store=url)).exists(),
}
WRITES: dict[str, Act] = {
    "an object": lambda url, settings: Store(url).write("x", b"1"),
    "a deletion": lambda url, settings: Store(url).delete("x"),
    "a cube": lambda url, settings: write_cube(url),
    "an archive": lambda url, settings: write_archive(settings.replace(store=url), 281),
}


def refusal(act: Act, url: str, settings: Settings) -> str:
    """Return the message of the error, which is one line, soon, and names the place."""
    began = monotonic()
    with pytest.raises(StoreError) as caught:
        act(url, settings)
    assert monotonic() - began < SOON_SECONDS
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(url)
    return message


def each(acts: dict[str, Act]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("act", acts.values(), ids=acts)


@each(READS | {f"{name}, written": act for name, act in WRITES.items()})
class TestWhoeverAsks:
    def test_a_wrong_secret_is_told_from_a_wrong_key(
        self, act: Act, s3_store_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        assert "correct AWS_SECRET_ACCESS_KEY (SignatureDoesNotMatch)" in refusal(act, s3_store_url, settings)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody's")
        assert "correct AWS_ACCESS_KEY_ID (InvalidAccessKeyId)" in refusal(act, s3_store_url, settings)

    def test_an_absent_bucket_is_not_an_empty_store(self, act: Act, s3_store_url: str, settings: Settings) -> None:
        assert "make it, or correct DATLSTM_STORE (NoSuchBucket)" in refusal(act, "s3://no-such-bucket/x", settings)

    def test_without_keys_what_is_not_public_is_refused(
        self, act: Act, s3_store_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in KEYS:
            monkeypatch.delenv(variable)
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(act, s3_store_url, settings)

    @pytest.mark.parametrize("missing", KEYS)
    def test_half_of_the_keys_is_not_none(
        self, act: Act, missing: str, s3_store_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(missing)
        assert "one is set: set both, or none" in refusal(act, s3_store_url, settings)

    def test_a_server_that_is_down_is_named(
        self, act: Act, s3_store_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as bound_and_deaf:
            bound_and_deaf.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{bound_and_deaf.getsockname()[1]}"
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            message = refusal(act, s3_store_url, settings)
        assert f"{endpoint} does not answer: start it, or correct AWS_ENDPOINT_URL" in message


@each(WRITES)
def test_keys_that_may_only_read_read_and_are_told_so_on_writing(
    act: Act, s3_server: StoreServer, s3_store_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(s3_store_url).write("x", b"1")
    write_cube(s3_store_url)
    write_archive(settings.replace(store=s3_store_url), 280)
    for variable, value in s3_server.reading_environment.items():
        monkeypatch.setenv(variable, value)
    assert Store(s3_store_url).read("x") == b"1"
    assert cube_at(s3_store_url).open() is not None
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(act, s3_store_url, settings)
    assert Store(s3_store_url).read("x") == b"1"


def test_a_full_disk_is_guessed_soon_and_what_is_stored_can_be_read(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(600_000)
    with StoreServer(tmp_path / "server", capacity_megabytes=2) as server:
        server.make_bucket("small")
        for variable, value in server.environment.items():
            monkeypatch.setenv(variable, value)
        store = Store("s3://small")
        written = []

        def fill(url: str, settings: Settings) -> None:
            for i in range(10):
                Store(url).write(f"{i}", content)
                written.append(f"{i}")

        assert "look at its log and its free space (InternalError)" in refusal(fill, store.url, settings)
        assert store.read(written[-1]) == content


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Serve one answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def answer_half_an_hour_late(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> tuple[int, bytes]:
    """Return what the real server answers to a request signed half an hour ago."""
    late = datetime.now(UTC) - timedelta(minutes=30)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: late.replace(tzinfo=None))
    request = AWSRequest("GET", f"{server.endpoint}/datlstm-tests/x")
    keys = Credentials(server.reader.access_key, server.reader.secret_key)
    botocore.auth.S3SigV4Auth(keys, "s3", "us-east-1").add_auth(request)
    connection = HTTPConnection(urlsplit(server.endpoint).netloc)
    connection.request("GET", "/datlstm-tests/x", headers=dict(request.headers.items()))
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_a_clock_that_is_wrong_is_told_to_be_set(
    s3_server: StoreServer, s3_store_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(*answer_half_an_hour_late(s3_server, monkeypatch)) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        message = refusal(READS["an object"], s3_store_url, settings)
    assert "clock and the server's differ too much: set them by NTP (RequestTimeTooSkewed)" in message


class TestWithoutKeys:
    @pytest.fixture
    def public(self, s3_store_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
        """A cube and an archive written to a public place; the keys are gone."""
        url = f"s3://{PUBLIC_BUCKET}/{s3_store_url.rsplit('/', 1)[1]}"
        write_cube(url)
        write_archive(settings.replace(store=url), 280)
        for variable in KEYS:
            monkeypatch.delenv(variable)
        return url

    def test_what_is_public_is_read_and_not_written(self, public: str, settings: Settings) -> None:
        cube = cube_at(public).open()
        assert cube is not None
        assert cube["sst"].values.tolist() == [280]
        assert Store(public).list("c.zarr")
        assert len(Archive(settings.replace(store=public)).usable_days()) == 1
        for act in WRITES.values():
            assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(act, public, settings)

    def test_an_analyst_reads_it_with_xarray_alone(self, public: str, s3_server: StoreServer, tmp_path: Path) -> None:
        script = (
            "import sys, xarray as xr\n"
            f"options = {{'anon': True, 'endpoint_url': {s3_server.endpoint!r}}}\n"
            f"print(xr.open_zarr('{public}/c.zarr', storage_options=options)['sst'].values.tolist())\n"
            "assert not any(name.split('.')[0] == 'datlstm' for name in sys.modules)\n"
        )
        run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stdout == "[280.0]\n"


def test_a_local_store_whose_path_leads_through_a_file_is_refused(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "file").touch()
    elsewhere = settings.replace(store=(tmp_path / "file" / "store").as_uri())
    with pytest.raises(StoreError, match=r"store/archive: .*file is a file, not a folder"):
        Archive(elsewhere).exists()
