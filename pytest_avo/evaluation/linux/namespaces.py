"""Linux namespaces: of the network and of IPC for a process and all below it, of PIDs for what it forks.

namespaces(7) and unshare(2) have the numbers. Some attempts fail half-way and cannot be taken back, so whether the
machine offers something is tried out in a process that ends.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pytest_avo.evaluation.linux import mounts

NETWORK, IPC = 0x40000000, 0x08000000
_PID, _HOST_NAME, _USER = 0x20000000, 0x04000000, 0x10000000
_OUTSIDE = NETWORK | IPC | _HOST_NAME
"""What a process would reach others by, or be told apart from."""

_libc = ctypes.CDLL(None, use_errno=True)


def isolate() -> bool:
    """Give this single-threaded process network and IPC namespaces of its own; whether the machine lets it."""
    return unshare(_OUTSIDE) or (works(_enter_user_namespace) and _enter_user_namespace())


def offers_pid_namespace(*, with_proc: bool) -> bool:
    """Whether children can be in a PID namespace of their own; with_proc: and mount a /proc of their own there."""
    return works(lambda: unshare(_PID) and (not with_proc or works(mounts.own_proc)))


def fork_in_pid_namespace() -> int:
    """os.fork() whose child is the first process of a new PID namespace, which this process itself does not enter.

    To come back from where the next child is to be takes privileges over the own namespace. Without them a helper goes,
    and ends: a second fork of a process that has torch imported, which costs as much as the first.
    """
    if not _may_return():
        return _fork_by_helper()
    unshare(_PID)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            _libc.setns(_own_pid_namespace(), _PID)
    return pid


@cache
def _own_pid_namespace() -> int:
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


@cache
def _may_return() -> bool:
    """Whether this process can have children in a new PID namespace, and afterwards again in its own."""
    return works(lambda: unshare(_PID) and _libc.setns(_own_pid_namespace(), _PID) == 0)


def _fork_by_helper() -> int:
    """Fork by a helper process that enters the namespace for its children only, and then ends.

    The child is handed to this process, which has to be a subreaper, and runs only once that has happened, so that it
    can ask to die with its parent.
    """
    answer, tell = os.pipe()
    gate, opened = os.pipe()
    helper = os.fork()
    if helper == 0 and _fork_in_namespace(tell):
        for descriptor in (answer, tell, opened):
            os.close(descriptor)
        if not os.read(gate, 1):
            os._exit(1)
        os.close(gate)
        return 0
    for descriptor in (tell, gate):
        os.close(descriptor)
    try:
        pid = os.read(answer, 32)
        os.waitpid(helper, 0)
        if not pid:
            raise OSError("no process could be forked")
        os.write(opened, b"!")
    finally:
        os.close(answer)
        os.close(opened)
    return int(pid)


def _fork_in_namespace(tell: int) -> bool:
    """In the helper: fork into a new PID namespace, tell the child's number and end. True in the child."""
    try:
        unshare(_PID)
        pid = os.fork()
        if pid == 0:
            return True
        os.write(tell, str(pid).encode())
    except OSError:
        os._exit(1)
    os._exit(0)


def _enter_user_namespace() -> bool:
    """A user namespace, in which an ordinary user may have the others, with the same user and group in it."""
    uid, gid = os.getuid(), os.getgid()
    if not unshare(_USER | _OUTSIDE):
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def unshare(namespaces: int) -> bool:
    """Enter new namespaces of these kinds, flags of clone(2); whether that was allowed. Of PIDs: for children alone."""
    return bool(_libc.unshare(namespaces) == 0)


def works(attempt: Callable[[], bool]) -> bool:
    """Whether an attempt succeeds, made in a process of its own: some fail half-way and cannot be taken back."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if attempt() else 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0
