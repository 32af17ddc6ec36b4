"""Attention in plain Triton, one block of queries per program: the file an evolution on Hopper starts from.

Each program holds BLOCK_M queries, walks over the keys BLOCK_N at a time and keeps a running maximum, a running sum and
an unnormalised output per query (online softmax), so the scores never leave the chip. That and the tensor cores make it
fast beside three separate operations; the rest is left on the table on purpose. Loads go through pointers, every
block is masked whether it needs it or not, matrix products and softmax take turns instead of overlapping, and the
blocks of a causal problem start in the order that leaves the longest ones for the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

AVO = {"target": "sm90", "shapes": ["mha", "gqa", "hdim", "decode"]}

BLOCK_M = 128
BLOCK_N = 64
NUM_WARPS = 8
NUM_STAGES = 2

TUNABLES = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [32, 64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2, 3],
}

LOG2_E = 1.4426950408889634


@triton.jit
def attend(
    q_ptr, k_ptr, v_ptr, o_ptr,
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    o_stride_b, o_stride_h, o_stride_s,
    heads_q, group, seqlen_q, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of the output of one query head."""
    batch = (tl.program_id(1) // heads_q).to(tl.int64)
    head = (tl.program_id(1) % heads_q).to(tl.int64)
    q_ptr += batch * q_stride_b + head * q_stride_h
    k_ptr += batch * k_stride_b + head // group * k_stride_h
    v_ptr += batch * v_stride_b + head // group * v_stride_h
    o_ptr += batch * o_stride_b + head * o_stride_h

    first_row = tl.program_id(0) * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_DIM)
    row_in_range = rows[:, None] < seqlen_q
    q = tl.load(q_ptr + rows[:, None].to(tl.int64) * q_stride_s + dims[None, :], mask=row_in_range, other=0.0)

    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    if CAUSAL:
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    lanes = tl.arange(0, BLOCK_N)
    k_ptrs = k_ptr + lanes[:, None] * k_stride_s + dims[None, :]
    v_ptrs = v_ptr + lanes[:, None] * v_stride_s + dims[None, :]
    for start in range(0, end, BLOCK_N):
        cols = start + lanes
        in_range = cols[:, None] < seqlen_kv
        k = tl.load(k_ptrs, mask=in_range, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale_log2
        visible = cols[None, :] < seqlen_kv
        if CAUSAL:
            visible = visible & (cols[None, :] <= rows[:, None] + shift)
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(scores - base[:, None])
        rescale = tl.exp2(row_max - base)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        v = tl.load(v_ptrs, mask=in_range, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None])
        row_max = new_max
        k_ptrs += BLOCK_N * k_stride_s
        v_ptrs += BLOCK_N * v_stride_s

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else BLOCK_N // 2
    out = torch.empty_like(q)
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads_q)
    attend[grid](
        q, k, v, out,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=block_n, CAUSAL=causal,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return out
