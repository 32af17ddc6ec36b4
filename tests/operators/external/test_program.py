"""A coding agent's process, and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pytest_avo.evaluation.linux import processes
from pytest_avo.operators.external.program import Program, install_command
from pytest_avo.operators.model.redaction import Redactor


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """An agent that has started something and waits for it, in a folder with files of its own."""
    shadow(tmp_path)
    lines: list[str] = []
    started = Program(
        ["sh", "-c", "sleep 600 & echo up; wait"],
        folder=tmp_path,
        environment=dict(os.environ),
        transcript=tmp_path / "transcript.log",
        redactor=Redactor(),
        read=lines.append,
    )
    end = time.monotonic() + 180
    while not lines and time.monotonic() < end:
        time.sleep(0.01)
    return started


def shadow(folder: Path) -> None:
    """Files called like modules of the standard library, which nothing but the agent may import."""
    for name in ("ctypes", "json", "signal", "socket", "subprocess", "threading"):
        (folder / f"{name}.py").write_text("raise SystemExit('somebody imported what is the agent\\'s own')\n")


@pytest.mark.parametrize("victim", ["nobody", "leash"])
def test_nothing_of_an_agent_outlives_its_end(program: Program, victim: str) -> None:
    leash = program._process.pid
    below = processes.of_session(leash)
    assert len(below) == 3
    if victim == "leash":
        os.kill(leash, signal.SIGKILL)
    began = time.monotonic()
    program.end()
    assert time.monotonic() - began < 180, "it would have gone on for longer"
    assert not [pid for pid in below if processes.is_running(pid)]


def test_the_command_is_ours_whatever_lies_in_the_folder_and_the_environment(tmp_path: Path) -> None:
    shadow(tmp_path)
    commands = tmp_path / "a 'quoted' $folder" / "bin"
    install_command(commands)
    install_command(commands)  # by another member, or a run that goes on
    assert [each.name for each in commands.iterdir()] == ["avo"]
    done = subprocess.run(
        [commands / "avo", "status"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "PYTHONPATH": ".:relative"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("avo: there is no .avo-step here or above")
