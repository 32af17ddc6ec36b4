"""Attention for Hopper: a Gluon kernel that overlaps softmax with the tensor cores, and a Triton kernel for the rest.

attend_tiles takes contiguous inputs with head_dim 128 whose lengths are multiples of TILE. Each program holds TILE
queries in shared memory and walks over the keys TILE at a time, from the last visible block to the first, with an
online softmax. It is fast because
- keys and values arrive by TMA, TILE_STAGES blocks ahead, so no registers and few instructions go into addresses;
- in each step the scores of the next block and the product of the present weights with their values are both put on
  the tensor cores before anything is awaited, so the softmax of the next block runs while that product is computed;
- only the block on the diagonal of a causal problem is masked, and as it comes first, the loop has no mask at all;
- the longest rows of blocks of a causal problem start first, so the short ones fill the end.

attend takes every other shape (lengths that no tile divides, other head sizes and strides, a scale that is not
positive). It loads through pointers and splits its loop into a part that needs no mask and a part that does. It also
takes over, with a warning, where the installed Triton cannot build attend_tiles.
"""

from __future__ import annotations

import warnings

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

AVO = {"target": "sm90", "shapes": ["mha"]}

TILE_STAGES = 2
BLOCK_M = 128
BLOCK_N = 128
NUM_WARPS = 8
NUM_STAGES = 2

TUNABLES = {
    "TILE_STAGES": [2, 3],
    "BLOCK_M": [64, 128],
    "BLOCK_N": [64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [2, 3],
}

LOG2_E = 1.4426950408889634
# Queries and keys of one block of attend_tiles: two warpgroups of 64 rows each.
TILE = 128
TILE_WARPS = 8

GLUON_TYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}
gluon_builds = True


@gluon.jit
def fetch(desc, row, ready, smem, BYTES: gl.constexpr, pred):
    """Start copying the block at row into smem; ready completes a phase when it has arrived."""
    mbarrier.expect(ready, BYTES, pred=pred)
    tma.async_copy_global_to_shared(desc, [row, 0], ready, smem, pred=pred)


