"""A seccomp filter (x86-64): system calls that no kernel needs and that reach other processes, network or host."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence

_X86_64 = 0xC000003E
_X32_BIT = 0x40000000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Where a filter finds what it is to judge: offsets in struct seccomp_data (the lower half of an argument)."""
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_DONE_NOTHING = _ERRNO
"""The call is not made, and the caller is told that it succeeded."""
_SET_MODE_FILTER, _THREAD_SYNC = 1, 1
_SECCOMP = 317

# Numbers from the kernel's arch/x86/entry/syscalls/syscall_64.tbl.
DENIED = {
    "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312,
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
    "move_mount": 429, "open_tree": 428, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "mount_setattr": 442,
    "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176,
    "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163, "settimeofday": 164, "clock_settime": 227,
    "adjtimex": 159, "clock_adjtime": 305, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "quotactl": 179, "open_by_handle_at": 304, "name_to_handle_at": 303, "fanotify_init": 300,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314, "setpriority": 141, "ioprio_set": 251,
    "syslog": 103, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "memfd_secret": 447,
    "timerfd_create": 283,
}  # fmt: skip
TIMERS = ("timerfd_create",)
"""Timers go off while the process that made them is stopped, and no account has the interrupts."""
LOCAL_SOCKETS = ("socket", "connect", "accept", "bind", "listen", "accept4")
METADATA = {
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94,
    "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
    "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "setxattrat": 463,
    "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "removexattrat": 466,
}  # fmt: skip
"""Calls that change what belongs to a file beside its contents, which Landlock has no right for."""
_CLONE, _CLONE3, _PRCTL, _SET_AFFINITY = 56, 435, 157, 203
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_SET_PDEATHSIG, _SET_DUMPABLE = 1, 4
"""Options of prctl that are refused: to give up the signal of the parent's end, and to hide from who counts its
memory."""


def available() -> bool:
    """Whether the filter's system call numbers are this machine's."""
    return platform.machine() == "x86_64"


def restrict(*, allowed: Sequence[str] = (), metadata: bool = True, affinity: bool = False) -> None:
    """Refuse the denied calls with EPERM in every thread of this process and all that it starts. Needs no_new_privs.

    allowed: names of calls that are not to be refused after all. metadata: let it change modes, owners and times of
    files. affinity: let it choose cores; else it is told that it did, as it is where it asks not to die with its parent
    any more, which honest code does too.
    """
    program = [_load(_ARCHITECTURE), _jump(_JUMP_EQUAL, _X86_64, 1, 0), _return(_KILL)]
    program += [_load(_NUMBER), _jump(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1), _return(_KILL)]
    denied = {number for name, number in DENIED.items() if name not in allowed}
    denied |= set() if metadata else set(METADATA.values())
    for number in sorted(denied):
        program += [_jump(_JUMP_EQUAL, number, 0, 1), _return(_ERRNO | errno.EPERM)]
    # A filter cannot read clone3's arguments, which lie in memory: glibc then uses clone.
    program += [_jump(_JUMP_EQUAL, _CLONE3, 0, 1), _return(_ERRNO | errno.ENOSYS)]
    if not affinity:
        program += [_jump(_JUMP_EQUAL, _SET_AFFINITY, 0, 1), _return(_DONE_NOTHING)]
    program += [_jump(_JUMP_EQUAL, _CLONE, 0, 4), _load(_FIRST_ARGUMENT)]
    program += [_jump(_JUMP_SET, _NEW_NAMESPACES, 0, 1), _return(_ERRNO | errno.EPERM), _return(_ALLOW)]
    program += [_jump(_JUMP_EQUAL, _PRCTL, 0, 4), _load(_FIRST_ARGUMENT)]
    program += [_jump(_JUMP_EQUAL, _SET_PDEATHSIG, 1, 0), _jump(_JUMP_EQUAL, _SET_DUMPABLE, 0, 1)]
    program += [_return(_DONE_NOTHING), _return(_ALLOW)]
    _install(program)


def _install(program: Sequence[bytes]) -> None:
    code = b"".join(program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    arguments = (ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_THREAD_SYNC), header)
    if libc.syscall(ctypes.c_long(_SECCOMP), *arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", _LOAD_WORD, 0, 0, offset)


def _return(action: int) -> bytes:
    return struct.pack("HBBI", _RETURN, 0, 0, action)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
