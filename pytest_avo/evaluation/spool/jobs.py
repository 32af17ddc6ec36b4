"""Batch jobs that serve a spool: started when requests wait and nobody serves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from typing import IO

from pytest_avo.core.errors import EvaluatorError

PAUSE_S = 60.0
"""Between one job that answered nothing and the next; each further one waits twice as long."""
FRUITLESS = 3
"""Jobs in a row that answer nothing: then the command is wrong."""
TAIL = 400


class BatchJobs:
    """Runs a command of the user's, one at a time, while requests wait.

    The command must last as long as its job, in the queue and running, as `sbatch --wait` does: one that has returned
    is over.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._answered = 0
        self._fruitless = 0
        self._is_excused = False
        self._not_before = 0.0

    def look(self, *, is_served: bool, answered: int = 0) -> list[str]:
        """Called again and again while requests wait; answered: evaluations that came so far, in all.

        Returns what is to be said. EvaluatorError where job after job answers nothing.
        """
        news = self._reap(answered)
        if self._process is None and not is_served and time.monotonic() >= self._not_before:
            self._start(answered)
            news.append(f"--avo-submit: started {self.command}")
        return news

    def excuse(self) -> None:
        """Note that the running job has served: its end is no sign of a wrong command then."""
        self._is_excused = True

    def close(self) -> None:
        """End the command that waits for the job; what becomes of the job itself is the command's to say."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        if self._output is not None:
            self._output.close()

    def _start(self, answered: int) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - read when the command is over
        self._answered = answered
        # In a session of its own: Ctrl-C is for this process, which ends the command itself.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self.command],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _reap(self, answered: int) -> list[str]:
        if self._process is None or self._output is None or (status := self._process.poll()) is None:
            return []
        self._output.seek(0)
        tail = self._output.read().decode(errors="replace").strip()[-TAIL:]
        self._output.close()
        self._process = self._output = None
        if answered > self._answered or self._is_excused:
            self._fruitless, self._is_excused = 0, False
            return []
        self._not_before = time.monotonic() + PAUSE_S * 2**self._fruitless
        self._fruitless += 1
        said = f", it said: {tail}" if tail else ""
        fate = f"--avo-submit: {self.command} ended with status {status} and nothing was answered{said}"
        if self._fruitless == FRUITLESS:
            raise EvaluatorError(
                f"{fate}; so did the {FRUITLESS - 1} before. Expected a command that lasts as long as its job, such as "
                "sbatch --wait, and serves the spool"
            )
        return [fate]
