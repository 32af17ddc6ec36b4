"""Attention in Triton: K and V by TMA, an unmasked main loop, the longest causal tiles first.

A program holds BLOCK_M queries of one head and walks over the keys BLOCK_N at a time with an online softmax. It is fast
because K and V arrive by the tensor memory accelerator (a tensor map per tensor, made on the host; no address arithmetic
and no masks on loads), several stages ahead of the tensor cores; because blocks that every row sees wholly are computed
without a mask, in a loop of their own; because scale and log2(e) are one factor inside the exponent; and because tiles
of a few heads at a time are started longest first, which keeps the device busy to the end and K and V in L2. Tensors
that a tensor map cannot describe (strides of zero, or no multiple of 16 bytes) are read through pointers instead.
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
    "BLOCK_N": [64, 128],
    "NUM_STAGES": [2, 3],
}

LOG2_E = 1.4426950408889634


@triton.jit
def load_block(source, stride, batch, head, start, seqlen, BLOCK_N: tl.constexpr, HEAD_DIM: tl.constexpr,
               USE_TMA: tl.constexpr):  # fmt: skip
    """Return BLOCK_N rows of K or V from row `start` on; rows past the end are zero."""
    if USE_TMA:
        return source.load([batch, head, start, 0]).reshape(BLOCK_N, HEAD_DIM)
    else:
        rows = start + tl.arange(0, BLOCK_N)
        dims = tl.arange(0, HEAD_DIM)
        pointers = source + rows[:, None].to(tl.int64) * stride + dims[None, :]
        return tl.load(pointers, mask=rows[:, None] < seqlen, other=0.0)


@triton.jit
def walk(
    q, k_source, v_source, k_stride_s, v_stride_s, batch, head_kv, rows, shift, end_full, end, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, USE_TMA: tl.constexpr,
    OPTIMISTIC: tl.constexpr,
):  # fmt: skip
    """Return unnormalised output and row sums; OPTIMISTIC keeps the maximum of the blocks that need a mask."""
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for start in range(end_full, end, BLOCK_N):
        k = load_block(k_source, k_stride_s, batch, head_kv, start, seqlen_kv, BLOCK_N, HEAD_DIM, USE_TMA)
        scores = tl.dot(q, tl.trans(k))
        cols = start + tl.arange(0, BLOCK_N)
        visible = cols[None, :] < seqlen_kv
        if CAUSAL:
            visible = visible & (cols[None, :] <= rows[:, None] + shift)
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
        # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(scores * scale_log2 - base[:, None])
        rescale = tl.exp2(row_max - base)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        acc = acc * rescale[:, None]
        v = load_block(v_source, v_stride_s, batch, head_kv, start, seqlen_kv, BLOCK_N, HEAD_DIM, USE_TMA)
        acc = tl.dot(p.to(v.dtype), v, acc)
        row_max = new_max
    for start in range(0, end_full, BLOCK_N):
        k = load_block(k_source, k_stride_s, batch, head_kv, start, seqlen_kv, BLOCK_N, HEAD_DIM, USE_TMA)
        scores = tl.dot(q, tl.trans(k))
        if OPTIMISTIC:
            p = tl.exp2(scores * scale_log2 - row_max[:, None])
            row_sum += tl.sum(p, 1)
        else:
            new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
            p = tl.exp2(scores * scale_log2 - new_max[:, None])
            rescale = tl.exp2(row_max - new_max)
            row_sum = row_sum * rescale + tl.sum(p, 1)
            acc = acc * rescale[:, None]
            row_max = new_max
        v = load_block(v_source, v_stride_s, batch, head_kv, start, seqlen_kv, BLOCK_N, HEAD_DIM, USE_TMA)
        acc = tl.dot(p.to(v.dtype), v, acc)
    return acc, row_sum


@triton.jit
def attend(
    q_ptr, k_source, v_source, o_ptr,
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    o_stride_b, o_stride_h, o_stride_s,
    heads, heads_q, group, heads_at_once, tiles, seqlen_q, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, USE_TMA: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of the output of one query head."""
    # A group of heads at a time; within it the last (longest) tiles of all its heads first.
    pid = tl.program_id(0)
    first_head = pid // (heads_at_once * tiles) * heads_at_once
    here = tl.minimum(heads - first_head, heads_at_once)
    item = pid % (heads_at_once * tiles)
    tile = tiles - 1 - item // here
    batch_head = first_head + item % here
    batch = batch_head // heads_q
    head = batch_head % heads_q
    q_ptr += batch.to(tl.int64) * q_stride_b + head.to(tl.int64) * q_stride_h
    o_ptr += batch.to(tl.int64) * o_stride_b + head.to(tl.int64) * o_stride_h
    head_kv = head // group
    if not USE_TMA:
        k_source += batch.to(tl.int64) * k_stride_b + head_kv.to(tl.int64) * k_stride_h
        v_source += batch.to(tl.int64) * v_stride_b + head_kv.to(tl.int64) * v_stride_h

    first_row = tile * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_DIM)
    row_in_range = rows[:, None] < seqlen_q
    q = tl.load(q_ptr + rows[:, None].to(tl.int64) * q_stride_s + dims[None, :], mask=row_in_range, other=0.0)

    # Keys [0, end_full) are visible to every row of the tile, keys [end_full, end) to some.
    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    end_full = seqlen_kv // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.maximum(0, tl.minimum(seqlen_kv, first_row + BLOCK_M + shift))
        end_full = tl.maximum(0, tl.minimum(seqlen_kv, first_row + shift + 1)) // BLOCK_N * BLOCK_N

    # A causal tile starts at its diagonal, any other with the last block, whole or not.
    if not CAUSAL:
        end_full = tl.maximum(0, (seqlen_kv - 1) // BLOCK_N * BLOCK_N)
    acc, row_sum = walk(
        q, k_source, v_source, k_stride_s, v_stride_s, batch, head_kv, rows, shift, end_full, end, seqlen_kv, scale_log2,
        HEAD_DIM, BLOCK_M, BLOCK_N, CAUSAL, USE_TMA, True,
    )  # fmt: skip
    # The product of zero and infinity or NaN is NaN; sums beyond 2^100 leave no room for the division.
    odd = tl.max((acc * 0.0 != 0.0).to(tl.int32), 1) | tl.where(row_sum < 1.2e30, 0, 1)
    if tl.max(odd, 0) > 0:
        acc, row_sum = walk(
            q, k_source, v_source, k_stride_s, v_stride_s, batch, head_kv, rows, shift, end_full, end, seqlen_kv, scale_log2,
            HEAD_DIM, BLOCK_M, BLOCK_N, CAUSAL, USE_TMA, False,
        )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


def fits_tma(x: torch.Tensor) -> bool:
    """Tell whether a tensor map can describe x: 16-byte aligned address and strides, none of them zero."""
    if x.data_ptr() % 16 or x.numel() == 0:
        return False
    unit = 16 // x.element_size()
    return all(size == 1 or (stride > 0 and stride % unit == 0) for size, stride in zip(x.shape[:3], x.stride()[:3]))


def tensor_map(x: torch.Tensor, rows: int) -> TensorDescriptor:
    """Describe x to the tensor memory accelerator, in boxes of `rows` rows of one head."""
    head_dim = x.shape[3]
    strides = [head_dim if size == 1 else stride for size, stride in zip(x.shape[:3], x.stride()[:3])]
    return TensorDescriptor(x, list(x.shape), [*strides, 1], [1, 1, rows, head_dim])


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else 32
    out = torch.empty_like(q)
    tiles = triton.cdiv(seqlen_q, BLOCK_M)
    heads = batch * heads_q
    # Enough heads at once to fill 132 multiprocessors, and as many as keep K and V within 8 MiB of L2.
    heads_at_once = max(132 // max(tiles, 1), 8 * 2**20 // max(4 * seqlen_kv * head_dim, 1), 1)
    use_tma = head_dim >= 64 and fits_tma(k) and fits_tma(v)
    attend[(tiles * heads,)](
        q, tensor_map(k, block_n) if use_tma else k, tensor_map(v, block_n) if use_tma else v, out,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads, heads_q, heads_q // heads_kv, heads_at_once, tiles, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=block_n, CAUSAL=causal, USE_TMA=use_tma,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return out
