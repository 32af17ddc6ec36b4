"""Whether an output is right: its error against the float64 reference, held to that of a same-precision computation.

For every head and every block of 128 rows (a bad tail block cannot hide in an average), with errors divided by the
largest value of the key/value head and eps the spacing of the dtype:

    16-bit    max(e) <= 2 max(p) + 2 eps    and    rms(e) <= 2 rms(p) + eps / 4 rms(r)
    float32   max(e) <= 5 max(p) + 16 eps   and    rms(e) <= 5 rms(p) + 8 eps

e is the kernel's error there, p that of plain torch operations in the input's dtype and r the reference itself: a bound
by the largest value alone would hide half of an output, which shrinks with the square root of the keys. p is at least
what it is over all rows of the heads that share a key/value head: a block of a few rows makes a yardstick of chance.
Where a block still exceeds these limits, `chance` says what may have been chance.

In float32 what differs from plain torch operations by no more than 16 eps, and 8 eps in the root mean square, is within
these limits whatever float64 says (e <= |difference| + p). So float64, which takes three times as long, is asked about
all else.
The maximum rule is FlashAttention's own; the root mean square separates honest kernels (0.4 to 1.0 times p) from ones
that drop keys or precision (5 times and more) where the maximum hardly can. docs/error-rates.md has figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch

from pytest_avo.evaluation.correctness import chance
from pytest_avo.evaluation.correctness.errors import (
    BLOCK_ROWS,
    HALF,
    SINGLE,
    doubtful_places,
    errors_of,
    largest_values,
    margins,
    margins_of,
    rms_of,
    surely_right,
)
from pytest_avo.evaluation.correctness.extensions.log_sum_exp import is_beyond, lse_fault
from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.reference import Exact, Part, computed, exact, nearly_exact, parts

SAMPLED_ROWS = 64
"""Rows of an output that are looked at after every timed slice, wherever they are."""
NEARLY, LSE_NEARLY = 0.95, 0.6
"""Of the limits, within which an output, and a log-sum-exp, is right also by a reference that is nearly exact."""
WORTH_NEARLY = 1 << 25
"""Scores from which on such a reference takes less time than float64 does on a GPU."""
FEW_BLOCKS = 64
"""Blocks of a part about which float64 is asked one by one; about more of them all at once."""
NOT_FINITE = "output has NaN or infinite elements"


def all_finite(x: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    # Neither ever leaves a sum again, which takes a tenth of the time; finite elements can only make one infinite.
    return math.isfinite(float(x.sum(dtype=torch.float32))) or bool(torch.isfinite(x).all())


def fault(inputs: Inputs, out: torch.Tensor, lse: torch.Tensor | None = None) -> str | None:
    """What is wrong with an output of shape (batch, heads_q, seqlen_q, head_dim), or None. Looks at every element.

    lse: the log-sum-exp (batch, heads_q, seqlen_q) that came with it, where one was asked for: of that too.
    """
    if not all_finite(out):
        return NOT_FINITE
    return next(filter(None, (_fault_of(inputs, out, part, lse) for part in parts(inputs))), None)


def sampled_fault(inputs: Inputs, out: torch.Tensor, random: Random) -> str | None:
    """`fault` for a random head group and some rows, cheap enough for every timed round; finds NaN anywhere."""
    if not all_finite(out):
        return NOT_FINITE
    first = random.randrange(0, max(1, out.shape[2] - SAMPLED_ROWS + 1))
    rows = slice(first, min(out.shape[2], first + SAMPLED_ROWS))
    return _fault_of(inputs, out, _group(random.randrange(out.shape[0]), random.randrange(inputs.k.shape[1]), rows))


def fault_near(inputs: Inputs, out: torch.Tensor, *, batch: int, head_kv: int, row: int) -> str | None:
    """`fault` for the heads that share a key/value head, in the block of rows around one; finds NaN anywhere."""
    return fault_in_block(inputs, out, batch=batch, head_kv=head_kv, row=row) if all_finite(out) else NOT_FINITE


def fault_in_block(inputs: Inputs, out: torch.Tensor, *, batch: int, head_kv: int, row: int) -> str | None:
    """The same of an output that is known to be finite."""
    first = row // BLOCK_ROWS * BLOCK_ROWS
    return _fault_of(inputs, out, _group(batch, head_kv, slice(first, min(out.shape[2], first + BLOCK_ROWS))))


def _is_beside_yardstick(inputs: Inputs, out: torch.Tensor, part: Part) -> bool:
    """Whether a part in float32 is so near to plain torch operations that it is right, whatever those err by."""
    if out.dtype != torch.float32:
        return False  # half precision rounds by more than its limits leave beside the yardstick's own error
    eps = torch.finfo(torch.float32).eps
    apart = part.queries(out, inputs.q.shape[1] // inputs.k.shape[1]) - computed(inputs, part, torch.float32)
    apart = apart.abs_().div_(largest_values(inputs, part).float())
    if not float(apart.max()) <= SINGLE.peak_eps * eps:
        return False
    return float(rms_of(apart).max()) <= SINGLE.rms_eps * eps


def plainly_right(inputs: Inputs, out: torch.Tensor, part: Part, *, with_lse: bool = False) -> Exact | None:
    """A part nearly exact, if by that an output in half precision is right, with room for what it errs by.

    with_lse: its log-sum-exp too.
    """
    if out.dtype == torch.float32 or (near := nearly_exact(inputs, part, with_lse=with_lse)) is None:
        return None
    errors = errors_of(inputs, out, part, near.out.double())
    errors = replace(errors, error=errors.error / NEARLY)
    if surely_right(errors):
        return near
    found = margins_of(inputs, part, errors)
    places = doubtful_places(errors, found)
    if len(places) > FEW_BLOCKS:
        return None
    for place in places:
        peak_limit, rms_limit = found.limits(place)
        first = NEARLY * peak_limit, NEARLY * rms_limit
        if not _second_look(inputs, out, _near(part, place), head=place[2], first=first).share <= 1:
            return None
    return near


def lse_fault_beside(inputs: Inputs, lse: torch.Tensor, part: Part, near: torch.Tensor) -> str | None:
    """`lse_fault` of a part that float32 found to be as in `near`: float64 is asked where that leaves a doubt.

    One query in some thousands that points at a key leaves one: both err there by some tenths of the limit.
    """
    doubtful = is_beyond(inputs, lse, part, near.double(), share=LSE_NEARLY)
    blocks = sorted({(b, h, row // BLOCK_ROWS) for b, h, _, row in doubtful.nonzero().tolist()})
    asked = [_near(part, (b, h, 0, block)) for b, h, block in blocks] if len(blocks) <= FEW_BLOCKS else [part]
    return next(filter(None, (lse_fault(inputs, lse, each, exact(inputs, each).lse) for each in asked)), None)


def _scores(inputs: Inputs, part: Part) -> int:
    """How many there are in a part."""
    q = part.queries(inputs.q, inputs.q.shape[1] // inputs.k.shape[1])
    return q.shape[:-1].numel() * inputs.k.shape[2]


def _group(batch: int, head_kv: int, rows: slice) -> Part:
    return Part(slice(batch, batch + 1), slice(head_kv, head_kv + 1), rows)


def _fault_of(inputs: Inputs, out: torch.Tensor, part: Part, lse: torch.Tensor | None = None) -> str | None:
    if out.device.type == "cuda" and _scores(inputs, part) >= WORTH_NEARLY:
        near = plainly_right(inputs, out, part, with_lse=lse is not None)
        if near is not None:
            return None if lse is None else lse_fault_beside(inputs, lse, part, near.lse)
    if lse is not None:  # float64 tells both
        right = exact(inputs, part)
        return _output_fault(inputs, out, part, right.out) or lse_fault(inputs, lse, part, right.lse)
    if _is_beside_yardstick(inputs, out, part):
        return None
    return _output_fault(inputs, out, part, computed(inputs, part, torch.float64))


def _output_fault(inputs: Inputs, out: torch.Tensor, part: Part, right: torch.Tensor) -> str | None:
    errors = errors_of(inputs, out, part, right)
    if surely_right(errors):
        return None
    found = margins_of(inputs, part, errors)
    for place in doubtful_places(errors, found):
        near = _near(part, place)
        verdict = _second_look(inputs, out, near, head=place[2], first=found.limits(place))
        if not verdict.share <= 1:
            rows = f"rows from {near.rows.start}"
            return f"{verdict.words} (heads from {near.heads_kv.start * (out.shape[1] // inputs.k.shape[1])}, {rows})"
    return None


def worst_share(inputs: Inputs, out: torch.Tensor, *, from_share: float = 0.5) -> float:
    """The largest error of an output as a share of its limit, by both rules; above 1 it is wrong.

    What the first limit alone makes no more than `from_share` is not looked at again.
    """
    if not all_finite(out):
        return math.inf
    worst = 0.0
    for part in parts(inputs):
        found = margins(inputs, out, part)
        again = ~(found.shares <= from_share)
        worst = max(worst, float(found.shares[~again].max()) if bool((~again).any()) else 0.0)
        for place in again.nonzero().tolist():
            verdict = _second_look(inputs, out, _near(part, place), head=place[2], first=found.limits(place))
            worst = max(worst, verdict.share)
    return worst


def _near(part: Part, place: Sequence[int]) -> Part:
    """The block of rows at (batch, head_kv, head, block) of a part."""
    b, h, _, block = place
    first = (part.rows.start or 0) + block * BLOCK_ROWS
    return _group(part.batches.start + b, part.heads_kv.start + h, slice(first, first + BLOCK_ROWS))


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The larger of two errors as a share of its limit, in numbers and in words."""

    share: float
    words: str


