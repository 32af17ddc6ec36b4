"""A coding agent as a process: started on a leash, read line by line into the transcript, watched, and ended."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_avo.core.disk.files import write_atomically
from pytest_avo.evaluation.linux import processes, python
from pytest_avo.operators.model.redaction import Redactor

LAST_LINES = 8
LONGEST_LINE = 1_000_000
LONGEST_TRANSCRIPT = 100_000_000
"""Characters that are kept of one run of an agent."""


class Program:
    """One run of an agent's command in a member's folder. Its output is appended to the transcript as it comes."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        transcript: Path,
        redactor: Redactor,
        read: Callable[[str], None],
    ) -> None:
        """Start it; `read` is given every line of output, on a thread of its own."""
        self._redactor = redactor
        self._read = read
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        """The end of what it printed."""
        self.active = time.monotonic()
        """When it last printed something."""
        transcript.parent.mkdir(parents=True, exist_ok=True)
        self._transcript = transcript.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            [*python.elsewhere("pytest_avo.operators.external.leash"), *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the run, which ends the agent in its order
        )
        self._reader = threading.Thread(target=self._copy, daemon=True, name="avo-agent-output")
        self._reader.start()

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def end(self) -> int:
        """Let go of it, and wait until it and all that it started has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        status = self._process.wait()
        # The leash sees to that, unless somebody has killed it; what is left would hold the output open.
        while left := [pid for pid in processes.of_session(self._process.pid) if processes.is_running(pid)]:
            processes.send(left, signal.SIGKILL)
            time.sleep(0.001)  # a killed process ends a little later, and may have forked before
        self._reader.join()
        self._process.stdout.close()
        with contextlib.suppress(OSError):
            self._transcript.close()
        return status

    def _copy(self) -> None:
        assert self._process.stdout is not None
        written = 0
        while line := self._process.stdout.readline(LONGEST_LINE):
            self.active = time.monotonic()
            text = self._redactor.text(line.decode(errors="replace"))
            self.last.append(text.rstrip())
            with contextlib.suppress(OSError):  # a full disk must not stop the agent, which would wait for a reader
                if written <= LONGEST_TRANSCRIPT:  # nor may what floods its output fill the disk
                    written += self._transcript.write(text)
                    if written > LONGEST_TRANSCRIPT:
                        self._transcript.write("\n(cut here: the agent printed more)\n")
                    self._transcript.flush()
            self._read(text)


def environment(folder: Path, *, commands: Path, step_variable: str) -> dict[str, str]:
    """What an agent's environment is: the user's, with `avo` first on its PATH, without what is pytest's own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # PWD: some agents take it for where they are, whatever folder they were started in.
    return own | {
        step_variable: str(folder),
        "PWD": str(folder),
        "PATH": f"{commands}{os.pathsep}{own.get('PATH', os.defpath)}",
    }


def install_command(commands: Path) -> None:
    """Make a folder with `avo` alone, which runs with this Python whatever environment the agent is in.

    Whatever lies in the agent's folder: a `json.py` there is the agent's own.
    """
    commands.mkdir(parents=True, exist_ok=True)
    text = f'#!/bin/sh\nexec {shlex.join(python.elsewhere("pytest_avo.command.main"))} "$@"\n'
    # Whole and executable at once: several members install it, and may begin at the same time.
    write_atomically(commands / "avo", text.encode("utf-8", "surrogateescape"), mode=0o755)
