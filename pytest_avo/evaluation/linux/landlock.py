"""Landlock (Linux 5.13 and later): what of the file system, the network and other processes a process may reach.

The kernel's own documentation (userspace-api/landlock) gives the numbers; glibc has no wrappers: these are raw calls.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read file, read directory
_WRITE = 1 << 1 | 0b1_1111_1111 << 4  # write file; remove and make entries of every kind
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_MAKE_DEVICE = 1 << 6 | 1 << 11
_OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | _TRUNCATE | _IOCTL_DEVICE
_TCP = 0b11  # bind, connect
_SOCKETS, _SIGNALS = 0b01, 0b10  # scopes: abstract unix sockets, signals

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def abi() -> int:
    """Version of Landlock that the running kernel offers; 0 without any."""
    return max(0, int(_libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(1))))


def restrict(*, read: Iterable[str], write: Iterable[str], devices: Iterable[str], reach_out: bool = False) -> None:
    """Confine this process and all that it starts: it may read and write below these paths and nothing else.

    Where the kernel can, signals to processes outside are denied and, unless it may `reach_out`, so are TCP and
    abstract sockets. Irrevocable. OSError when the kernel refuses; needs no_new_privs.
    """
    version = abi()
    rights = _READ | _WRITE
    rights |= _REFER if version >= 2 else 0
    rights |= _TRUNCATE if version >= 3 else 0
    rights |= _IOCTL_DEVICE if version >= 5 else 0
    tcp, scopes = (0, _SIGNALS) if reach_out else (_TCP, _SIGNALS | _SOCKETS)
    attributes = struct.pack("QQQ", rights, tcp if version >= 4 else 0, scopes if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(
        _CREATE_RULESET, ctypes.create_string_buffer(attributes, 24), ctypes.c_size_t(size), ctypes.c_uint(0)
    )
    try:
        for path in read:
            _allow(ruleset, path, _READ & rights)
        for path in write:
            _allow(ruleset, path, rights & ~_MAKE_DEVICE)
        for path in devices:
            _allow(ruleset, path, (1 << 1 | 1 << 2 | _IOCTL_DEVICE) & rights)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no permission
    try:
        if not os.path.isdir(path):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor))
        _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
