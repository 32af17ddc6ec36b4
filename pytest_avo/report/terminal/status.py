"""A line that says what is being done while nothing else is printed: a long run is never silent on a terminal."""

from __future__ import annotations

import time
from typing import Protocol

from pytest_avo.report.text import clip

QUIET_S = 4.0
"""Silence after which the line appears on a terminal."""
LOG_S = 60.0
"""Silence after which a log file, where no line can be rewritten, gets one more."""


ROOM = 14
"""Columns beside the text of the line: the indentation, and the seconds."""


class Screen(Protocol):
    """The part of pytest's terminal reporter that a run writes with."""

    @property
    def isatty(self) -> bool: ...

    @property
    def columns(self) -> int: ...

    def ensure_newline(self) -> None: ...

    def rewrite(self, line: str, **markup: bool) -> None: ...

    def write_line(self, line: str, **markup: bool) -> None: ...


class StatusLine:
    """One line at the bottom, rewritten in place."""

    def __init__(self, screen: Screen | None) -> None:
        self._screen = screen
        self._since = time.monotonic()
        self._logged_s = 0.0
        self._shown = False

    def tick(self, text: str) -> None:
        """Show `text` if it has been quiet for long enough."""
        quiet_s = time.monotonic() - self._since
        if self._screen is None or quiet_s < QUIET_S:
            return
        if not self._screen.isatty:
            if quiet_s - self._logged_s >= LOG_S:
                self._logged_s = quiet_s
                self._screen.ensure_newline()
                self._screen.write_line(f"  {text} ({quiet_s:.0f} s)")
            return
        if not self._shown:
            self._screen.ensure_newline()
            self._shown = True
        shown = clip(text, max(ROOM, self._screen.columns - ROOM))
        self._screen.rewrite(f"  {shown} ({quiet_s:.0f} s)", erase=True, light=True)

    def clear(self) -> None:
        """Remove the line: something else is going to be printed."""
        if self._shown and self._screen is not None:
            self._screen.rewrite("", erase=True)
            self._screen.rewrite("")
        self._shown = False
        self._since = time.monotonic()
        self._logged_s = 0.0
