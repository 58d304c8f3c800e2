"""What a store's clients raise, turned into one line that says what happened, to which object, and what to do."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import icechunk
from obstore.exceptions import BaseError
from zarr.abc.store import ByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from datlstm.errors import StoreError

NO_SUCH_BUCKET = "NoSuchBucket"
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, as far as an operator can do something.
CODES = {
    NO_SUCH_BUCKET: "there is no such bucket: make it, or correct DATLSTM_STORE",
    "InvalidAccessKeyId": "the server does not know the access key: correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: correct AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "the server does not allow this to the keys in use: set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY to some that may, or let these",
    "ExpiredToken": "the session token has expired: renew AWS_SESSION_TOKEN and the keys that go with it",
    "RequestTimeTooSkewed": "this machine's clock and the server's differ too much: set them by NTP",
    "InternalError": "the server failed, as one with a full disk does: look at its log and its free space",
    "SlowDown": "the server has too much to do: run this again later",
}
OTHERWISE = "check that it exists, that its disk has room, and (s3://) the AWS_* variables"
# In XML from the server, in Icechunk's words, and in obstore's on a deletion.
CODE = re.compile(r"<Code>(\w+)</Code>|\bcode: \"?(\w+)")
UNREACHABLE = re.compile(r"error sending request|dispatch failure|operation timed out", re.IGNORECASE)
SERVER = re.compile(r"https?://[^/\s]+")
# Of a commit Icechunk does not say why.
NOT_WRITTEN = "session error: error writing object"
HALF_OF_THE_KEYS = re.compile(r"Missing (AccessKeyId|SecretAccessKey)")


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn what a store's client raises about ``place`` into a `StoreError` of one line."""
    try:
        yield
    except (BaseError, OSError, NotImplementedError, icechunk.IcechunkError) as error:
        raise StoreError(f"{place}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    text = str(error)
    for code in map("".join, CODE.findall(text)):
        if code in CODES:
            return f"{CODES[code]} ({code})"
    if UNREACHABLE.search(text):
        server = next(iter(SERVER.findall(text)), "the server")
        return f"{server} does not answer: start it, or correct AWS_ENDPOINT_URL"
    if HALF_OF_THE_KEYS.search(text):
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: one is set: set both, or none to read what is public"
    if NOT_WRITTEN in text:
        return (
            "the server refused a write: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY that may write, or free space"
        )
    # obstore names the cause first, Icechunk last.
    is_icechunk = isinstance(error, icechunk.IcechunkError)
    cause = " ".join(text.split("-> ")[-1].split()) if is_icechunk else text.split("\n", 1)[0]
    return f"{cause}; {OTHERWISE}"


class ExplainedZarr(WrapperStore[ZarrStore]):
    """A Zarr store at ``place`` whose every failure is a `StoreError` of one line."""

    def __init__(self, store: ZarrStore, place: str) -> None:
        super().__init__(store)
        self._place = place

    def _with_store(self, store: ZarrStore) -> "ExplainedZarr":
        return ExplainedZarr(store, self._place)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or None when there is none."""
        with explained(f"{self._place}/{key}"):
            return await self._store.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        with explained(f"{self._place}/{key}"):
            return await self._store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object."""
        with explained(f"{self._place}/{key}"):
            await self._store.set(key, value)

    async def delete(self, key: str) -> None:
        """Delete an object."""
        with explained(f"{self._place}/{key}"):
            await self._store.delete(key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what is directly below a prefix."""
        with explained(f"{self._place}/{prefix}"):
            async for name in self._store.list_dir(prefix):
                yield name
