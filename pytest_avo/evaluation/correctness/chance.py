"""How large an error may be where chance made the yardstick: a second look at blocks that exceed the first limit.

The first limit compares a kernel's error with that of one plain computation. Where a few rows make nearly all of a
block's error, because two keys with large logits compete in them, both errors are two draws of one distribution, and
one of them is five times the other now and then. What both are drawn from can be computed. Rounding to nearest errs by
u / sqrt(3) of a number, u being half of eps. A score s is rounded so to m, which is |s| where the sum is more precise
than its terms, and else |q| |k| scale sqrt(1 + head_dim / 3); a probability and the result are rounded once. With w the
weights and o the result, to first order the variance of an element of the result is

    u^2 / 3 [ sum_j w_j^2 (m_j^2 + 1) (v_j - o)^2 + o^2 ]

So a row may have its own limit, of eight deviations, and rows that are expected to exceed the root mean square of their
block are left out of it; of the others so much is allowed as is to be expected of the rms of so few.
"""

from __future__ import annotations

import torch

from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.reference import Part, weigh, weights

PEAK = 8.0
"""Deviations that an error may reach: one of thousands, and all elements of a row may share theirs."""

RMS = 1.5
FEW = 4.0
"""A root mean square over n rows that matter may be 1.5 (1 + 4 / n) times what is expected."""


def rms_limit(usual: torch.Tensor) -> float:
    """What the root mean square of an error may be over rows (n,) with these expected ones."""
    variance = usual.square()
    matter = float(variance.sum().square() / variance.square().sum().clamp_min(1e-300))
    return RMS * (1 + FEW / max(1.0, matter)) * float(variance.mean().sqrt())


def deviations(inputs: Inputs, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """By row of a part, the largest deviation of an element and the root mean square of all, in float64.

    Both are (batches, heads_kv, group, rows), absolute, in the units of the values.
    """
    group = inputs.q.shape[1] // inputs.k.shape[1]
    q, k, v = part.queries(inputs.q, group).double(), part.keys(inputs.k).double(), part.keys(inputs.v).double()
    seqlen_q, first_row = inputs.q.shape[2], part.rows.indices(inputs.q.shape[2])[0]
    w = weights(q, k, causal=inputs.causal, scale=inputs.scale, first_row=first_row, seqlen_q=seqlen_q)
    out = weigh(w, v)
    if inputs.q.dtype == torch.float32:
        # A sum as precise as its terms is rounded with each of them.
        terms = (1 + q.shape[-1] / 3) ** 0.5
        size = q.norm(dim=-1, keepdim=True) * k.norm(dim=-1)[:, :, None, None, :] * (inputs.scale * terms)
    else:
        size = weigh(q * inputs.scale, k.transpose(-1, -2))
    spread = w.square() * (size.square() + 1)
    competing = weigh(spread, v.square()) - 2 * out * weigh(spread, v) + out.square() * spread.sum(-1, keepdim=True)
    unit = torch.finfo(inputs.q.dtype).eps / 2
    variance = unit**2 / 3 * (competing.clamp_min(0) + out.square())
    return variance.amax(-1).sqrt(), variance.mean(-1).sqrt()
