"""The judge's end of the socket to a kernel's process: one request at a time, and nothing but one reply to each."""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from pytest_avo.evaluation.arms.faults import KernelEnded, KernelFault, KernelRaised
from pytest_avo.evaluation.arms.replies import Done, Enqueued, Loaded, Raised, decode
from pytest_avo.evaluation.kernel_process.wire import MAX_MESSAGE
from pytest_avo.evaluation.linux import processes

LOOK_S = 0.2
"""How often to look whether a silent process is still there."""
ALERT_S = {"cpu": 0.0, "cuda": 0.1}
"""How long to look for a reply without sleeping, by kind of device: to be woken takes a tenth of a millisecond, now
more, now less. Where kernels run on a CPU they need the core."""
_UNREAD = "did not take the request that it was to answer"
Phase = Literal["build", "check", "time"]
Said = Loaded | Enqueued | Done


class Link:
    """A socket to one process. Whatever comes over it that was not asked for is the kernel's doing."""

    def __init__(self, connection: socket.socket, *, pid: int, place: str, look: Callable[[], None]) -> None:
        """place: the kind of device, as torch calls it; look: what else to look at while a process is silent."""
        self._connection = connection
        self._pid = pid
        self._alert_s = ALERT_S[place]
        self._look = look

    def send(self, request: dict[str, object], phase: Phase) -> None:
        """Send a request. One that the socket has no room for is the kernel's doing: it left others unread there."""
        try:
            self._connection.send(msgspec.json.encode(request), socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise KernelFault("rejected", _UNREAD) from None
        except OSError:
            raise KernelEnded(phase) from None

    def reply(self, *, phase: Phase, limit_s: float) -> Said:
        """Wait for the only reply to a request."""
        try:
            self._wait(phase, limit_s)
            message = self._connection.recv(MAX_MESSAGE)
        except OSError:
            message = b""
        if not message:
            raise KernelEnded(phase)
        if self._unread_bytes():
            raise KernelFault("rejected", _UNREAD)
        try:
            reply = decode(message)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise KernelFault("rejected", "malformed reply: the kernel interfered with the harness") from None
        if isinstance(reply, Raised):
            raise KernelRaised("unsupported" if reply.refused else "crashed", f"raised {reply.what}")
        return reply

    def is_answered(self, *, within_s: float) -> bool:
        """Whether something is there to be read, now or in so many seconds."""
        return bool(select.select([self._connection], [], [], max(0.0, within_s))[0])

    def refuse_extra_replies(self) -> None:
        """KernelFault where more was said than was asked."""
        if self.is_answered(within_s=0) and self._connection.recv(MAX_MESSAGE):
            raise KernelFault("rejected", "more than one reply to a request")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _wait(self, phase: Phase, limit_s: float) -> None:
        """Wait for a reply. A process that ended is noticed even if its children hold the socket open."""
        started = time.monotonic()
        deadline = started + limit_s
        while time.monotonic() < started + self._alert_s:
            if self.is_answered(within_s=0):
                return
        while not self.is_answered(within_s=min(LOOK_S, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise KernelFault("timeout", f"{phase} took longer than {limit_s:g} s")
            if not processes.is_running(self._pid):
                raise KernelEnded(phase)
            self._look()

    def _unread_bytes(self) -> int:
        """Bytes of requests that the process has not taken from its socket."""
        return int.from_bytes(fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
