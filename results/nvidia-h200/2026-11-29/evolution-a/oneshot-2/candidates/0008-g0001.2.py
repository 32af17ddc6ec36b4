"""Attention in Triton for Hopper, one block of queries per program.

Each program holds BLOCK_M queries, walks over the keys BLOCK_N at a time and keeps a running maximum, a running sum and
an unnormalised output per query (online softmax), so the scores never leave the chip. What makes it fast:

- The walk is in two parts: blocks of keys that every row of the program sees whole, without any mask, then the few
  blocks on the diagonal or at the end of the keys, with masks. The first part also folds the scale into the exponent,
  one fused multiply-add per score.
- Blocks of 128 keys give wide matrix products and halve the rescaling of the output and the barriers per key.
- Keys and values that lie contiguous in whole blocks are fetched by the tensor memory accelerator, which takes the
  address arithmetic and its registers away from the warps. Other layouts and lengths go through pointers.
- The row blocks of a causal problem start with the longest, so that short ones fill the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

AVO = {"target": "sm90", "shapes": ["mha"]}

BLOCK_M = 128
BLOCK_N = 128
NUM_WARPS = 8
NUM_STAGES = 3

TUNABLES = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 3],
}

LOG2_E = 1.4426950408889634


@triton.jit
def walk(
    acc, row_max, row_sum, q, k_src, v_src, k_stride_s, v_stride_s,
    kv_row, rows, first, end, shift, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, USE_TMA: tl.constexpr,
):  # fmt: skip
    """Fold the keys from first (a multiple of BLOCK_N) to end into the running output, maximum and sum."""
    lanes = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, HEAD_DIM)
    if not USE_TMA:
        first_keys = (first + lanes)[:, None].to(tl.int64)
        k_ptrs = k_src + first_keys * k_stride_s + dims[None, :]
        v_ptrs = v_src + first_keys * v_stride_s + dims[None, :]
    for start in range(first, end, BLOCK_N):
        if USE_TMA:
            k = k_src.load([kv_row + start, 0])
        elif MASKED:
            k = tl.load(k_ptrs, mask=(start + lanes)[:, None] < seqlen_kv, other=0.0)
        else:
            k = tl.load(k_ptrs)
        scores = tl.dot(q, tl.trans(k))
        if MASKED:
            cols = start + lanes
            visible = cols[None, :] < seqlen_kv
            if CAUSAL:
                visible = visible & (cols[None, :] <= rows[:, None] + shift)
            scores = tl.where(visible, scores * scale_log2, float("-inf"))
            new_max = tl.maximum(row_max, tl.max(scores, 1))
            # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
            p = tl.exp2(scores - base[:, None])
        else:
            # The scale is not negative, so it can be applied after the maximum.
            new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
            base = new_max
            p = tl.exp2(scores * scale_log2 - base[:, None])
        rescale = tl.exp2(row_max - base)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        if USE_TMA:
            v = v_src.load([kv_row + start, 0])
        elif MASKED:
            v = tl.load(v_ptrs, mask=(start + lanes)[:, None] < seqlen_kv, other=0.0)
        else:
            v = tl.load(v_ptrs)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None])
        row_max = new_max
        if not USE_TMA:
            k_ptrs += BLOCK_N * k_stride_s
            v_ptrs += BLOCK_N * v_stride_s
    return acc, row_max, row_sum


@triton.jit
def attend(
    q_ptr, k_src, v_src, o_ptr,
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    o_stride_b, o_stride_h, o_stride_s,
    heads_q, heads_kv, group, seqlen_q, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, USE_TMA: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of the output of one query head. k_src and v_src are descriptors if USE_TMA, else pointers."""
    batch = tl.program_id(1) // heads_q
    head = tl.program_id(1) % heads_q
    head_kv = head // group
    # With descriptors, keys and values are matrices of batch * heads_kv * seqlen_kv rows.
    kv_row = (batch * heads_kv + head_kv) * seqlen_kv
    q_ptr += batch.to(tl.int64) * q_stride_b + head.to(tl.int64) * q_stride_h
    o_ptr += batch.to(tl.int64) * o_stride_b + head.to(tl.int64) * o_stride_h
    if not USE_TMA:
        k_src += batch.to(tl.int64) * k_stride_b + head_kv.to(tl.int64) * k_stride_h
        v_src += batch.to(tl.int64) * v_stride_b + head_kv.to(tl.int64) * v_stride_h

    block = tl.program_id(0)
    if CAUSAL:
        block = tl.num_programs(0) - 1 - block
    first_row = block * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_DIM)
    row_in_range = rows[:, None] < seqlen_q
    q = tl.load(q_ptr + rows[:, None].to(tl.int64) * q_stride_s + dims[None, :], mask=row_in_range, other=0.0)

    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    # Keys that the first row, and so every row, sees: those in whole blocks need no mask.
    seen_by_all = seqlen_kv
    if CAUSAL:
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)
        seen_by_all = tl.maximum(tl.minimum(seqlen_kv, first_row + shift + 1), 0)
    unmasked_end = seen_by_all // BLOCK_N * BLOCK_N

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    acc, row_max, row_sum = walk(
        acc, row_max, row_sum, q, k_src, v_src, k_stride_s, v_stride_s,
        kv_row, rows, 0, unmasked_end, shift, seqlen_kv, scale_log2,
        HEAD_DIM, BLOCK_N, CAUSAL, False, USE_TMA,
    )  # fmt: skip
    # Without a causal mask, whole blocks are all there is when descriptors are used.
    if CAUSAL or not USE_TMA:
        acc, row_max, row_sum = walk(
            acc, row_max, row_sum, q, k_src, v_src, k_stride_s, v_stride_s,
            kv_row, rows, unmasked_end, end, shift, seqlen_kv, scale_log2,
            HEAD_DIM, BLOCK_N, CAUSAL, True, USE_TMA,
        )  # fmt: skip

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
    if scale < 0:
        # The kernel takes the maximum before it scales, so the sign goes into the queries.
        q, scale = -q, -scale
    # The widest head leaves too few registers and too little shared memory for whole tiles.
    block_n = BLOCK_N if head_dim < 256 else BLOCK_N // 2
    stages = NUM_STAGES if head_dim < 256 else 2
    out = torch.empty_like(q)
    # Only whole blocks of keys: a block that reaches past its sequence would read the next head's keys.
    use_tma = (
        head_dim in (64, 128)
        and seqlen_kv > 0
        and seqlen_kv % block_n == 0
        and batch * heads_kv * seqlen_kv < 2**31
        and all(x.is_contiguous() and x.data_ptr() % 16 == 0 for x in (k, v))
    )
    if use_tma:
        k_src = TensorDescriptor.from_tensor(k.view(-1, head_dim), [block_n, head_dim])
        v_src = TensorDescriptor.from_tensor(v.view(-1, head_dim), [block_n, head_dim])
    else:
        k_src, v_src = k, v
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads_q)
    while True:
        try:
            attend[grid](
                q, k_src, v_src, out,
                *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
                heads_q, heads_kv, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
                HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=block_n, CAUSAL=causal, USE_TMA=use_tma,
                num_warps=NUM_WARPS, num_stages=stages,
            )  # fmt: skip
            return out
        except triton.OutOfResources:
            # Shared memory does not hold that many stages: nothing was launched, take one fewer.
            if stages == 1:
                raise
            stages -= 1
