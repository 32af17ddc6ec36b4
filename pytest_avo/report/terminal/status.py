"""A line that says what is being done while nothing else is printed: a long run is never silent on a terminal."""

from __future__ import annotations

import time
from typing import Protocol

QUIET_S = 4.0
"""Silence after which the line appears. It is only for terminals: a log file needs no moving line."""


class Screen(Protocol):
    """The part of pytest's terminal reporter that a run writes with."""

    @property
    def isatty(self) -> bool: ...

    def ensure_newline(self) -> None: ...

    def rewrite(self, line: str, **markup: bool) -> None: ...

    def write_line(self, line: str, **markup: bool) -> None: ...


class StatusLine:
    """One line at the bottom, rewritten in place."""

    def __init__(self, screen: Screen | None) -> None:
        self._screen = screen if screen is not None and screen.isatty else None
        self._since = time.monotonic()
        self._shown = False

    def tick(self, text: str) -> None:
        """Show `text` if it has been quiet for long enough."""
        quiet_s = time.monotonic() - self._since
        if self._screen is None or quiet_s < QUIET_S:
            return
        if not self._shown:
            self._screen.ensure_newline()
            self._shown = True
        self._screen.rewrite(f"  {text[:80]} ({quiet_s:.0f} s)", erase=True, light=True)

    def clear(self) -> None:
        """Remove the line: something else is going to be printed."""
        if self._shown and self._screen is not None:
            self._screen.rewrite("", erase=True)
            self._screen.rewrite("")
        self._shown = False
        self._since = time.monotonic()
