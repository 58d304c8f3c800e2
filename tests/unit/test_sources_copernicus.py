"""The Copernicus source asks the official client rightly and believes it in nothing that it was seen to get wrong.

The client's two entrances are replaced; its exceptions and its description of the catalogue are its own.
"""

import inspect
import subprocess
import sys
import traceback
from datetime import UTC, date, datetime
from typing import Any

import botocore.exceptions
import copernicusmarine
import numpy as np
import pandas as pd
import pytest
import requests
import xarray as xr
import zarr.errors
from pydantic import SecretStr

from datlstm.errors import GridError, NotYetAvailableError, PermanentSourceError, SourceError, TransientSourceError
from datlstm.settings import CopernicusCredentials, Region, Settings, SourceSettings
from datlstm.settings import CopernicusSource as Options
from datlstm.sources import Source, open_source
from datlstm.sources.copernicus import CopernicusSource

REGION = Region(name="bohai", title="Bohai", south=37, north=37.5, west=118, east=118.5, resolution=0.05)
OPTIONS = Options(dataset_version="202311")
CREDENTIALS = CopernicusCredentials(username=SecretStr("jeanne.baret"), password=SecretStr("etoile"))
FIRST, LAST = date(2026, 3, 1), date(2026, 3, 10)
REAL_SIGNATURE = inspect.signature(copernicusmarine.open_dataset)
REAL_DESCRIBE_SIGNATURE = inspect.signature(copernicusmarine.describe)


def ostia(first_day: date = FIRST, last_day: date = LAST) -> xr.Dataset:
    """What the service holds: cells of 0.05 degrees around the region, some of them land or under ice."""
    time = pd.date_range(first_day, last_day).to_numpy()
    latitude, longitude = 36.675 + 0.05 * np.arange(24), 117.675 + 0.05 * np.arange(24)
    dims, shape = ("time", "latitude", "longitude"), (time.size, 24, 24)
    kelvin = 280 + np.arange(time.size)[:, None, None] + np.zeros(shape)
    ice, mask = np.full(shape, np.nan), np.ones(shape)
    mask[:, 10:12], kelvin[:, 10:12] = 2, np.nan
    mask[:, 14], ice[:, 14] = 9, 0.25
    return xr.Dataset(
        {
            "analysed_sst": (dims, kelvin, {"units": "kelvin"}),
            "sea_ice_fraction": (dims, ice, {"units": "1"}),
            "mask": (dims, mask),
        },
        {"time": time, "latitude": latitude, "longitude": longitude},
    )


class FakeClient:
    """Answers like the client: a missing day by its neighbour, a hidden failure when one is due."""

    def __init__(self) -> None:
        self.held: xr.Dataset | None = ostia()
        self.failure: Exception | None = None
        self.catalogue_failure: Exception | None = None
        self.asked: list[dict[str, Any]] = []
        self.stdin = "unread"

    def open_dataset(self, **request: Any) -> xr.Dataset | None:
        REAL_SIGNATURE.bind(**request)
        self.asked.append(request)
        self.stdin = sys.stdin.read()
        if self.failure:
            raise self.failure
        if self.held is None:
            return None
        start, end = (np.datetime64(request[k].replace(tzinfo=None)) for k in ("start_datetime", "end_datetime"))
        days = self.held.sel(time=slice(start, end))
        return (days if days.sizes["time"] else self.held.sel(time=[start], method="nearest")).chunk(time=1)

    def describe(self, **request: Any) -> copernicusmarine.CopernicusMarineCatalogue:
        REAL_DESCRIBE_SIGNATURE.bind(**request)
        if self.catalogue_failure:
            raise self.catalogue_failure
        return catalogue("202406", "202311")


