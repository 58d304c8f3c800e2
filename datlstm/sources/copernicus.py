"""Copernicus Marine as a source, through its official client and with a guard for each way it was seen to mislead.

The client logs in at every call, waits at a prompt when it has no credentials, returns None when it gives up, answers
for a missing day with its neighbour and for a missing chunk with NaN, and names the user in its URLs. Nothing here
bounds a run in time: the client's reads know no limit, so a service runs this source in a process it may kill.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from functools import cache, cached_property
from typing import Any

import xarray as xr

from datlstm.errors import NotYetAvailableError, PermanentSourceError, SourceError, TransientSourceError
from datlstm.settings import CopernicusCredentials, Region
from datlstm.settings import CopernicusSource as Options
from datlstm.sources.form import VariableNames, deliver, in_kelvin, locate, water_of

NAMES = VariableNames(sst="analysed_sst", ice="sea_ice_fraction", mask="mask")
DOI_BY_PRODUCT = {
    "SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001": "https://doi.org/10.48670/moi-00165",
    "SST_GLO_SST_L4_REP_OBSERVATIONS_010_011": "https://doi.org/10.48670/moi-00168",
}
# Read by the client when it is imported; its own defaults let a login that hangs take 19 minutes.
CLIENT_ENVIRONMENT = {"COPERNICUSMARINE_HTTPS_TIMEOUT": "15", "COPERNICUSMARINE_HTTPS_RETRIES": "2"}
CREDENTIAL_VARIABLES = "COPERNICUSMARINE_SERVICE_USERNAME and COPERNICUSMARINE_SERVICE_PASSWORD"
REMEDIES: dict[type[SourceError], str] = {
    PermanentSourceError: f"check {CREDENTIAL_VARIABLES} and the settings under source.copernicus",
    NotYetAvailableError: "come back later",
    TransientSourceError: "try again",
}

# By class name, so that the client and what it stands on need not be imported to be understood. The most derived class
# named here decides: a zarr GroupNotFoundError is also a ValueError.
KIND_BY_CLASS_NAME: dict[str, type[SourceError]] = {
    "InvalidUsernameOrPassword": PermanentSourceError,
    "CredentialsCannotBeNone": PermanentSourceError,
    "VariableDoesNotExistInTheDataset": PermanentSourceError,
    "DatasetVersionNotFound": PermanentSourceError,
    "DatasetVersionPartNotFound": PermanentSourceError,
    "ServiceDoesNotExistForCommand": PermanentSourceError,
    "ServiceNotAvailable": PermanentSourceError,
    "NoServiceAvailable": PermanentSourceError,
    "FormatNotSupported": PermanentSourceError,
    "WrongDatetimeFormat": PermanentSourceError,
    "ValueError": PermanentSourceError,
    "TypeError": PermanentSourceError,
    "DatasetNotFound": PermanentSourceError,
    "DatasetUpdating": NotYetAvailableError,
    "CouldNotConnectToAuthenticationSystem": TransientSourceError,
    "RequestException": TransientSourceError,
    "ClientError": TransientSourceError,
    "BotoCoreError": TransientSourceError,
    "GroupNotFoundError": TransientSourceError,
    "InvalidIndexError": TransientSourceError,
    "RuntimeError": TransientSourceError,
    "OSError": TransientSourceError,
}


class CopernicusSource:
    """Days of SST of one dataset of Copernicus Marine; see `datlstm.sources.Source`.

    Without a version in the settings, the one that is the catalogue's default at the first question is pinned for the
    life of this object. Raises `PermanentSourceError` when credentials are missing, before the client is touched.
    """

    def __init__(self, region: Region, options: Options, credentials: CopernicusCredentials) -> None:
        self.product = options.product
        self.attribution = "Generated using E.U. Copernicus Marine Service Information; " + DOI_BY_PRODUCT.get(
            options.product, options.product
        )
        self._region = region
        self._dataset_id = options.dataset_id
        self._asked_version = options.dataset_version
        self._username, self._password = _required(credentials)

    @cached_property
    def version(self) -> str:
        """The version of the dataset, asked of the catalogue where the settings leave it open."""
        return self._asked_version or str(self._describe().label)

    def coverage(self) -> tuple[date, date]:
        """Return the first and last calendar day that the catalogue announces now. Raises `SourceError`."""
        with self._explained("its coverage"):
            announced = self._describe().get_part(None).get_coordinates().get("time")
            if announced is None:
                raise PermanentSourceError(f"{self._dataset_id} has no time in the catalogue: choose another dataset")
            first, last = announced[0].minimum_value, announced[0].maximum_value
            if first is None or last is None:
                first, last = min(announced[0].values), max(announced[0].values)
            return _announced_day(first), _announced_day(last)

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of a closed interval that exist, in the form of `Source.read`, already loaded.

        A lazy chunk would fail later, untyped, or be silently missing. So ask for as many days as fit in memory. A day
        without one value over the region is left out like one that the service lacks; a day with some is the quality
        checks' to judge. Raises `NotYetAvailableError` when no asked day is there, and as the client fails
        `PermanentSourceError` or `TransientSourceError`.
        """
        asked = f"{first_day} to {last_day}"
        version = self.version
        with self._explained(asked):
            dataset = _client().open_dataset(**self._request(version, first_day, last_day))
            if dataset is None:
                raise PermanentSourceError(f"the client gave up on {self._dataset_id} and says no more: check its log")
        located = locate(dataset, self._region, NAMES, self._dataset_id)
        with self._explained(asked):
            # The client answers for a missing day with its neighbour: keep what was asked.
            days = located.sel(time=slice(str(first_day), str(last_day))).load()
        days = days.isel(time=days["sst"].notnull().any(("latitude", "longitude")).to_numpy())
        if not days.sizes["time"]:
            raise NotYetAvailableError(f"{self._dataset_id} has no values for {asked} yet: come back later")
        self._require_whole_mask(days)
        return deliver(in_kelvin(days), water_of(days))

    def _request(self, version: str, first_day: date, last_day: date) -> dict[str, Any]:
        # "outside" adds the cells that hold the box's edges; the margin makes that one cell more than the region's own.
        region, margin = self._region, self._region.resolution
        return {
            "dataset_id": self._dataset_id,
            "dataset_version": version,
            "username": self._username,
            "password": self._password,
            "variables": [NAMES.sst, NAMES.ice, NAMES.mask],
            "minimum_longitude": max(-180.0, region.west - margin),
            "maximum_longitude": min(180.0, region.east + margin),
            "minimum_latitude": max(-90.0, region.south - margin),
            "maximum_latitude": min(90.0, region.north + margin),
            # Naive datetimes would be local time.
            "start_datetime": datetime.combine(first_day, time.min, UTC),
            "end_datetime": datetime.combine(last_day, time.max, UTC),
            "coordinates_selection_method": "outside",
            "raise_if_updating": True,
        }

    def _describe(self) -> Any:
        """Return the client's description of the dataset's version. Raises `SourceError`."""
        with self._explained("its description", look_again=False):
            catalogue = _client().describe(
                dataset_id=self._dataset_id, show_all_versions=True, disable_progress_bar=True, raise_on_error=True
            )
            datasets = [dataset for product in catalogue.products for dataset in product.datasets]
            for dataset in datasets:
                if dataset.dataset_id == self._dataset_id:
                    return dataset.get_version(self._asked_version)
        raise PermanentSourceError(f"the catalogue has no dataset {self._dataset_id}: correct source.copernicus")

    def _require_whole_mask(self, days: xr.Dataset) -> None:
        blank = days["mask"].isnull().all("time")
        if bool(blank.any()):
            raise TransientSourceError(
                f"{self._dataset_id} came with a mask that lacks {int(blank.sum())} of {blank.size} cells, so a chunk "
                "of it is missing or forbidden: try again"
            )

    @contextmanager
    def _explained(self, asked: str, *, look_again: bool = True) -> Iterator[None]:
        try:
            with _no_prompt():
                yield
        except SourceError:
            raise
        except Exception as error:
            found = self._look_again() if look_again and _is_ambiguous(error) else self._translated(error, asked)
            # The chain would carry the client's URLs, which name the user, into logs.
            raise found from None

    def _translated(self, error: Exception, asked: str) -> SourceError:
        kind = _kind_of(error)
        words = ("<url>" if "://" in word or "x-cop" in word else word for word in str(error).split())
        detail = " ".join(words).replace(self._username, "***").replace(self._password, "***")
        return kind(
            f"Copernicus Marine did not give {asked} of {self._dataset_id}: {type(error).__name__}: {detail}; "
            f"{REMEDIES[kind]}"
        )

    def _look_again(self) -> SourceError:
        """Tell a dataset that is gone from a catalogue that could not be read, which the client reports alike."""
        try:
            self._describe()
        except SourceError as error:
            return error
        return TransientSourceError(f"Copernicus Marine lost and found dataset {self._dataset_id}: try again")


