"""Kernels compiled before they are asked for, each in a process of its own that does not reach the device.

While one kernel is timed, the launches of those that come next are compiled on the cores that are left. What is
compiled lies in the kernel's private folder: its own process finds it there, and no other does.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Subject
from pytest_avo.core.kernel import text_digest
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.arms.nursery import Nursery
from pytest_avo.evaluation.correctness.battery import battery, beside_once
from pytest_avo.evaluation.correctness.inputs import Case
from pytest_avo.evaluation.correctness.layouts import laid_out

COMPILED_AHEAD = ("sm90",)
"""Targets for which Triton compiles where they are not."""
CALLS_AT_ONCE = 100
"""In a message, of which none may be larger than the wire takes."""
LIMIT_SHARE = 0.5
"""Of the limit on building: a kernel that hangs here will hang in its own process too."""


@dataclass(frozen=True, slots=True)
class _Compiler:
    """A process at work."""

    pid: int
    link: socket.socket
    shapes: frozenset[str]


class Ahead:
    """Has kernels compiled for shapes, and knows for which they are."""

    def __init__(self, nursery: Nursery, *, target: str, multiprocessors: int, jobs: int, memory_bytes: int) -> None:
        """target, multiprocessors: of the device. jobs: compilers at a time, for each kernel."""
        self._nursery = nursery
        self._how = {"target": target, "multiprocessors": multiprocessors, "jobs": jobs}
        self._memory_bytes = memory_bytes
        self._running: dict[str, _Compiler] = {}
        self._compiled: dict[str, frozenset[str]] = {}

    def begin(self, subject: Subject, shapes: Sequence[Shape]) -> None:
        """Have a kernel compiled for shapes, unless it is already, or is being compiled. Does not wait."""
        digest, names = text_digest(subject.source), frozenset(shape.id for shape in shapes)
        if digest in self._running or names <= self._compiled.get(digest, frozenset()) or not self._nursery.is_alive:
            return
        try:
            pid, link = self._nursery.fork_compiler(subject, how=self._how, memory_bytes=self._memory_bytes)
        except EvaluatorError:
            return  # the kernel's own process will be told of it
        self._running[digest] = _Compiler(pid, link, names)
        calls = list(_calls(shapes))
        try:
            for first in range(0, len(calls), CALLS_AT_ONCE):
                link.send(json.dumps(calls[first : first + CALLS_AT_ONCE]).encode())
            link.send(b"[]")
        except OSError:
            return  # it ended, which is noticed when it is waited for

    def finish(self, subject: Subject, shapes: Sequence[Shape], *, limit_s: float) -> float:
        """Wait until a kernel is compiled for shapes, at most for a share of the limit; the seconds that took.

        From then on nothing of it is at work.
        """
        start = time.perf_counter()
        self.begin(subject, shapes)
        digest = text_digest(subject.source)
        if (compiler := self._running.pop(digest, None)) is not None:
            # Whatever it says, and be it that it ended: it is never asked again.
            select.select([compiler.link], [], [], limit_s * LIMIT_SHARE)
            compiler.link.close()
            self._nursery.end_compiler(compiler.pid)
            self._compiled[digest] = self._compiled.get(digest, frozenset()) | compiler.shapes
        return time.perf_counter() - start


def _calls(shapes: Sequence[Shape]) -> Iterator[dict[str, Any]]:
    """Calls that make a kernel launch all that it will launch for shapes, as far as that can be foreseen.

    Those beside the shapes are drawn for this alone: which ones a kernel will be checked on it must not learn here.
    """
    random, once = Random(), beside_once(shapes)
    for shape in shapes:
        yield from map(_call, battery(shape, random, place="cuda", beside=once[shape.id]))


def _call(case: Case) -> dict[str, Any]:
    """Sizes and strides of a call's arguments, as in `Arm.call`."""
    shape = case.shape
    call: dict[str, Any] = {"dtype": shape.dtype, "causal": shape.causal, "scale": shape.softmax_scale}
    for name, layout in zip("qkv", case.layouts, strict=True):
        heads, rows = (shape.heads_q, shape.seqlen_q) if name == "q" else (shape.heads_kv, shape.seqlen_kv)
        x = laid_out(torch.empty(shape.batch, heads, rows, shape.head_dim, device="meta"), layout)
        elements = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
        call[name] = {"elements": elements, "shape": list(x.shape), "stride": list(x.stride())}
    return call
