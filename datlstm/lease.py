"""The right to write one store on object storage: a lease that is kept alive while held and expires by itself.

An object ``.leases/<name>.json`` says who holds the store and until when. It changes by compare-and-set alone, so of
several takers one wins. A holder renews it every `RENEW_SECONDS`; one that was killed loses it `LEASE_SECONDS` after
its last renewal. A holder that could not renew stops writing `MARGIN_SECONDS` before that, which is room for clocks
that differ and for a request still under way.
"""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import Event, Thread
from time import sleep
from typing import Protocol

from pydantic import BaseModel, ValidationError

from datlstm.clock import now
from datlstm.errors import ConflictError, StoreError

# Shorter than `datlstm.store.LOCK_TIMEOUT_SECONDS`: a run after a kill waits the lease out and goes on.
LEASE_SECONDS = 80
RENEW_SECONDS = 15
MARGIN_SECONDS = 40
POLL_SECONDS = 0.5
NO_OBJECT_HAS_THIS_VERSION = '"00000000000000000000000000000000"'

log = logging.getLogger(__name__)


class Conditional(Protocol):
    """What a lease needs of a store: reads with versions, and writes on condition of them."""

    url: str

    def read_versioned(self, path: str) -> tuple[bytes, str] | tuple[None, None]:
        """Return an object and its version, or twice None."""

    def write_if(self, path: str, content: bytes, version: str | None) -> str:
        """Write an object that still has this version, else raise `ConflictError`; return the new version."""

    def delete(self, path: str) -> None:
        """Delete an object."""


class Claim(BaseModel, frozen=True, extra="forbid"):
    """What a lease object says: who holds the store until when, and a key that tells this holding from any other."""

    holder: str
    key: str
    expires_at: datetime


@contextmanager
def hold(store: Conditional, name: str, patience_seconds: float) -> Iterator[Callable[[], None]]:
    """Hold the lease of ``name``; give a function that raises `ConflictError` once it is, or may soon be, lost.

    Raises `StoreError` when another holder keeps it for longer than ``patience_seconds``, when the object is damaged,
    and when the server ignores conditional writes.
    """
    lease = _Lease(store, name)
    lease.take(patience_seconds)
    ended = Event()
    keeper = Thread(target=lease.keep, args=(ended,), name=f"lease of {name}", daemon=True)
    keeper.start()
    try:
        yield lease.confirm
    finally:
        ended.set()
        keeper.join()
        lease.give_back()


def check_conditional_writes(store: Conditional) -> None:
    """Prove on an object of its own that the store refuses a write whose condition does not hold.

    Raises `StoreError` when it does not: then two writers would overwrite each other unseen.
    """
    path = f".leases/probe-{secrets.token_hex(8)}"
    store.write_if(path, b"first", None)
    try:
        for header, version in (("If-None-Match", None), ("If-Match", NO_OBJECT_HAS_THIS_VERSION)):
            try:
                store.write_if(path, b"second", version)
            except ConflictError:
                continue
            raise StoreError(
                f"{store.url}: its server ignores conditional writes ({header}), so two writers would overwrite each "
                "other unseen: use a server that honours them, such as AWS S3, MinIO or SeaweedFS"
            )
    finally:
        store.delete(path)


class _Lease:
    def __init__(self, store: Conditional, name: str) -> None:
        self._store = store
        self._path = f".leases/{name}.json"
        self._place = f"{store.url}/{name}"
        self._holder = f"{socket.gethostname()}, process {os.getpid()}"
        self._key = secrets.token_hex(8)
        self._version: str | None = None
        self._expires_at = now()
        self._is_lost = False

    def take(self, patience_seconds: float) -> None:
        deadline = now() + timedelta(seconds=patience_seconds)
        while (standing := self._attempt()) is not None:
            if now() >= deadline:
                raise StoreError(
                    f"{self._place} is being written by {standing.holder} (lease until {standing.expires_at:%H:%M:%S} "
                    "UTC, renewed while it lives): wait for it, or stop it, then run this again"
                )
            sleep(POLL_SECONDS)

    def keep(self, ended: Event) -> None:
        while not self._is_lost and not ended.wait(RENEW_SECONDS):
            try:
                self._renew()
            except StoreError as error:
                log.warning("the lease of %s was not renewed, trying again: %s", self._place, error)

    def confirm(self) -> None:
        # A copy of this on a worker of a cluster is not told of renewals.
        if not self._is_lost and now() + timedelta(seconds=MARGIN_SECONDS) > self._expires_at:
            self._catch_up()
        if self._is_lost or now() + timedelta(seconds=MARGIN_SECONDS) > self._expires_at:
            raise ConflictError(
                f"{self._place}: this writer lost its lease (the machine slept, or the server did not answer), and "
                "wrote no further: run it again"
            )

    def give_back(self) -> None:
        try:
            self._write(self._version, lasts_seconds=0)
        except ConflictError:
            log.warning("the lease of %s had passed to another writer", self._place)
        except StoreError as error:
            log.warning("the lease of %s was not given back and ends by itself: %s", self._place, error)

    def _attempt(self) -> Claim | None:
        """Take the lease if it is free; else return who holds it."""
        standing, version = self._read()
        if version is None:
            check_conditional_writes(self._store)
        elif standing is not None and standing.key == self._key:
            # The answer to our own write was lost on its way.
            self._version, self._expires_at = version, standing.expires_at
            return None
        elif standing is not None and standing.expires_at > now():
            return standing
        try:
            self._write(version, LEASE_SECONDS)
        except ConflictError:
            return self._attempt()
        return None

    def _renew(self) -> None:
        try:
            self._write(self._version, LEASE_SECONDS)
        except ConflictError:
            self._catch_up()

    def _catch_up(self) -> None:
        standing, version = self._read()
        if standing is None or standing.key != self._key:
            self._is_lost = True
        else:
            self._version, self._expires_at = version, standing.expires_at

    def _write(self, version: str | None, lasts_seconds: float) -> None:
        expires_at = now() + timedelta(seconds=lasts_seconds)
        claim = Claim(holder=self._holder, key=self._key, expires_at=expires_at)
        self._version = self._store.write_if(self._path, claim.model_dump_json().encode(), version)
        self._expires_at = expires_at

    def _read(self) -> tuple[Claim | None, str | None]:
        content, version = self._store.read_versioned(self._path)
        try:
            return None if content is None else Claim.model_validate_json(content), version
        except ValidationError as error:
            raise StoreError(
                f"{self._store.url}/{self._path} is not a lease: delete it when nothing writes {self._place}"
            ) from error