def _required(credentials: CopernicusCredentials) -> tuple[str, str]:
    username, password = (
        secret.get_secret_value() if secret else "" for secret in (credentials.username, credentials.password)
    )
    if not (username and password):
        raise PermanentSourceError(f"Copernicus Marine needs credentials: set {CREDENTIAL_VARIABLES}")
    return username, password


@cache
def _client() -> Any:
    """Import the client with bounded waits, undoing what its import does to every logger of the process."""
    for variable, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    converter = logging.Formatter.converter
    import copernicusmarine

    logging.Formatter.converter = converter
    logging.getLogger("copernicusmarine").setLevel(logging.WARNING)
    return copernicusmarine


@contextmanager
def _no_prompt() -> Iterator[None]:
    """Let a prompt of the client end at once instead of waiting for ever."""
    stdin = sys.stdin
    with open(os.devnull) as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = stdin


def _is_ambiguous(error: Exception) -> bool:
    return type(error).__name__ == "DatasetNotFound" or isinstance(error, KeyError)


def _kind_of(error: Exception) -> type[SourceError]:
    names = [klass.__name__ for klass in type(error).__mro__]
    if "CoordinatesOutOfDatasetBounds" in names:
        return NotYetAvailableError if "time dimension" in str(error) else PermanentSourceError
    known = (KIND_BY_CLASS_NAME[name] for name in names if name in KIND_BY_CLASS_NAME)
    # The network below the client is wide; what it raises that nobody has met yet is worth another try.
    return next(known, TransientSourceError)


def _announced_day(moment: float | str) -> date:
    """Return the day of a catalogue's time: milliseconds since 1970, or ISO 8601."""
    if isinstance(moment, str):
        return datetime.fromisoformat(moment).date()
    return datetime.fromtimestamp(moment / 1000, UTC).date()
