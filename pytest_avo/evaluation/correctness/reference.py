"""The reference: attention by its definition, in float64, and the same in the inputs' own precision.

The second is what an honest plain torch computation reaches, the yardstick of the error that is allowed
(FlashAttention's own tests measure against the same two computations).
"""

from __future__ import annotations

import torch

from pytest_avo.evaluation.correctness.inputs import Inputs

SCORES_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Elements of the score matrix held at a time (128 MiB in float64 on a CPU), by kind of torch device."""


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float, first_row: int, seqlen_q: int
) -> torch.Tensor:
    """Attention of one key/value head: q (heads, rows, head_dim), k and v (seqlen_kv, head_dim), in their own dtype.

    The rows are those from `first_row` of `seqlen_q` queries; the causal mask is aligned bottom-right.
    Returns (heads, rows, head_dim); a row that sees no key is zero.
    """
    scores = _product(q * scale, k.transpose(-1, -2))
    if causal:
        rows = torch.arange(first_row, first_row + q.shape[-2], device=q.device)[:, None]
        visible = torch.arange(k.shape[-2], device=q.device)[None, :] <= rows + k.shape[-2] - seqlen_q
        scores = scores.masked_fill(~visible, float("-inf"))
        return _product(torch.nan_to_num(torch.softmax(scores, dim=-1)), v)
    return _product(torch.softmax(scores, dim=-1), v)


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The matrix product, in the dtype of both.

    Half precision on a CPU is summed in single precision and rounded once at the end. So does torch's own product, but
    twenty times as slowly on processors whose instructions for it torch does not use.
    """
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16):
        return (x.float() @ y.float()).to(x.dtype)
    return x @ y


def both_precisions(inputs: Inputs, *, batch: int, head_kv: int, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 reference and same-precision computation for all query heads of one key/value head, on some rows.

    Both are (group, rows, head_dim); the second is in the inputs' dtype.
    """
    group = inputs.q.shape[1] // inputs.k.shape[1]
    q = inputs.q[batch, head_kv * group : (head_kv + 1) * group, rows]
    k, v = inputs.k[batch, head_kv], inputs.v[batch, head_kv]
    step = max(1, SCORES_AT_ONCE[k.device.type] // (group * k.shape[0]))
    exact: list[torch.Tensor] = []
    plain: list[torch.Tensor] = []
    start = rows.indices(inputs.q.shape[2])[0]
    for offset in range(0, q.shape[1], step):
        chunk = q[:, offset : offset + step]
        for dtype, results in ((torch.float64, exact), (q.dtype, plain)):
            results.append(
                attention(
                    chunk.to(dtype),
                    k.to(dtype),
                    v.to(dtype),
                    causal=inputs.causal,
                    scale=inputs.scale,
                    first_row=start + offset,
                    seqlen_q=inputs.q.shape[2],
                )
            )
    return torch.cat(exact, dim=1), torch.cat(plain, dim=1)
