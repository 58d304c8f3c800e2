"""Somebody who is told."""

from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


class Listener:
    """An HTTP server on this machine that remembers who asked for what, and may be made to hang or refuse."""

    def __init__(self, secret: str = "hook") -> None:
        self.asked: list[tuple[str, str]] = []
        self.status = 200
        self.ended = Event()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                listener.asked.append((self.path, body))
                if listener.status == 0:
                    listener.ended.wait(60)
                with suppress(OSError):
                    self.send_response(listener.status or 200)
                    self.end_headers()

            do_GET = do_POST = answer

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{secret}"
        self._thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
