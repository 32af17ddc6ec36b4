"""Compiles kernels before they are asked for, each in a process of its own that does not reach the device.

While one kernel is timed, the launches of those that come next are compiled on the cores that are left. What is
compiled lies in the kernel's private folder: its own process finds it there, and no other does.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import torch

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import Subject
from pytest_avo.core.kernel import claim_of
from pytest_avo.core.shape import Shape
from pytest_avo.core.signature import ATTENTION
from pytest_avo.core.source import text_digest
from pytest_avo.evaluation.arms.spawner import Spawner
from pytest_avo.evaluation.correctness.battery import Extent, beside_once, judged_in_full
from pytest_avo.evaluation.correctness.extensions.cases import SequencesCase, all_cases
from pytest_avo.evaluation.correctness.extensions.drawing import draw_sequences
from pytest_avo.evaluation.correctness.inputs import Case
from pytest_avo.evaluation.correctness.kinds import Kind
from pytest_avo.evaluation.correctness.layouts import laid_out

COMPILED_AHEAD = ("sm90",)
"""Targets for which Triton compiles where they are not."""
MULTIPLE = 16
"""Lengths that are multiples of this are what compilers tell from others."""
NICENESS, PATIENT_NICENESS = 10, 19
"""Niceness of compilers that somebody waits for, and of those for later requests: a kernel may be timed beside the
latter, and its judge needs a core at once."""
LIMIT_SHARE = 0.5
"""Share of the limit on building that compiling ahead may take: a kernel that hangs here hangs in its own process
too."""


Scope = Literal["plain call", "claim", "all"]
"""What is asked about a shape: the plain call, all that is claimed, or what lies beside it too."""
BuildKey = tuple[str, Scope]
"""A shape, and what is asked about it."""


@dataclass(frozen=True, slots=True)
class _Compiler:
    """A compiler process that runs."""

    pid: int
    link: socket.socket
    asked: frozenset[BuildKey]


class Ahead:
    """Compiles kernels in the background, and knows for which shapes they are compiled."""

    def __init__(self, spawner: Spawner, *, target: str, multiprocessors: int, jobs: int, memory_bytes: int) -> None:
        """target, multiprocessors: of the device. jobs: compilers at a time, for each kernel."""
        self._spawner = spawner
        self._how = {"target": target, "multiprocessors": multiprocessors, "jobs": jobs}
        self._memory_bytes = memory_bytes
        self._running: dict[str, _Compiler] = {}
        self._compiled: dict[str, set[BuildKey]] = {}

    def begin(
        self,
        subject: Subject,
        shapes: Sequence[Shape],
        *,
        claim_alone: bool,
        brief: bool = False,
        niceness: int = NICENESS,
    ) -> None:
        """Have a kernel compiled for shapes, unless it is already, or is being compiled. Does not wait.

        claim_alone: for no calls beside them, which need builds of their own; brief: for plain calls alone. niceness:
        towards other compilers too.
        """
        self._end_done()
        digest = text_digest(subject.source)
        if digest in self._running or not self._spawner.is_alive:
            return
        known = self._compiled.setdefault(digest, set())
        asked = _asked(shapes, claim_alone=claim_alone, brief=brief)
        left = [shape for shape in shapes if known.isdisjoint(_holding(shape, asked[shape.id]))]
        if not left:
            return
        with open(os.memfd_create("calls", os.MFD_CLOEXEC), "wb") as told:
            try:
                pid, link = self._spawner.fork_compiler(
                    subject, told.fileno(), how=self._how, memory_bytes=self._memory_bytes, niceness=niceness
                )
            except EvaluatorError:
                return  # the kernel's own process will be told of it
            self._running[digest] = _Compiler(pid, link, frozenset((shape.id, asked[shape.id]) for shape in left))
            told.write(json.dumps(_calls(subject, left, asked)).encode())  # while the process imports the kernel
        with suppress(OSError):  # it ended, which is noticed when it is waited for
            link.send(b"{}")

    def finish(
        self, subject: Subject, shapes: Sequence[Shape], *, claim_alone: bool, limit_s: float, brief: bool = False
    ) -> float:
        """Wait until a kernel is compiled for shapes, at most for a share of the limit; the seconds that took.

        From then on nothing of it is at work.
        """
        start = time.perf_counter()
        digest = text_digest(subject.source)
        self.begin(subject, shapes, claim_alone=claim_alone, brief=brief)
        while (compiler := self._running.get(digest)) is not None:
            left_s = limit_s * LIMIT_SHARE - (time.perf_counter() - start)
            in_time, _, _ = select.select([compiler.link], [], [], max(0.0, left_s))
            self._end(digest)
            if not in_time:  # a lock that it held (torch's extensions have one) would hold up the kernel's own process
                self._spawner.forget(subject)
            self.begin(subject, shapes, claim_alone=claim_alone, brief=brief)  # what it was not begun for
        return time.perf_counter() - start

    def _end_done(self) -> None:
        """End those that are done: many a kernel is asked about by another worker, and never waited for here."""
        digests = {compiler.link: digest for digest, compiler in self._running.items()}
        for link in select.select(list(digests), [], [], 0)[0]:
            self._end(digests[link])

    def _end(self, digest: str) -> None:
        """End a compiler, whatever it said; for what it was asked it is never asked again."""
        compiler = self._running.pop(digest)
        compiler.link.close()
        self._spawner.end_compiler(compiler.pid)
        self._compiled[digest] |= compiler.asked


def _asked(shapes: Sequence[Shape], *, claim_alone: bool, brief: bool) -> dict[str, Scope]:
    """What a request asks about each of its shapes, by id."""
    full = set[str]() if brief else judged_in_full(shapes)
    return {x.id: "all" if not claim_alone else "claim" if x.id in full else "plain call" for x in shapes}


def _holding(shape: Shape, asked: Scope) -> set[BuildKey]:
    """What was compiled where all is that a shape is asked."""
    each: tuple[Scope, ...] = get_args(Scope)
    return {(shape.id, more) for more in each[each.index(asked) :]}


def _calls(subject: Subject, shapes: Sequence[Shape], asked: Mapping[str, Scope]) -> list[dict[str, Any]]:
    """Calls that make a kernel launch all that it will launch for shapes, as far as that can be foreseen.

    They are drawn for this alone: which ones a kernel will be checked on it must not learn here. Those of wide heads,
    which take longest to compile, come first, and of calls that look alike one: where there are cores for all that is
    compiled, the last that is begun decides when all is.
    """
    random, once = Random(), beside_once(shapes)
    source = torch.Generator().manual_seed(0)
    claim = claim_of(subject.source, path=Path(subject.label))
    found = []
    for shape in sorted(shapes, key=lambda shape: -shape.head_dim):
        beside: Extent = once[shape.id] if asked[shape.id] == "all" else "nothing"
        claimed = None if asked[shape.id] == "plain call" else claim
        for case in all_cases(shape, claimed, random, place="cuda", beside=beside):
            found.append(_plain(case) if isinstance(case, Case) else _sequences(case, source))
    return _unlike_first(found)


def _unlike_first(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls, those before the others that no earlier one is like: such calls launch code of their own."""
    seen = set[tuple[object, ...]]()
    first: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for call in calls:
        kind = (call["function"], call["dtype"], call["causal"], call["lse"], call["q"]["shape"][-1])
        (others if kind in seen else first).append(call)
        seen.add(kind)
    return first + others


