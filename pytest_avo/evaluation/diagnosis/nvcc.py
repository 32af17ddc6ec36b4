"""CUDA C++ that a kernel builds with nvcc and loads with ctypes, on a machine without its GPU.

Inside `CudaBuilds`, the nvcc on PATH is one that keeps what ptxas says of each function, and a library that nvcc built
is loaded as a stand-in: its functions take any arguments, launch nothing and return 0, which is cudaSuccess.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from unittest import mock

from triton import knobs

from pytest_avo.core.disk.files import write_command
from pytest_avo.evaluation.diagnosis.sass import Assembly, read

_COMPILING = re.compile(r"Compiling entry function '(\w+)'")
_SHARED = re.compile(r"(\d+) bytes smem")
_SERIALIZED = "wgmma.mma_async instructions are serialized"
_RECORDING = """#!/bin/sh
log="$(mktemp '{folder}/log.XXXXXX')"
'{nvcc}' "$@" -Xptxas -v 2> "$log"
status=$?
cat "$log" >&2
exit $status
"""
_MISSING = """#!/bin/sh
: > '{folder}/missed'
echo "nvcc: not on this machine" >&2
exit 127
"""


class Function:
    """A __global__ function: its name, its static shared memory, and what ptxas made of it.

    key is equal for equal code. constants are the template's arguments, by their place.
    """

    def __init__(self, symbol: str, listing: str, shared_bytes: int, assembly: Assembly) -> None:
        self.name, arguments = plain_name(symbol)
        self.constants = tuple((f"<{place}>", value) for place, value in enumerate(arguments))
        self.key = hashlib.sha256(f"{symbol}\n{listing}".encode()).hexdigest()
        self.shared_bytes = shared_bytes
        self.assembly = assembly


class CudaBuilds:
    """Record what nvcc builds, and which of it is called, inside `with CudaBuilds(folder) as builds:`."""

    def __init__(self, folder: Path) -> None:
        """`folder` has to be writable for as long as this is used, and to be this object's own."""
        self._folder = folder
        self._patches = ExitStack()
        self._load: Callable[..., Any] = ctypes.CDLL
        self._libraries: dict[Path, list[Function]] = {}
        self._called: dict[Path, None] = {}
        self._read: set[Path] = set()

    def __enter__(self) -> Self:
        nvcc = shutil.which("nvcc")
        script = (_RECORDING if nvcc else _MISSING).format(folder=self._folder, nvcc=nvcc)
        write_command(self._folder / "nvcc", script)
        path = os.pathsep.join([str(self._folder), os.environ.get("PATH", "")])
        self._patches.enter_context(mock.patch.dict(os.environ, {"PATH": path}))
        self._patches.enter_context(mock.patch.object(ctypes, "CDLL", self._loaded))
        self._patches.enter_context(mock.patch.object(ctypes.cdll, "_dlltype", self._loaded))
        return self

    def __exit__(self, *exception: object) -> None:
        self._patches.close()

    @property
    def is_missed(self) -> bool:
        """Whether nvcc was wanted where there is none."""
        return (self._folder / "missed").exists()

    def called(self) -> list[Function]:
        """The functions of the libraries that were called since this was last asked."""
        found = [function for path in self._called for function in self._libraries[path]]
        self._called.clear()
        return found

    def _loaded(self, name: Any = None, *arguments: Any, **keywords: Any) -> Any:
        """What ctypes.CDLL gives: a stand-in where nvcc has built the library."""
        library = self._load(name, *arguments, **keywords)
        path = Path(os.fspath(name)).resolve() if name else None
        logs = [log for log in sorted(self._folder.glob("log.*")) if log not in self._read]
        if path is None or not (logs or path in self._libraries):
            return library
        if logs:
            self._read.update(logs)
            self._libraries[path] = functions("".join(log.read_text(errors="replace") for log in logs), sass(path))
        return _StandIn(library, lambda: self._called.setdefault(path))


class _StandIn:
    """A library whose functions do nothing and succeed; a name that it lacks is an AttributeError as ever."""

    def __init__(self, library: ctypes.CDLL, record: Callable[[], None]) -> None:
        self._library = library
        self._record = record

    def __getattr__(self, name: str) -> _Entry:
        getattr(self._library, name)
        entry = _Entry(self._record)
        setattr(self, name, entry)
        return entry

    def __getitem__(self, name: str) -> _Entry:
        entry: _Entry = getattr(self, name)
        return entry


class _Entry:
    """A function of a stand-in; argtypes and restype can be set on it."""

    def __init__(self, record: Callable[[], None]) -> None:
        self._record = record

    def __call__(self, *arguments: object) -> int:
        self._record()
        return 0


def sass(library: Path) -> str:
    """The machine code in a library, as cuobjdump lists it. CalledProcessError where there is none."""
    command = [knobs.nvidia.cuobjdump.path, "-sass", str(library)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def functions(log: str, listing: str) -> list[Function]:
    """The functions that a log of `nvcc -Xptxas -v` tells of, with their machine code's instructions."""
    code: dict[str, str] = {}
    for part in re.split(r"^\s*Function : ", listing, flags=re.MULTILINE)[1:]:
        symbol, _, text = part.partition("\n")
        code[symbol.strip()] = text
    symbols = _COMPILING.findall(log)
    found = []
    for symbol, said in zip(symbols, _COMPILING.split(log)[2::2], strict=True):
        assembly = read(said, code.get(symbol, ""))
        warnings = [line for line in log.splitlines() if _SERIALIZED in line]
        serialized = any(symbol in line or not any(each in line for each in symbols) for line in warnings)
        shared = _SHARED.search(said)
        found.append(
            Function(
                symbol,
                code.get(symbol, ""),
                int(shared[1]) if shared else 0,
                replace(assembly, wgmma_serialized=serialized),
            )
        )
    return found


def plain_name(symbol: str) -> tuple[str, tuple[str, ...]]:
    """The function's own name out of a mangled one, and those arguments of its template that are numbers or bools."""
    if not symbol.startswith("_Z"):
        return symbol, ()
    rest, names = symbol[2:].removeprefix("N"), [symbol]
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length[0])
        names.append(rest[length.end() : end])
        rest = rest[end:]
    template = re.match(r"I((?:L\w[n\d]\d*E)+)", rest)  # ILi128ELb1E: an int, a bool
    arguments = re.findall(r"L(\w)(n?\d+)E", template[1]) if template else []
    bools = {"0": "false", "1": "true"}
    return names[-1], tuple(bools[x] if kind == "b" else x.replace("n", "-") for kind, x in arguments)
