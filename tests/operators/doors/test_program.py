"""A coding agent's process, and what is left of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pytest_avo.evaluation.linux import processes
from pytest_avo.operators.doors.program import Program
from pytest_avo.operators.model.redaction import Redactor


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """An agent that has started something and waits for it."""
    lines: list[str] = []
    started = Program(
        ["sh", "-c", "sleep 60 & echo up; wait"],
        folder=tmp_path,
        environment=dict(os.environ),
        transcript=tmp_path / "transcript.log",
        redactor=Redactor(),
        read=lines.append,
    )
    end = time.monotonic() + 20
    while not lines and time.monotonic() < end:
        time.sleep(0.01)
    return started


@pytest.mark.parametrize("victim", ["nobody", "leash"])
def test_nothing_of_an_agent_outlives_its_end(program: Program, victim: str) -> None:
    leash = program._process.pid
    below = processes.of_session(leash)
    assert len(below) == 3
    if victim == "leash":
        os.kill(leash, signal.SIGKILL)
    began = time.monotonic()
    program.end()
    assert time.monotonic() - began < 5
    assert not [pid for pid in below if processes.is_running(pid)]
