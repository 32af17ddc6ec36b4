"""Attention in Triton for Hopper, one block of queries per program, fed by TMA.

Each program holds BLOCK_M queries, walks over the keys BLOCK_N at a time and keeps a running maximum, a running sum and
an unnormalised output per query (online softmax), so the scores never leave the chip. What makes it fast:

- Queries, keys and values arrive through tensor descriptors (TMA) over the tensors flattened to (rows, head_dim), so
  the warps compute no addresses and no load masks. A tile that runs past the end of a head reads rows of the next head
  (or zeros past the end of the tensor); those keys are masked and those query rows are not stored.
- The keys that every row of the block sees are walked without any mask; only the blocks on the diagonal and the ragged
  last block pay for one. Without a mask the scale folds into the multiply-add in front of the exponential.
- Blocks of 128 keys and three stages keep the loads far ahead, and let the product with the values run beside the
  next product of queries and keys.
- Causal blocks start with the longest first, over a section of heads whose keys and values stay in the L2 cache
  together, so that short blocks fill the end of the launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources
from triton.tools.tensor_descriptor import TensorDescriptor

AVO = {"target": "sm90", "shapes": ["mha"]}

BLOCK_M = 128
BLOCK_N = 128
NUM_WARPS = 8
NUM_STAGES = 3

TUNABLES = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [32, 64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 3],
}

LOG2_E = 1.4426950408889634
# Keys of all the heads of one causal section together: 16 MB of keys and values at head_dim 128.
SECTION_KEYS = 32768


@triton.jit
def walk(
    acc, row_sum, row_max, q, k_desc, v_desc, kv_base, begin, stop, last_visible, seqlen_kv, scale_log2,
    BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take the keys from begin to stop into the running softmax of the block."""
    for start in range(begin, stop, BLOCK_N):
        k = k_desc.load([kv_base + start, 0])
        scores = tl.dot(q, k.T)
        if MASKED:
            cols = start + tl.arange(0, BLOCK_N)
            visible = cols[None, :] < seqlen_kv
            if CAUSAL:
                visible = visible & (cols[None, :] <= last_visible[:, None])
            scores = tl.where(visible, scores * scale_log2, float("-inf"))
            new_max = tl.maximum(row_max, tl.max(scores, 1))
            # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
            p = tl.exp2(scores - base[:, None])
        else:
            new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
            base = new_max
            p = tl.exp2(scores * scale_log2 - base[:, None])
        rescale = tl.exp2(row_max - base)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        acc = acc * rescale[:, None]
        v = v_desc.load([kv_base + start, 0])
        acc = tl.dot(p.to(v.dtype), v, acc)
        row_max = new_max
    return acc, row_sum, row_max


@triton.jit
def attend(
    q_desc, k_desc, v_desc, o_ptr,
    heads_total, section_heads, num_blocks, group, seqlen_q, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of the output of one query head; heads are counted over the whole batch."""
    program = tl.program_id(0)
    section_programs = section_heads * num_blocks
    section = program // section_programs
    within = program % section_programs
    first_head = section * section_heads
    heads_here = tl.minimum(section_heads, heads_total - first_head)
    head = first_head + within % heads_here
    block = within // heads_here
    if CAUSAL:
        block = num_blocks - 1 - block

    first_row = block * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    q = q_desc.load([head * seqlen_q + first_row, 0])
    kv_base = (head // group) * seqlen_kv

    shift = seqlen_kv - seqlen_q
    last_visible = rows + shift
    end = seqlen_kv
    unmasked = seqlen_kv
    if CAUSAL:
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)
        unmasked = tl.maximum(tl.minimum(seqlen_kv, first_row + shift + 1), 0)
    unmasked = (unmasked // BLOCK_N) * BLOCK_N

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    acc, row_sum, row_max = walk(
        acc, row_sum, row_max, q, k_desc, v_desc, kv_base, 0, unmasked, last_visible, seqlen_kv, scale_log2,
        BLOCK_N, CAUSAL, False,
    )  # fmt: skip
    acc, row_sum, row_max = walk(
        acc, row_sum, row_max, q, k_desc, v_desc, kv_base, unmasked, end, last_visible, seqlen_kv, scale_log2,
        BLOCK_N, CAUSAL, True,
    )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    dims = tl.arange(0, HEAD_DIM)
    o_ptr += head.to(tl.int64) * seqlen_q * HEAD_DIM
    o_rows = rows[:, None].to(tl.int64) * HEAD_DIM
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=rows[:, None] < seqlen_q)


def describe(x: torch.Tensor, block_rows: int) -> TensorDescriptor:
    """Describe x, flattened to (rows, head_dim), for TMA; copy it first where its layout or alignment needs that."""
    x = x.contiguous()
    if x.data_ptr() % 16:
        x = x.clone()
    head_dim = x.shape[-1]
    return TensorDescriptor.from_tensor(x.view(-1, head_dim), [block_rows, head_dim])


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if q.numel() == 0 or k.numel() == 0:
        return out.zero_()
    # The unmasked walk scales the maximum instead of the scores, which needs a scale that keeps their order.
    if scale < 0:
        q, scale = -q, -scale
    # The widest head leaves too little shared memory and too few registers for wide blocks of keys.
    block_n = BLOCK_N if head_dim < 256 else min(BLOCK_N, 32)
    q_desc = describe(q, BLOCK_M)
    k_desc = describe(k, block_n)
    v_desc = describe(v, block_n)
    heads_total = batch * heads_q
    num_blocks = triton.cdiv(seqlen_q, BLOCK_M)
    section_heads = min(heads_total, max(1, SECTION_KEYS // seqlen_kv)) if causal else 1

    def launch(num_stages: int) -> None:
        attend[(num_blocks * heads_total,)](
            q_desc, k_desc, v_desc, out,
            heads_total, section_heads, num_blocks, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
            HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=block_n, CAUSAL=causal,
            num_warps=NUM_WARPS, num_stages=num_stages,
        )  # fmt: skip

    try:
        launch(NUM_STAGES)
    except OutOfResources:
        # Three stages at head_dim 128 take nearly all of the shared memory; two take 160 KB.
        launch(2)
    return out
