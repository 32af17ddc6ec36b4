"""Memory of a GPU that two processes map: the judge makes it, a kernel's process is handed its descriptor.

CUDA's virtual memory management (CUDA Driver API, section 6.14) gives an allocation a POSIX file descriptor, which
crosses PID namespaces as any other does; the older cudaIpc handles do not. Called through ctypes, because torch has no
such allocator and the driver is there wherever a GPU is.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_PINNED, _POSIX_DESCRIPTOR, _DEVICE, _READ_WRITE = 1, 1, 1, 3


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Properties(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location", _Location),
        ("win32", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class _Access(ctypes.Structure):
    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


class GpuMemoryError(RuntimeError):
    """The driver refused; the message names the call and its error."""


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: Any) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code != 0:
        text = ctypes.c_char_p()
        _driver().cuGetErrorName(code, ctypes.byref(text))
        raise GpuMemoryError(f"{name}: {(text.value or b'error').decode()} ({code})")


def _properties(device: int) -> _Properties:
    return _Properties(type=_PINNED, handle_types=_POSIX_DESCRIPTOR, location=_Location(_DEVICE, device))


def rounded(size: int, *, device: int = 0) -> int:
    """Bytes that an allocation of at least `size` bytes takes. A context must be current."""
    granularity = ctypes.c_size_t()
    properties = _properties(device)
    _call("cuMemGetAllocationGranularity", ctypes.byref(granularity), ctypes.byref(properties), 0)
    return -(-size // granularity.value) * granularity.value


def create(size: int, *, device: int = 0) -> tuple[int, int]:
    """Allocate and map `size` bytes (a result of `rounded`); returns the address here and a descriptor to share."""
    handle, descriptor = ctypes.c_uint64(), ctypes.c_int()
    properties = _properties(device)
    _call("cuMemCreate", ctypes.byref(handle), ctypes.c_size_t(size), ctypes.byref(properties), ctypes.c_uint64(0))
    try:
        _call("cuMemExportToShareableHandle", ctypes.byref(descriptor), handle, _POSIX_DESCRIPTOR, ctypes.c_uint64(0))
        return _map(handle, size, device), descriptor.value
    finally:
        _call("cuMemRelease", handle)  # the mapping and the descriptor keep the memory


def attach(descriptor: int, size: int, *, device: int = 0) -> int:
    """Map what another process allocated; returns the address here."""
    handle = ctypes.c_uint64()
    _call("cuMemImportFromShareableHandle", ctypes.byref(handle), ctypes.c_void_p(descriptor), _POSIX_DESCRIPTOR)
    try:
        return _map(handle, size, device)
    finally:
        _call("cuMemRelease", handle)


def detach(address: int, size: int) -> None:
    """Unmap; the memory is freed with its last mapping and descriptor."""
    _call("cuMemUnmap", ctypes.c_uint64(address), ctypes.c_size_t(size))
    _call("cuMemAddressFree", ctypes.c_uint64(address), ctypes.c_size_t(size))


def _map(handle: ctypes.c_uint64, size: int, device: int) -> int:
    address = ctypes.c_uint64()
    length, zero = ctypes.c_size_t(size), ctypes.c_uint64(0)
    _call("cuMemAddressReserve", ctypes.byref(address), length, ctypes.c_size_t(0), zero, zero)
    _call("cuMemMap", address, length, ctypes.c_size_t(0), handle, zero)
    access = _Access(_Location(_DEVICE, device), _READ_WRITE)
    _call("cuMemSetAccess", address, length, ctypes.byref(access), ctypes.c_size_t(1))
    return address.value


class _Bytes:
    """Raw GPU memory as torch takes it."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3, "strides": None,
        }  # fmt: skip


def as_bytes(address: int, size: int, *, device: int = 0) -> Any:
    """A torch.uint8 tensor of shape (size,) over mapped memory; it does not own it."""
    import torch

    return torch.as_tensor(_Bytes(address, size), device=f"cuda:{device}")
