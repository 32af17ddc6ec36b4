"""The terminal while an item runs: what is written to it is not to be captured as the item's own output."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest

from pytest_avo.report.terminal.terminal import WIDTH
from pytest_avo.report.text import wrapped

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


MOST_COLUMNS = 200
LEAST_COLUMNS = 60


def columns(config: pytest.Config) -> int:
    """How wide tables may be: as the terminal is or the user says in COLUMNS; in a file as they are by default."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not (reporter.isatty or os.environ.get("COLUMNS", "").isdecimal()):
        return WIDTH
    return min(MOST_COLUMNS, max(LEAST_COLUMNS, int(config.get_terminal_writer().fullwidth)))


def fitted(config: pytest.Config, line: str) -> list[str]:
    """A line as lines that fit the terminal; one where it goes to a file."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty:
        return [line]
    return wrapped(line, columns(config), indent=2)


class BesideCapture:
    """A screen that is written to with pytest's capturing suspended: items wait for minutes, and say so."""

    def __init__(self, screen: TerminalReporter, config: pytest.Config) -> None:
        self._screen = screen
        self._config = config

    @property
    def isatty(self) -> bool:
        return bool(self._screen.isatty)

    @property
    def columns(self) -> int:
        return columns(self._config)

    def ensure_newline(self) -> None:
        with self._uncaptured():
            self._screen.ensure_newline()

    def rewrite(self, line: str, **markup: bool) -> None:
        with self._uncaptured():
            self._screen.rewrite(line, **markup)

    def write_line(self, line: str, **markup: bool) -> None:
        with self._uncaptured():
            self._screen.write_line(line, **markup)

    def _uncaptured(self) -> AbstractContextManager[None]:
        manager = self._config.pluginmanager.get_plugin("capturemanager")
        if manager is None:
            return contextlib.nullcontext()
        suspended: AbstractContextManager[None] = manager.global_and_fixture_disabled()
        return suspended
