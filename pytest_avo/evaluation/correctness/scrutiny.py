"""Outputs of a slice beside those of another kernel on the same inputs: where they differ most, float64 decides.

A comparison looks at every element at the price of reading both. It says nothing of who is right, and two kernels may
differ by rounding alone: so the place is only chosen by it, and judged as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_avo.evaluation.correctness.correctness import NOT_FINITE, fault_near
from pytest_avo.evaluation.correctness.inputs import Inputs

SMALL = 1e-3
"""Share of a slice's usual size to which a row of the other kernel counts as if it were as large."""


Group = tuple[int, int, int]
"""Call, batch entry and key/value head."""


def slice_fault(
    batch: Sequence[Inputs], out: torch.Tensor, other: torch.Tensor, *, groups: Iterable[Group] = ()
) -> str | None:
    """What is wrong where outputs differ most from another kernel's, in the whole slice and in some groups, or None.

    out, other: (calls, batch, heads_q, seqlen_q, head_dim).
    """
    if not bool(torch.isfinite(out).all()):
        return NOT_FINITE
    share, row = differences(out, other, heads_kv=batch[0].k.shape[1])
    entries, heads = share.shape[1:]
    call, rest = divmod(int(share.argmax()), entries * heads)
    rows = row.tolist()
    for at, entry, head_kv in ((call, *divmod(rest, heads)), *groups):
        found = fault_near(batch[at], out[at], batch=entry, head_kv=head_kv, row=rows[at][entry][head_kv])
        if found:
            return found
    return None


def differences(out: torch.Tensor, other: torch.Tensor, *, heads_kv: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By group how far outputs are apart, relative to their size, and in which row: both (calls, batch, heads_kv)."""
    size = other.float().square().mean(-1)
    difference = (out.float() - other.float()).square().mean(-1)
    # A row of zeros, and what the other kernel got wrong (a NaN, say), must neither hide the rest nor divide by zero.
    share = (difference / (size + SMALL**2 * size.nanmean() + 1e-30)).nan_to_num(nan=torch.inf)
    by_row = share.reshape(*share.shape[:2], heads_kv, -1, share.shape[-1]).amax(3)
    worst: tuple[torch.Tensor, torch.Tensor] = by_row.max(-1)
    return worst[0], worst[1]


def plain_outputs(batch: Sequence[Inputs]) -> torch.Tensor:
    """What torch's own attention makes of the inputs, in the judge's process; as `other` of `slice_fault`."""
    found = []
    for inputs in batch:
        q, k, v = inputs.tensors
        rows, keys, grouped = q.shape[2], k.shape[2], q.shape[1] != k.shape[1]
        hidden = torch.ones(rows, keys, dtype=torch.bool, device=q.device) if inputs.causal and rows != keys else None
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if hidden is None else hidden.tril(keys - rows),
            is_causal=inputs.causal and hidden is None,
            scale=inputs.scale,
            enable_gqa=grouped,
        )
        if inputs.causal and rows > keys:
            out[:, :, : rows - keys] = 0
        found.append(out)
    return torch.stack(found)
