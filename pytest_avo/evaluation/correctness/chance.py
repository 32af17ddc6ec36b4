"""How large an error may be where chance made the yardstick: a second look at blocks that exceed the first limit.

The first limit compares a kernel's error with that of one plain computation. Where a few rows make nearly all of a
block's error, both errors are two draws of one distribution, and one of them is five times the other now and then.
What both are drawn from can be computed, to first order, for a row with weights w, values v and result o. u is half of
eps of the inputs' dtype, u' of single precision, in which half precision is summed; to round once errs by u / sqrt(3).

    scores      u^2 / 3 sum_j w_j^2 m_j^2 (v_j - o)^2
    weights     u^2 / 3 sum_j w_j^2 v_j^2
    sums        u'^2 / 3 n (sum_j w_j^2 v_j^2 + 2 o^2)
    result      u^2 / 3 o^2

m_j is what a score is rounded by, in units of u. Where a sum is as precise as its terms (single precision) each of its
d = head_dim partial sums is rounded: one that grows to s has squares of d / 3 s^2 in all, the detours of its terms x_i
from there d / 6 sum_i x_i^2; terms and scaled queries are rounded besides, and exp adds |s|, |s - max| and two units in
the last place. In half precision the score is rounded once, and the queries once when they are scaled beforehand;
weights are rounded for their product with the values alone: what divides the product was added up before, so that such
errors of values that are much alike do not cancel. Both sums over the n keys with any weight, of values and of weights,
may be made one term after the other, the largest first.

Two effects are not of first order. Where score errors are large (scores of thousands in half precision) two keys change
places: w_j stands for at most w_j exp(4 deviations of the score). And a term below half a unit in the last place of the
sum is lost entirely, always in one direction: of keys behind a sink that takes nearly all the weight, all may be.

So a row may have its own limit, of eight deviations and what sums lose, and rows that are expected to exceed the root
mean square of their block are left out of it. Of the others so much is allowed as is to be expected of the rms of so
few independent errors: the elements of a row share one where two keys compete, and have their own where many do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.reference import Part, weigh, weights

PEAK = 8.0
"""Deviations that an error may reach: one of thousands, and all elements of a row may share theirs."""
SWAP = 4.0
"""Deviations of a score by which two keys may come closer to each other."""
LARGEST_EXPONENT = 700.0
"""Of e in double precision: a weight of zero times infinity is no number."""
EXP = 12.0
"""Of exp, two units in the last place: its square in units of u / sqrt(3)."""
LOST = 4.0
"""Shares of a sum, in units of u', that may be lost in it."""
FEW = 4.0
"""A root mean square of n independent errors may be (1 + 4 / n) times what else is allowed of what is expected."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What honest rounding does to rows, each (batches, heads_kv, group, rows), absolute, in the values' units."""

    peak: torch.Tensor
    """The largest deviation of an element."""
    usual: torch.Tensor
    """The root mean square of all deviations."""
    independent: torch.Tensor
    """How many errors of a row do not depend on each other."""
    lost: torch.Tensor
    """The most that sums lose of an element."""


def rms_limit(usual: torch.Tensor, independent: torch.Tensor, *, factor: float) -> float:
    """What the root mean square of an error may be over rows with these `Expected`, both (n,)."""
    variance = usual.square()
    matter = float(variance.sum().square() / (variance.square() / independent).sum().clamp_min(1e-300))
    return factor * (1 + FEW / max(1.0, matter)) * float(variance.mean().sqrt())


