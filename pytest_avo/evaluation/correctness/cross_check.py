"""Checks a slice's outputs against another kernel's on the same inputs: where they differ most, float64 decides.

A comparison looks at every element at the price of reading both. It says nothing of who is right, and two kernels may
differ by rounding alone: so places are only chosen by it, and judged as any other.

A kernel that is wrong nearly everywhere must not hide that by disturbing a few elements as far as it may. So there is a
place for each thing that limits hold: elements and the root mean square of a block, both of which count by the largest
value, which groups of usual inputs have in common; and one for the row that differs most by its own size. Groups of
unusual inputs, whose limits are others, have places of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from random import Random

import torch
from torch.nn.functional import avg_pool1d, scaled_dot_product_attention

from pytest_avo.evaluation.correctness.correctness import NOT_FINITE, all_finite, fault_in_block
from pytest_avo.evaluation.correctness.errors import BLOCK_ROWS
from pytest_avo.evaluation.correctness.inputs import Inputs

SMALL = 1e-3
"""Share of a slice's usual size to which a row of the other kernel counts as if it were as large."""


Group = tuple[int, int, int]
"""Call, batch entry and key/value head."""


def slice_fault(
    batch: Sequence[Inputs],
    out: torch.Tensor,
    other: torch.Tensor,
    *,
    groups: Collection[Group] = (),
    random: Random | None = None,
) -> str | None:
    """What is wrong where outputs differ most from another kernel's, or None.

    out, other: (calls, batch, heads_q, seqlen_q, head_dim). groups: those of unusual inputs. random: of the measures
    beside that by element draws one, enough for one of many slices.
    """
    if not all_finite(out):
        return NOT_FINITE
    heads_kv = batch[0].k.shape[1]
    for (call, entry, head_kv), row in suspects(out, other, heads_kv=heads_kv, groups=groups, random=random):
        if found := fault_in_block(batch[call], out[call], batch=entry, head_kv=head_kv, row=row):
            return found
    return None


def call_fault(inputs: Inputs, out: torch.Tensor) -> str | None:
    """`slice_fault` of a single call, in whatever layout, beside torch's own attention."""
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs.tensors)  # all of it takes the models'
    return slice_fault([inputs], out[None], plain_outputs([replace(inputs, q=q, k=k, v=v)]))


def suspects(
    out: torch.Tensor,
    other: torch.Tensor,
    *,
    heads_kv: int,
    groups: Collection[Group] = (),
    random: Random | None = None,
) -> list[tuple[Group, int]]:
    """Blocks to look at, each by its group and a row in it: among the usual groups, and in each of the others."""
    found: dict[tuple[Group, int], None] = {}
    # Differences of 16 bits tell where they are largest, in a fifth of the time that a GPU takes to convert all of both
    # first; only those of bfloat16 cannot overflow.
    apart = (out - other if out.dtype == torch.bfloat16 else out.float() - other.float()).abs_()
    others = [_by_own_size, _by_block] if out.shape[3] > 1 else [_by_own_size]
    for measured in (_by_element, *(others if random is None else [random.choice(others)])):
        measure, rows = measured(apart, other, heads_kv)
        highest, where = (x.cpu() for x in measure.max(-1))
        for group in groups:
            found[group, int(where[group]) * rows // BLOCK_ROWS * BLOCK_ROWS] = None
            highest[group] = -1
        place = int(highest.argmax())
        call, rest = divmod(place, highest[0].numel())
        entry, head_kv = divmod(rest, heads_kv)
        if float(highest.flatten()[place]) >= 0:
            found[(call, entry, head_kv), int(where.flatten()[place]) * rows // BLOCK_ROWS * BLOCK_ROWS] = None
    return list(found)


def _by_element(apart: torch.Tensor, other: torch.Tensor, heads_kv: int) -> tuple[torch.Tensor, int]:
    """How far rows are apart, (calls, batch, heads_kv, rows), and 1; where the other kernel has no number, nothing."""
    return _by_group(apart.amax(-1).float().nan_to_num(nan=0.0, posinf=0.0), heads_kv), 1


def _by_own_size(apart: torch.Tensor, other: torch.Tensor, heads_kv: int) -> tuple[torch.Tensor, int]:
    """The same relative to the rows' sizes; where the other kernel has no number, without end."""
    square, size = _mean_square(apart), _mean_square(other)
    # A row of zeros must neither hide the rest nor divide by zero.
    relative = square / (size + SMALL**2 * size.nanmean() + 1e-30)
    return _by_group(relative.nan_to_num(nan=torch.inf), heads_kv), 1


def _by_block(apart: torch.Tensor, other: torch.Tensor, heads_kv: int) -> tuple[torch.Tensor, int]:
    """How far whole blocks are apart, (calls, batch, heads_kv, blocks), and how many rows a block has."""
    square = _mean_square(apart).nan_to_num(nan=0.0, posinf=0.0)
    rows = square.shape[-1]
    blocks = avg_pool1d(square.reshape(-1, 1, rows), min(BLOCK_ROWS, rows), ceil_mode=True)
    return _by_group(blocks.reshape(*square.shape[:-1], -1), heads_kv), BLOCK_ROWS


def _mean_square(x: torch.Tensor) -> torch.Tensor:
    """Of every row, in single precision whatever the dtype."""
    norm: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
    return norm.square() / x.shape[-1]


def _by_group(measure: torch.Tensor, heads_kv: int) -> torch.Tensor:
    """The most of the query heads that share a key/value head."""
    calls, batch, heads_q, n = measure.shape
    return measure.reshape(calls, batch, heads_kv, heads_q // heads_kv, n).amax(3)


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
