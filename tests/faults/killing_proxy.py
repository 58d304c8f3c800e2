"""A proxy before an S3 server that kills the writer around one of its writes, as a power cut would."""

import http.client
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

When = Literal["before", "after"]
WRITES = ("PUT", "POST", "DELETE")
OF_ONE_HOP = ("transfer-encoding", "connection", "keep-alive")


class KillingProxy(ThreadingHTTPServer):
    """Forwards every request; kills ``victim`` before, or after, its write numbered ``dies_at`` reaches the server."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._lock = threading.Lock()
        self.arm(None, "before")

    def arm(self, dies_at: int | None, when: When) -> None:
        """Record writes anew, for a victim whose process ``aim`` names once it has begun; None lets it live."""
        self.writes: list[str] = []
        self._dies_at, self._when = dies_at, when
        self._victim, self._is_aimed = 0, threading.Event()

    def aim(self, victim: int) -> None:
        """Say whom to kill."""
        self._victim = victim
        self._is_aimed.set()

    def around(self, request: "_Handler") -> None:
        """Forward a write, or let it be the victim's last; what it still sends is lost."""
        with self._lock:
            number = len(self.writes)
            self.writes.append(urlsplit(request.path).path)
            if self._dies_at is not None and number > self._dies_at:
                return
            if number == self._dies_at and self._when == "before":
                return self._kill()
            answer = request.forwarded()
            if number == self._dies_at:
                return self._kill()
        request.answer(answer)

    def _kill(self) -> None:
        assert self._is_aimed.wait(60)
        os.kill(self._victim, signal.SIGKILL)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: KillingProxy
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def do_PUT(self) -> None:
        self.server.around(self)

    do_POST = do_DELETE = do_PUT

    def do_GET(self) -> None:
        self.answer(self.forwarded())

    do_HEAD = do_GET

    def forwarded(self) -> tuple[http.client.HTTPResponse, bytes]:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in OF_ONE_HOP:
                upstream.putheader(name, value)
        upstream.endheaders(body)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        return response, content

    def answer(self, answer: tuple[http.client.HTTPResponse, bytes]) -> None:
        response, content = answer
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in (*OF_ONE_HOP, "content-length"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def killing_proxy(upstream: str) -> Iterator[KillingProxy]:
    """Serve while the context lasts."""
    with KillingProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