def catalogue(*versions: str) -> copernicusmarine.CopernicusMarineCatalogue:
    milliseconds = [pd.Timestamp(day).timestamp() * 1000 for day in ("2007-01-01", "2026-03-10")]
    axis = {
        "coordinate_unit": "", "step": None, "values": None, "chunking_length": 1, "chunk_type": None,
        "chunk_reference_coordinate": None, "chunk_geometric_factor": None,
    }  # fmt: skip
    time = copernicusmarine.CopernicusMarineCoordinate(
        coordinate_id="time", minimum_value=milliseconds[0], maximum_value=milliseconds[1], axis="t", **axis
    )
    variable = copernicusmarine.CopernicusMarineVariable(
        short_name="analysed_sst", standard_name=None, units=None, bbox=None, coordinates=[time]
    )
    service = copernicusmarine.CopernicusMarineService(
        service_name="arco-time-series", service_short_name=None, service_format="zarr", uri="", variables=[variable],
        platforms_metadata=None, arco_sparse_type=None,
    )  # fmt: skip
    part = copernicusmarine.CopernicusMarinePart.model_construct(name="default", services=[service])
    dataset = copernicusmarine.CopernicusMarineDataset(
        dataset_id=OPTIONS.dataset_id, dataset_name="", product_id="", digital_object_identifier=None,
        versions=[copernicusmarine.CopernicusMarineVersion(label=label, parts=[part]) for label in versions],
    )  # fmt: skip
    product = copernicusmarine.CopernicusMarineProduct.model_construct(product_id="", datasets=[dataset])
    return copernicusmarine.CopernicusMarineCatalogue.model_construct(products=[product])


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(copernicusmarine, "open_dataset", fake.open_dataset)
    monkeypatch.setattr(copernicusmarine, "describe", fake.describe)
    return fake


@pytest.fixture
def source() -> CopernicusSource:
    return CopernicusSource(REGION, OPTIONS, CREDENTIALS)


