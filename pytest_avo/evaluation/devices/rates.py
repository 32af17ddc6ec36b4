"""How fast a device multiplies matrices and moves bytes: measured once, kept under its fingerprint, only ever raised.

Measured by the judge, in its own process. On a CPU one thread is measured and counted as often as there are threads: no
neighbour can make that too slow for longer than a few milliseconds, and no kernel scales better.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch

from pytest_avo.core.disk.files import write_atomically
from pytest_avo.core.disk.places import cache_folder, cached
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.shape import Dtype
from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES

LONG_ENOUGH_S = 0.008
"""How long a product must last: matrices are doubled until it does."""
TRIES = 6
ENOUGH_S = 0.1
SMALLEST, LARGEST = 256, 8192
"""Rows and columns of the matrices."""
READ_BYTES = {"cpu": (256 << 10, 512 << 10, 1 << 20), "cuda": (256 << 20,)}
"""What is read: on a CPU what stays in a core's cache, as arguments may that the judge has just written; on a GPU
several times its cache, which is flushed before every timed slice."""


class Rates(msgspec.Struct, frozen=True):
    """What a device was seen to do at best."""

    fingerprint: Fingerprint
    flops_per_s: dict[Dtype, float]
    """Of products of two matrices, by their dtype."""
    bytes_per_s: float

    def raised(self, other: Rates) -> Rates:
        """The larger of each rate."""
        flops = {dtype: max(rate, other.flops_per_s[dtype]) for dtype, rate in self.flops_per_s.items()}
        return msgspec.structs.replace(self, flops_per_s=flops, bytes_per_s=max(self.bytes_per_s, other.bytes_per_s))


def measured_rates(fingerprint: Fingerprint, *, place: str, threads: int) -> Rates:
    """Measure the device; takes about half a second. torch has to compute in one thread.

    place: kind of torch device, "cpu" or "cuda"; threads: that a kernel may compute with on a CPU.
    """
    times = threads if place == "cpu" else 1
    flops = {dtype: times * _flops_per_s(torch_dtype, place) for dtype, torch_dtype in TORCH_DTYPES.items()}
    found = Rates(fingerprint, flops, times * _bytes_per_s(place))
    if place == "cuda":
        torch.cuda.empty_cache()  # it is the kernels' memory
    return found


def rates_path(fingerprint: Fingerprint) -> Path:
    """Where the rates of a machine and its versions are kept, beside its noise."""
    return cache_folder() / _name(fingerprint)


def store_rates(rates: Rates) -> None:
    """Keep rates; without a cache that can be written they are measured again by the next run."""
    with contextlib.suppress(InvalidInput):
        write_atomically(rates_path(rates.fingerprint), msgspec.json.encode(rates).decode())


def stored_rates(fingerprint: Fingerprint) -> Rates | None:
    """The rates measured on a machine with this fingerprint, or None: not measured, or not readable any more."""
    try:
        rates = msgspec.json.decode(cached(_name(fingerprint)).read_bytes(), type=Rates)
    except (OSError, InvalidInput, msgspec.DecodeError):
        return None
    figures = [rates.bytes_per_s, *rates.flops_per_s.values()]
    whole = rates.flops_per_s.keys() == TORCH_DTYPES.keys() and all(0 < rate < math.inf for rate in figures)
    return rates if whole and rates.fingerprint == fingerprint else None


def _name(fingerprint: Fingerprint) -> str:
    return f"rates-{fingerprint.digest}.json"


def _flops_per_s(dtype: torch.dtype, place: str) -> float:
    """The best rate of a product over sizes that are doubled until one takes long enough."""
    best, size, seconds = 0.0, SMALLEST, 0.0
    while size <= LARGEST and seconds < LONG_ENOUGH_S:
        a, b, out = (torch.zeros(size, size, dtype=dtype, device=place).fill_(x) for x in (0.5, 0.25, 0.0))
        seconds = min(_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), place))  # type: ignore[misc]
        best = max(best, 2 * size**3 / seconds)
        size *= 2
    return best


def _bytes_per_s(place: str) -> float:
    best = 0.0
    for size in READ_BYTES[place]:
        x = torch.ones(size // 4, device=place)
        best = max(best, x.nbytes / min(_seconds(x.sum, place)))
    return best


def _seconds(work: Callable[[], object], place: str) -> Iterator[float]:
    """Seconds that some work takes, several times, after one that prepares it; fewer times where that is long."""
    work()
    if place == "cuda":
        torch.cuda.synchronize()
    spent_s = 0.0
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        if place == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        yield seconds
        spent_s += seconds
        if spent_s > ENOUGH_S:
            return
