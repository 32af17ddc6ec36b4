"""The page of a run that goes on, over HTTP."""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.lineage.view import View
from pytest_avo.session.live import LOOPBACK, LivePage
from tests.report.page.scripted import scripted_run


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LivePage]:
    path = tmp_path / "lineage.sqlite3"
    run = scripted_run(path, attempts=4, ends=False)
    with View(path, run.id) as view, LivePage(view) as live:
        yield live


def ask(live: LivePage, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(LOOPBACK, live.port, timeout=180)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_page_names_the_state_that_it_shows(live: LivePage) -> None:
    status, page = ask(live, "/")
    assert status == 200
    assert f'data-live="{live.state()}"' in page
    assert "connect-src &#39;self&#39;" in page
    assert ask(live, "/state") == (200, live.state())


def test_nothing_else_is_answered_nor_asked_in_another_name(live: LivePage) -> None:
    assert ask(live, "/../lineage.sqlite3")[0] == 404
    assert ask(live, "/", Host="evil.example")[0] == 403
    assert ask(live, "/state", Host=f"evil.example:{live.port}")[0] == 403


def test_a_browser_that_goes_away_is_no_news_on_the_terminal(live: LivePage, capfd: pytest.CaptureFixture[str]) -> None:
    for asked in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"):
        connection = socket.create_connection((LOOPBACK, live.port))
        connection.sendall(asked)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()  # by a reset
    live._server.handle_error(None, None)
    assert ask(live, "/state")[0] == 200
    assert capfd.readouterr().err == ""
