"""The line that says what is being done: rewritten on a terminal, now and then in a file."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from pytest_avo.report.terminal.status import StatusLine


@dataclass
class Screen:
    """Keeps what is written."""

    isatty: bool
    columns: int = 80
    written: list[str] = field(default_factory=list)

    def ensure_newline(self) -> None: ...

    def rewrite(self, line: str, **markup: bool) -> None:
        self.written.append(line)

    def write_line(self, line: str, **markup: bool) -> None:
        self.written.append(line)


class Clock:
    """A clock that the test sets."""

    now_s = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now_s)
    return clock


def test_a_terminal_is_told_after_a_few_seconds_within_its_width(clock: Clock) -> None:
    screen = Screen(isatty=True, columns=40)
    line = StatusLine(screen)
    line.tick("timing")
    assert screen.written == []
    clock.now_s = 5
    line.tick("timing mine.py, round 3 of at most 30, which takes long")
    assert screen.written[-1].endswith(" (5 s)")
    assert len(screen.written[-1]) <= 40
    line.clear()
    assert screen.written[-1] == ""


def test_a_file_gets_a_line_now_and_then(clock: Clock) -> None:
    screen = Screen(isatty=False)
    line = StatusLine(screen)
    for second in range(200):
        clock.now_s = float(second)
        line.tick("waiting for cpu")
    assert screen.written == [f"  waiting for cpu ({second} s)" for second in (60, 120, 180)]
    line.clear()
    clock.now_s = 230
    line.tick("waiting for cpu")
    assert len(screen.written) == 3, "it has not been silent for long"
