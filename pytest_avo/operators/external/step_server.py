"""The server of one member's steps: the socket that `avo` speaks to, from the member's first step to the run's end."""

from __future__ import annotations

import os
import socketserver
import sqlite3
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from pytest_avo.operators.external.step import Step, unknown_ticket
from pytest_avo.operators.external.wire import CLOSED, FAILED, LONGEST_LINE, RUNNING, USAGE, Reply, Request
from pytest_avo.operators.knowledge import versions

LONGEST_PATH = 100
"""Bytes of a socket's path; Linux takes 107."""
TICK_S = 0.25


class StepServer:
    """Answers calls with the step that is open, and holds those who wait for the next one."""

    def __init__(self, path: Path, stopping: threading.Event) -> None:
        """Listen at `path`, or at a shorter one where that is too long for a socket: `self.path` says which."""
        self.path = socket_path(path)
        self.path.unlink(missing_ok=True)  # of a run that was killed
        self._stopping = stopping
        self._step: Step | None = None
        self._changed = threading.Condition()
        self._server = _Server(str(self.path), _Handler)
        self._server.steps = self
        os.chmod(self.path, 0o600)
        threading.Thread(target=self._serve, daemon=True, name="avo-steps").start()

    def open(self, step: Step) -> None:
        """From now on calls are for this step."""
        with self._changed:
            self._step = step
            self._changed.notify_all()

    def answer(self, request: Request) -> Reply:
        """The reply to a call; blocks as long as it takes."""
        with self._changed:
            step = self._step
        if step is None:
            return Reply(text="the first step has not begun yet: `avo wait` waits for it", status=CLOSED)
        if request.tool != "wait":
            return step.answer(request)
        named = request.arguments.get("ticket")
        if named is not None:
            ticket = step.tickets.find(int(named)) if str(named).isdecimal() else None
            return unknown_ticket(named) if ticket is None else step.waited(ticket, request.wait_s)
        if running := step.tickets.running():
            return step.waited(running[-1], request.wait_s)
        return self._next_step(step, request.wait_s)

    def _next_step(self, step: Step, seconds: float | None) -> Reply:
        """Wait for the step after `step`, if that has ended."""
        end = None if seconds is None else time.monotonic() + seconds
        told = ""
        while step.ended.is_set():
            told = told or _outcome(step)
            if self._stopping.is_set():
                return Reply(text=f"{told}\nthe run has ended".strip(), status=CLOSED)
            if end is not None and time.monotonic() >= end:
                return Reply(text=told or "the candidate is still being judged", status=RUNNING)
            with self._changed:
                if self._step is not step:
                    break
                self._changed.wait(TICK_S)
        with self._changed:
            now = self._step
        assert now is not None, "a server that had a step keeps one"
        status = now.answer(Request(tool="status"))
        if now is not step:
            told = told or _outcome(step)
        return Reply(text=f"{told}\n{status.text}".strip(), status=status.status, data=status.data)

    def _serve(self) -> None:
        serving = threading.Thread(target=self._server.serve_forever, args=(TICK_S,), daemon=True)
        serving.start()
        self._stopping.wait()
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)


def socket_path(wanted: Path) -> Path:
    """The path itself, or one in a folder of the user's own below /tmp where it is too long for a socket."""
    if len(os.fsencode(wanted)) <= LONGEST_PATH:
        return wanted
    return Path(tempfile.mkdtemp(prefix="avo-")) / wanted.name


def _outcome(step: Step) -> str:
    """How a step's attempt ended; "" while that is not known."""
    view = step.task.view
    with suppress(sqlite3.ProgrammingError):  # the run ends and has closed its lineage
        for attempt in view.attempts():
            whose = attempt.generation, attempt.member
            if whose == (step.task.generation, step.task.member) and (outcome := view.outcome(attempt.id)):
                return versions.line(attempt, outcome, view.log_scores().get(attempt.id))
    return ""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    steps: StepServer


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """One request, one reply; whoever asks may be gone before the reply, which is no loss."""
        try:
            line = self.rfile.readline(LONGEST_LINE)
            reply = self._reply(line)
            self.wfile.write(reply.line())
        except OSError:
            return

    def _reply(self, line: bytes) -> Reply:
        try:
            request = Request.of(line)
        except (ValueError, RecursionError) as error:
            return Reply(text=str(error), status=USAGE)
        try:
            return self.server.steps.answer(request)
        except sqlite3.ProgrammingError:
            return Reply(text="the run has ended, and closed its lineage", status=CLOSED)
        except Exception as error:
            return Reply(text=f"internal error: {type(error).__name__}: {error}", status=FAILED)