def _plain(case: Case) -> dict[str, Any]:
    """A plain call: sizes and strides of its arguments alone, which cost nothing however large they are."""
    shape, tensors = case.shape, []
    for name, layout in zip("qkv", case.layouts, strict=True):
        heads, rows = (shape.heads_q, shape.seqlen_q) if name == "q" else (shape.heads_kv, shape.seqlen_kv)
        tensors.append(laid_out(torch.empty(shape.batch, heads, rows, shape.head_dim, device="meta"), layout))
    call = {"function": ATTENTION.name, "causal": shape.causal, "scale": shape.softmax_scale, "numbers": {}}
    return {**call, "dtype": shape.dtype, "lse": case.lse, "tables": {}, **_places(tensors)}


def _sequences(case: SequencesCase, source: torch.Generator) -> dict[str, Any]:
    """A call of an optional function, with tables: of short sequences, since these are drawn."""
    short = tuple((_short(queries), _short(keys)) for queries, keys in case.lengths)
    usual: Kind = "plain"
    drawn = draw_sequences(replace(case, lengths=short, kinds=(usual,) * len(short)), source)
    call = {"function": drawn.function, "causal": drawn.causal, "scale": drawn.scale, "numbers": dict(drawn.numbers)}
    tables = {name: table.tolist() for name, table in drawn.tables.items()}
    return {**call, "dtype": case.shape.dtype, "lse": case.lse, "tables": tables, **_places(drawn.tensors)}


def _short(length: int) -> int:
    """A length below 2 * MULTIPLE that leaves the same remainder."""
    return length if length < MULTIPLE else MULTIPLE + length % MULTIPLE


def _places(tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What is told of q, k and v."""
    found = {}
    for name, x in zip("qkv", tensors, strict=True):
        elements = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
        found[name] = {"elements": elements, "shape": list(x.shape), "stride": list(x.stride())}
    return found
