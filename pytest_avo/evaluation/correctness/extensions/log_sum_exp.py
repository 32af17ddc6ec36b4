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
from pytest_avo.evaluation.correctness.reference import SCORES_AT_ONCE, Part, parts, weigh

SCORES = 16.0
ABSOLUTE = 2e-5


def lse_fault(inputs: Inputs, lse: torch.Tensor) -> str | None:
    """What is wrong with a log-sum-exp of shape (batch, heads_q, seqlen_q), or None. Looks at every row."""
    group = inputs.q.shape[1] // inputs.k.shape[1]
    for part in parts(inputs):
        got, exact, limit = part.queries(lse, group).double(), exact_lse(inputs, part), limits(inputs, part)
        wrong = ~torch.where(exact.isinf(), got == exact, (got - exact).abs() <= limit)
        if bool(wrong.any()):
            b, h, head, row = wrong.nonzero()[0].tolist()
            at = f"head {(part.heads_kv.start + h) * group + head}, row {row}"
            found, expected, allowed = (float(x[b, h, head, row]) for x in (got, exact, limit))
            return f"lse is {found:.6g}, expected {expected:.6g} +- {allowed:.1e} ({at})"
    return None


def exact_lse(inputs: Inputs, part: Part) -> torch.Tensor:
    """Log-sum-exp of a part in float64, (batches, heads_kv, group, rows); -inf where a row sees no key."""
    q = part.queries(inputs.q, inputs.q.shape[1] // inputs.k.shape[1])
    keys = part.keys(inputs.k).double().transpose(-1, -2)
    rows, seqlen_kv = q.shape[3], keys.shape[-1]
    step = max(1, SCORES_AT_ONCE[q.device.type] // (q.shape[0] * q.shape[1] * q.shape[2] * seqlen_kv))
    shift = part.rows.indices(inputs.q.shape[2])[0] + seqlen_kv - inputs.q.shape[2]
    found = []
    for start in range(0, rows, step):
        scores = weigh(q[..., start : start + step, :].double() * inputs.scale, keys)
        if inputs.causal:
            last = torch.arange(start, start + scores.shape[-2], device=q.device) + shift
            scores.masked_fill_(torch.arange(seqlen_kv, device=q.device) > last[:, None], -torch.inf)
        found.append(scores.logsumexp(-1))
    return torch.cat(found, dim=-1)


def limits(inputs: Inputs, part: Part) -> torch.Tensor:
    """How far off each row of a part may be, as `exact_lse`."""
    q = part.queries(inputs.q, inputs.q.shape[1] // inputs.k.shape[1])
    longest = part.keys(inputs.k).double().norm(dim=-1).amax(-1)[:, :, None, None]
    rounding = SCORES * torch.finfo(torch.float32).eps * inputs.scale
    found: torch.Tensor = rounding * longest * q.double().norm(dim=-1) + ABSOLUTE
    return found