@gluon.jit
def attend_tiles(
    q_desc, k_desc, v_desc, o_desc, group, seqlen_q, seqlen_kv, scale_log2,
    HEAD_DIM: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr, WARPS: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Write TILE rows of the output of one query head; all tensors are seen as rows of HEAD_DIM numbers."""
    # Scores and output are both TILE x 128 here and share one layout, so per-row factors need no conversion.
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, 128, 16]
    )
    weight_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=layout, k_width=2)
    BYTES: gl.constexpr = TILE * HEAD_DIM * 2

    block = gl.program_id(0)
    tiles = seqlen_kv // TILE
    if CAUSAL:
        block = gl.num_programs(0) - 1 - block
        tiles = block + 1 + (seqlen_kv - seqlen_q) // TILE
    head = gl.program_id(1)
    q_row = head * seqlen_q + block * TILE
    # Step t works on the block that starts at last_row - t * TILE.
    last_row = head // group * seqlen_kv + (tiles - 1) * TILE

    q_smem = gl.allocate_shared_memory(q_desc.dtype, [TILE, HEAD_DIM], q_desc.layout)
    k_smem = gl.allocate_shared_memory(k_desc.dtype, [STAGES, TILE, HEAD_DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(v_desc.dtype, [STAGES, TILE, HEAD_DIM], v_desc.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(i), count=1)
        mbarrier.init(v_ready.index(i), count=1)

    fetch(q_desc, q_row, q_ready, q_smem, BYTES, True)
    for i in gl.static_range(STAGES):
        fetch(k_desc, last_row - i * TILE, k_ready.index(i), k_smem.index(i), BYTES, i < tiles)
        fetch(v_desc, last_row - i * TILE, v_ready.index(i), v_smem.index(i), BYTES, i < tiles)

    # The last visible block, the only one that the causal mask cuts. Every row sees at least one key of it.
    mbarrier.wait(q_ready, 0)
    mbarrier.wait(k_ready.index(0), 0)
    no_scores = gl.zeros([TILE, TILE], gl.float32, layout)
    first_pending = warpgroup_mma(
        q_smem, k_smem.index(0).permute((1, 0)), no_scores, use_acc=False, is_async=True
    )
    first = warpgroup_mma_wait(num_outstanding=0, deps=(first_pending,))
    fetch(k_desc, last_row - STAGES * TILE, k_ready.index(0), k_smem.index(0), BYTES, STAGES < tiles)
    if CAUSAL:
        rows = gl.arange(0, TILE, layout=gl.SliceLayout(1, layout))
        cols = gl.arange(0, TILE, layout=gl.SliceLayout(0, layout))
        first = gl.where(cols[None, :] <= rows[:, None], first, float("-inf"))
    row_max = gl.max(first, 1)
    first_weights = gl.exp2(first * scale_log2 - (row_max * scale_log2)[:, None])
    row_sum = gl.sum(first_weights, 1)
    weights = gl.convert_layout(first_weights.to(v_desc.dtype), weight_layout)
    acc = gl.zeros([TILE, HEAD_DIM], gl.float32, layout)

    for t in range(1, tiles):
        k_slot = t % STAGES
        v_slot = (t - 1) % STAGES
        mbarrier.wait(k_ready.index(k_slot), (t // STAGES) & 1)
        scores_pending = warpgroup_mma(
            q_smem, k_smem.index(k_slot).permute((1, 0)), no_scores, use_acc=False, is_async=True
        )
        mbarrier.wait(v_ready.index(v_slot), ((t - 1) // STAGES) & 1)
        acc_pending = warpgroup_mma(weights, v_smem.index(v_slot), acc, is_async=True)

        # The scores are there, the product with the values is still being computed.
        scores = warpgroup_mma_wait(num_outstanding=1, deps=(scores_pending,))
        new_max = gl.maximum(row_max, gl.max(scores, 1))
        rescale = gl.exp2((row_max - new_max) * scale_log2)
        p = gl.exp2(scores * scale_log2 - (new_max * scale_log2)[:, None])
        row_sum = row_sum * rescale + gl.sum(p, 1)
        row_max = new_max
        next_weights = gl.convert_layout(p.to(v_desc.dtype), weight_layout)

        # Both products are done: refill the two slots that they read.
        acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc_pending,))
        k_next = t + STAGES
        v_next = t - 1 + STAGES
        fetch(k_desc, last_row - k_next * TILE, k_ready.index(k_slot), k_smem.index(k_slot), BYTES, k_next < tiles)
        fetch(v_desc, last_row - v_next * TILE, v_ready.index(v_slot), v_smem.index(v_slot), BYTES, v_next < tiles)
        acc = acc * rescale[:, None]
        weights = next_weights

    v_last = (tiles - 1) % STAGES
    mbarrier.wait(v_ready.index(v_last), ((tiles - 1) // STAGES) & 1)
    last_pending = warpgroup_mma(weights, v_smem.index(v_last), acc, is_async=True)
    total = warpgroup_mma_wait(num_outstanding=0, deps=(last_pending,))
    out = total * (1.0 / row_sum)[:, None]

    # The queries are no longer needed: their place takes the output on its way to memory.
    q_smem.store(out.to(o_desc.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(o_desc, [q_row, 0], q_smem)
    tma.store_wait(pendings=0)


@triton.jit
def walk(
    q, k_ptr, v_ptr, k_stride_s, v_stride_s, acc, row_max, row_sum, rows, shift, begin, end, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take the keys from begin to end into acc, row_max and row_sum."""
    dims = tl.arange(0, HEAD_DIM)
    lanes = tl.arange(0, BLOCK_N)
    first = tl.cast(begin, tl.int64)
    k_ptrs = k_ptr + first * k_stride_s + lanes[:, None] * k_stride_s + dims[None, :]
    v_ptrs = v_ptr + first * v_stride_s + lanes[:, None] * v_stride_s + dims[None, :]
    for start in range(begin, end, BLOCK_N):
        cols = start + lanes
        if MASKED:
            k = tl.load(k_ptrs, mask=cols[:, None] < seqlen_kv, other=0.0)
        else:
            k = tl.load(k_ptrs)
        scores = tl.dot(q, tl.trans(k)) * scale_log2
        if MASKED:
            visible = cols[None, :] < seqlen_kv
            if CAUSAL:
                visible = visible & (cols[None, :] <= rows[:, None] + shift)
            scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        base = new_max
        if MASKED:
            # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(scores - base[:, None])
        rescale = tl.exp2(row_max - base)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        if MASKED:
            v = tl.load(v_ptrs, mask=cols[:, None] < seqlen_kv, other=0.0)
        else:
            v = tl.load(v_ptrs)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None])
        row_max = new_max
        k_ptrs += BLOCK_N * k_stride_s
        v_ptrs += BLOCK_N * v_stride_s
    return acc, row_max, row_sum


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

    block = tl.program_id(0)
    if CAUSAL:
        block = tl.num_programs(0) - 1 - block
    first_row = block * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_DIM)
    row_in_range = rows[:, None] < seqlen_q
    q = tl.load(q_ptr + rows[:, None].to(tl.int64) * q_stride_s + dims[None, :], mask=row_in_range, other=0.0)

    # Keys before unmasked_end form whole blocks that every row of this program sees.
    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    unmasked_end = seqlen_kv // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)
        seen_by_all = tl.maximum(tl.minimum(seqlen_kv, first_row + shift + 1), 0)
        unmasked_end = seen_by_all // BLOCK_N * BLOCK_N

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    acc, row_max, row_sum = walk(
        q, k_ptr, v_ptr, k_stride_s, v_stride_s, acc, row_max, row_sum, rows, shift, 0, unmasked_end, seqlen_kv,
        scale_log2, HEAD_DIM, BLOCK_N, CAUSAL, False,
    )  # fmt: skip
    acc, row_max, row_sum = walk(
        q, k_ptr, v_ptr, k_stride_s, v_stride_s, acc, row_max, row_sum, rows, shift, unmasked_end, end, seqlen_kv,
        scale_log2, HEAD_DIM, BLOCK_N, CAUSAL, True,
    )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


