"""Unusual kinds of inputs among usual ones: in some head groups of some calls of a slice, and of timed slices too.

A kernel that is right on zero-mean values alone must be right on nothing that it can tell from them, at the shape that
it claims and while it is timed. One group among many hardly takes time, so that the figure stays that of usual inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

from pytest_avo.core.shape import InputKind, Shape
from pytest_avo.evaluation.correctness.cross_check import Group
from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.kinds import UNUSUAL, Kind, impose

TIMED_SHARE = 0.5
"""Share of the timed slices with an unusual group."""
OUTLIERS_SHARE = 0.5
"""Of these, in which that is of the one kind that some rows of a group do not tell from usual ones."""
OUTLIERS, CHEAP_FLOPS = 12, 2e8
"""Groups of that kind in a check's slices: as many where a call is as cheap as that, else what there is room for."""


@dataclass(frozen=True, slots=True)
class CheckedSlice:
    """A slice to check: of so many calls on usual inputs of a kind, with groups of unusual kinds in them."""

    base: InputKind
    calls: int
    kinds: tuple[Kind, ...]


def checked_slices(shape: Shape, random: Random, *, most_calls: int) -> list[CheckedSlice]:
    """Slices of at most so many calls that hold every unusual kind together, and outliers among usual inputs of each.

    What kernels see of some rows of usual inputs is no reason to believe the rest of them.
    """
    groups, bases = shape.batch * shape.heads_kv, random.sample(shape.inputs, k=len(shape.inputs))
    others = random.sample([kind for kind in UNUSUAL if kind != "outliers"], k=len(UNUSUAL) - 1)
    least = OUTLIERS if shape.flops <= CHEAP_FLOPS else len(bases)
    calls = max(len(bases), -(-(len(others) + max(least, len(bases))) // groups)) + 1  # one at least without any
    outliers = min(max(OUTLIERS, len(bases)), (calls - 1) * groups - len(others))
    found = []
    for number, base in enumerate(bases):
        left, due = (x // len(bases) + (number < x % len(bases)) for x in (calls, outliers))
        while left:
            size = min(left, most_calls)
            asked: tuple[Kind, ...] = tuple("outliers" for _ in range(min(due, size * groups)))
            room = size * groups - len(asked)
            here, others = (*asked, *others[:room]), others[room:]
            found.append(CheckedSlice(base, size, here))
            left, due = left - size, due - len(asked)
    return found


def mix_all(
    batch: Sequence[Inputs], kinds: Sequence[Kind], random: Random, generator: torch.Generator
) -> dict[Group, Kind]:
    """Make groups of the calls, in place, ones of these kinds, one each; says which. Not more than there are groups."""
    entries, heads = batch[0].k.shape[:2]
    everywhere = [(call, b, h) for call in range(len(batch)) for b in range(entries) for h in range(heads)]
    changed = dict(zip(random.sample(everywhere, k=len(everywhere)), kinds, strict=False))
    for (call, entry, head_kv), kind in changed.items():
        _change(batch[call], kind, entry, head_kv, generator)
    return changed


def mix_timed(batch: Sequence[Inputs], random: Random, generator: torch.Generator) -> dict[Group, Kind]:
    """Make one group of one call of a slice, in place, one of an unusual kind, in some of the slices; says which."""
    if random.random() >= TIMED_SHARE:
        return {}
    kind = "outliers" if random.random() < OUTLIERS_SHARE else random.choice(UNUSUAL)
    return mix_all(batch, [kind], random, generator)


def _change(inputs: Inputs, kind: Kind, entry: int, head_kv: int, generator: torch.Generator) -> None:
    group = inputs.q.shape[1] // inputs.k.shape[1]
    q = inputs.q[entry : entry + 1, head_kv * group : (head_kv + 1) * group]
    k, v = (x[entry : entry + 1, head_kv : head_kv + 1] for x in (inputs.k, inputs.v))
    # Outliers lie among what is usual in a slice, and all but they look like it. Other kinds want usual numbers: large
    # products of numbers with a sink are none that half precision holds.
    for x in (q, k, v) if kind != "outliers" else ():
        x.copy_(torch.randn(x.shape, generator=generator, device=x.device))
    eps = torch.finfo(q.dtype).eps
    impose(kind, q, k, v, causal=inputs.causal, scale=inputs.scale, eps=eps, generator=generator)
