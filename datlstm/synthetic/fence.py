"""A fence around a process: it can talk to this machine and to nobody else."""

import ipaddress
import sys

LOOPBACK_NAMES = {"localhost", "", None}
SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")
ASKING_FOR_NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")


def fence_to_loopback() -> None:
    """Make every attempt of this process to leave loopback a `PermissionError`, until it ends.

    An audit hook (PEP 578) sees what any Python library does with a socket, and can't be taken away again.
    """
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event not in SENDING + ASKING_FOR_NAMES:
        return
    # (socket, address) or (host, …); an address is a pair, or a path between processes of this machine.
    target = arguments[1] if event in SENDING else arguments[0]
    host = target[0] if isinstance(target, tuple) else target if event in ASKING_FOR_NAMES else None
    if not _is_loopback(host):
        raise PermissionError(f"{host} is not on this machine, and this process may talk to nobody else")


def _is_loopback(host: object) -> bool:
    if host in LOOPBACK_NAMES:
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    if text == "localhost":
        return True
    try:
        return ipaddress.ip_address(text.split("%")[0]).is_loopback
    except ValueError:
        return False
