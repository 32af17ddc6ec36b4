"""Signals as a terminal has them, however the tests were started."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Let Ctrl-C reach tests of it: a shell starts background jobs with SIGINT ignored, and processes inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
