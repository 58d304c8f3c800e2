"""Free ports on loopback, for servers that tests and demos start."""

import random
import socket

from datlstm.errors import SettingsError

LOOPBACK = "127.0.0.1"
# Below the ports that Linux hands to clients, so that no connection takes one between its choice and its use.
PORTS = range(20_000, 32_000)


def check_free(port: int) -> None:
    """Raise `SettingsError` when a server can't listen on a port."""
    try:
        _bind(port)
    except OSError as error:
        raise SettingsError(f"port {port} of {LOOPBACK}: {error.strerror}; choose another port") from error


def free_ports(count: int) -> list[int]:
    """Return different free ports. Raises `SettingsError` when there are too few."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        try:
            _bind(port)
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise SettingsError(f"fewer than {count} ports of {LOOPBACK} are free between {PORTS.start} and {PORTS.stop}")


def _bind(port: int) -> None:
    with socket.socket() as trial:
        # As servers do: a port on which only a closed connection lingers is free.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((LOOPBACK, port))