def expected(inputs: Inputs, part: Part) -> Expected:
    """What is to be expected of the rows of a part, in float64."""
    group = inputs.q.shape[1] // inputs.k.shape[1]
    q, k, v = part.queries(inputs.q, group).double(), part.keys(inputs.k).double(), part.keys(inputs.v).double()
    seqlen_q, first_row = inputs.q.shape[2], part.rows.indices(inputs.q.shape[2])[0]
    w = weights(q, k, causal=inputs.causal, scale=inputs.scale, first_row=first_row, seqlen_q=seqlen_q)
    out, size = weigh(w, v), v.abs()
    unit, sum_unit = (torch.finfo(dtype).eps / 2 for dtype in (inputs.q.dtype, torch.float32))
    rounding = _score_rounding(q * inputs.scale, k, w, is_single=inputs.q.dtype == torch.float32)
    closer = (SWAP * unit / math.sqrt(3) * rounding.sqrt()).clamp_max(LARGEST_EXPONENT)
    swapped = (w * closer.exp()).clamp_max(1).square()
    through_scores, through_weights = swapped * rounding, swapped * (inputs.q.dtype != torch.float32)
    apart, shared_scores = _apart(through_scores, v, out)
    alike, shared_weights = _apart(through_weights, v, torch.zeros_like(out))
    by_keys = (unit**2 / 3) * (apart + alike)
    sums = (w > 0).sum(-1, keepdim=True) * (weigh(w.square(), v.square()) + 2 * out.square())
    by_element = unit**2 / 3 * out.square() + sum_unit**2 / 3 * sums
    variance = by_keys + by_element
    small = w * (w < LOST * sum_unit)
    lost = weigh(small, size) + out.abs() * small.sum(-1, keepdim=True)
    return Expected(
        peak=variance.amax(-1).sqrt(),
        usual=variance.mean(-1).sqrt(),
        independent=_independent(
            by_keys.mean(-1),
            by_element.mean(-1),
            shared=[unit**2 / 3 * shared for shared in (shared_scores, shared_weights)],
            competing=_competing(through_scores, through_weights, v, out),
            elements=v.shape[-1],
        ),
        lost=lost.amax(-1),
    )


def _apart(through: torch.Tensor, v: torch.Tensor, middle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """sum_j through_j (v_j - middle)^2 for every element of every row, and what of its mean all elements share.

    They share what the mean of the v_j - middle makes: of values with an offset one error makes nearly all of a row's.
    """
    total, first = through.sum(-1, keepdim=True), weigh(through, v)
    found = weigh(through, v.square()) - 2 * middle * first + middle.square() * total
    shared = (first - middle * total).square() / total.clamp_min(1e-300)
    return found.clamp_min(0), shared.mean(-1)


def _competing(
    through_scores: torch.Tensor, through_weights: torch.Tensor, v: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Through how many keys a row errs: (sum_j x_j)^2 / sum_j x_j^2 of what all elements err through each."""
    size = v.square().sum(-1)[:, :, None, None, :]
    apart = size - 2 * weigh(out, v.transpose(-1, -2)) + out.square().sum(-1, keepdim=True)
    each = through_scores * apart + through_weights * size
    return each.sum(-1).square() / each.square().sum(-1).clamp_min(1e-300)


def _independent(
    by_keys: torch.Tensor,
    by_element: torch.Tensor,
    *,
    shared: Sequence[torch.Tensor],
    competing: torch.Tensor,
    elements: int,
) -> torch.Tensor:
    """How many errors stand behind a mean square.

    One behind each part that is shared; of the rest by keys as many as compete, at most one an element.
    """
    rest = (by_keys - sum(shared, torch.zeros_like(by_keys))).clamp_min(0)
    dependent = rest.square() * (1 / elements + 1 / competing.clamp_min(1)) + by_element.square() / elements
    for part in shared:
        dependent = dependent + part.square()
    return ((by_keys + by_element).square() / dependent.clamp_min(1e-300)).clamp_min(1)


def _score_rounding(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor, *, is_single: bool) -> torch.Tensor:
    """The square of m, shaped as the weights w; q is scaled."""
    scores = weigh(q, k.transpose(-1, -2))
    products = weigh(q.square(), k.square().transpose(-1, -2))
    if not is_single:
        return scores.square() + products
    terms = q.shape[-1]
    top = scores.masked_fill(w == 0, -torch.inf).amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    summed = scores.square() * (terms / 3) + products * (2 + terms / 6)
    return summed + scores.square() + (scores - top).square() + EXP
