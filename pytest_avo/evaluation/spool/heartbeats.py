"""Heartbeats of spool servers: one lives while its heartbeat changes. Clocks are not compared, since hosts' differ."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Literal

from pytest_avo.evaluation.spool.folder import SpoolFolder

BEAT_S = 3.0
LEASE_S = 75.0
"""A server whose beat stands still for so long is gone. NFS shows a change on another host after up to 60 s."""
SERVING, ENDED = b"serving", b"ended  "
"""Both have the same length: a heartbeat is written over the last one, which needs no space on a disk that is full."""

Fate = Literal["alive", "unknown", "ended", "lost"]


class Heartbeat(threading.Thread):
    """Writes the heartbeat of a server, from its start to its end."""

    def __init__(self, folder: SpoolFolder, *, beat_s: float = BEAT_S) -> None:
        super().__init__(daemon=True, name="avo-beat")
        self.server = f"{socket.gethostname().partition('.')[0]}-{os.getpid()}-{secrets.token_hex(3)}"
        self._folder = folder
        self._beat_s = beat_s
        self._ending = threading.Event()
        self._count = 0
        folder.publish("servers", self.server, self._line(SERVING) + identity(os.getpid()))

    def run(self) -> None:
        while not self._ending.wait(self._beat_s):
            self._write(SERVING)

    def end(self) -> None:
        """Write that the server has ended and holds no request any more."""
        self._ending.set()
        if self.is_alive():
            self.join()
        self._write(ENDED)

    def _write(self, state: bytes) -> None:
        self._count += 1
        with contextlib.suppress(OSError), (self._folder.path / "servers" / self.server).open("r+b") as file:
            file.write(self._line(state))
            file.flush()
            os.fsync(file.fileno())

    def _line(self, state: bytes) -> bytes:
        return b"%012d %s\n" % (self._count, state)


class Watch:
    """Tells which servers are alive, by what this process has seen of their heartbeats."""

    def __init__(self, folder: SpoolFolder, *, lease_s: float = LEASE_S) -> None:
        self._folder = folder
        self._lease_s = lease_s
        self._seen: dict[str, tuple[bytes, float, bool]] = {}
        """Server -> its last beat, when that was first seen here, and whether another one was seen before."""

    def fate(self, server: str) -> Fate:
        """Whether a server is alive. "unknown": it was not watched for long enough."""
        try:
            beat, _, whose = (self._folder.path / "servers" / server).read_bytes().partition(b"\n")
        except OSError:
            beat, whose = b"", b""
        if beat.endswith(ENDED):
            return "ended"
        if _was_here_and_is_gone(whose):
            return "lost"
        now = time.monotonic()
        last, since, changed = self._seen.get(server, (None, now, False))
        if last is None:
            self._seen[server] = (beat, now, False)
        elif beat != last:
            since, changed = now, True
            self._seen[server] = (beat, since, changed)
        if now - since > self._lease_s:
            return "lost"
        return "alive" if changed else "unknown"


def identity(pid: int) -> bytes:
    """A process of this machine, told apart from any other at any time; empty where it is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if state in "XZ":
            return b""
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {pid} {fields[18]}\n".encode()
    except OSError:
        return b""


def _was_here_and_is_gone(whose: bytes) -> bool:
    """Whether a server ran on this machine, where the process table says at once what became of it."""
    fields = whose.split()
    here = identity(os.getpid()).split()
    return len(fields) == 4 and fields[:2] == here[:2] and identity(int(fields[2])).split() != fields
