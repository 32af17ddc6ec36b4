"""--avo-live: the page of a run that goes on, served to this machine alone while it does."""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from pytest_avo.evolution.chronicle import Chronicle
from pytest_avo.lineage.view import View
from pytest_avo.report.page.runs import runs_page

LOOPBACK = "127.0.0.1"


class LivePage:
    """A server on a free port of the loopback, until it is left. It draws anew when asked, if there is news."""

    def __init__(self, view: View) -> None:
        self._chronicle = Chronicle(view)
        self._lock = threading.Lock()
        self._drawn = ("", b"")
        self._server = _PageServer((LOOPBACK, 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="avo live page", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{LOOPBACK}:{self.port}/"

    def state(self) -> str:
        """A text that changes whenever the page does."""
        return "-".join(map(str, self._chronicle.state()))

    def page(self) -> bytes:
        """The page as the run is now."""
        with self._lock:
            state = self.state()
            if self._drawn[0] != state:
                self._drawn = (state, runs_page([self._chronicle.facts()], live=state).encode())
            return self._drawn[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _PageServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing, as the terminal is the run's: a browser went away in the middle, or the lineage was closed."""


def _handler(live: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET / and GET /state."""

        def do_GET(self) -> None:
            # A site whose name is made to point here must not read the page: its requests name that site.
            if self.headers.get("Host") not in (f"{LOOPBACK}:{live.port}", f"localhost:{live.port}"):
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path == "/":
                self._answer(live.page(), "text/html; charset=utf-8")
            elif self.path == "/state":
                self._answer(live.state().encode(), "text/plain; charset=utf-8")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the terminal is the run's."""

    return Handler
