"""The file system as a kernel's process sees it: read-only, but for a folder of its own and a /dev/shm of its own.

Landlock has no right for what belongs to a file beside its contents: mode, owner, times, extended attributes. A mount
that is read-only refuses to change any of them. What semaphores and shared memory of Python's multiprocessing need,
/dev/shm, is a small file system that no other process sees.
"""

from __future__ import annotations

import ctypes
import os
import struct

OWN_MOUNTS = "own mounts"
SHARED_MEMORY = "/dev/shm"
_NEWNS, _MS_REC, _MS_PRIVATE, _MS_BIND, _MS_NOSUID, _MS_NODEV = 0x20000, 0x4000, 0x40000, 0x1000, 0x2, 0x4
_MOUNT_SETATTR, _CURRENT_FOLDER, _RECURSIVE = 442, -100, 0x8000
_READ_ONLY, _NOSUID = 0x1, 0x2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def enter(writable: str, *, shared_bytes: int) -> bool:
    """Give this process mounts of its own, once and for all: `writable` and /dev/shm may be changed, nothing else.

    shared_bytes: what /dev/shm may hold. False where the machine does not offer it (Linux before 5.12, or no power to
    mount); then nothing is promised of the file system. Changes into `writable`, which is mounted anew.
    """
    options = f"size={shared_bytes},mode=1777".encode()
    done = (
        _libc.unshare(_NEWNS) == 0
        and _mount(b"none", "/", None, _MS_REC | _MS_PRIVATE, None)
        and _mount(b"tmpfs", SHARED_MEMORY, b"tmpfs", _MS_NOSUID | _MS_NODEV, options)
        and _mount(os.fsencode(writable), writable, None, _MS_BIND, None)
        and _set("/", _RECURSIVE, add=_READ_ONLY | _NOSUID)
        and _set(writable, 0, take=_READ_ONLY)
        and _set(SHARED_MEMORY, 0, take=_READ_ONLY)
    )
    if done:
        os.chdir(writable)
    return done


def write_proc() -> bool:
    """After `enter`: let /proc be written again, where a process has to name its own threads.

    What may be written there is for Landlock to say: without it leave /proc as it is.
    """
    return _set("/proc", 0, take=_READ_ONLY)


def own_proc() -> bool:
    """In the first process of a PID namespace: mounts of its own with a /proc that shows that namespace alone."""
    return (
        _libc.unshare(_NEWNS) == 0
        and _mount(b"none", "/", None, _MS_REC | _MS_PRIVATE, None)
        and _mount(b"proc", "/proc", b"proc", 0, None)
    )


def _mount(source: bytes, target: str, kind: bytes | None, flags: int, options: bytes | None) -> bool:
    return bool(_libc.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), options) == 0)


def _set(path: str, flags: int, *, add: int = 0, take: int = 0) -> bool:
    """Change the attributes of a mount; mount_setattr(2), for which glibc before 2.36 has no wrapper."""
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", add, take, 0, 0), 32)
    target = ctypes.c_char_p(os.fsencode(path))
    number, folder = ctypes.c_long(_MOUNT_SETATTR), ctypes.c_int(_CURRENT_FOLDER)
    result = _libc.syscall(number, folder, target, ctypes.c_uint(flags), attributes, ctypes.c_size_t(32))
    return bool(result == 0)
