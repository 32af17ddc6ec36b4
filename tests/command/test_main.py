"""What the command prints."""

from __future__ import annotations

import io
from contextlib import suppress

import pytest

from pytest_avo.command.main import say


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "na\\xefve.py \\xb7 \\udcef\n"), ("latin-1", "naïve.py · \\udcef\n"), ("utf-8", "naïve.py · \\udcef\n")],
)
def test_what_the_locale_lacks_is_spelled_out(encoding: str, shown: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    say("naïve.py · \udcef", stream)
    stream.seek(0)
    assert stream.read() == shown


def test_an_answer_that_cannot_be_written_is_no_success_but_a_closed_stream_is_its_owners_wish(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert not say("much", full)
        with suppress(OSError):
            full.close()
    assert capsys.readouterr().err == "avo: the answer cannot be written: No space left on device\n"
    assert say("much", None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_nothing_that_it_would_obey() -> None:
    screen, file = Terminal(), io.StringIO()
    for stream in (screen, file):
        say("faster \x1b[2J\x9b0m\u202e\n\tindented ünïcode\r", stream)
    assert screen.getvalue() == "faster ?[2J?0m?\n\tindented ünïcode?\n"
    assert file.getvalue().startswith("faster \x1b[2J")
