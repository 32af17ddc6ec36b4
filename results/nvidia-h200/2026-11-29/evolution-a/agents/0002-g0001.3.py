"""Attention on Hopper in Gluon: two warpgroups that load for each other, no producer warp.

A program holds 128 queries of one head. Each of two warpgroups has 64 of them and walks over the keys from the last
visible block down, 128 at a time, at its own pace. It is fast because
- a warpgroup issues the score product of a block and the value product of the block before together; its softmax runs
  while its own value product and the other's products use the tensor cores;
- K and V arrive by TMA, three stages ahead. The first warpgroup starts the copies of K, the second those of V, each once
  the other has released the stage; no warp and no register is spent on a producer;
- probabilities go to the value product in registers, and the output never leaves them before the end;
- behind the blocks that need a mask no maximum is taken: the maximum of those first blocks serves for all, and rows are
  exact as long as nothing overflows. At the end of a tile sums and outputs tell; if anything did, the tile is computed
  again with the running maximum (never less exact: a maximum of keys seen so far cannot make anything underflow);
- scale and log2(e) are one factor inside the exponent, and rows are summed over threads once, at the end;
- tiles of a few heads at a time start longest first.
Other head dimensions, and tensors that a tensor map cannot describe, take a plain Triton kernel.
"""

from __future__ import annotations

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

BLOCK_M = 128
BLOCK_N = 128
STAGES = 3

TUNABLES = {
    "STAGES": [2, 3],
}

LOG2_E = 1.4426950408889634


@gluon.jit
def fetch(desc, batch, head, row, buffers, full, number, pred):
    """Start the copy of a block of keys or values, the number-th of this program, to its stage."""
    STAGES: gl.constexpr = buffers.shape[0]
    stage = number % STAGES
    mbarrier.expect(full.index(stage), desc.block_type.nbytes, pred=pred)
    tma.async_copy_global_to_shared(desc, [batch, head, row, 0], full.index(stage), buffers.index(stage), pred=pred)


@gluon.jit
def await_number(barriers, number, pred):
    """Wait until the number-th block has passed its stage's barrier."""
    STAGES: gl.constexpr = barriers.shape[0]
    mbarrier.wait(barriers.index(number % STAGES), number // STAGES & 1, pred=pred)


@gluon.jit
def tile_of(buffers, number, ROWS: gl.constexpr, D: gl.constexpr):
    """Return the stage of the number-th block as a matrix."""
    STAGES: gl.constexpr = buffers.shape[0]
    return buffers.index(number % STAGES).reshape([ROWS, D])


@gluon.jit
def hide(scores, rows, start, shift, seqlen_kv, CAUSAL: gl.constexpr, BLOCK_N: gl.constexpr):
    """Set the scores of invisible keys to -inf."""
    cols = start + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, scores.type.layout))
    last = gl.zeros_like(rows) + (seqlen_kv - 1)
    if CAUSAL:
        last = gl.minimum(last, rows + shift)
    return gl.where(gl.expand_dims(cols, 0) <= gl.expand_dims(last, 1), scores, float("-inf"))


