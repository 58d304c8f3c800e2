"""The client's failures as this project's three kinds of error: permanent, not yet, transient."""

from datlstm.errors import NotYetAvailableError, PermanentSourceError, SourceError, TransientSourceError
from datlstm.sources.copernicus.protocol import Failed

CREDENTIAL_VARIABLES = "COPERNICUSMARINE_SERVICE_USERNAME and COPERNICUSMARINE_SERVICE_PASSWORD"
CORRECT_CREDENTIALS = f"correct {CREDENTIAL_VARIABLES}"
CORRECT_DATASET = (
    "look in the provider's notices whether it was renamed or retired, and correct dataset_id or dataset_version under "
    "source.copernicus"
)
REMEDY_BY_CLASS_NAME = {
    "InvalidUsernameOrPassword": CORRECT_CREDENTIALS,
    # The client takes one particular answer for wrong credentials, and every other for an outage.
    "CouldNotConnectToAuthenticationSystem": "try again, and if it stays so look at the credentials",
    "CredentialsCannotBeNone": CORRECT_CREDENTIALS,
    "DatasetNotFound": CORRECT_DATASET,
    "DatasetVersionNotFound": CORRECT_DATASET,
    "DatasetVersionPartNotFound": CORRECT_DATASET,
    "VariableDoesNotExistInTheDataset": CORRECT_DATASET,
}
REMEDY_BY_KIND: dict[type[SourceError], str] = {
    PermanentSourceError: "check the settings under source.copernicus, and the client's version",
    NotYetAvailableError: "come back later",
    TransientSourceError: "try again",
}
NO_ROOM = "No space left on device"

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
    # The client asks the catalogue twice, and reports a second answer that fails as a dataset that is not there. It was
    # there a moment before, when it was described.
    "KeyError": TransientSourceError,
}


def explain(failed: Failed, secrets: tuple[str, ...]) -> SourceError:
    """Return the error that says what a failure of the client means and what to do, without URLs and secrets."""
    if NO_ROOM in failed.words:
        return PermanentSourceError("the folder for temporary files has no room: free some, or set TMPDIR")
    kind = kind_of(failed)
    remedy = REMEDY_BY_CLASS_NAME.get(failed.classes[0], REMEDY_BY_KIND[kind])
    words = scrubbed(failed.words, secrets).rstrip(".")
    said = f"{failed.classes[0]}: {words}" if words else failed.classes[0]
    return kind(f"Copernicus Marine did not give {failed.asked} of {failed.dataset_id}: {said}; {remedy}")


def kind_of(failed: Failed) -> type[SourceError]:
    """Return the kind of error that the client's class and the classes above it stand for."""
    if "CoordinatesOutOfDatasetBounds" in failed.classes:
        return NotYetAvailableError if "time dimension" in failed.words else PermanentSourceError
    known = (KIND_BY_CLASS_NAME[name] for name in failed.classes if name in KIND_BY_CLASS_NAME)
    # The network below the client is wide; what it raises that nobody has met yet is worth another try.
    return next(known, TransientSourceError)


def scrubbed(words: str, secrets: tuple[str, ...]) -> str:
    """Return words in one line without URLs, which name the user, and without secrets."""
    # The longer first, for one may hold the other; before words are parted, for a secret may hold white space.
    for secret in sorted(secrets, key=len, reverse=True):
        words = words.replace(secret, "***")
    return " ".join("<url>" if "://" in word or "x-cop" in word else word for word in words.split())
