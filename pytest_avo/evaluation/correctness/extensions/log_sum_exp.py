"""Whether a log-sum-exp is right: its distance from float64 beside what single precision costs.

A log-sum-exp is a number of single precision whatever the dtype of the inputs: backward passes and merges of partial
results exponentiate it, so that an error of 0.01 is 1% of every weight. A score is a sum of products up to |q| |k|
scale in size, and its rounding errors are multiples of eps of that; the rest (the sum of the weights, its logarithm) is
a small number. So the limit of a row is 16 eps |q| max |k| scale + 2e-5, eps that of float32: one key in ten thousand
that is missing, or another base, shows.
"""

from __future__ import annotations

import torch

from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.correctness.reference import Part

SCORES = 16.0
ABSOLUTE = 2e-5


def lse_fault(inputs: Inputs, lse: torch.Tensor, part: Part, right: torch.Tensor) -> str | None:
    """What is wrong with a part of a log-sum-exp (batch, heads_q, seqlen_q), or None. Looks at every row.

    right: what it is in float64, (batches, heads_kv, group, rows); -inf where a row sees no key.
    """
    wrong = is_beyond(inputs, lse, part, right)
    if not bool(wrong.any()):
        return None
    b, h, head, row = wrong.nonzero()[0].tolist()
    group = inputs.q.shape[1] // inputs.k.shape[1]
    at = f"head {(part.heads_kv.start + h) * group + head}, row {(part.rows.start or 0) + row}"
    got, limit = part.queries(lse, group), limits(inputs, part)
    found, expected, allowed = (float(x[b, h, head, row]) for x in (got, right, limit))
    return f"lse is {found:.6g}, expected {expected:.6g} +- {allowed:.1e} ({at})"


def is_beyond(
    inputs: Inputs, lse: torch.Tensor, part: Part, right: torch.Tensor, *, share: float = 1.0
) -> torch.Tensor:
    """Which rows of a part are off by more than a share of their limits, shaped as `right`."""
    got = part.queries(lse, inputs.q.shape[1] // inputs.k.shape[1]).double()
    return ~torch.where(right.isinf(), got == right, (got - right).abs() <= share * limits(inputs, part))


def limits(inputs: Inputs, part: Part) -> torch.Tensor:
    """How far off each row of a part may be, as `lse_fault` has them."""
    q = part.queries(inputs.q, inputs.q.shape[1] // inputs.k.shape[1])
    longest = part.keys(inputs.k).double().norm(dim=-1).amax(-1)[:, :, None, None]
    rounding = SCORES * torch.finfo(torch.float32).eps * inputs.scale
    found: torch.Tensor = rounding * longest * q.double().norm(dim=-1) + ABSOLUTE
    return found
