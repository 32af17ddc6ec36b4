"""Memory that the judge and kernels' processes share: arguments go through one, results through another."""

from __future__ import annotations

import ctypes
import fcntl
import math
import mmap
import os
import time
from collections.abc import Callable, Sequence
from functools import cache

import torch

from pytest_avo.evaluation.devices import gpu_memory

_libc = ctypes.CDLL(None)
POISON = 0xFF
"""NaN in every floating-point dtype: an element that a kernel did not write shows."""
FLUSH_BYTES = 256 << 20
"""Several times the L2 cache of any GPU so far."""


Written = tuple[torch.Tensor, torch.Tensor]
"""A place in shared memory and what was written there: of one shape and dtype, the last dimension without gaps."""


class Memory:
    """`size` bytes as the judge sees them; `descriptor` is what the kernel's process is handed to map the same."""

    def __init__(self, content: torch.Tensor, descriptor: int, *, unmap: Callable[[], None]) -> None:
        self.size = content.numel()
        self.descriptor = descriptor
        self._content = content
        self._unmap = unmap

    @property
    def place(self) -> str:
        """Kind of torch device that the memory is on: "cpu" or "cuda"."""
        return self._content.device.type

    def tensor(self, dtype: torch.dtype, *, elements: int, offset: int) -> torch.Tensor:
        """A view of `elements` numbers from a byte offset on."""
        return self._content[offset : offset + elements * dtype.itemsize].view(dtype)

    def rows(self, dtype: torch.dtype, *, elements: int, offset: int, rows: int, pitch: int) -> torch.Tensor:
        """A view (rows, elements) of as many such places, each `pitch` bytes behind the one before."""
        whole = self.tensor(dtype, elements=(rows - 1) * pitch // dtype.itemsize + elements, offset=offset)
        return whole.as_strided((rows, elements), (pitch // dtype.itemsize, 1))

    def poison(self, size: int) -> None:
        """Fill the first `size` bytes with NaN."""
        self._content[:size].fill_(POISON)

    def settle(self) -> None:
        """Wait until what the judge wrote is there, and none of it in the device's cache."""
        if self.place == "cuda":
            _flush_buffer().fill_(0)
            torch.cuda.synchronize()

    def unchanged(self, written: Sequence[Written]) -> bool:
        """Whether all that was written still stands, bit for bit."""
        if self.place != "cuda":
            return all(_same_bytes(place, original) for place, original in written)
        changed = [(x != y).any() for x, y in (_words(*each) for each in written)]
        return not bool(torch.stack(changed).any())  # asked once for all, since asking waits for the device

    def response_s(self) -> float:
        """Seconds that a trivial operation of the judge takes on the device: long where someone keeps it busy."""
        if self.place != "cuda":
            return 0.0
        start = time.perf_counter()
        _flush_buffer()[:256].fill_(0)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def again(self) -> Memory:
        """The same memory for one more process; closing the result closes a descriptor of its own and no more."""
        return Memory(self._content, os.dup(self.descriptor), unmap=lambda: None)

    def close(self) -> None:
        """Give the memory back; views of it must not be used any more."""
        self._content = torch.empty(0)
        os.close(self.descriptor)
        self._unmap()


def _words(place: torch.Tensor, original: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as whole numbers, as wide as they may be: a GPU writes a byte for each that it compares."""
    width = math.gcd(
        torch.int64.itemsize,
        place.shape[-1] * place.itemsize,
        *(n * x.itemsize for x in (place, original) for n in (x.storage_offset(), *x.stride()[:-1])),
    )
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[width]
    return place.view(words), original.view(words)


def _same_bytes(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether two contiguous tensors of one size on the host agree bit for bit; NaN equals itself, unlike in torch."""
    # torch.equal compares bytes one by one: it took longer than the kernels that were timed.
    differ: int = _libc.memcmp(*(ctypes.c_void_p(place.data_ptr()) for place in (x, y)), ctypes.c_size_t(x.nbytes))
    return differ == 0


@cache
def _flush_buffer() -> torch.Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")


def host_memory(size: int) -> Memory:
    """Memory of the host, as an anonymous file."""
    descriptor = os.memfd_create("avo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    # A kernel that shrinks the memory under the judge would kill it with SIGBUS.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    content = torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
    return Memory(content, descriptor, unmap=lambda: None)  # the mapping ends with the last view of it


def device_memory(size: int) -> Memory:
    """Memory of the current CUDA device."""
    torch.zeros(1, device="cuda")  # makes the context current for the driver's own calls
    size = gpu_memory.rounded(size)
    try:
        address, descriptor = gpu_memory.create(size)
    except gpu_memory.GpuMemoryError:
        torch.cuda.empty_cache()  # what this process has freed and kept: others may share the device
        address, descriptor = gpu_memory.create(size)

    def unmap() -> None:
        torch.cuda.synchronize()
        gpu_memory.detach(address, size)

    return Memory(gpu_memory.as_bytes(address, size), descriptor, unmap=unmap)
