"""Confinement of a kernel's process in layers: each is used where the machine offers it, the report says which hold.

The fork server enters network and IPC namespaces of its own once. Every child gets a PID namespace (so that its death
takes all its descendants), resource limits, no capabilities, and, last, Landlock and seccomp. None of it needs an
installed tool.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pytest_avo.evaluation.linux import landlock, mounts, namespaces, python, seccomp
from pytest_avo.evaluation.linux.mounts import OWN_MOUNTS

PID_NAMESPACE = "pid namespace"
_SET_PDEATHSIG, _SET_NO_NEW_PRIVS, _CAPBSET_DROP, _SET_CHILD_SUBREAPER = 1, 38, 24, 36
_LAST_CAPABILITY = 63
_MAX_PROCESSES = 512
_MAX_SHARED_BYTES = 1 << 30
_MAX_FILE_BYTES = 2 << 30
_MAX_OPEN_FILES = 512
_MAX_PENDING_SIGNALS = 32
"""POSIX timers too, each of which takes a core for some microseconds when it goes off, also while they are stopped."""
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/sys")
_PROFILERS = ("/opt/nvidia", "/usr/local/cuda*/nsight-compute*")
"""Where NVIDIA's profilers keep the code that they load into a process; the second is a link to wherever it is."""
_PROC_FILES = ("cpuinfo", "meminfo", "stat", "filesystems", "sys", "self", "version")
_COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Confinement:
    """What one child is held to."""

    scratch: str
    memory_bytes: int
    layers: bool
    """Namespaces, Landlock and seccomp too; off only where the user said so."""
    gpu: bool = False
    """Let it reach NVIDIA's devices and what their driver needs."""


def enter_namespaces(*, gpu: bool = False) -> list[str]:
    """Give this single-threaded process network and IPC namespaces of its own, as far as the machine lets it.

    Returns the layers that will hold for children, strongest first. CUDA's driver names its threads through /proc, so
    with a `gpu` a PID namespace holds only where a child may mount a /proc of its own.
    """
    isolated = namespaces.isolate()
    landlock_version = landlock.abi()
    offered = {
        PID_NAMESPACE: namespaces.offers_pid_namespace(with_proc=gpu),
        "no network": isolated,
        f"landlock {landlock_version}": landlock_version > 0,
        "seccomp": seccomp.available(),
        OWN_MOUNTS: namespaces.works(lambda: mounts.enter(os.getcwd(), shared_bytes=_MAX_SHARED_BYTES)),
    }
    return [layer for layer, holds in offered.items() if holds]


def become_subreaper() -> None:
    """Orphans below this process become its children, so that it can find and kill them."""
    _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def be_told_of_parents_end(number: signal.Signals) -> None:
    """Be sent a signal when the thread that forked this process ends."""
    _libc.prctl(_SET_PDEATHSIG, int(number), 0, 0, 0)


def confine(confinement: Confinement) -> None:
    """Confine this process for good. Called in the forked child, before any of the kernel's code runs."""
    confine_watched(confinement, watched=False)()


