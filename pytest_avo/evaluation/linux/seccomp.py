"""A seccomp filter (x86-64): system calls that no kernel needs and that reach other processes, network or host."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

_X86_64 = 0xC000003E
_X32_BIT = 0x40000000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050000 | 1
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
    "sched_setaffinity": 203, "sched_setscheduler": 144, "setpriority": 141, "syslog": 103,
}  # fmt: skip


LOCAL_SOCKETS = ("socket", "connect", "accept", "bind", "listen", "accept4")


def available() -> bool:
    """Whether the filter's system call numbers are this machine's."""
    return platform.machine() == "x86_64"


def restrict(*, allowed: Sequence[str] = ()) -> None:
    """Refuse the denied calls with EPERM in every thread of this process and all that it starts. Needs no_new_privs.

    allowed: names of calls that are not to be refused after all.
    """
    program = [_statement(_LOAD_WORD, 4), _jump(_JUMP_EQUAL, _X86_64, 1, 0), _statement(_RETURN, _KILL)]
    program += [_statement(_LOAD_WORD, 0), _jump(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1), _statement(_RETURN, _KILL)]
    for number in sorted(number for name, number in DENIED.items() if name not in allowed):
        program += [_jump(_JUMP_EQUAL, number, 0, 1), _statement(_RETURN, _EPERM)]
    program.append(_statement(_RETURN, _ALLOW))
    code = b"".join(program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    arguments = (ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_THREAD_SYNC), header)
    if libc.syscall(ctypes.c_long(_SECCOMP), *arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _statement(code: int, value: int) -> bytes:
    return struct.pack("HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