def fits_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> bool:
    """Whether attend_tiles can take this call."""
    seqlen_q, seqlen_kv = q.shape[2], k.shape[2]
    return (
        q.shape[3] == 128
        and q.numel() > 0
        and seqlen_kv > 0
        and seqlen_q % TILE == 0
        and seqlen_kv % TILE == 0
        and (seqlen_kv >= seqlen_q or not causal)
        and scale > 0
        and all(t.dtype == q.dtype and t.is_contiguous() and t.data_ptr() % 16 == 0 for t in (q, k, v))
    )


def launch_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """Run attend_tiles on inputs that fit it."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    out = torch.empty((batch, heads_q, seqlen_q, head_dim), dtype=q.dtype, device=q.device)
    layout = gl.NVMMASharedLayout.get_default_for([TILE, head_dim], GLUON_TYPES[q.dtype])
    descs = [TensorDescriptor.from_tensor(t.view(-1, head_dim), [TILE, head_dim], layout) for t in (q, k, v, out)]
    attend_tiles[(seqlen_q // TILE, batch * heads_q)](
        *descs, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, TILE=TILE, STAGES=TILE_STAGES, WARPS=TILE_WARPS, CAUSAL=causal,
        num_warps=TILE_WARPS,
    )  # fmt: skip
    return out


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    global gluon_builds
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")

    if gluon_builds and fits_tiles(q, k, v, causal, scale):
        try:
            return launch_tiles(q, k, v, causal, scale)
        except Exception as error:
            gluon_builds = False
            warnings.warn(f"attend_tiles does not build here, attend takes over: {error}", stacklevel=2)

    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else 32
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
