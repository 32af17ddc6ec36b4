"""Whether an output is right: its error against the float64 reference, held to that of a same-precision computation.

For every head and every block of 128 rows (a bad tail block cannot hide in an average), with errors divided by the
largest value of the key/value head and eps the spacing of the dtype:

    16-bit    max(e) <= 2 max(p) + 2 eps    and    rms(e) <= 1.5 rms(p) + eps / 4 rms(r)
    float32   max(e) <= 5 max(p) + 16 eps   and    rms(e) <= 5 rms(p) + 8 eps

e is the kernel's error there, p that of plain torch operations in the input's dtype and r the reference itself: a bound
by the largest value alone would hide half of an output, which shrinks with the square root of the keys. p is at least
what it is over all rows of the heads that share a key/value head: a block of a few rows makes a yardstick of chance.
The maximum rule is FlashAttention's own; the root mean square separates honest kernels (0.4 to 1.0 times p) from ones
that drop keys or precision (5 times and more) where the maximum hardly can. docs/trust.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.inputs import Case, Inputs
from pytest_avo.evaluation.correctness.reference import both_precisions

BLOCK_ROWS = 128
SAMPLED_ROWS = 64
"""Rows of an output that are looked at after every timed slice."""
LONGEST_BESIDE = 300
MOST_BATCHES_BESIDE = 2
"""Bounds of the shapes that are checked beside the claimed one."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Factors of the error rule.

    max(e) <= peak * max(p) + peak_eps * eps and rms(e) <= rms * rms(p) + (rms_eps + rms_output_eps * rms(r)) * eps.
    """

    peak: float
    peak_eps: float
    rms: float
    rms_eps: float
    rms_output_eps: float


HALF = Tolerance(peak=2.0, peak_eps=2.0, rms=1.5, rms_eps=0.0, rms_output_eps=0.25)
SINGLE = Tolerance(peak=5.0, peak_eps=16.0, rms=5.0, rms_eps=8.0, rms_output_eps=0.0)


def battery(shape: Shape, random: Random) -> list[Case]:
    """The calls that a kernel must get right for one shape, in random order after the first.

    Two are at the shape itself. The others vary what a kernel might ignore (mask, scale, group ratio, lengths, layout):
    on lengths that it did not claim it may refuse, but must not answer wrongly.
    """
    few, many = (2, 160), (161, LONGEST_BESIDE)
    lengths = [(random.randint(*few), random.randint(*many)), (random.randint(*many), random.randint(*few))]
    equal = random.randint(65, 200)
    ratios = [heads for heads in range(1, shape.heads_q + 1) if shape.heads_q % heads == 0 and heads != shape.heads_kv]

    def beside(name: str, *, distribution: str, layout: str = "bshd", **changes: object) -> Case:
        small = {"batch": min(shape.batch, MOST_BATCHES_BESIDE), "seqlen_q": equal, "seqlen_kv": equal, **changes}
        return Case(name, _changed(shape, small), distribution, layout, required=False)

    first = Case("normal", shape)
    rest = [
        Case("needle, padded rows", shape, "needle", "padded"),
        beside("large logits", distribution="large"),
        beside("constant keys", distribution="constant", layout="bhsd"),
        beside("shifted values", distribution="shifted", seqlen_kv=equal + random.randint(0, 99)),
        beside("value scales per head", distribution="scaled"),
        beside("tiny values", distribution="tiny"),
        beside("huge values", distribution="huge"),
        beside("other mask", distribution="normal", causal=not shape.causal),
        beside("other scale", distribution="normal", scale=random.choice((0.02, 0.37, 1.0))),
        beside("more keys than queries", distribution="normal", seqlen_q=lengths[0][0], seqlen_kv=lengths[0][1]),
        beside("more queries than keys", distribution="normal", seqlen_q=lengths[1][0], seqlen_kv=lengths[1][1]),
        beside("one query", distribution="normal", seqlen_q=1, seqlen_kv=random.randint(1, LONGEST_BESIDE)),
        beside("other group ratio", distribution="normal", heads_kv=random.choice(ratios or [shape.heads_kv])),
    ]
    random.shuffle(rest)
    return [first, *rest]


def largest_beside(shape: Shape) -> Shape:
    """A shape that needs at least the memory of any other than `shape` itself in its battery."""
    most = {"seqlen_q": LONGEST_BESIDE, "seqlen_kv": LONGEST_BESIDE, "heads_kv": shape.heads_q}
    return _changed(shape, {"batch": min(shape.batch, MOST_BATCHES_BESIDE), **most})


def fault(inputs: Inputs, out: torch.Tensor) -> str | None:
    """What is wrong with an output of shape (batch, heads_q, seqlen_q, head_dim), or None. Looks at every element."""
    rows = slice(0, out.shape[2])
    for batch in range(out.shape[0]):
        for head_kv in range(inputs.k.shape[1]):
            if found := _fault_of_group(inputs, out, batch=batch, head_kv=head_kv, rows=rows):
                return found
    return None


def sampled_fault(inputs: Inputs, out: torch.Tensor, random: Random) -> str | None:
    """`fault` for a random head group and some rows, cheap enough for every timed round; finds NaN anywhere."""
    if not bool(torch.isfinite(out).all()):
        return "output has NaN or infinite elements"
    first = random.randrange(0, max(1, out.shape[2] - SAMPLED_ROWS + 1))
    rows = slice(first, min(out.shape[2], first + SAMPLED_ROWS))
    batch, head_kv = random.randrange(out.shape[0]), random.randrange(inputs.k.shape[1])
    return _fault_of_group(inputs, out, batch=batch, head_kv=head_kv, rows=rows)


def fault_near(inputs: Inputs, out: torch.Tensor, *, batch: int, head_kv: int, row: int) -> str | None:
    """`fault` for the heads that share a key/value head, in the block of rows around one; finds NaN anywhere."""
    if not bool(torch.isfinite(out).all()):
        return "output has NaN or infinite elements"
    first = row // BLOCK_ROWS * BLOCK_ROWS
    rows = slice(first, min(out.shape[2], first + BLOCK_ROWS))
    return _fault_of_group(inputs, out, batch=batch, head_kv=head_kv, rows=rows)


def _fault_of_group(inputs: Inputs, out: torch.Tensor, *, batch: int, head_kv: int, rows: slice) -> str | None:
    group = inputs.q.shape[1] // inputs.k.shape[1]
    got = out[batch, head_kv * group : (head_kv + 1) * group, rows]
    if not bool(torch.isfinite(got).all()):
        return "output has NaN or infinite elements"
    first_row = rows.start or 0
    for number, (value, limit) in enumerate(margins(inputs, got, batch=batch, head_kv=head_kv, first_row=first_row)):
        if not value <= limit:
            block, what = divmod(number, 2)
            where = f"heads from {head_kv * group}, rows from {first_row + block * BLOCK_ROWS}"
            return f"{('max', 'rms')[what]} error {value:.2e} > limit {limit:.2e} ({where})"
    return None


def margins(
    inputs: Inputs, got: torch.Tensor, *, batch: int, head_kv: int, first_row: int
) -> Iterator[tuple[float, float]]:
    """Error and its limit, maximum and root mean square in turn, for every block of rows of one key/value head.

    got: (group, rows, head_dim), the outputs of the query heads that share the key/value head, from `first_row` on.
    """
    rows = slice(first_row, first_row + got.shape[1])
    exact, plain = both_precisions(inputs, batch=batch, head_kv=head_kv, rows=rows)
    largest = inputs.v[batch, head_kv].double().abs().max().clamp_min(1e-30)
    error = (got.double() - exact).abs() / largest
    yardstick = (plain.double() - exact).abs() / largest
    rule = SINGLE if got.dtype == torch.float32 else HALF
    eps = torch.finfo(got.dtype).eps
    peak_limit = rule.peak * float(yardstick.max()) + rule.peak_eps * eps
    overall = yardstick.square().mean().sqrt()
    limits = rule.rms * _rms(yardstick).clamp_min(overall)
    limits += (rule.rms_eps + rule.rms_output_eps * _rms(exact / largest)) * eps
    rms = _rms(error)
    worst = (rms / limits).argmax(0, keepdim=True)
    # One copy off the device for all blocks.
    peaks = _blocks(error).amax((0, 2, 3))
    found = torch.stack([peaks, rms.gather(0, worst)[0], limits.gather(0, worst)[0]]).cpu()
    for peak, rms_of_worst, limit in found.T.tolist():
        yield peak, peak_limit
        yield rms_of_worst, limit


def _blocks(x: torch.Tensor) -> torch.Tensor:
    """(group, rows, head_dim) as (group, blocks, BLOCK_ROWS, head_dim), the last block filled up with zeros."""
    missing = -x.shape[1] % BLOCK_ROWS
    return torch.nn.functional.pad(x, (0, 0, 0, missing)).view(x.shape[0], -1, BLOCK_ROWS, x.shape[2])


def _rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square (group, blocks) of every head in every block of rows."""
    blocks = _blocks(x)
    rows = torch.full((blocks.shape[1],), BLOCK_ROWS, device=x.device)
    rows[-1] -= blocks.shape[1] * BLOCK_ROWS - x.shape[1]
    return (blocks.square().sum((2, 3)) / (rows * x.shape[2])).sqrt()


def _changed(shape: Shape, changes: dict[str, object]) -> Shape:
    fields = {name: getattr(shape, name) for name in shape.__struct_fields__}
    return Shape(**{**fields, **changes})
