"""What the command prints."""

from __future__ import annotations

import io

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
