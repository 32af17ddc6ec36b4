"""Inputs for a kernel: drawn afresh for every check and every timed round, from a secret seed.

`kinds` says what the numbers are like, `layouts` how they lie in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import msgspec
import torch

from pytest_avo.core.shape import InputKind, Shape
from pytest_avo.core.signature import ATTENTION
from pytest_avo.evaluation.correctness.kinds import Kind, impose, plant_needles
from pytest_avo.evaluation.correctness.layouts import Layout, laid_out, repeat
from pytest_avo.evaluation.correctness.noise import Numbers
from pytest_avo.evaluation.correctness.timed_kinds import TIMED_KINDS
from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES
from pytest_avo.evaluation.devices.second_core import Deferred

NEEDLES: dict[Kind, float] = {"normal": 1 / 16, "needle": 1.0}
"""Share of the queries that are needles, by kind; of the others none is."""
NEEDLES_IN = 0.5
"""Share of a stream's draws that have any: a kernel that looks for them must not be right wherever it is looked at."""

WORTH_A_CORE = 1 << 17
"""Numbers of keys from which on they are drawn while queries and values are: fewer take no longer than to say so."""


@dataclass(frozen=True, slots=True)
class Case:
    """One plain call to check. `required` is False for shapes that the kernel did not claim: there it may refuse."""

    name: str
    shape: Shape
    kind: Kind = "normal"
    layouts: tuple[Layout, Layout, Layout] = ("bshd", "bshd", "bshd")
    """Layouts of q, k and v in memory."""
    required: bool = True
    lse: bool = False
    """Whether the log-sum-exp is asked for too."""
    times: int = 1
    """How many such calls are made together; what lies around the arguments of several is not NaN."""

    @property
    def whole(self) -> Shape:
        """Of all calls that are made together: their batches as one."""
        return msgspec.structs.replace(self.shape, batch=self.times * self.shape.batch)

    @property
    def function(self) -> str:
        return ATTENTION.name

    @property
    def way(self) -> str:
        """How the kernel is called, for which it may have code of its own."""
        return f"{self.function} {'with lse' if self.lse else ''}"


@dataclass(frozen=True, slots=True)
class Arguments:
    """Of one call of one of a kernel's functions: three tensors by position, all else by name."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    causal: bool
    scale: float

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.q, self.k, self.v

    @property
    def function(self) -> str:
        return ATTENTION.name

    @property
    def tables(self) -> Mapping[str, torch.Tensor]:
        """Contiguous tensors of int32, by name."""
        return {}

    @property
    def numbers(self) -> Mapping[str, int]:
        return {}


@dataclass(frozen=True, slots=True)
class Inputs(Arguments):
    """Of attention(): q (batch, heads_q, seqlen_q, head_dim), k and v (batch, heads_kv, seqlen_kv, head_dim)."""

    def split(self, calls: int) -> list[Inputs]:
        """So many calls, each of as many entries of the batch."""
        parts = zip(*(x.chunk(calls) for x in self.tensors), strict=True)
        return [Inputs(q, k, v, self.causal, self.scale) for q, k, v in parts]


def draw(case: Case, generator: torch.Generator) -> Inputs:
    """Fresh random inputs of a case, quantised to its dtype, on the generator's device; of all its calls together."""
    shape = case.whole

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=generator.device)

    q = normal(shape.batch, shape.heads_q, shape.seqlen_q, shape.head_dim)
    k = normal(shape.batch, shape.heads_kv, shape.seqlen_kv, shape.head_dim)
    v = normal(shape.batch, shape.heads_kv, shape.seqlen_kv, shape.head_dim)
    dtype, scale = TORCH_DTYPES[shape.dtype], shape.softmax_scale
    eps = torch.finfo(dtype).eps
    impose(case.kind, q, k, v, causal=shape.causal, scale=scale, eps=eps, generator=generator)
    for x, layout in zip((q, k, v), case.layouts, strict=True):
        repeat(x, layout)
    if share := NEEDLES.get(case.kind):
        plant_needles(q, k, causal=shape.causal, scale=scale, share=share, generator=generator)
    q, k, v = (laid_out(x.to(dtype), layout) for x, layout in zip((q, k, v), case.layouts, strict=True))
    return Inputs(q, k, v, shape.causal, scale)


class Stream:
    """Endless cheap fresh inputs of one shape for timed rounds.

    Every row of every call is new: rows from a pool, in whatever order and with whatever signs, can be learnt and told
    from one another by a few of their elements.
    """

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        self._shape = shape
        self._generator = generator
        self._noise = [Numbers(generator) for _ in "qkv"]

    def draw(self, calls: int, kind: InputKind = "normal") -> list[Inputs]:
        """Inputs of the next calls, of a kind, in the models' layout, half of the time with a few needles."""
        shape = self._shape
        heads, lengths = (shape.heads_q, *2 * [shape.heads_kv]), (shape.seqlen_q, *2 * [shape.seqlen_kv])
        rows = [partial(self._rows, *each, calls) for each in zip(self._noise, heads, lengths, strict=True)]
        numbers = calls * shape.batch * shape.heads_kv * shape.seqlen_kv * shape.head_dim
        if numbers >= WORTH_A_CORE and self._generator.device.type == "cpu":
            keys = Deferred(rows[1])
            q, v, k = rows[0](), rows[2](), keys.result()
        else:
            q, k, v = (each() for each in rows)
        scale = shape.softmax_scale
        impose_timed = TIMED_KINDS[kind].impose
        impose_timed(*(x.flatten(0, 1) for x in (q, k, v)), scale=scale, generator=self._generator)
        if float(torch.rand(1, generator=self._generator, device=self._generator.device)) < NEEDLES_IN:
            plant_needles(
                q.flatten(0, 1),
                k.flatten(0, 1),
                causal=shape.causal,
                scale=shape.softmax_scale,
                share=1 / 64,
                generator=self._generator,
            )
        return [Inputs(*qkv, shape.causal, shape.softmax_scale) for qkv in zip(q, k, v, strict=True)]

    def _rows(self, noise: Numbers, heads: int, seqlen: int, calls: int) -> torch.Tensor:
        """Random numbers (calls, batch, heads, seqlen, head_dim), in memory as models lay them out."""
        shape = self._shape
        size = (calls, shape.batch, seqlen, heads, shape.head_dim)
        return noise.draw(*size, dtype=TORCH_DTYPES[shape.dtype]).transpose(2, 3)
