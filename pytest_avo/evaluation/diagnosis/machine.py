"""What a kernel engineer asks of a machine first: processors, caches, memory, compilers, libraries, load."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_avo.core.fingerprint import cpu_name, installed_version
from pytest_avo.evaluation.devices.device import Device
from pytest_avo.evaluation.devices.gpus import Gpu, gpus
from pytest_avo.evaluation.linux import cgroup

INSTRUCTION_SETS = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "neon", "asimd", "sve", "bf16",
)  # fmt: skip
COMPILERS = ("g++", "clang++", "nvcc", "ncu", "perf", "objdump")
LIBRARIES = ("torch", "triton", "numpy", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def machine_facts(device: Device, *, rates: Mapping[str, float]) -> str:
    """One fact a line. rates: what the device was measured to do, in words -> per second, from the roofline's cache."""
    lines = list(_cpu(device.threads))
    for gpu in gpus() if device.place == "cuda" else ():
        lines += _gpu(gpu)
    if reading := device.reading():
        lines.append(
            f"now: {reading.sm_mhz} MHz, memory {reading.memory_mhz} MHz, {reading.temperature_c} C, "
            f"{reading.power_w:.0f} W{''.join(f', {reason}' for reason in reading.throttled)}"
        )
    if rates:
        shown = ", ".join(f"{name} {spelled_rate(name, value)}" for name, value in rates.items())
        lines.append(f"measured at best, {device.threads if device.place == 'cpu' else 'all'} threads: {shown}")
    lines.append(f"libraries: {', '.join(_libraries())}")
    lines.append(f"programs: {', '.join(_programs()) or 'none of ' + ', '.join(COMPILERS)}")
    return "\n".join(lines)


def spelled_rate(name: str, value: float) -> str:
    """Bytes a second as GB/s, all else as GFLOP/s."""
    return f"{value / 1e9:,.0f} {'GB/s' if name == 'bytes' else 'GFLOP/s'}"


def _cpu(threads: int) -> Iterator[str]:
    information = Path("/proc/cpuinfo").read_text(errors="replace")
    flags = set(
        (found[1] if (found := re.search(r"^(?:flags|Features)\s*:\s*(.*)$", information, re.M)) else "").split()
    )
    yield f"CPU: {cpu_name()}, {os.cpu_count()} processors, {threads} for a kernel"
    yield f"instruction sets: {', '.join(each for each in INSTRUCTION_SETS if each in flags) or 'not known'}"
    if caches := list(_caches()):
        yield f"caches of a core: {', '.join(caches)}"
    yield f"memory: {cgroup.memory_bytes() / 2**30:.1f} GiB for this process"
    yield "load: {:.1f} in the last minute, {:.1f} in five, {:.1f} in fifteen".format(*os.getloadavg())


def _caches() -> Iterator[str]:
    for cache in sorted(CACHES.glob("index*")):
        try:
            level, kind, size, line, ways = (
                (cache / name).read_text().strip()
                for name in ("level", "type", "size", "coherency_line_size", "ways_of_associativity")
            )
            shared = (cache / "shared_cpu_list").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction":
            yield f"L{level} {size} ({ways} ways, lines of {line} B, shared by CPUs {shared})"


def _gpu(gpu: Gpu) -> Iterator[str]:
    major, minor = gpu.capability
    yield (
        f"GPU: {gpu.name}, compute capability {major}.{minor}, {gpu.multiprocessors} multiprocessors, "
        f"{gpu.memory_bytes / 2**30:.0f} GiB, driver {gpu.driver}"
    )


def _libraries() -> Iterator[str]:
    yield f"Python {'.'.join(map(str, sys.version_info[:3]))}"
    for name in LIBRARIES:
        if (version := installed_version(name)) != "absent":
            yield f"{name} {version}"


def _programs() -> Iterator[str]:
    for name in COMPILERS:
        if path := shutil.which(name):
            try:
                found = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
            except (OSError, subprocess.TimeoutExpired):
                continue
            versions = re.findall(r"\d+\.\d+(?:\.\d+)*", found.stdout)
            yield f"{name} {versions[-1 if name in ('nvcc', 'ncu') else 0] if versions else ''}".rstrip()
