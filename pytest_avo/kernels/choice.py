"""Which kernel takes a shape: of those measured near it, the one that gained most over torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from pathlib import Path

from pytest_avo.core.shape import Shape
from pytest_avo.kernels.measured import Measurement
from pytest_avo.kernels.registry import Winner, winners

REACH = {"seqlen_q": 2.0, "seqlen_kv": 2.0, "streams": 3.0, "group": 2.0}
"""How far a measured shape may lie from the one asked for, in doublings; streams: batch times key/value heads."""
HOST_US = 100.0
"""What a host spends on a call of a kernel for GPUs where that was not measured: launches, and what prepares them."""
ALIKE = 1.0
"""Kernels whose nearest measurements lie within so many doublings of the nearest of all are compared by their gain."""
TORCH = "torch's scaled_dot_product_attention"


@dataclass(frozen=True, slots=True)
class Choice:
    """What takes a call, and why; `str()` of it says both in a line."""

    path: Path | None
    """The kernel's file; None where torch's own attention answers."""
    reason: str
    measurement: Measurement | None = None
    """The measurement that speaks for the kernel; None where torch answers."""

    def __str__(self) -> str:
        return f"{self.path or TORCH}: {self.reason}"


def ranked(shape: Shape, target: str, device: str) -> list[tuple[Winner, Measurement]]:
    """The kernels to try on a shape, best first, each with the measurement that speaks for it.

    Measurements of this very device count alone where there are any of the shape's kind, else those of every device of
    the target do. Kernels that were not faster than torch beyond doubt, what the host spends on them counted too, are
    left out.
    """
    near = [found for winner in winners(target) if (found := _nearest(winner, shape, device)) is not None]
    if any(own for own, *_ in near):
        near = [found for found in near if found[0]]
    if not near:
        return []
    least = min(distance for _, distance, _, _ in near)
    host_us = 0.0 if target == "cpu" else HOST_US
    alike = [(row.gain(host_us=host_us), winner, row) for _, away, winner, row in near if away <= least + ALIKE]
    faster = [found for found in alike if found[0][1] > 1]
    return [(winner, row) for _, winner, row in sorted(faster, key=lambda found: -found[0][0])]


def _nearest(winner: Winner, shape: Shape, device: str) -> tuple[bool, float, Winner, Measurement] | None:
    """Whether it is of this device, how far off, the winner, and its measurement that is nearest to the shape."""
    best: tuple[bool, float, Winner, Measurement] | None = None
    for row in winner.measurements:
        away = distance(shape, row.shape)
        if away is None:
            continue
        own = row.device == device
        if best is None or (not own, away, _newest(row)) < (not best[0], best[1], _newest(best[3])):
            best = own, away, winner, row
    return best


def _newest(row: Measurement) -> int:
    return -int(row.date.replace("-", "") or 0)


def distance(asked: Shape, measured: Shape) -> float | None:
    """How unlike two shapes are, in doublings of their sizes; None where one says nothing about the other."""
    if (asked.dtype, asked.head_dim) != (measured.dtype, measured.head_dim):
        return None
    if (asked.seqlen_q == 1) != (measured.seqlen_q == 1):
        return None
    total = 0.0 if asked.causal == measured.causal or asked.seqlen_q == 1 else 1.0
    ours, theirs = _sizes(asked), _sizes(measured)
    for name, most in REACH.items():
        apart = abs(log2(ours[name] / theirs[name]))
        if apart > most:
            return None
        total += apart
    return total


def _sizes(shape: Shape) -> dict[str, float]:
    return {
        "seqlen_q": shape.seqlen_q,
        "seqlen_kv": shape.seqlen_kv,
        "streams": shape.batch * shape.heads_kv,
        "group": shape.heads_q / shape.heads_kv,
    }
