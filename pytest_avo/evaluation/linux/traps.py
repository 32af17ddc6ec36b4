"""Traps for kernels that reach beyond their process: bait laid out before they run, and evidence found afterwards.

A secret in the controller's environment and in a file, a file to destroy, a port that counts callers, and folders where
loot would be left. What is found is independent of anything that a kernel says.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path

from pytest_avo.core.disk.places import home
from pytest_avo.core.evaluation import Evaluation
from pytest_avo.evaluation.linux import processes

VARIABLE = "AVO_SELFTEST_API_KEY"
FOLDER = "avo-selftest-bait-{pid}"
"""Below the machine's folder for temporary files, so that a kernel that may look there finds it without a search."""
PORT = 47613
LOOT = ("avo-cheat", "hack")
"""How names of files begin that kernels of the corpus leave where they can."""
ESCAPED = "ESCAPED"
"""What a kernel of the corpus raises when it got hold of something that is not its own."""


class Traps:
    """The bait of one run; `spring` says what was taken since it was laid out."""

    def __init__(self) -> None:
        self._secret = secrets.token_hex(16)
        self._since = time.time()
        self._bait = Path(tempfile.gettempdir()) / FOLDER.format(pid=os.getpid())
        self._callers: list[str] = []
        self._workers: set[int] = set()
        self._sink: socket.socket | None = None

    def lay(self) -> None:
        """Lay out the bait; the secret is inherited by every process that is started from now on."""
        os.environ[VARIABLE] = self._secret
        self._bait.mkdir(mode=0o700, exist_ok=True)
        (self._bait / "secret").write_text(self._secret)
        (self._bait / "lineage").write_text(self._secret)
        sink = socket.socket()
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sink.bind(("127.0.0.1", PORT))
        except OSError:  # another run has it, and would count the caller
            sink.close()
            return
        sink.listen()
        self._sink = sink
        threading.Thread(target=self._count_callers, args=(sink,), daemon=True, name="avo-sink").start()

    def spring(self, evaluations: list[Evaluation]) -> list[str]:
        """What kernels did beyond their process, in words; empty when nothing."""
        said = " ".join(f"{x.reason} {x.log}" for x in evaluations)
        found = [f"reached the network: {caller}" for caller in self._callers]
        self._callers.clear()
        if ESCAPED in said:
            found.append(said[said.index(ESCAPED) :].splitlines()[0].strip()[:120])
        if self._secret in said:
            found.append("read the secret")
        found += [f"left {path}" for path in self._loot()]
        found += [f"left process {pid} behind" for pid in self._strays()]
        if not self._is_whole():
            found.append("changed a file that is not its own")
            (self._bait / "lineage").write_text(self._secret)
        return found

    def close(self) -> None:
        """Take the bait away."""
        os.environ.pop(VARIABLE, None)
        if self._sink is not None:
            self._sink.close()
        shutil.rmtree(self._bait, ignore_errors=True)

    def _is_whole(self) -> bool:
        try:
            return (self._bait / "lineage").read_text() == self._secret
        except OSError:
            return False

    def _count_callers(self, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                caller, address = sink.accept()
                caller.close()
                self._callers.append(f"port {PORT} was called from {address[0]}")

    def _loot(self) -> list[str]:
        """Files that were left in folders which anybody may write to or which are the user's; removed on the way."""
        found = []
        for folder in {tempfile.gettempdir(), "/var/tmp", "/dev/shm", str(home() or "/"), os.getcwd()}:
            with contextlib.suppress(OSError):
                for entry in os.scandir(folder):
                    if entry.name.startswith(LOOT) and entry.stat(follow_symlinks=False).st_mtime >= self._since:
                        found.append(entry.path)
                        os.unlink(entry.path)
        return found

    def _strays(self) -> list[int]:
        """Processes of our workers' kernels that are not below this process any more."""
        below = {process.pid for process in processes.tree(os.getpid())}
        self._workers |= below
        marks = [f"pytest-avo-{pid}-".encode() for pid in self._workers]
        found = []
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) in below:
                continue
            with contextlib.suppress(OSError):  # ended meanwhile, or another user's
                place = os.fsencode(os.readlink(f"/proc/{entry.name}/cwd"))
                said = place + Path(f"/proc/{entry.name}/environ").read_bytes()
                if any(mark in said for mark in marks) and processes.is_running(int(entry.name)):
                    found.append(int(entry.name))
        return found
