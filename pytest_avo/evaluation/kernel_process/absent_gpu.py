"""A GPU that is not there: what Triton's compiler, and host code that asks torch.cuda, are told of an H200."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import triton
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGETS = {"sm90": GPUTarget("cuda", 90, 32)}
SHARED_LIMIT_BYTES = 232448

# What the CUDA driver reports of an H200, under the names of Triton's driver.
_DEVICE = {
    "max_shared_mem": SHARED_LIMIT_BYTES,
    "max_num_regs": 65536,
    "multiprocessor_count": 132,
    "warpSize": 32,
    "sm_clock_rate": 1980000,
    "mem_clock_rate": 3201000,
    "mem_bus_width": 6144,
}
_PROPERTIES = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=150_000_000_000,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=SHARED_LIMIT_BYTES,
    shared_memory_per_multiprocessor=233472,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    warp_size=32,
    L2_cache_size=62914560,
)


def replace_driver(
    target: GPUTarget, *, launcher: Callable[[Any, Any], object], benchmark: Callable[..., list[float]]
) -> None:
    """Have Triton compile for a target that is not here, for good.

    launcher: from a source and its metadata to what launches it; benchmark: what autotuners call.
    """
    triton.runtime.driver.set_active(_Driver(target, launcher, benchmark))
    triton.set_allocator(lambda size, align, stream: None)


class _Driver:
    """The part of Triton's driver interface that compiling and launching use."""

    def __init__(
        self, target: GPUTarget, launcher: Callable[[Any, Any], object], benchmark: Callable[..., list[float]]
    ) -> None:
        self._target = target
        self._benchmark = benchmark
        self.utils = _Utils()
        self.launcher_cls = launcher

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        """There is one device."""

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return self._target.arch // 10, self._target.arch % 10

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """For autotuners."""
        return self._benchmark

    def get_empty_cache_for_benchmark(self) -> torch.Tensor:
        return torch.empty(0)

    def clear_cache(self, cache: torch.Tensor) -> None:
        """There is no cache to clear."""


class _Utils:
    def get_device_properties(self, device: int) -> dict[str, int]:
        return dict(_DEVICE)

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spills, threads per block: nothing is loaded."""
        return 0, 0, 0, 0, 1024

    def fill_tma_descriptor(self, *_: object) -> object:
        """A tensor map, for host code that encodes its own."""
        return object()


class _OnCpu(TorchFunctionMode):
    """Tensors that host code wants on the GPU are made on the CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if "device" in kwargs and torch.device(kwargs["device"] or "cpu").type == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretended_device(multiprocessors: int = _PROPERTIES.multi_processor_count) -> Iterator[None]:
    """Let host code believe that its tensors are on an H200, or one with as many multiprocessors."""
    properties = SimpleNamespace(**{**vars(_PROPERTIES), "multi_processor_count": multiprocessors})
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "device": lambda device: contextlib.nullcontext(),
        "current_stream": lambda device=None: SimpleNamespace(cuda_stream=0),
        "get_device_name": lambda device=None: _PROPERTIES.name,
        "get_device_capability": lambda device=None: (_PROPERTIES.major, _PROPERTIES.minor),
        "get_device_properties": lambda device=None: properties,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.Tensor, "is_cuda", property(lambda self: True), create=True))
        stack.enter_context(_OnCpu())
        yield
