"""Processes that have imported torch and triton already, for tests of what a module's command line does in one."""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO

PRELOADED = ["torch", "triton", "pytest_avo.evaluation.diagnosis.compile"]


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, __name__])
    return context


def start(function: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    """Start a function of a module in a process of its own, forked from one that has imported what takes long."""
    process = _context().Process(target=function, args=arguments)
    process.start()
    return process


def run_module(
    module: str, arguments: Sequence[str], *, stdin: bytes, environment: Mapping[str, str]
) -> CompletedProcess[bytes]:
    """What `python -m MODULE ARGUMENTS` does with this standard input, in an environment that holds this alone."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        files[0].write_bytes(stdin)
        process = start(_main, module, list(arguments), [str(path) for path in files], dict(environment))
        process.join()
        assert process.exitcode is not None
        return CompletedProcess([module, *arguments], process.exitcode, files[1].read_bytes(), files[2].read_bytes())


def _main(module: str, arguments: list[str], files: list[str], environment: dict[str, str]) -> None:
    write = os.O_WRONLY | os.O_CREAT
    for number, (path, flags) in enumerate(zip(files, (os.O_RDONLY, write, write), strict=True)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w")
    sys.argv = [module, *arguments]
    status = 1
    try:
        status = importlib.import_module(module).main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _text(number: int, mode: str) -> IO[str]:
    return io.TextIOWrapper(os.fdopen(number, f"{mode}b", closefd=False), encoding="utf-8")
