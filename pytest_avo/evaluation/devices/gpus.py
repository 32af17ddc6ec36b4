"""The NVIDIA GPUs that this process may use, asked of the driver in a process of its own.

The driver itself reads CUDA_VISIBLE_DEVICES, so what it counts is what the caller was given. A process that has asked
it cannot fork kernels' processes any more, hence the process of its own.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import uuid
from functools import cache
from pathlib import Path

import msgspec

from pytest_avo import PACKAGE

CONTROL_NODES = ("/dev/nvidiactl", "/dev/dxg")
"""Where there is neither there is no driver, and no process is started to ask it."""
_LIMIT_S = 60.0
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76


class Gpu(msgspec.Struct, frozen=True):
    """One GPU as the driver describes it."""

    uuid: str
    """As CUDA_VISIBLE_DEVICES takes it: GPU-..."""
    name: str
    multiprocessors: int
    capability: tuple[int, int]
    memory_bytes: int
    driver: str


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine, in the driver's order; none where there is no driver. Imports no torch."""
    if not any(Path(node).exists() for node in CONTROL_NODES):
        return ()
    code = f"import sys; sys.path.insert(0, {_root()!r}); import {__name__} as module; module.main()"
    command = [sys.executable, "-P", "-c", code]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
        return tuple(msgspec.json.decode(found.stdout, type=list[Gpu])) if found.returncode == 0 else ()
    except (subprocess.TimeoutExpired, msgspec.DecodeError):
        return ()


def main() -> None:
    """Print the GPUs as JSON."""
    sys.stdout.write(json.dumps(_ask()))


def _ask() -> list[dict[str, object]]:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_describe(driver, index) for index in range(count.value)]


def _describe(driver: ctypes.CDLL, index: int) -> dict[str, object]:
    device, total = ctypes.c_int(), ctypes.c_size_t()
    name, identity = ctypes.create_string_buffer(256), (ctypes.c_ubyte * 16)()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetUuid_v2(ctypes.byref(identity), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    return {
        "uuid": f"GPU-{uuid.UUID(bytes=bytes(identity))}",
        "name": name.value.decode(),
        "multiprocessors": attribute(_MULTIPROCESSORS),
        "capability": (attribute(_MAJOR), attribute(_MINOR)),
        "memory_bytes": total.value,
        "driver": _driver_version(),
    }


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found.group() if found else ""


def _root() -> str:
    return str(PACKAGE.parent)
