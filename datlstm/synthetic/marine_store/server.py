"""The store on loopback: a proxy that answers for the real hosts itself and lets nothing pass."""

import logging
import shutil
import socket
import ssl
import sys
from collections import deque
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from tempfile import mkdtemp
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

import trustme

from datlstm.synthetic.marine_store import content
from datlstm.synthetic.marine_store.exchange import Answer, Request
from datlstm.synthetic.marine_store.world import World

if TYPE_CHECKING:
    from datlstm.synthetic.marine_store.faults import FaultPlan

LOOPBACK = "127.0.0.1"
REMEMBERED_REQUESTS = 20_000
POLL_SECONDS = 0.05
PIECE_SECONDS = 0.05
CERTIFICATE_VARIABLES = (
    "COPERNICUSMARINE_SET_SSL_CERTIFICATE_PATH",
    "REQUESTS_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
)
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
UNPROXIED_VARIABLES = ("NO_PROXY", "no_proxy")

logger = logging.getLogger(__name__)


class MarineStore:
    """A world served on loopback from construction until `close`, by way of environment variables.

    A child process that takes ``environment`` into its own before it imports the client sees ``world``, as the faults
    show it. ``requests`` are the latest, in the order they came, with header names in lower case; ``refused`` are the
    hosts outside the store that somebody asked for: they got 403. ``world`` and ``faults`` may be set at any time; the
    next request sees them. The key of the certificate authority never leaves memory. Raises `OSError` when the port is
    taken.
    """

    def __init__(self, world: World, *, faults: "FaultPlan | None" = None, port: int = 0) -> None:
        self.world = world
        self.faults = faults
        self.refused: list[str] = []
        self.requests: deque[Request] = deque(maxlen=REMEMBERED_REQUESTS)
        authority = trustme.CA(organization_name="Synthetic Marine Data Store")
        self._proxy = _Proxy(self, authority, port)
        self._folder = Path(mkdtemp(prefix="marine-store-"))
        authority.cert_pem.write_to_path(str(self.certificate))
        self._thread = Thread(target=self._proxy.serve_forever, args=(POLL_SECONDS,), name="marine-store", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """The proxy's own address."""
        return f"http://{LOOPBACK}:{self._proxy.server_address[1]}"

    @property
    def certificate(self) -> Path:
        """The certificate of the authority behind the store's hosts, in a folder that goes at `close`."""
        return self._folder / "ca.pem"

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs; see `client_environment`."""
        return client_environment(self.endpoint, self.certificate)

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request from the world and its faults; 403 for a host outside the store."""
        if request.host not in content.HOSTS:
            self.refused.append(request.host)
            logger.warning("refused a request for %s: it is not one of the store's hosts", request.host)
            return Answer(HTTPStatus.FORBIDDEN, f"{request.host} is outside this store\n".encode(), "text/plain")
        self.requests.append(request)
        world, faults = self.world, self.faults
        if faults is None:
            return content.answer(world, request)
        return faults.answer(request, content.answer(faults.world(world), request))

    def close(self) -> None:
        """Stop serving at once, dropping every connection, and remove the certificate."""
        self._proxy.stop()
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return the store, which serves already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()


def client_environment(endpoint: str, certificate: Path) -> dict[str, str]:
    """Return the variables that make a child process take a store at an endpoint for the real service."""
    return {
        **dict.fromkeys(PROXY_VARIABLES, endpoint),
        **dict.fromkeys(UNPROXIED_VARIABLES, ""),
        **dict.fromkeys(CERTIFICATE_VARIABLES, str(certificate)),
    }


class _Proxy(ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, store: MarineStore, authority: trustme.CA, port: int) -> None:
        self.store = store
        self.closing = Event()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*sorted(content.HOSTS)).configure_cert(self.tls)
        self._connections: set[socket.socket] = set()
        super().__init__((LOOPBACK, port), _Handler)

    def opened(self, connection: socket.socket) -> None:
        self._connections.add(connection)
        if self.closing.is_set():
            _interrupt(connection)

    def closed(self, connection: socket.socket) -> None:
        self._connections.discard(connection)

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        for connection in tuple(self._connections):
            _interrupt(connection)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client may leave whenever it likes, above all a client under test.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _interrupt(connection: socket.socket) -> None:
    """Wake whoever reads or writes on a connection."""
    try:
        # Not the TLS socket's own method, which takes its state away from the thread that uses it.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        logger.debug("a connection had ended by itself")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Proxy
    tunnel_host: str | None = None

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        super().finish()
        self.server.closed(self.connection)
        self.connection.close()

    def do_CONNECT(self) -> None:
        host = self.path.rpartition(":")[0].lower()
        if host not in content.HOSTS:
            self._send(self.server.store.answer(Request("CONNECT", host, "", {})))
            return
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self._begin_tls()
        self.tunnel_host = host
        self.close_connection = False

    def _begin_tls(self) -> None:
        plain = self.connection
        self.request = self.server.tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.rfile.close()
        self.server.closed(plain)
        self.setup()
        self.request.do_handshake()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        host = self.tunnel_host or address.hostname or self.headers.get("host", "").partition(":")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        self._send(self.server.store.answer(Request(self.command, host, unquote(address.path), headers, body)))

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def _send(self, answer: Answer) -> None:
        if self.server.closing.wait(answer.wait_seconds):
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = answer.body[: answer.sent_bytes]
        self._write(body, answer.bytes_per_second)
        if len(body) < len(answer.body):
            self.close_connection = True

    def _write(self, body: bytes, bytes_per_second: float | None) -> None:
        size = len(body) if bytes_per_second is None else int(bytes_per_second * PIECE_SECONDS)
        size = max(size, 1)
        for start in range(0, len(body), size):
            if bytes_per_second is not None and self.server.closing.wait(size / bytes_per_second):
                self.close_connection = True
                return
            self.wfile.write(body[start : start + size])

    def log_message(self, format: str, *arguments: Any) -> None:
        logger.debug(format, *arguments)