def confine_watched(confinement: Confinement, *, watched: bool = True) -> Callable[[], None]:
    """Confine a process that a profiler's code lives in: all of it but system calls at once, those by what it returns.

    watched: leave it the network of its host until then, so that the profiler's code can reach the profiler, which it
    does when CUDA starts. Call the result, which holds for every thread, before any of the kernel's code runs.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, confinement.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    _limit(resource.RLIMIT_SIGPENDING, _MAX_PENDING_SIGNALS)
    if os.getuid() != 0:
        _limit(resource.RLIMIT_NPROC, 4096)
    if not confinement.layers:
        return lambda: None
    is_first = os.getpid() == 1
    if is_first and _linux() >= (6, 14):
        # From then on the largest pid is a setting of the namespace and stops fork bombs, of root too. Before, it was
        # the machine's own, which root could write: never touch it there.
        _try_write("/proc/sys/kernel/pid_max", str(_MAX_PROCESSES))
    _try_write("/proc/self/oom_score_adj", "500")  # where memory runs out, this goes before others
    # Nothing that kernels' processes could leave for each other; CUDA's driver needs local sockets, so those too.
    namespaces.unshare(namespaces.IPC | namespaces.NETWORK if confinement.gpu and not watched else namespaces.IPC)
    own_mounts = mounts.enter(confinement.scratch, shared_bytes=min(_MAX_SHARED_BYTES, confinement.memory_bytes))
    own_proc = confinement.gpu and is_first and mounts.own_proc()
    if confinement.gpu and own_mounts and not own_proc and landlock.abi():
        mounts.write_proc()  # the driver names its threads there, and fails where it cannot
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    _drop_capabilities()
    _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if landlock.abi():
        _restrict_files(confinement, own_mounts=own_mounts, own_proc=own_proc, watched=watched)

    def restrict_calls() -> None:
        if seccomp.available():
            # CUDA's driver listens on a local socket of its own; the network namespace has nobody to talk to.
            sockets = seccomp.LOCAL_SOCKETS if confinement.gpu and not watched else ()
            timers = seccomp.TIMERS if confinement.gpu else ()  # whose kernels no interrupt of the host slows down
            # Outside of a PID namespace it could choose the cores of others.
            seccomp.restrict(allowed=(*sockets, *timers), metadata=own_mounts, affinity=is_first)

    return restrict_calls


def _restrict_files(confinement: Confinement, *, own_mounts: bool, own_proc: bool, watched: bool) -> None:
    """Landlock: what of the file system may be read and written."""
    proc = ["/proc"] if own_proc else [f"/proc/{name}" for name in _PROC_FILES]
    write, devices = [confinement.scratch, *([mounts.SHARED_MEMORY] if own_mounts else [])], list(_DEVICES)
    if confinement.gpu:
        proc += ["/proc/driver/nvidia", "/proc/devices", "/proc/modules"]
        write.append("/proc/self/task")  # the driver names its threads there
        devices += [str(path) for path in Path("/dev").glob("nvidia*") if not path.is_dir()]
    read = [*_SYSTEM_FOLDERS, *_python_folders(), *_compiler_folders(), *proc]
    if watched:
        read += [os.path.realpath(path) for pattern in _PROFILERS for path in glob.glob(pattern)]
    landlock.restrict(read=read, write=write, devices=devices, reach_out=watched)


def recall() -> None:
    """Find out what is the same for all children once, here: in each of them it takes as long as a fork."""
    _python_folders()
    _compiler_folders()


@cache
def _python_folders() -> list[str]:
    """Interpreter, standard library and installed packages; not sys.path, which may hold the user's project."""
    paths = sysconfig.get_paths()
    folders = {sys.base_prefix, sys.base_exec_prefix, *(paths[key] for key in ("stdlib", "platlib", "purelib"))}
    for name in ("torch", "triton", "numpy"):
        if (module := sys.modules.get(name)) and module.__file__:
            folders.add(str(Path(module.__file__).parents[1]))
    folders.add(sys.prefix)
    return sorted(folders)


@cache
def _compiler_folders() -> list[str]:
    """Where compilers really are, those on the PATH and those that variables name; never a whole home folder."""
    named = [os.environ[name].split()[0] for name in ("CC", "CXX") if os.environ.get(name, "").strip()]
    found = [Path(os.path.realpath(path)).parents[1] for name in (*_COMPILERS, *named) if (path := shutil.which(name))]
    found += [Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []
    homes = [Path("/")]
    with contextlib.suppress(KeyError):  # a container's user may have no entry
        homes.append(Path(pwd.getpwuid(os.getuid()).pw_dir))
    return sorted({str(folder) for folder in found if not any(home.is_relative_to(folder) for home in homes)})


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
        return  # not permitted: the other limits hold


def _linux() -> tuple[int, int]:
    """Version of the running kernel."""
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return int(major), int(minor)


def offered_layers() -> tuple[str, ...]:
    """The layers that this machine offers, found by entering them in a process of their own."""
    environment = {**os.environ, "PYTHONPATH": python.search_path()}
    found = subprocess.run(python.command(__name__), capture_output=True, text=True, timeout=60, env=environment)
    return tuple(found.stdout.splitlines()) if found.returncode == 0 else ()


if __name__ == "__main__":
    sys.stdout.write("\n".join(enter_namespaces()))
