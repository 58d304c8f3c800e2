"""What the client's own exceptions, passed between processes as names and words, become for the service."""

import errno
import os
from typing import Any

import botocore.exceptions  # type: ignore[import-untyped]
import copernicusmarine
import pandas as pd
import pytest
import requests
import zarr.errors
from copernicusmarine.core_functions.credentials_utils import CredentialsCannotBeNone

from datlstm.errors import NotYetAvailableError, PermanentSourceError, SourceError, TransientSourceError
from datlstm.sources.copernicus.client import answer
from datlstm.sources.copernicus.protocol import AskedDataset, Failed, Message, Request
from datlstm.sources.copernicus.translation import explain, kind_of, scrubbed

DATASET = "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2"
USERNAME, PASSWORD = "jeanne.baret", "etoile"
SECRETS = (USERNAME, PASSWORD)
S3_URL = "https://s3.waw3-1.cloudferro.com/mdl-arco-time-045/arco/x.zarr/.zmetadata?x-cop-user=jeanne.baret"
REQUEST = Request(
    username=USERNAME, password=PASSWORD, datasets=[AskedDataset(dataset_id=DATASET, version=None)],
    first_day=None, last_day=None, south=37, north=38, west=118, east=119, folder="", loopback_only=False,
)  # fmt: skip
DESCRIBED = copernicusmarine.CopernicusMarineDataset(
    dataset_id=DATASET, dataset_name="", product_id="", digital_object_identifier=None,
    versions=[copernicusmarine.CopernicusMarineVersion(label="202406", parts=[])],
)  # fmt: skip


def out_of_bounds(dimension: str) -> Exception:
    return copernicusmarine.CoordinatesOutOfDatasetBounds(
        "Some of your subset selection [2026-04-01, 2026-04-02] "
        f"for the {dimension} dimension exceed the dataset coordinates [2007-01-01, 2026-03-10]"
    )


def client_error() -> Exception:
    response: Any = {"Error": {"Code": "503"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
    return botocore.exceptions.ClientError(response, "GetObject")


FAILURES: list[tuple[Exception, type[SourceError]]] = [
    (copernicusmarine.InvalidUsernameOrPassword("Learn how to recover at: https://help"), PermanentSourceError),
    (CredentialsCannotBeNone(), PermanentSourceError),
    (copernicusmarine.VariableDoesNotExistInTheDataset("analysed_sst"), PermanentSourceError),
    (copernicusmarine.DatasetNotFound(DATASET), PermanentSourceError),
    (copernicusmarine.DatasetVersionNotFound(DESCRIBED, "202311"), PermanentSourceError),
    (copernicusmarine.DatasetVersionPartNotFound(DESCRIBED.versions[0]), PermanentSourceError),
    (copernicusmarine.ServiceDoesNotExistForCommand("x", "open_dataset", []), PermanentSourceError),
    (copernicusmarine.ServiceNotAvailable("x"), PermanentSourceError),
    (copernicusmarine.NoServiceAvailable("x"), PermanentSourceError),
    (copernicusmarine.FormatNotSupported("sqlite", "open_dataset", "read_dataframe"), PermanentSourceError),
    (copernicusmarine.WrongDatetimeFormat("x"), PermanentSourceError),
    (ValueError("x"), PermanentSourceError),
    (TypeError("x"), PermanentSourceError),
    (out_of_bounds("latitude"), PermanentSourceError),
    (out_of_bounds("time"), NotYetAvailableError),
    (copernicusmarine.DatasetUpdating("being updated"), NotYetAvailableError),
    (copernicusmarine.CouldNotConnectToAuthenticationSystem(), TransientSourceError),
    (requests.ConnectionError(f"Max retries exceeded with url: {S3_URL}"), TransientSourceError),
    (requests.exceptions.JSONDecodeError("Expecting value", "", 0), TransientSourceError),
    (client_error(), TransientSourceError),
    (botocore.exceptions.ReadTimeoutError(endpoint_url=S3_URL), TransientSourceError),
    (botocore.exceptions.EndpointConnectionError(endpoint_url=S3_URL), TransientSourceError),
    (RuntimeError("error during blosc decompression: -1"), TransientSourceError),
    (zarr.errors.GroupNotFoundError(f"No group found in store {S3_URL!r}"), TransientSourceError),
    (pd.errors.InvalidIndexError("x"), TransientSourceError),
    (KeyError(f"The requested dataset '{DATASET}' was not found"), TransientSourceError),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), TransientSourceError),
    (RuntimeError("refused jeanne.baret with etoile"), TransientSourceError),
    (RuntimeError("GET /arco/x.zarr?x-cop-user=jeanne.baret HTTP/1.1"), TransientSourceError),
    (Exception("never seen before"), TransientSourceError),
]
EVERY_FAILURE = pytest.mark.parametrize(
    ("failure", "kind"), FAILURES, ids=[f"{type(failure).__name__}-{kind.__name__}" for failure, kind in FAILURES]
)


