"""How much a timed slice may hold on a device, and the memory that every kernel's process is given for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_avo.core.shape import DTYPE_BYTES, Shape
from pytest_avo.evaluation.correctness.extensions.cases import LARGEST_BLOCK, SPARE_BLOCKS
from pytest_avo.evaluation.correctness.layouts import GAP, SLOTS
from pytest_avo.evaluation.correctness.sizes.beside import largest_beside, largest_together

ALIGNMENT = 256
GUARD_BYTES = 1 << 20
"""NaN before, between and behind the arguments of a call that is checked alone: a tile or two of any layout."""
PLACES = 1024
"""At which the arguments of a slice may begin, ALIGNMENT apart; on a GPU at the first: a graph has addresses."""
PROCESSES = 8
"""Kernels' processes that have to fit on a GPU at once: kernel, incumbent, five peers and the empty one."""


@dataclass(frozen=True, slots=True)
class Room:
    """Sizes of a device.

    given_bytes, result_bytes: for the arguments and the results of one slice; where `fixed`, exactly these are
    allocated, the arguments once for all processes, else as much as the shapes need and at least these. most_calls: in
    a slice. slice_s: a slice lasts at least about this long, so that the cost of asking (about 0.1 ms) hardly counts.
    """

    given_bytes: int
    result_bytes: int
    slice_bytes: int
    most_calls: int
    slice_s: float
    fixed: bool = False
    memory_bytes: int = 0
    """All that a host has for its processes; 0 where that is not looked at."""

    def max_calls(self, shape: Shape) -> int:
        """How many calls a slice of a shape may hold: each has inputs of its own, which must stay in memory."""
        if not self.fixed:
            return max(1, min(self.most_calls, self.slice_bytes // shape.bytes_moved))
        given, result = batch_bytes(shape, 1)
        return max(1, min(self.most_calls, self.given_bytes // given, self.result_bytes // result))

    def for_shapes(self, shapes: Sequence[Shape]) -> tuple[int, int]:
        """Bytes for arguments and results that serve every slice of these shapes, and what is checked beside them."""
        if self.fixed:
            return self.given_bytes, self.result_bytes
        sizes = [batch_bytes(shape, self.max_calls(shape)) for shape in shapes]
        sizes = [(given + PLACES * ALIGNMENT, result) for given, result in sizes]
        sizes += [guarded_bytes(each) for shape in shapes for each in (shape, largest_beside(shape))]
        sizes += [batch_bytes(*largest_together(shape)) for shape in shapes]
        return max(self.given_bytes, *(x for x, _ in sizes)), max(self.result_bytes, *(x for _, x in sizes))

    def misfit(self, shape: Shape) -> str:
        """Why not even one call of a shape fits, or ""."""
        gib = 1 << 30
        if not self.fixed:
            needed = least_bytes(shape)
            if not self.memory_bytes or needed <= self.memory_bytes:
                return ""
            return (
                f"needs {needed / gib:.1f} GiB of memory at least, this machine has {self.memory_bytes / gib:.1f} GiB"
            )
        given, result = guarded_bytes(shape)
        if given <= self.given_bytes and result <= self.result_bytes:
            return ""
        return (
            f"needs {given / gib:.1f} GiB for arguments and {result / gib:.1f} GiB for results, "
            f"this device has room for {self.given_bytes / gib:.1f} and {self.result_bytes / gib:.1f} GiB"
        )


HOST = Room(
    given_bytes=32 << 20, result_bytes=32 << 20, slice_bytes=64 << 20, most_calls=16, slice_s=0.005
)  # untouched pages cost nothing, and a process seldom has to be replaced for its next shape


def host_room(memory_bytes: int) -> Room:
    """The room on a host with so much memory: a shape that it cannot hold would have the system end processes."""
    return replace(HOST, memory_bytes=memory_bytes)


def gpu_room(free_bytes: int, *, sharers: int = 1) -> Room:
    """The room on a GPU with so much memory free, for each of so many workers.

    Arguments are there twice, as the judge drew them and as the processes see them. A process also holds its results,
    as its own outputs and for the judge, its context and what it works with. Where a call is bound by memory, a slice
    lasts as long as reading the arguments does: 4 to 5 ms on cards that read a twentieth of their memory in a ms.
    """
    usable = int(0.85 * free_bytes) // sharers
    given = int(0.18 * usable)
    return Room(
        given_bytes=given,
        result_bytes=int(0.13 * usable) // PROCESSES,
        slice_bytes=given,
        most_calls=256,
        slice_s=0.010,
        fixed=True,
    )


def batch_bytes(shape: Shape, calls: int) -> tuple[int, int]:
    """Memory for the arguments and results of a slice of `calls` calls of a shape, one behind the other."""
    item = DTYPE_BYTES[shape.dtype]
    rows = shape.batch * (shape.heads_q * shape.seqlen_q + 2 * shape.heads_kv * shape.seqlen_kv)
    given = calls * (rows * shape.head_dim * item + 3 * ALIGNMENT)
    result = calls * (shape.batch * shape.heads_q * shape.seqlen_q * shape.head_dim * item + ALIGNMENT)
    return given, result


def least_bytes(shape: Shape) -> int:
    """What a call holds on a host whoever makes it: arguments as drawn and as given, result, reference in float64."""
    given, result = batch_bytes(shape, 1)
    return 2 * given + result + result // DTYPE_BYTES[shape.dtype] * 8


def guarded_bytes(shape: Shape) -> tuple[int, int]:
    """Memory for the arguments and the results of one checked call of any function, in any layout, guards included."""
    queries = shape.batch * shape.heads_q * (shape.seqlen_q + SLOTS)
    # In blocks keys take the most: every sequence may have a last block with one token, and some blocks have none.
    keys = shape.heads_kv * (shape.batch * (shape.seqlen_kv + LARGEST_BLOCK) + SPARE_BLOCKS * LARGEST_BLOCK)
    elements = (queries + 2 * keys) * (shape.head_dim + GAP)
    tables = 4 * shape.batch * (shape.seqlen_kv + SPARE_BLOCKS + 1)
    given = elements * DTYPE_BYTES[shape.dtype] + tables + 7 * ALIGNMENT + 4 * (GUARD_BYTES + ALIGNMENT)
    lse = 4 * shape.batch * shape.heads_q * shape.seqlen_q + ALIGNMENT
    return given, batch_bytes(shape, 1)[1] + lse
