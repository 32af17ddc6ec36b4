"""Inside a process of a kernel that reaches no device: what the kernel will launch, compiled before it is asked for.

The kernel's own host code is called on tensors without contents, as for a compile report, and each launch that Triton
would compile is compiled by a process of its own: many take no longer than the slowest, where there are cores. Whatever
comes of it lies in the kernel's private folder, and is found there by the process that is given the device.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from triton import knobs

from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES
from pytest_avo.evaluation.kernel_process import runner
from pytest_avo.evaluation.kernel_process.absent_gpu import TARGETS, pretended_device, replace_driver
from pytest_avo.evaluation.kernel_process.wire import CHILD_INPUT, CHILD_SOCKET, MAX_MESSAGE


def recall() -> None:
    """Have Triton work out here what it works out once in every process: those forked from this one know it then.

    It reads all of its own library (0.4 GB) to name what it compiles, which takes half a second, and asks programs for
    their versions.
    """
    from triton.backends.nvidia import driver
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime import build, cache

    importlib.import_module("triton.experimental.gluon.nvidia.hopper")  # for those kernels that are written in it
    cache.triton_key()
    build.platform_key()
    for target in TARGETS.values():
        CUDABackend(target).hash()
    driver.library_dirs()


def serve(*, jobs: int, target: str, multiprocessors: int) -> None:
    """Import the kernel, take calls once the socket says that they are there, and compile what they launch.

    jobs: how many compilers at a time. A call that fails is let go: the kernel's process will say what there is to say.
    """
    torch.set_num_threads(1)
    link = socket.socket(fileno=CHILD_SOCKET)
    compilers = _Compilers(jobs)
    replace_driver(TARGETS[target], launcher=compilers.launcher, benchmark=_benchmark)
    knobs.runtime.jit_cache_hook = compilers.before
    knobs.runtime.jit_post_compile_hook = compilers.after
    with pretended_device(multiprocessors):
        compilers.run(_build_driver)
        with contextlib.suppress(Exception):
            functions = runner.load()  # which takes a quarter of a second, in which the calls are drawn
            for call in _calls(link):
                compilers.attempt(partial(_call, functions, call))
    compilers.wait()
    link.send(b"{}")


def _calls(link: socket.socket) -> list[dict[str, Any]]:
    """The calls, once they are told."""
    link.recv(MAX_MESSAGE)
    found: list[dict[str, Any]] = json.loads(os.pread(CHILD_INPUT, os.fstat(CHILD_INPUT).st_size, 0))
    return found


class _Compilers:
    """Processes forked where Triton would compile: each compiles that one launch and ends."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._known: set[tuple[int, str]] = set()
        self._running = 0
        self._is_compiler = False

    def attempt(self, call: Callable[[], object]) -> None:
        """Make a call; in a compiler, whose launch failed, this is the end."""
        with contextlib.suppress(Exception):
            call()
        self._end_compiler()

    def run(self, work: Callable[[], object]) -> None:
        """Do some work in a process beside the compilers."""
        if self._fork():
            with contextlib.suppress(Exception):
                work()
            self._end_compiler()

    def before(self, *, key: str, fn: Any, **_: object) -> bool:
        """Triton's hook before it compiles: whether it is not to."""
        self._end_compiler()  # it came back: its own launch failed, and the kernel tries another one
        name = (id(fn.jit_function), key)
        if name in self._known:
            return True
        self._known.add(name)
        return not self._fork()

    def after(self, *, is_manual_warmup: bool, **_: object) -> None:
        """Triton's hook after it compiled; a launcher is made next, unless the kernel only warms up."""
        if is_manual_warmup:
            self._end_compiler()

    def launcher(self, source: Any, metadata: Any) -> object:
        """Build the launcher, which is compiled too; nothing is launched here."""
        with contextlib.suppress(Exception):
            from triton.backends.nvidia.driver import CudaLauncher

            CudaLauncher(source, metadata)
        self._end_compiler()
        return lambda *_: None

    def wait(self, at_most: int = 0) -> None:
        """Wait until so many are at work."""
        while self._running > at_most:
            os.wait()
            self._running -= 1

    def _fork(self) -> bool:
        """Whether this is the new process."""
        self.wait(self._jobs - 1)
        self._is_compiler = os.fork() == 0
        self._running += not self._is_compiler
        return self._is_compiler

    def _end_compiler(self) -> None:
        if self._is_compiler:
            _end()


def _end() -> NoReturn:
    os._exit(0)


def _benchmark(call: Callable[[], object], *, quantiles: Sequence[float], **_: object) -> list[float]:
    """For autotuners: every configuration is compiled, and no launch says which is the fastest."""
    call()
    return [0.0] * len(quantiles)


def _build_driver() -> None:
    """The part of Triton's driver that is C, which it compiles for every folder anew."""
    from triton.backends.nvidia.driver import CudaUtils

    CudaUtils()


def _call(functions: Mapping[str, Any], call: dict[str, Any]) -> None:
    """One call on memory that nobody wrote to, which costs none."""
    dtype = TORCH_DTYPES[call["dtype"]]
    tensors = [
        torch.empty(call[name]["elements"], dtype=dtype).as_strided(call[name]["shape"], call[name]["stride"])
        for name in "qkv"
    ]
    tables = {name: torch.tensor(values, dtype=torch.int32) for name, values in call["tables"].items()}
    asked = {"return_lse": True} if call["lse"] else {}
    functions[call["function"]](
        *tensors, causal=call["causal"], scale=call["scale"], **call["numbers"], **tables, **asked
    )
