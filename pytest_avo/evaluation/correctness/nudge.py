"""A call repeated with one element of its arguments changed: whoever answers from memory answers wrongly.

Results that are kept by address, by identity or by a sample of the arguments all serve the old one. The element is
chosen such that a whole row of the output follows it: it belongs to a query that points at one key, to that key, or to
that key's value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

import torch

from pytest_avo.evaluation.correctness.correctness import fault_near
from pytest_avo.evaluation.correctness.inputs import Inputs

_TURN = -10.0
"""Factor on the largest element of a query or a key: their product, mostly that element squared, changes its sign."""
_FLIP = -2.0


@dataclass(frozen=True, slots=True)
class Nudge:
    """Arguments that differ from the last ones in one element, and where the output must follow."""

    inputs: Inputs
    what: str
    at: Followed


@dataclass(frozen=True, slots=True)
class Followed:
    """A query, the visible key that has most of its weight, and how many keys it sees."""

    batch: int
    head_q: int
    head_kv: int
    row: int
    key: int
    visible: int

    def index(self, name: str, key: int) -> tuple[int, int, int]:
        """Of a row of q, k or v, by (batch entry, head, position): the query itself, or a key or value of its head."""
        return (self.batch, self.head_q, self.row) if name == "q" else (self.batch, self.head_kv, key)

    def fault(self, inputs: Inputs, out: torch.Tensor) -> str | None:
        """What is wrong with an output around the query, or None."""
        return fault_near(inputs, out, batch=self.batch, head_kv=self.head_kv, row=self.row)


def followed(inputs: Inputs, random: Random) -> Followed | None:
    """Any query that sees a key, and the key that its output follows most; None where no query sees one."""
    batch, heads_q, seqlen_q, _ = inputs.q.shape
    heads_kv, seqlen_kv = inputs.k.shape[1:3]
    first = max(0, seqlen_q - seqlen_kv) if inputs.causal else 0
    if first >= seqlen_q:
        return None
    b, head_q, row = random.randrange(batch), random.randrange(heads_q), random.randrange(first, seqlen_q)
    head_kv = head_q * heads_kv // heads_q
    visible = min(seqlen_kv, row + 1 + seqlen_kv - seqlen_q) if inputs.causal else seqlen_kv
    scores = inputs.k[b, head_kv, :visible].float() @ inputs.q[b, head_q, row].float()
    return Followed(b, head_q, head_kv, row, int(scores.argmax()), visible)


def nudges(inputs: Inputs, random: Random) -> Iterator[Nudge]:
    """Three calls to make after one on `inputs`, whose queries are needles; each differs from the one before.

    Nothing where no query sees a key. `inputs` themselves are left as they are.
    """
    present = inputs
    for name, factor in (("v", _FLIP), ("k", _TURN), ("q", _TURN)):
        if (at := followed(present, random)) is None:
            return
        # A copy: the call before may still be judged.
        q, k, v = (copied(x) if name == other else x for other, x in zip("qkv", present.tensors, strict=True))
        place = {"q": q, "k": k, "v": v}[name][at.index(name, at.key)]
        element = int(place.abs().argmax())
        place[element] = place[element] * factor
        present = replace(present, q=q, k=k, v=v)
        yield Nudge(present, f"one element changed in {name}", at)


def copied(x: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, gaps included."""
    elements = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((elements,), (1,)).clone().as_strided(x.shape, x.stride())
