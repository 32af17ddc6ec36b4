"""The terminal while an item runs: what is written to it is not to be captured as the item's own output."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import pytest

from pytest_avo.report.terminal.status import Screen


class BesideCapture:
    """A screen that is written to with pytest's capturing suspended: items wait for minutes, and say so."""

    def __init__(self, screen: Screen, config: pytest.Config) -> None:
        self._screen = screen
        self._config = config

    @property
    def isatty(self) -> bool:
        return self._screen.isatty

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
