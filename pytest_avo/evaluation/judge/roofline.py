"""Below which time no kernel can be on a device: what the work takes at the rates that the device was measured at.

S. Williams, A. Waterman, D. Patterson, Roofline: an insightful visual performance model, 2009. A time below that is no
kernel's, however it came about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import msgspec

from pytest_avo.core.evaluation import KERNEL, Timing
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.core.shape import DTYPE_BYTES, Dtype, Shape
from pytest_avo.evaluation.devices.rates import Rates, store_rates, stored_rates

MARGIN = {"cpu": 2.0, "cuda": 1.5}
"""How far a kernel may be beyond the measured rates, by kind of device: a product of matrices is not the best that a
device can do, more so on a CPU, whose innermost cache is faster than what is measured."""
LEAST_PRODUCTS = 3
"""How many products of 16-bit matrices make up one of f32 matrices that is as exact as it has to be."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The least seconds of a call, and the rate that makes them, in words."""

    seconds: float
    why: str


class Roofline:
    """The bounds of one device. It is measured when they are first asked for, and once more before any is used."""

    def __init__(self, fingerprint: Fingerprint, *, place: str, measure: Callable[[], Rates]) -> None:
        """place: kind of torch device, "cpu" or "cuda"; measure: the device's rates, now."""
        self._fingerprint = fingerprint
        self._place = place
        self._measure = measure
        self._rates: Rates | None = None

    def bounded(self, shape: Shape, timing: Timing) -> Timing:
        """The timing with the least seconds that a call can take."""
        return msgspec.structs.replace(timing, least_s=bound(shape, self._known(), self._place).seconds)

    def fault(self, shape: Shape, timing: Timing) -> str:
        """Why a time that was measured is none, or ""."""
        seconds = median(x for launch in timing.seconds[KERNEL] for x in launch)
        possible_s = seconds * MARGIN[self._place]
        if possible_s >= bound(shape, self._known(), self._place).seconds:
            return ""
        self._rates = self._known().raised(self._measure())
        store_rates(self._rates)
        least = bound(shape, self._rates, self._place)
        if possible_s >= least.seconds:
            return ""
        needed = f"for which this device needs {least.seconds * 1e6:.3g} us: {least.why}"
        return f"took {seconds * 1e6:.3g} us a call, {needed}"

    def _known(self) -> Rates:
        if self._rates is None:
            self._rates = stored_rates(self._fingerprint)
        if self._rates is None:
            self._rates = self._measure()
            store_rates(self._rates)
        return self._rates


def bound(shape: Shape, rates: Rates, place: str) -> Bound:
    """The larger of what its products and what its bytes take."""
    rate = matrix_rate(shape.dtype, rates)
    products = Bound(least_flops(shape) / rate, f"it multiplies {rate / 1e12:.3g} TFLOP/s")
    traffic = Bound(least_bytes(shape, place) / rates.bytes_per_s, f"it moves {rates.bytes_per_s / 1e9:.3g} GB/s")
    return max(products, traffic, key=lambda each: each.seconds)


def matrix_rate(dtype: Dtype, rates: Rates) -> float:
    """FLOP/s at which results of a dtype can be had, in whatever precision the products are made."""
    narrow = max(rate for of, rate in rates.flops_per_s.items() if DTYPE_BYTES[of] == 2)
    return max(rates.flops_per_s["f32"], narrow / LEAST_PRODUCTS if dtype == "f32" else narrow)


def least_flops(shape: Shape) -> float:
    """FLOPs of the two products over the keys that queries see: at most `Shape.flops`, and less for some masks."""
    queries, keys = shape.seqlen_q, shape.seqlen_kv
    pairs = queries * keys
    if shape.causal:
        pairs = keys * (keys + 1) // 2 if queries > keys else pairs - queries * (queries - 1) // 2
    return min(4.0 * shape.batch * shape.heads_q * pairs * shape.head_dim, shape.flops)


def least_bytes(shape: Shape, place: str) -> float:
    """Bytes that have to be moved: keys and values, queries that see a key, and the result.

    On a GPU without the result, which may still be in its cache when the clock stops.
    """
    row = shape.batch * shape.head_dim * DTYPE_BYTES[shape.dtype]
    seeing = min(shape.seqlen_q, shape.seqlen_kv) if shape.causal else shape.seqlen_q
    read = 2 * shape.heads_kv * shape.seqlen_kv + shape.heads_q * seeing
    return float(row * (read + (shape.heads_q * shape.seqlen_q if place == "cpu" else 0)))
