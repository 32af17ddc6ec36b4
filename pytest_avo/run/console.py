"""What a run tells its user while it goes on: lines of progress, and one line that says what is being done."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from pytest_avo.report.terminal.status import Screen, StatusLine
from pytest_avo.report.text import printable, wrapped


class Console:
    """The user's terminal, as far as a run writes to it; main thread alone."""

    def __init__(self, find_screen: Callable[[], Screen | None], *, is_quiet: bool = False) -> None:
        """find_screen: asked with every line, as the terminal may be there only after the run that writes to it."""
        self._find_screen = find_screen
        self._is_quiet = is_quiet

    def say(self, text: str, **markup: bool) -> None:
        """One line of progress, unless the run is to be quiet."""
        if not self._is_quiet:
            self._write(text, **markup)

    def warn(self, text: str) -> None:
        """One line that a user must see, however quiet the run."""
        self._write(text, red=True)

    def tick(self, text: str) -> None:
        """Say what is being done, where there is a terminal and nothing else has been said for a while."""
        if self._find_screen() is not None:
            self._status.tick(text)

    def clear(self) -> None:
        """What was being done is done."""
        if self._find_screen() is not None:
            self._status.clear()

    @cached_property
    def _status(self) -> StatusLine:
        return StatusLine(None if self._is_quiet else self._find_screen())

    def _write(self, text: str, **markup: bool) -> None:
        screen = self._find_screen()
        if screen is not None:
            self.clear()
            screen.ensure_newline()
            for line in wrapped(printable(text), screen.columns, indent=2) if screen.isatty else [printable(text)]:
                screen.write_line(line, **markup)