def _second_look(inputs: Inputs, out: torch.Tensor, part: Part, *, head: int, first: tuple[float, float]) -> _Verdict:
    """One head in a block, held to the larger of the first limits (peak, rms) and what chance may do."""
    largest = float(largest_values(inputs, part))
    got = part.queries(out, inputs.q.shape[1] // inputs.k.shape[1])
    error = (got.double() - computed(inputs, part, torch.float64))[0, 0, head].abs() / largest
    expected = chance.expected(inputs, part)
    peak, usual, lost = (x[0, 0, head] / largest for x in (expected.peak, expected.usual, expected.lost))
    rule, eps = SINGLE if out.dtype == torch.float32 else HALF, torch.finfo(out.dtype).eps
    allowed = (chance.PEAK * peak + lost + rule.peak_eps * eps).clamp_min(first[0])
    highest = error.amax(-1)
    row = int((highest / allowed).argmax())
    found = _Verdict(
        float(highest[row] / allowed[row]), f"max error {float(highest[row]):.2e} > limit {float(allowed[row]):.2e}"
    )
    plain_rows = usual + lost <= first[1]
    if found.share > 1 or not bool(plain_rows.any()):
        return found
    rms = float(error[plain_rows].square().mean().sqrt())
    independent = expected.independent[0, 0, head][plain_rows]
    by_chance = chance.rms_limit(usual[plain_rows], independent, factor=rule.rms) + float(lost[plain_rows].max())
    allowed_rms = max(first[1], by_chance + rule.rms_eps * eps)
    return max(found, _Verdict(rms / allowed_rms, f"rms error {rms:.2e} > limit {allowed_rms:.2e}"), key=_share)


def _share(verdict: _Verdict) -> float:
    return verdict.share