@gluon.jit
def partial_sums(p, ROWS: gl.constexpr, BLOCK_N: gl.constexpr):
    """Sum each row over what one thread holds of it; four threads share a row."""
    return gl.sum(gl.sum(gl.reshape(p, [ROWS, BLOCK_N // 8, 4, 2]), 3), 1)


@gluon.jit
def times(x, row_factor):
    """Multiply each row of x by its factor."""
    return x * gl.expand_dims(gl.convert_layout(row_factor, gl.SliceLayout(1, x.type.layout)), 1)


@gluon.jit
def store(acc, sums, tile, o_ptr, first_row, o_stride_s, seqlen_q, ROWS: gl.constexpr, D: gl.constexpr):
    """Divide by the sums and write ROWS rows of output by way of shared memory."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    tile.store(times(acc, 1.0 / gl.where(sums == 0.0, 1.0, sums)).to(tile.dtype))
    rows = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, LAYOUT))
    cols = gl.arange(0, D, layout=gl.SliceLayout(0, LAYOUT))
    pointers = o_ptr + gl.expand_dims(rows.to(gl.int64) * o_stride_s, 1) + gl.expand_dims(cols, 0)
    gl.store(pointers, tile.load(LAYOUT), mask=gl.expand_dims(rows, 1) < seqlen_q)


@gluon.jit
def walk(
    k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, k_full, v_full, k_empty, v_empty, odd_tile,
    o_ptr, o_stride_s, batch, head_kv, first_row, shift, blocks, blocks_full, seqlen_q, seqlen_kv, scale_log2,
    WHICH: gl.constexpr, CAUSAL: gl.constexpr, BLOCK_N: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    """Compute and write the 64 rows of warpgroup WHICH over blocks blocks - 1 .. 0, numbered 0 .. blocks - 1."""
    STAGES: gl.constexpr = k_tiles.shape[0]
    ROWS: gl.constexpr = 64
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O_LAYOUT, k_width=2)
    dtype: gl.constexpr = k_desc.dtype
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, S_LAYOUT)
    acc = gl.zeros([ROWS, D], gl.float32, O_LAYOUT)
    last_row = (blocks - 1) * BLOCK_N
    rows = first_row + WHICH * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, S_LAYOUT))
    q_tile = q_tiles.index(WHICH).reshape([ROWS, D])

    mbarrier.wait(q_full.index(WHICH), 0)
    await_number(k_full, 0, True)
    scores = warpgroup_mma(
        q_tile, tile_of(k_tiles, 0, BLOCK_N, D).permute((1, 0)), zeros, use_acc=False, is_async=True
    )
    scores = warpgroup_mma_wait(0, [scores])
    if WHICH == 1:
        mbarrier.arrive(k_empty.index(0), count=1)
    scores = hide(scores, rows, last_row, shift, seqlen_kv, CAUSAL, BLOCK_N)
    row_max = gl.max(scores, 1) * scale_log2
    # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
    base = gl.where(row_max == float("-inf"), 0.0, row_max)
    probs = gl.exp2(scores * scale_log2 - gl.expand_dims(base, 1))
    sums = partial_sums(probs, ROWS, BLOCK_N)
    p = gl.convert_layout(probs.to(dtype), P_LAYOUT)
    await_number(k_full, 1, 1 < blocks)

    masked = gl.maximum(blocks - blocks_full, 1)
    for i in range(1, masked):
        scores = warpgroup_mma(
            q_tile, tile_of(k_tiles, i, BLOCK_N, D).permute((1, 0)), zeros, use_acc=False, is_async=True
        )
        await_number(v_full, i - 1, True)
        acc = warpgroup_mma(p, tile_of(v_tiles, i - 1, BLOCK_N, D), acc, is_async=True)
        if WHICH == 0:
            more = i + STAGES - 1 < blocks
            await_number(k_empty, i - 1, more)
            fetch(k_desc, batch, head_kv, last_row - (i + STAGES - 1) * BLOCK_N, k_tiles, k_full, i + STAGES - 1, more)
        else:
            more = (i > 1) & (i + STAGES - 2 < blocks)
            await_number(v_empty, i - 2, more)
            fetch(v_desc, batch, head_kv, last_row - (i + STAGES - 2) * BLOCK_N, v_tiles, v_full, i + STAGES - 2, more)
        scores = warpgroup_mma_wait(1, [scores])
        if WHICH == 1:
            mbarrier.arrive(k_empty.index(i % STAGES), count=1)
        scores = hide(scores, rows, last_row - i * BLOCK_N, shift, seqlen_kv, CAUSAL, BLOCK_N)
        new_max = gl.maximum(row_max, gl.max(scores, 1) * scale_log2)
        base = gl.where(new_max == float("-inf"), 0.0, new_max)
        probs = gl.exp2(scores * scale_log2 - gl.expand_dims(base, 1))
        rescale = gl.exp2(row_max - base)
        row_max = new_max
        sums = times(sums, rescale) + partial_sums(probs, ROWS, BLOCK_N)
        await_number(k_full, i + 1, i + 1 < blocks)
        acc = warpgroup_mma_wait(0, [acc])
        if WHICH == 0:
            mbarrier.arrive(v_empty.index((i - 1) % STAGES), count=1)
        acc = times(acc, rescale)
        p = gl.convert_layout(probs.to(dtype), P_LAYOUT)

    for i in range(masked, blocks):
        scores = warpgroup_mma(
            q_tile, tile_of(k_tiles, i, BLOCK_N, D).permute((1, 0)), zeros, use_acc=False, is_async=True
        )
        await_number(v_full, i - 1, True)
        acc = warpgroup_mma(p, tile_of(v_tiles, i - 1, BLOCK_N, D), acc, is_async=True)
        if WHICH == 0:
            more = i + STAGES - 1 < blocks
            await_number(k_empty, i - 1, more)
            fetch(k_desc, batch, head_kv, last_row - (i + STAGES - 1) * BLOCK_N, k_tiles, k_full, i + STAGES - 1, more)
        else:
            more = (i > 1) & (i + STAGES - 2 < blocks)
            await_number(v_empty, i - 2, more)
            fetch(v_desc, batch, head_kv, last_row - (i + STAGES - 2) * BLOCK_N, v_tiles, v_full, i + STAGES - 2, more)
        scores = warpgroup_mma_wait(1, [scores])
        if WHICH == 1:
            mbarrier.arrive(k_empty.index(i % STAGES), count=1)
        probs = gl.exp2(scores * scale_log2 - gl.expand_dims(row_max, 1))
        sums += partial_sums(probs, ROWS, BLOCK_N)
        # The wait for the next keys keeps the compiler from waiting for the value product before the exponentials.
        await_number(k_full, i + 1, i + 1 < blocks)
        acc = warpgroup_mma_wait(0, [acc])
        if WHICH == 0:
            mbarrier.arrive(v_empty.index((i - 1) % STAGES), count=1)
        p = gl.convert_layout(probs.to(dtype), P_LAYOUT)

    await_number(v_full, blocks - 1, True)
    acc = warpgroup_mma(p, tile_of(v_tiles, blocks - 1, BLOCK_N, D), acc, is_async=True)
    acc = warpgroup_mma_wait(0, [acc])
    row_sums = gl.convert_layout(gl.sum(sums, 1), gl.SliceLayout(1, O_LAYOUT))
    # The product of zero and infinity or NaN is NaN; sums beyond 2^100 leave no room for the division.
    odd = gl.max((acc * 0.0 != 0.0).to(gl.int32), 1) | gl.where(row_sums < 1.2e30, 0, 1)
    odd_tile.index(WHICH).store(odd)
    store(acc, row_sums, q_tile, o_ptr, first_row + WHICH * ROWS, o_stride_s, seqlen_q, ROWS, D)


@gluon.jit
def walk_again(
    q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, k_full, v_full,
    o_ptr, o_stride_s, batch, head, head_kv, first_row, shift, blocks, seqlen_q, seqlen_kv, scale_log2,
    WHICH: gl.constexpr, CAUSAL: gl.constexpr, BLOCK_N: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    """Compute and write the 64 rows of one warpgroup with a running maximum, one operation after the other."""
    ROWS: gl.constexpr = 64
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O_LAYOUT, k_width=2)
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, S_LAYOUT)
    acc = gl.zeros([ROWS, D], gl.float32, O_LAYOUT)
    rows = first_row + WHICH * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, S_LAYOUT))
    row_max = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, S_LAYOUT))
    sums = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, S_LAYOUT))
    q_tile = q_tiles.index(WHICH).reshape([ROWS, D])
    # The tile held output: order these writes before the copy's.
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.expect(q_full.index(WHICH), q_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(
        q_desc, [batch, head, first_row + WHICH * ROWS, 0], q_full.index(WHICH), q_tiles.index(WHICH)
    )
    mbarrier.wait(q_full.index(WHICH), 1)
    for i in range(blocks):
        # Numbers go on behind those of the first walk, and of the other half.
        number = blocks * (1 + WHICH) + i
        start = (blocks - 1 - i) * BLOCK_N
        gl.thread_barrier()
        fetch(k_desc, batch, head_kv, start, k_tiles, k_full, number, True)
        fetch(v_desc, batch, head_kv, start, v_tiles, v_full, number, True)
        await_number(k_full, number, True)
        await_number(v_full, number, True)
        scores = warpgroup_mma(
            q_tile, tile_of(k_tiles, number, BLOCK_N, D).permute((1, 0)), zeros, use_acc=False, is_async=True
        )
        scores = warpgroup_mma_wait(0, [scores])
        scores = hide(scores, rows, start, shift, seqlen_kv, CAUSAL, BLOCK_N)
        new_max = gl.maximum(row_max, gl.max(scores, 1) * scale_log2)
        base = gl.where(new_max == float("-inf"), 0.0, new_max)
        probs = gl.exp2(scores * scale_log2 - gl.expand_dims(base, 1))
        rescale = gl.exp2(row_max - base)
        row_max = new_max
        sums = sums * rescale + gl.sum(probs, 1)
        acc = times(acc, rescale)
        p = gl.convert_layout(probs.to(k_desc.dtype), P_LAYOUT)
        acc = warpgroup_mma(p, tile_of(v_tiles, number, BLOCK_N, D), acc, is_async=True)
        acc = warpgroup_mma_wait(0, [acc])
    row_sums = gl.convert_layout(sums, gl.SliceLayout(1, O_LAYOUT))
    store(acc, row_sums, q_tile, o_ptr, first_row + WHICH * ROWS, o_stride_s, seqlen_q, ROWS, D)


@gluon.jit
def attend_tma(
    q_desc, k_desc, v_desc, o_ptr, o_stride_b, o_stride_h, o_stride_s,
    heads, heads_q, group, heads_at_once, tiles, seqlen_q, seqlen_kv, scale_log2,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of the output of one query head."""
    dtype: gl.constexpr = q_desc.dtype
    ROWS: gl.constexpr = BLOCK_M // 2
    FLAGS: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])

    # A group of heads at a time; within it the last (longest) tiles of all its heads first.
    pid = gl.program_id(0)
    first_head = pid // (heads_at_once * tiles) * heads_at_once
    here = gl.minimum(heads - first_head, heads_at_once)
    item = pid % (heads_at_once * tiles)
    tile = tiles - 1 - item // here
    batch_head = first_head + item % here
    batch = batch_head // heads_q
    head = batch_head % heads_q
    head_kv = head // group
    first_row = tile * BLOCK_M
    o_ptr += batch.to(gl.int64) * o_stride_b + head.to(gl.int64) * o_stride_h

    # Blocks [0, blocks_full) are visible to every row of the tile, blocks [blocks_full, blocks) to some.
    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    end_full = seqlen_kv
    if CAUSAL:
        end = gl.maximum(0, gl.minimum(seqlen_kv, first_row + BLOCK_M + shift))
        end_full = gl.maximum(0, gl.minimum(seqlen_kv, first_row + shift + 1))
    # A tile that sees no key walks over one block of which everything is hidden.
    blocks = gl.maximum((end + BLOCK_N - 1) // BLOCK_N, 1)
    blocks_full = end_full // BLOCK_N

    q_tiles = gl.allocate_shared_memory(dtype, [2, 1, 1, ROWS, D], q_desc.layout)
    k_tiles = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, D], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, D], v_desc.layout)
    odd_tile = gl.allocate_shared_memory(gl.int32, [2, ROWS], FLAGS)
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(q_full.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=1)
        mbarrier.init(v_empty.index(i), count=1)
    fence_async_shared()
    gl.thread_barrier()

    for i in gl.static_range(2):
        mbarrier.expect(q_full.index(i), q_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(
            q_desc, [batch, head, first_row + i * ROWS, 0], q_full.index(i), q_tiles.index(i)
        )
        if i == 0:
            fetch(k_desc, batch, head_kv, (blocks - 1) * BLOCK_N, k_tiles, k_full, 0, True)
    for i in gl.static_range(STAGES):
        start = (blocks - 1 - i) * BLOCK_N
        if i > 0:
            fetch(k_desc, batch, head_kv, start, k_tiles, k_full, i, i < blocks)
        fetch(v_desc, batch, head_kv, start, v_tiles, v_full, i, i < blocks)

    gl.warp_specialize(
        [
            (walk, (
                k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, k_full, v_full, k_empty, v_empty, odd_tile,
                o_ptr, o_stride_s, batch, head_kv, first_row, shift, blocks, blocks_full, seqlen_q, seqlen_kv,
                scale_log2, 0, CAUSAL, BLOCK_N, D,
            )),
            (walk, (
                k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, k_full, v_full, k_empty, v_empty, odd_tile,
                o_ptr, o_stride_s, batch, head_kv, first_row, shift, blocks, blocks_full, seqlen_q, seqlen_kv,
                scale_log2, 1, CAUSAL, BLOCK_N, D,
            )),
        ],
        [4],
        [240],
    )  # fmt: skip

    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    odd = gl.max(odd_tile.index(0).load(ONE) | odd_tile.index(1).load(ONE), 0)
    if odd > 0:
        walk_again(
            q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, k_full, v_full, o_ptr, o_stride_s, batch, head,
            head_kv, first_row, shift, blocks, seqlen_q, seqlen_kv, scale_log2, 0, CAUSAL, BLOCK_N, D,
        )  # fmt: skip
        walk_again(
            q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, k_full, v_full, o_ptr, o_stride_s, batch, head,
            head_kv, first_row, shift, blocks, seqlen_q, seqlen_kv, scale_log2, 1, CAUSAL, BLOCK_N, D,
        )  # fmt: skip


@triton.jit
def attend_any(
    q_ptr, k_ptr, v_ptr, o_ptr,
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    o_stride_b, o_stride_h, o_stride_s,
    heads_q, group, seqlen_q, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of the output of one query head, with loads through pointers."""
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
    for start in range(0, end, BLOCK_N):
        cols = start + lanes
        in_range = cols[:, None] < seqlen_kv
        offsets = cols[:, None].to(tl.int64)
        k = tl.load(k_ptr + offsets * k_stride_s + dims[None, :], mask=in_range, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale_log2
        visible = cols[None, :] < seqlen_kv
        if CAUSAL:
            visible = visible & (cols[None, :] <= rows[:, None] + shift)
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(scores - base[:, None])
        rescale = tl.exp2(row_max - base)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        v = tl.load(v_ptr + offsets * v_stride_s + dims[None, :], mask=in_range, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None])
        row_max = new_max
    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


LAYOUTS = {
    torch.float16: gl.NVMMASharedLayout.get_default_for([1, 1, 128, 128], gl.float16),
    torch.bfloat16: gl.NVMMASharedLayout.get_default_for([1, 1, 128, 128], gl.bfloat16),
}


def fits_tma(x: torch.Tensor) -> bool:
    """Tell whether a tensor map can describe x: 16-byte aligned address and strides, none of them zero."""
    if x.data_ptr() % 16 or x.numel() == 0:
        return False
    return all(size == 1 or (stride > 0 and stride % 8 == 0) for size, stride in zip(x.shape[:3], x.stride()[:3]))


def tensor_map(x: torch.Tensor, rows: int) -> TensorDescriptor:
    """Describe x to the tensor memory accelerator, in boxes of `rows` rows of one head."""
    head_dim = x.shape[3]
    strides = [head_dim if size == 1 else stride for size, stride in zip(x.shape[:3], x.stride()[:3])]
    return TensorDescriptor(x, list(x.shape), [*strides, 1], [1, 1, rows, head_dim], LAYOUTS[x.dtype])


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    out = torch.empty_like(q)
    tiles = triton.cdiv(seqlen_q, BLOCK_M)
    heads = batch * heads_q
    if head_dim == 128 and fits_tma(q) and fits_tma(k) and fits_tma(v):
        # Enough heads at once to fill 132 multiprocessors, and as many as keep K and V within 8 MiB of L2.
        heads_at_once = max(132 // tiles, 8 * 2**20 // (4 * seqlen_kv * head_dim), 1)
        attend_tma[(tiles * heads,)](
            tensor_map(q, BLOCK_M // 2), tensor_map(k, BLOCK_N), tensor_map(v, BLOCK_N), out, *out.stride()[:3],
            heads, heads_q, heads_q // heads_kv, heads_at_once, tiles, seqlen_q, seqlen_kv, scale * LOG2_E,
            BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, D=head_dim, STAGES=STAGES, CAUSAL=causal,
            num_warps=4,
        )  # fmt: skip
    else:
        attend_any[(tiles, heads)](
            q, k, v, out, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
            HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=64 if head_dim < 256 else 32, CAUSAL=causal, num_warps=8,
            num_stages=2,
        )  # fmt: skip
    return out