def told_of(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> Failed:
    """Return what the client's process says when the client raises ``failure``, as it arrives."""

    def fail(**_: object) -> None:
        raise failure

    monkeypatch.setattr(copernicusmarine, "describe", fail)
    told: list[Message] = []
    answer(REQUEST, told.append)
    assert len(told) == 1
    return Failed.model_validate_json(told[0].model_dump_json())


@EVERY_FAILURE
def test_each_failure_has_its_kind_and_is_named(
    failure: Exception, kind: type[SourceError], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = explain(told_of(failure, monkeypatch), SECRETS)
    assert type(error) is kind
    assert type(failure).__name__ in str(error)
    assert DATASET in str(error)
    assert "the catalogue's description" in str(error)


@EVERY_FAILURE
def test_neither_user_nor_password_nor_urls_reach_the_message(
    failure: Exception, kind: type[SourceError], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = str(explain(told_of(failure, monkeypatch), SECRETS))
    assert "jeanne" not in message
    assert "etoile" not in message
    assert "://" not in message
    assert "x-cop" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (CredentialsCannotBeNone(), "COPERNICUSMARINE_SERVICE_USERNAME and COPERNICUSMARINE_SERVICE_PASSWORD"),
        (copernicusmarine.DatasetNotFound(DATASET), "dataset_id"),
        (copernicusmarine.DatasetVersionNotFound(DESCRIBED, "202311"), "dataset_version"),
        (TypeError("x"), "settings under source.copernicus"),
        (copernicusmarine.DatasetUpdating("being updated"), "come back later"),
        (client_error(), "try again"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_message_says_what_to_do(failure: Exception, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remedy in str(explain(told_of(failure, monkeypatch), SECRETS)).rpartition(";")[2]


def test_version_that_is_gone_is_told_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = copernicusmarine.DatasetVersionNotFound(DESCRIBED, "202311")
    message = str(explain(told_of(gone, monkeypatch), SECRETS))
    assert "'202311'" in message
    assert "'202406'" in message


def test_full_disk_is_the_operators_whatever_class_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for failure in (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("[Errno 28] No space left on device"),
    ):
        error = explain(told_of(failure, monkeypatch), SECRETS)
        assert type(error) is PermanentSourceError
        assert "no room: free some, or set TMPDIR" in str(error)


def test_most_derived_known_class_decides() -> None:
    def kind(*classes: str) -> type[SourceError]:
        return kind_of(Failed(dataset_id=DATASET, asked="", classes=[*classes, "Exception", "object"], words=""))

    assert kind("GroupNotFoundError", "ValueError") is TransientSourceError
    assert kind("UnknownError", "ValueError") is PermanentSourceError
    assert kind("UnknownError") is TransientSourceError


def test_words_come_in_one_line_without_addresses() -> None:
    words = "No group\n  found in https://s3/x?x-cop-user=jeanne.baret\tnor in 's3://y'"
    assert scrubbed(words, SECRETS) == "No group found in <url> nor in <url>"


def test_secret_with_white_space_is_hidden() -> None:
    assert scrubbed("login as jeanne  baret\trefused", ("jeanne  baret\t", "etoile")) == "login as ***refused"


def test_secret_that_holds_the_other_is_hidden_whole() -> None:
    assert scrubbed("refused jeanne with jeanne1766", ("jeanne", "jeanne1766")) == "refused *** with ***"
