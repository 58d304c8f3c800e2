"""Behind the fence a process reaches its own machine and nobody else; each story runs in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

import datlstm

FENCE = Path(datlstm.__file__).parent / "synthetic" / "fence.py"
# Documentation's own addresses: even without a fence nobody would answer.
FENCED = f"""
import runpy, socket
fence_to_loopback = runpy.run_path({str(FENCE)!r})["fence_to_loopback"]
outside = ("192.0.2.1", 9)
def refuses(do, *arguments):
    try:
        do(*arguments)
    except PermissionError as error:
        assert "not on this machine" in str(error), error
    else:
        raise AssertionError(f"{{do}} went through")
def udp():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
"""

LOOPBACK_STORY = """
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
fence_to_loopback()
for host in ("127.0.0.1", "localhost"):
    with socket.create_connection((host, port)) as connection:
        server.accept()[0].sendall(b"in")
        assert connection.recv(2) == b"in"
socket.getaddrinfo("127.0.0.1", port)
socket.getaddrinfo(b"localhost", port)
socket.getaddrinfo(None, port)
receiver = udp()
receiver.bind(("127.0.0.1", 0))
udp().sendto(b"in", receiver.getsockname())
assert receiver.recv(2) == b"in"
udp().sendmsg([b"in"], [], 0, receiver.getsockname())
assert receiver.recv(2) == b"in"
"""

UNIX_STORY = """
import tempfile
fence_to_loopback()
left, right = socket.socketpair()
left.sendmsg([b"in"])
assert right.recv(2) == b"in"
with tempfile.TemporaryDirectory() as folder:
    server = socket.socket(socket.AF_UNIX)
    server.bind(folder + "/s")
    server.listen()
    socket.socket(socket.AF_UNIX).connect(folder + "/s")
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(folder + "/d")
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"in", folder + "/d")
    assert receiver.recv(2) == b"in"
"""

OUTSIDE_STORY = """
fence_to_loopback()
refuses(socket.socket().connect, outside)
refuses(socket.socket().connect_ex, outside)
refuses(socket.create_connection, outside)
refuses(socket.create_connection, ("marine.copernicus.eu", 443))
refuses(udp().connect, outside)
refuses(udp().sendto, b"out", outside)
refuses(udp().sendmsg, [b"out"], [], 0, outside)
"""

OUTSIDE_IPV6_STORY = """
fence_to_loopback()
outside = ("2001:db8::1", 9)
refuses(socket.socket(socket.AF_INET6).connect, outside)
refuses(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto, b"out", outside)
refuses(socket.socket(socket.AF_INET6).connect, ("::ffff:192.0.2.1", 9))
"""

NAMES_STORY = """
fence_to_loopback()
for name in ("marine.copernicus.eu", b"marine.copernicus.eu", "localhost.example.org", "192.0.2.1"):
    refuses(socket.getaddrinfo, name, 443)
refuses(socket.gethostbyname, "marine.copernicus.eu")
refuses(socket.gethostbyname_ex, "marine.copernicus.eu")
refuses(socket.gethostbyaddr, "192.0.2.1")
refuses(socket.getnameinfo, outside, 0)
"""

REQUESTS_STORY = """
import urllib.error, urllib.request
fence_to_loopback()
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://192.0.2.1/", timeout=5)
except urllib.error.URLError as error:
    assert isinstance(error.reason, PermissionError), error
"""


@pytest.mark.parametrize(
    "story",
    [LOOPBACK_STORY, UNIX_STORY, OUTSIDE_STORY, OUTSIDE_IPV6_STORY, NAMES_STORY, REQUESTS_STORY],
    ids=["loopback-works", "unix-sockets-work", "outside", "outside-by-ipv6", "names", "libraries-see-the-refusal"],
)
def test_fence(story: str) -> None:
    command = [sys.executable, "-I", "-c", FENCED + story]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