class TestRequest:
    def test_days_arrive_in_the_form_of_the_protocol(self, client: FakeClient, source: CopernicusSource) -> None:
        days = source.read(FIRST, LAST)
        assert isinstance(source, Source)
        assert days["sst"].dims == ("time", "latitude", "longitude")
        assert days["sst"].dtype == np.float32
        assert days["sst"].isel(latitude=0, longitude=0).to_numpy().tolist() == list(range(280, 290))
        assert days["mask"].dtype == np.int8

    def test_region_comes_with_exactly_one_more_cell_on_each_side(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        days = source.read(FIRST, LAST)
        np.testing.assert_allclose(days["latitude"], 36.975 + 0.05 * np.arange(12), atol=1e-9)
        np.testing.assert_allclose(days["longitude"], 117.975 + 0.05 * np.arange(12), atol=1e-9)

    def test_dataset_and_version_are_pinned_and_the_box_is_larger_than_the_region(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        source.read(FIRST, LAST)
        (request,) = client.asked
        assert (request["dataset_id"], request["dataset_version"]) == (OPTIONS.dataset_id, "202311")
        assert request["variables"] == ["analysed_sst", "sea_ice_fraction", "mask"]
        assert request["coordinates_selection_method"] == "outside"
        assert request["minimum_latitude"] < REGION.south < REGION.north < request["maximum_latitude"]
        assert request["minimum_longitude"] < REGION.west < REGION.east < request["maximum_longitude"]
        assert request["raise_if_updating"] is True
        assert (request["username"], request["password"]) == ("jeanne.baret", "etoile")

    def test_whole_days_are_asked_in_utc(self, client: FakeClient, source: CopernicusSource) -> None:
        source.read(date(2026, 3, 2), date(2026, 3, 3))
        assert client.asked[0]["start_datetime"] == datetime(2026, 3, 2, tzinfo=UTC)
        end = client.asked[0]["end_datetime"]
        assert end.tzinfo is UTC
        assert datetime(2026, 3, 3, 23, 59, tzinfo=UTC) < end < datetime(2026, 3, 4, tzinfo=UTC)

    def test_box_never_leaves_the_globe(self, client: FakeClient) -> None:
        polar = Region(name="polar", title="Polar", south=-90, north=90, west=-180, east=180, resolution=10)
        with pytest.raises(GridError, match="do not cover region 'polar'"):
            CopernicusSource(polar, OPTIONS, CREDENTIALS).read(FIRST, LAST)
        box = [client.asked[0][f"{end}_{axis}"] for axis in ("latitude", "longitude") for end in ("minimum", "maximum")]
        assert box == [-90, 90, -180, 180]

    def test_version_left_open_is_the_catalogues_default_for_the_life_of_the_source(
        self, client: FakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = CopernicusSource(REGION, Options(), CREDENTIALS)
        source.read(FIRST, LAST)
        monkeypatch.setattr(copernicusmarine, "describe", lambda **_: catalogue("209901"))
        source.read(FIRST, LAST)
        assert source.version == "202406"
        assert [request["dataset_version"] for request in client.asked] == ["202406", "202406"]

    def test_coverage_is_what_the_catalogue_announces(self, client: FakeClient, source: CopernicusSource) -> None:
        assert source.coverage() == (date(2007, 1, 1), date(2026, 3, 10))

    def test_licence_gets_its_credit_line(self, source: CopernicusSource) -> None:
        assert source.attribution == (
            "Generated using E.U. Copernicus Marine Service Information; https://doi.org/10.48670/moi-00165"
        )


class TestCredentials:
    @pytest.mark.parametrize("username", [None, SecretStr("jeanne.baret")])
    @pytest.mark.parametrize("password", [None, SecretStr("")])
    def test_missing_credentials_are_refused_before_the_client_is_asked(
        self, client: FakeClient, username: SecretStr | None, password: SecretStr | None
    ) -> None:
        credentials = CopernicusCredentials(username=username, password=password)
        expected = "COPERNICUSMARINE_SERVICE_USERNAME and COPERNICUSMARINE_SERVICE_PASSWORD"
        with pytest.raises(PermanentSourceError, match=expected):
            CopernicusSource(REGION, OPTIONS, credentials).read(FIRST, LAST)
        assert not client.asked

    def test_settings_take_credentials_from_the_clients_own_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = Settings(region=REGION, source=SourceSettings(kind="copernicus", copernicus=OPTIONS))
        monkeypatch.delenv("COPERNICUSMARINE_SERVICE_USERNAME", raising=False)
        monkeypatch.delenv("COPERNICUSMARINE_SERVICE_PASSWORD", raising=False)
        with pytest.raises(PermanentSourceError, match="needs credentials"):
            open_source(settings)
        monkeypatch.setenv("COPERNICUSMARINE_SERVICE_USERNAME", "jeanne.baret")
        monkeypatch.setenv("COPERNICUSMARINE_SERVICE_PASSWORD", "etoile")
        assert open_source(settings).version == "202311"

    def test_prompt_of_the_client_finds_the_input_at_its_end(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        before = sys.stdin
        source.read(FIRST, LAST)
        assert client.stdin == ""
        assert sys.stdin is before


class TestAnswers:
    def test_neighbour_given_for_a_missing_day_is_not_believed(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        client.held = ostia().sel(time=[np.datetime64("2026-03-01"), np.datetime64("2026-03-05")])
        with pytest.raises(NotYetAvailableError, match="no values for 2026-03-03 to 2026-03-03"):
            source.read(date(2026, 3, 3), date(2026, 3, 3))

    def test_day_the_service_lacks_is_absent(self, client: FakeClient, source: CopernicusSource) -> None:
        client.held = ostia().drop_sel(time=[np.datetime64("2026-03-03")])
        days = source.read(date(2026, 3, 2), date(2026, 3, 4))["time"].dt.day
        assert days.to_numpy().tolist() == [2, 4]

    def test_noon_stamps_become_calendar_days(self, client: FakeClient, source: CopernicusSource) -> None:
        client.held = ostia().assign_coords(time=ostia()["time"] + np.timedelta64(12, "h"))
        days = source.read(date(2026, 3, 2), date(2026, 3, 4))["time"]
        np.testing.assert_array_equal(days, np.arange("2026-03-02", "2026-03-05", dtype="datetime64[D]"))

    def test_day_that_occurs_twice_is_refused(self, client: FakeClient, source: CopernicusSource) -> None:
        client.held = ostia().isel(time=[0, 1, 1, 2])
        with pytest.raises(PermanentSourceError, match="2 fields for 2026-03-02"):
            source.read(FIRST, LAST)

    def test_day_of_missing_chunks_is_absent_and_does_not_blur_the_mask(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        client.held = ostia().where(ostia()["time"] != np.datetime64("2026-03-03"))
        days = source.read(date(2026, 3, 2), date(2026, 3, 4))
        assert days["time"].dt.day.to_numpy().tolist() == [2, 4]
        assert int((days["mask"] == 2).sum()) == 2 * 12

    def test_only_missing_chunks_are_not_yet_there(self, client: FakeClient, source: CopernicusSource) -> None:
        client.held = ostia() * np.nan
        with pytest.raises(NotYetAvailableError, match="no values for 2026-03-01 to 2026-03-10"):
            source.read(FIRST, LAST)

    def test_mask_with_a_missing_chunk_is_tried_again(self, client: FakeClient, source: CopernicusSource) -> None:
        client.held = ostia()
        client.held["mask"][:, :, :8] = np.nan
        with pytest.raises(TransientSourceError, match="mask that lacks 24 of 144 cells"):
            source.read(FIRST, LAST)

    def test_ice_cells_are_water_and_keep_their_ice(self, client: FakeClient, source: CopernicusSource) -> None:
        days = source.read(FIRST, LAST)
        icy, land = days.isel(latitude=8), days.isel(latitude=4)
        assert (icy["mask"] == 1).all()
        assert icy["sst"].notnull().all()
        assert (icy["sea_ice_fraction"] == np.float32(0.25)).all()
        assert (land["mask"] == 2).all()

    def test_client_that_gives_up_without_a_word_is_permanent(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        client.held = None
        with pytest.raises(PermanentSourceError, match="gave up on METOFFICE"):
            source.read(FIRST, LAST)


S3_URL = "https://s3.waw3-1.cloudferro.com/mdl-arco-time-045/arco/x.zarr/.zmetadata?x-cop-user=jeanne.baret"


def _out_of_bounds(dimension: str) -> Any:
    return copernicusmarine.CoordinatesOutOfDatasetBounds(
        "Some of your subset selection [2026-04-01, 2026-04-02] "
        f"for the {dimension} dimension exceed the dataset coordinates [2007-01-01, 2026-03-10]"
    )


def _client_error() -> Any:
    response: Any = {"Error": {"Code": "503"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
    return botocore.exceptions.ClientError(response, "GetObject")


DESCRIBED = catalogue("202406").products[0].datasets[0]
FAILURES: list[tuple[Exception, type[SourceError]]] = [
    (copernicusmarine.InvalidUsernameOrPassword("Learn how to recover at: https://help"), PermanentSourceError),
    (copernicusmarine.VariableDoesNotExistInTheDataset("analysed_sst"), PermanentSourceError),
    (copernicusmarine.DatasetVersionNotFound(DESCRIBED, "202311"), PermanentSourceError),
    (copernicusmarine.DatasetVersionPartNotFound(DESCRIBED.versions[0]), PermanentSourceError),
    (copernicusmarine.ServiceDoesNotExistForCommand("x", "open_dataset", []), PermanentSourceError),
    (copernicusmarine.ServiceNotAvailable("x"), PermanentSourceError),
    (copernicusmarine.NoServiceAvailable("x"), PermanentSourceError),
    (copernicusmarine.FormatNotSupported("sqlite", "open_dataset", "read_dataframe"), PermanentSourceError),
    (copernicusmarine.WrongDatetimeFormat("x"), PermanentSourceError),
    (ValueError("x"), PermanentSourceError),
    (TypeError("x"), PermanentSourceError),
    (_out_of_bounds("latitude"), PermanentSourceError),
    (_out_of_bounds("time"), NotYetAvailableError),
    (copernicusmarine.DatasetUpdating("being updated"), NotYetAvailableError),
    (copernicusmarine.CouldNotConnectToAuthenticationSystem(), TransientSourceError),
    (requests.ConnectionError(f"Max retries exceeded with url: {S3_URL}"), TransientSourceError),
    (requests.exceptions.JSONDecodeError("Expecting value", "", 0), TransientSourceError),
    (_client_error(), TransientSourceError),
    (botocore.exceptions.ReadTimeoutError(endpoint_url=S3_URL), TransientSourceError),
    (botocore.exceptions.EndpointConnectionError(endpoint_url=S3_URL), TransientSourceError),
    (RuntimeError("error during blosc decompression: -1"), TransientSourceError),
    (zarr.errors.GroupNotFoundError(f"No group found in store {S3_URL!r}"), TransientSourceError),
    (pd.errors.InvalidIndexError("x"), TransientSourceError),
    (RuntimeError("refused jeanne.baret with etoile"), TransientSourceError),
    (Exception("never seen before"), TransientSourceError),
]


class TestFailures:
    @pytest.mark.parametrize(("failure", "kind"), FAILURES, ids=[type(failure).__name__ for failure, _ in FAILURES])
    def test_failure_of_the_client_is_translated(
        self, client: FakeClient, source: CopernicusSource, failure: Exception, kind: type[SourceError]
    ) -> None:
        client.failure = failure
        with pytest.raises(SourceError) as translated:
            source.read(FIRST, LAST)
        message = str(translated.value)
        assert type(translated.value) is kind
        assert type(failure).__name__ in message
        assert OPTIONS.dataset_id in message

    @pytest.mark.parametrize("failure", [failure for failure, _ in FAILURES], ids=lambda f: type(f).__name__)
    def test_neither_user_nor_urls_reach_message_or_traceback(
        self, client: FakeClient, source: CopernicusSource, failure: Exception
    ) -> None:
        client.failure = failure
        with pytest.raises(SourceError) as translated:
            source.read(FIRST, LAST)
        told = "".join(traceback.format_exception(translated.value))
        assert "jeanne" not in told
        assert "etoile" not in told
        assert "://" not in str(translated.value)

    def test_failure_while_chunks_are_read_is_translated(self, client: FakeClient, source: CopernicusSource) -> None:
        def fail(chunk: xr.DataArray) -> xr.DataArray:
            raise RuntimeError("error during blosc decompression: -1")

        kelvin = ostia()["analysed_sst"].chunk(time=1)
        client.held = ostia().assign(analysed_sst=kelvin.map_blocks(fail, template=kelvin))
        with pytest.raises(TransientSourceError, match="blosc"):
            source.read(FIRST, LAST)

    @pytest.mark.parametrize(
        "ambiguous",
        [copernicusmarine.DatasetNotFound("METOFFICE"), KeyError("The requested dataset 'METOFFICE' was not found")],
    )
    @pytest.mark.parametrize(
        ("catalogue_failure", "kind"),
        [
            (copernicusmarine.DatasetNotFound("METOFFICE"), PermanentSourceError),
            (requests.ReadTimeout(S3_URL), TransientSourceError),
            (None, TransientSourceError),
        ],
    )
    def test_dataset_not_found_is_permanent_only_if_the_catalogue_says_so_itself(
        self,
        client: FakeClient,
        source: CopernicusSource,
        ambiguous: Exception,
        catalogue_failure: Exception | None,
        kind: type[SourceError],
    ) -> None:
        client.failure, client.catalogue_failure = ambiguous, catalogue_failure
        with pytest.raises(SourceError) as translated:
            source.read(FIRST, LAST)
        assert type(translated.value) is kind

    def test_pinned_version_that_is_gone_is_permanent_and_names_the_others(self, client: FakeClient) -> None:
        source = CopernicusSource(REGION, Options(dataset_version="201904"), CREDENTIALS)
        with pytest.raises(PermanentSourceError, match="'201904' cannot be found.*202406.*202311"):
            source.coverage()

    def test_silent_catalogue_is_tried_again(self, client: FakeClient, source: CopernicusSource) -> None:
        client.catalogue_failure = requests.ConnectTimeout(S3_URL)
        with pytest.raises(TransientSourceError, match="ConnectTimeout"):
            source.coverage()

    def test_catalogue_without_the_dataset_is_permanent(self, client: FakeClient) -> None:
        source = CopernicusSource(REGION, Options(dataset_id="SST-V3"), CREDENTIALS)
        with pytest.raises(PermanentSourceError, match="no dataset SST-V3"):
            source.coverage()


IMPORT_STORY = """
import logging, sys, time
from datlstm.settings import CopernicusSource as Options, CopernicusCredentials, Region
from datlstm.sources.copernicus import CopernicusSource, _client
region = Region(name="b", title="B", south=37, north=41, west=118, east=122, resolution=1)
CopernicusSource(region, Options(), CopernicusCredentials(username="a", password="b"))
assert "copernicusmarine" not in sys.modules, "the client is imported before it is needed"
_client()
assert logging.Formatter.converter is time.localtime, "the client's clock leaks into every log"
from copernicusmarine.core_functions import sessions
assert (sessions.HTTPS_TIMEOUT, sessions.HTTPS_RETRIES) == (15, 2), "the client's waits are not bounded"
"""


def test_client_is_imported_late_with_bounded_waits_and_leaves_logging_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("COPERNICUSMARINE_HTTPS_TIMEOUT", "COPERNICUSMARINE_HTTPS_RETRIES"):
        monkeypatch.delenv(variable, raising=False)
    story = subprocess.run([sys.executable, "-c", IMPORT_STORY], capture_output=True, text=True, timeout=120)
    assert story.returncode == 0, story.stderr
