"""Confinement of a kernel's process in layers: each is used where the machine offers it, the report says which hold.

The zygote enters network and IPC namespaces of its own once; every child gets a PID namespace (so that its death takes
all its descendants), resource limits, no capabilities, and, last, Landlock and seccomp. None of it needs an installed
tool.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from pytest_avo.evaluation import landlock, seccomp

_NEWPID, _NEWNET, _NEWIPC, _NEWUTS, _NEWUSER = 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x10000000
_SET_PDEATHSIG, _SET_NO_NEW_PRIVS, _CAPBSET_DROP, _SET_CHILD_SUBREAPER = 1, 38, 24, 36
_LAST_CAPABILITY = 63
_MAX_PROCESSES = 512
_MAX_FILE_BYTES = 2 << 30
_MAX_OPEN_FILES = 512
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/sys")
_PROC_FILES = ("cpuinfo", "meminfo", "stat", "filesystems", "sys", "self", "version")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Confinement:
    """What one child is held to."""

    scratch: str
    memory_bytes: int
    layers: bool
    """Namespaces, Landlock and seccomp too; off only where the user said so."""


def enter_namespaces(home_namespace: int) -> list[str]:
    """Give this single-threaded process network and IPC namespaces of its own, as far as the machine lets it.

    Returns the layers that will hold for children, strongest first. home_namespace: descriptor of /proc/self/ns/pid.
    """
    wanted = _NEWNET | _NEWIPC | _NEWUTS
    uid, gid = os.getuid(), os.getgid()
    isolated = _libc.unshare(wanted) == 0
    if not isolated and _libc.unshare(_NEWUSER | wanted) == 0:
        isolated = True
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    own_pids = _libc.unshare(_NEWPID) == 0
    if own_pids:
        _libc.setns(home_namespace, _NEWPID)
    landlock_version = landlock.abi()
    offered = {
        "pid namespace": own_pids,
        "no network": isolated,
        f"landlock {landlock_version}": landlock_version > 0,
        "seccomp": seccomp.available(),
    }
    return [layer for layer, holds in offered.items() if holds]


def fork_confined(home_namespace: int) -> int:
    """os.fork() whose child is the first process of a new PID namespace where the machine allows it.

    home_namespace: descriptor of /proc/self/ns/pid, to which the parent returns so that it can fork again.
    """
    entered = _libc.unshare(_NEWPID) == 0
    pid = os.fork()
    if pid and entered:
        _libc.setns(home_namespace, _NEWPID)
    return pid


def become_subreaper() -> None:
    """Orphans below this process become its children, so that it can find and kill them."""
    _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Be killed when the thread that forked this process ends."""
    _libc.prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def confine(confinement: Confinement) -> None:
    """Confine this process for good. Called in the forked child, before any of the kernel's code runs."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, confinement.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    if os.getuid() != 0:
        _limit(resource.RLIMIT_NPROC, 4096)
    if not confinement.layers:
        return
    if os.getpid() == 1:
        # Since Linux 6.14 the largest pid is a setting of the namespace: it stops fork bombs, of root too.
        _try_write("/proc/sys/kernel/pid_max", str(_MAX_PROCESSES))
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    _drop_capabilities()
    _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if landlock.abi():
        proc = [f"/proc/{name}" for name in _PROC_FILES]
        read = [*_SYSTEM_FOLDERS, *_python_folders(), *proc]
        landlock.restrict(read=read, write=[confinement.scratch], devices=_DEVICES)
    if seccomp.available():
        seccomp.restrict()


def _python_folders() -> list[str]:
    """Interpreter, standard library and installed packages; not sys.path, which may hold the user's project."""
    paths = sysconfig.get_paths()
    folders = {sys.base_prefix, sys.base_exec_prefix, *(paths[key] for key in ("stdlib", "platlib", "purelib"))}
    for name in ("torch", "triton", "numpy"):
        if (module := sys.modules.get(name)) and module.__file__:
            folders.add(str(Path(module.__file__).parents[1]))
    folders.add(sys.prefix)
    return sorted(folders)


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _libc.capset(header, data)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _try_write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError:
        return  # an older kernel, or not permitted: the other limits hold


def offered_layers() -> tuple[str, ...]:
    """The layers that this machine offers, found by entering them in a process of their own."""
    found = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, timeout=60)
    return tuple(found.stdout.splitlines()) if found.returncode == 0 else ()


if __name__ == "__main__":
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    sys.stdout.write("\n".join(enter_namespaces(home)))
