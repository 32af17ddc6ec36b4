"""Inside a process that `child` starts: its command line, its confinement, and the kernel loaded."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from pytest_avo.evaluation.linux import sandbox


def command_line(module: str) -> argparse.ArgumentParser:
    """What `child` passes on the command line of a module of this folder."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.{module}")
    parser.add_argument("kernel", type=Path)
    parser.add_argument("--scratch", metavar="DIR", help="confine the kernel: it may write below this folder alone")
    return parser


def confine(scratch: str | None, *, gpu: bool = False) -> None:
    """Hold this process to what a kernel's process may do, before any of the kernel's code runs; None: do not.

    Import first what is needed: the folder of this package can no longer be read afterwards.
    """
    if scratch is None:
        return
    sandbox.enter_namespaces(gpu=gpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sandbox.confine(sandbox.Confinement(scratch=scratch, memory_bytes=memory, layers=True, gpu=gpu))


@contextlib.contextmanager
def own_output() -> Iterator[IO[bytes]]:
    """The real standard output: what the kernel prints to it goes to standard error from here on."""
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        yield output


def load_attention(path: Path) -> Callable[..., Any]:
    """Import a kernel file and return its attention()."""
    attention: Callable[..., Any] = load(path).attention
    return attention


def load(path: Path) -> ModuleType:
    """Import a kernel file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def is_refusal(error: Exception, kernel: Path | str) -> bool:
    """Whether the kernel's own file says that it does not do what it was called for, no library that it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, NotImplementedError) and bool(frames) and frames[-1].filename == str(kernel)


def describe(error: Exception) -> str:
    """Type and message; of a chain, such as Triton's nested compilation errors, the first cause."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    message = str(error)
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        said = error.stderr
        message = (said.decode(errors="replace") if isinstance(said, bytes) else said).strip()
    return f"{type(error).__name__}: {message}"
