"""The fork server as its worker sees it: a process, and a socket on which it is asked to fork and to reap."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.evaluation.kernel_process.wire import MAX_MESSAGE
from pytest_avo.evaluation.linux import cgroup, processes, python

START_LIMIT_S = 120.0
REAP_LIMIT_S = 10.0
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "CC", "CXX")
"""What of the user's environment reaches a kernel; no key and no token is among it."""


class ForkServer:
    """Starts the fork server, has it fork and reap processes, and ends it with all below it."""

    def __init__(self, *, box: Path, environment: Mapping[str, str], warm: Sequence[str], place: str) -> None:
        self.box = box
        self.layers: tuple[str, ...] = ()
        self._place = place
        self._environment = environment
        self._warm = tuple(warm)
        self._layers = False
        self._ready = False
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owned: set[int] = set()
        self._ordered: int | None = None
        """The process that was ordered last; 0: the fork server has not told its number yet."""

    @property
    def is_alive(self) -> bool:
        """Whether the fork server, and so every process forked from it, can still be there."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, layers: bool) -> None:
        """Start the fork server; `wait` waits for it. layers: confine what it forks by more than limits."""
        self._layers = layers
        self._ready = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(START_LIMIT_S)
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        # The fork server must find this package however the worker did; its children lose the variable again.
        private = {"LC_ALL": "C.UTF-8", "HOME": str(self.box), "PYTHONPATH": python.search_path(), **python.NOBODY}
        environment = {**kept, **private, **self._environment}
        command = python.command("pytest_avo.evaluation.kernel_process.fork_server")
        command += [str(theirs.fileno()), "layers" if layers else "plain", self._place]
        with (self.box / "fork-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._warm],
                env=environment,
                cwd=self.box,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()

    def wait(self) -> None:
        """Block until the fork server has imported what it imports; one that was lost is replaced."""
        if not self.is_alive:
            self.kill()
            self.start(layers=self._layers)
        if not self._ready:
            self.layers = tuple(self._receive()["layers"])
            self._ready = True

    def kill(self) -> None:
        """End the fork server and all that it forked. Two threads may call it at once."""
        process = self._process
        if process is None:
            return
        # A process that left its group has the fork server, a subreaper, as its parent; after it nobody could find it.
        deadline = time.monotonic() + REAP_LIMIT_S
        while below := [x.pid for x in processes.tree(process.pid)[1:] if x.state != "Z"]:
            processes.send(below, signal.SIGKILL)
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        process.kill()
        process.wait()
        self._owned.clear()
        self._ordered = None
        self._process = None
        self._ready = False
        if self._control is not None:
            self._control.close()

    def _start(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[int, socket.socket]:
        """Fork a process: its number, and this end of the socket on which it is asked."""
        assert self._control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.ordered()
            socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno(), *descriptors])
            pid = int(self._receive()["pid"])
        except EvaluatorError:
            ours.close()
            raise
        except OSError as error:
            ours.close()
            raise EvaluatorError(f"the fork server did not fork: {error}") from None
        finally:
            theirs.close()
        self._owned.add(pid)
        return pid, ours

    def order(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> socket.socket:
        """Fork a process without waiting for its number (see `ordered`). OSError where the fork server is gone."""
        assert self._control is not None
        self.ordered()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno(), *descriptors])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._ordered = 0
        return ours

    def ordered(self) -> int:
        """The number of the process that was ordered last, 0 where none was; its answer comes before any other."""
        if self._ordered == 0:
            self._ordered = int(self._receive()["pid"])
            self._owned.add(self._ordered)
        return self._ordered or 0

    def _reap(self, pid: int) -> int | None:
        """The wait status of a killed process, once it and its group are gone; None if the fork server is gone too."""
        try:
            assert self._control is not None
            self.ordered()
            self._control.send(json.dumps({"do": "reap", "pid": pid}).encode())
            status = int(self._receive()["status"])
        except (OSError, EvaluatorError):
            self.kill()
            return None
        _verify_gone(pid)
        return status

    def _ended(self, pid: int) -> str:
        """How a process ended that was killed, in words, once it is gone."""
        status = self._reap(pid)
        if status is None:
            return "took the process that it was forked from down with it"
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"exited with status {code}"
        limited = cgroup.memory_limit() if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{f', {limited}' if limited else ''}"

    def _orphans(self) -> list[int]:
        """Processes below the fork server that belong to no arm yet: the kernel that runs at the moment left them."""
        assert self._process is not None
        with contextlib.suppress(EvaluatorError):  # that it is gone is told by whoever asks it for something
            self.ordered()
        new = [pid for pid in processes.children(self._process.pid) if pid not in self._owned]
        self._owned.update(new)
        return new

    def _receive(self) -> dict[str, Any]:
        assert self._control is not None
        if not (message := self._control.recv(MAX_MESSAGE)):
            log = (self.box / "fork-server.log").read_text(errors="replace").strip().splitlines()
            raise EvaluatorError(f"the fork server ended: {log[-1] if log else 'no output'}")
        answer: dict[str, Any] = json.loads(message)
        return answer


def _verify_gone(pid: int) -> None:
    """Raise unless the process group is empty; the kernel may need a moment to tear it down."""
    deadline = time.monotonic() + REAP_LIMIT_S
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.005)
    raise EvaluatorError(f"process group {pid} survived SIGKILL for {REAP_LIMIT_S:g} s")
