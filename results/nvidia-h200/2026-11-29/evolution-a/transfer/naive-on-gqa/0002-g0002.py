"""Grouped-query attention for Hopper in Gluon: a persistent grid, one producer warp (TMA) and two consumer warpgroups (wgmma).

Each multiprocessor runs one block for the whole call. Its tiles are 128 rows of one query head, 64 for each consumer; the
producer keeps two stages of 128 keys and values and two buffers of queries filled, so the next tile's first blocks arrive
while this one ends. A consumer issues the score product of a block together with the value product of the block before,
and computes the exponentials of the one while the other runs; consumers take turns in issuing. The producer tells them in
shared memory what a tile is. Keys are walked from the last visible block downwards, so only the first block of a tile needs a
mask (lengths that no block divides have a second, masked loop).

Only that first block (and masked ones) take the row maximum. The steady loop keeps the maximum of earlier blocks, and the
sums of a thread, needed anyway, tell if that was too bold: then its warp takes the true maximum, rescales and computes the
block again. So neither maxima nor shuffles nor the rescaling of the output are in the loop, and the result stays exact.

Tiles are drawn from a counter as multiprocessors become free; a causal problem hands them out longest first within
sections of heads whose keys and values fit the L2. Without a mask, tiles of a last, short round are cut into pieces of their
keys, which a second kernel adds up. What depends on shapes and strides alone is prepared by their first call: later ones
describe their tensors and call the compiled kernels' launchers.
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

AVO = {"target": "sm90", "shapes": ["gqa"]}

STAGES = 2
OPTIMISTIC = True
PINGPONG = True
SECTION_MIB = 8
DEFER_STORE = True

TUNABLES = {
    "OPTIMISTIC": [False, True],
    "PINGPONG": [False, True],
    "SECTION_MIB": [4, 8, 16],
    "DEFER_STORE": [False, True],
}

LOG2_E = 1.4426950408889634
ROWS = 64
MERGE_ROWS = 4
KEYS = 128
HEAD_DIM = 128


@gluon.jit
def locate(
    item, tiles, heads_q, section, seqlen_q, seqlen_kv, whole, pieces,
    CAUSAL: gl.constexpr, KEYS: gl.constexpr, SPLIT: gl.constexpr,
):  # fmt: skip
    """Return batch, head, first row, first key block and number of key blocks of a tile or of a piece of one."""
    low = 0
    if SPLIT:
        piece = gl.maximum(item - whole, 0)
        item = gl.minimum(item, whole) + piece // pieces
    if CAUSAL:
        per_section = section * tiles
        rest = item % per_section
        tile = tiles - 1 - rest // section
        row = item // per_section * section + rest % section
    else:
        tile = item % tiles
        row = item // tiles
    first = tile * 128
    end = seqlen_kv
    if CAUSAL:
        end = gl.minimum(seqlen_kv, first + 128 + seqlen_kv - seqlen_q)
    blocks = gl.maximum((gl.maximum(end, 0) + KEYS - 1) // KEYS, 1)
    if SPLIT:
        if item >= whole:
            low = blocks * (piece % pieces) // pieces
            blocks = blocks * (piece % pieces + 1) // pieces - low
    return row // heads_q, row % heads_q, first, low, blocks


@gluon.jit
def tell(values, item_smem, buf):
    """Write what the consumers must know of a tile."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    for i in gl.static_range(len(values)):
        item_smem.index(buf * 8 + i).store(gl.full([1], 0, gl.int32, layout) + values[i])
    gl.thread_barrier()


@gluon.jit
def hear(item_smem, at):
    """Read one number of the tile whose queries have arrived."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    return gl.max(item_smem.index(at).load(layout), 0)


@gluon.jit
def produce(
    q_desc, k_desc, v_desc, counter, q_smem, k_smem, v_smem, item_smem, q_full, q_empty, k_full, k_empty, v_full,
    v_empty, tiles, items, heads_q, group, section, seqlen_q, seqlen_kv, whole, pieces,
    SPLIT: gl.constexpr, CAUSAL: gl.constexpr, STAGES: gl.constexpr, QBUFS: gl.constexpr, DRAW: gl.constexpr, SHARE: gl.constexpr,
):  # fmt: skip
    """Draw tiles and load their queries, keys and values."""
    KEYS: gl.constexpr = k_smem.shape[1]
    block = 0
    k = 0
    item = gl.program_id(0)
    while item < items:
        batch, head, first, low, blocks = locate(
            item, tiles, heads_q, section, seqlen_q, seqlen_kv, whole, pieces, CAUSAL, KEYS, SPLIT
        )
        kv_head = head // group
        buf = k & (QBUFS - 1)
        mbarrier.wait(q_empty.index(buf * 2), (((k >> (QBUFS // 2)) & 1)) ^ 1)
        mbarrier.wait(q_empty.index(buf * 2 + 1), (((k >> (QBUFS // 2)) & 1)) ^ 1)
        tell((item, batch, head, first, low, blocks), item_smem, buf)
        for half in gl.static_range(2):
            mbarrier.expect(q_full.index(buf * 2 + half), 64 * 128 * 2)
            tma.async_copy_global_to_shared(
                q_desc, [batch, head, first + half * 64, 0], q_full.index(buf * 2 + half), q_smem.index(buf * 2 + half)
            )
        # The counter wraps to zero with the last draw of a call; the answer arrives while blocks are loaded.
        drawn = gl.inline_asm_elementwise(
            DRAW, "=&r,l,r", [counter.to(gl.int64), items - 1], dtype=gl.int32, is_pure=False, pack=1
        )
        for i in range(blocks):
            start = (low + blocks - 1 - i) * KEYS
            stage = block & (STAGES - 1)
            phase = (((block >> (STAGES // 2)) & 1)) ^ 1
            mbarrier.wait(k_empty.index(stage), phase)
            mbarrier.expect(k_full.index(stage), KEYS * 128 * 2)
            tma.async_copy_global_to_shared(
                k_desc, [batch, kv_head, start, 0], k_full.index(stage), k_smem.index(stage)
            )
            mbarrier.wait(v_empty.index(stage), phase)
            mbarrier.expect(v_full.index(stage), KEYS * 128 * 2)
            tma.async_copy_global_to_shared(
                v_desc, [batch, kv_head, start, 0], v_full.index(stage), v_smem.index(stage)
            )
            block += 1
        k += 1
        item = gl.num_programs(0) + gl.inline_asm_elementwise(
            SHARE, "=r,r", [drawn], dtype=gl.int32, is_pure=False, pack=1
        )
    buf = k & (QBUFS - 1)
    mbarrier.wait(q_empty.index(buf * 2), (((k >> (QBUFS // 2)) & 1)) ^ 1)
    mbarrier.wait(q_empty.index(buf * 2 + 1), (((k >> (QBUFS // 2)) & 1)) ^ 1)
    tell((item,), item_smem, buf)
    mbarrier.arrive(q_full.index(buf * 2), count=1)
    mbarrier.arrive(q_full.index(buf * 2 + 1), count=1)


@gluon.jit
def thread_sums(p, KEYS: gl.constexpr):
    """Sum each row over the columns that a thread holds: four sums a row, no exchange between threads."""
    return gl.sum(gl.sum(gl.reshape(p, [64, KEYS // 8, 4, 2]), 3), 1)


@gluon.jit
def mask_scores(s, start, first, seqlen_q, seqlen_kv, CAUSAL: gl.constexpr, KEYS: gl.constexpr, S: gl.constexpr):
    """Set scores of keys that a row does not see to -inf."""
    cols = start + gl.arange(0, KEYS, gl.SliceLayout(0, S))
    visible = (cols < seqlen_kv)[None, :]
    if CAUSAL:
        rows = first + gl.arange(0, 64, gl.SliceLayout(1, S)) + (seqlen_kv - seqlen_q)
        visible = visible & (cols[None, :] <= rows[:, None])
    return gl.where(visible, s, float("-inf"))


@gluon.jit
def mask_diagonal(s, first_col, KEYS: gl.constexpr, S: gl.constexpr):
    """Set scores above the diagonal to -inf, where row r sees the columns up to r - first_col.

    Columns are 8 a + 2 b + c with b the lane's place in its quad: compared as 8 a + c, known to the compiler, with what is
    left of the row's limit.
    """
    x = gl.reshape(s, [64, KEYS // 8, 4, 2])
    X: gl.constexpr = x.type.layout
    a = gl.arange(0, KEYS // 8, gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, X))))[None, :, None, None]
    b = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, X))))[None, None, :, None]
    c = gl.arange(0, 2, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, X))))[None, None, None, :]
    r = gl.arange(0, 64, gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, X))))[:, None, None, None]
    x = gl.where(8 * a + c <= r - first_col - 2 * b, x, float("-inf"))
    return gl.convert_layout(gl.reshape(x, [64, KEYS]), S, assert_trivial=True)


@gluon.jit
def leave(o_desc, q, out, batch, head, first):
    """Send the output through this consumer's half of the queries, which are read no more."""
    q.store(out)
    fence_async_shared()
    tma.async_copy_shared_to_global(o_desc, [batch, head, first, 0], q)


@gluon.jit
def consume(
    o_desc, q_smem, k_smem, v_smem, item_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    tiles, items, heads_q, section, seqlen_q, seqlen_kv, scale_log2, whole, pieces, part_ptr,
    SPLIT: gl.constexpr, CAUSAL: gl.constexpr, STAGES: gl.constexpr, QBUFS: gl.constexpr, WHICH: gl.constexpr, RAGGED: gl.constexpr,
    DEFER: gl.constexpr,
    OPTIMISTIC: gl.constexpr, PINGPONG: gl.constexpr, DECLARE: gl.constexpr, VOTE: gl.constexpr, READ: gl.constexpr,
    MY_TURN: gl.constexpr, YOUR_TURN: gl.constexpr,
):  # fmt: skip
    """Compute the 64 rows of one consumer of all tiles."""
    KEYS: gl.constexpr = k_smem.shape[1]
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    P: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O, k_width=2)
    dtype: gl.constexpr = k_smem.dtype
    if OPTIMISTIC:
        gl.inline_asm_elementwise(DECLARE, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
    if PINGPONG:
        if WHICH == 1:
            gl.inline_asm_elementwise(YOUR_TURN, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
    block = 0
    HALF: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS // 2, 16])
    s_zero = gl.zeros([64, KEYS], gl.float32, S)
    half_zero = gl.zeros([64, KEYS // 2], gl.float32, HALF)
    k = 0
    mbarrier.wait(q_full.index(WHICH), 0)
    item = hear(item_smem, 0)
    while item < items:
        told = (k & (QBUFS - 1)) * 8
        batch = hear(item_smem, told + 1)
        head = hear(item_smem, told + 2)
        first = hear(item_smem, told + 3) + WHICH * 64
        low = hear(item_smem, told + 4)
        blocks = hear(item_smem, told + 5)
        buf = (k & (QBUFS - 1)) * 2 + WHICH
        q = q_smem.index(buf)

        # First block: the only one with a mask if lengths are multiples of a block.
        stage = block & (STAGES - 1)
        mbarrier.wait(k_full.index(stage), ((block >> (STAGES // 2)) & 1))
        if PINGPONG:
            gl.inline_asm_elementwise(MY_TURN, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
        if CAUSAL and (not RAGGED) and WHICH == 0:
            # The first 64 rows of a tile see nothing of the second half of its last block.
            h = warpgroup_mma(
                q, k_smem.index(stage).slice(0, KEYS // 2).permute((1, 0)), half_zero, use_acc=False, is_async=True
            )
        else:
            s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), s_zero, use_acc=False, is_async=True)
        if PINGPONG:
            gl.inline_asm_elementwise(YOUR_TURN, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
        if CAUSAL and (not RAGGED) and WHICH == 0:
            h = warpgroup_mma_wait(0, deps=[h])
        else:
            s = warpgroup_mma_wait(0, deps=[s])
        mbarrier.arrive(k_empty.index(stage), count=1)
        if CAUSAL and (not RAGGED) and WHICH == 0:
            h = mask_diagonal(h, 0, KEYS // 2, HALF)
            m = gl.convert_layout(gl.max(h, 1), gl.SliceLayout(1, S), assert_trivial=True) * scale_log2
            base = gl.convert_layout(m, gl.SliceLayout(1, HALF), assert_trivial=True)
            h = gl.exp2(h * scale_log2 - base[:, None])
            p = gl.permute(gl.join(h, gl.zeros([64, KEYS // 2], gl.float32, HALF)), [0, 2, 1])
            p = gl.convert_layout(gl.reshape(p, [64, KEYS]), S, assert_trivial=True)
        else:
            if CAUSAL and (not RAGGED):
                s = mask_diagonal(s, -WHICH * 64, KEYS, S)
            if RAGGED:
                s = mask_scores(s, (low + blocks - 1) * KEYS, first, seqlen_q, seqlen_kv, CAUSAL, KEYS, S)
            m = gl.max(s, 1) * scale_log2
            base = m
            if RAGGED:
                base = gl.where(m == float("-inf"), 0.0, m)
            p = gl.exp2(s * scale_log2 - base[:, None])
        sums = thread_sums(p, KEYS)
        p16 = gl.convert_layout(p.to(dtype), P)
        acc = gl.zeros([64, 128], gl.float32, O)
        if DEFER:
            # The last tile's output has left by now.
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index(((k + QBUFS - 1) & (QBUFS - 1)) * 2 + WHICH), count=1, pred=k > 0)

        masked = 0
        if RAGGED:
            if CAUSAL:
                # Blocks that not every row of this consumer sees wholly, without the first.
                seen = gl.maximum(gl.minimum(first + seqlen_kv - seqlen_q + 1, seqlen_kv), 0) // KEYS
                masked = gl.maximum(gl.minimum(blocks - 1 - seen, blocks - 1), 0)
            for i in range(masked):
                stage = (block + 1) & (STAGES - 1)
                mbarrier.wait(k_full.index(stage), (((block + 1) >> (STAGES // 2)) & 1))
                if PINGPONG:
                    gl.inline_asm_elementwise(MY_TURN, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
                s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), s_zero, use_acc=False, is_async=True)
                if PINGPONG:
                    gl.inline_asm_elementwise(YOUR_TURN, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
                s = warpgroup_mma_wait(0, deps=[s])
                mbarrier.arrive(k_empty.index(stage), count=1)
                stage = block & (STAGES - 1)
                mbarrier.wait(v_full.index(stage), ((block >> (STAGES // 2)) & 1))
                acc = warpgroup_mma(p16, v_smem.index(stage), acc, is_async=True)
                acc = warpgroup_mma_wait(0, deps=[acc])
                mbarrier.arrive(v_empty.index(stage), count=1)
                block += 1
                s = mask_scores(s, (blocks - 2 - i) * KEYS, first, seqlen_q, seqlen_kv, CAUSAL, KEYS, S)
                m_new = gl.maximum(m, gl.max(s, 1) * scale_log2)
                base = gl.where(m_new == float("-inf"), 0.0, m_new)
                alpha = gl.exp2(m - base)
                p = gl.exp2(s * scale_log2 - base[:, None])
                m = m_new
                sums = sums * gl.convert_layout(alpha, gl.SliceLayout(1, sums.type.layout))[:, None] + thread_sums(
                    p, KEYS
                )
                p16 = gl.convert_layout(p.to(dtype), P)
                acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, O))[:, None]

        for i in range(blocks - 1 - masked):
            stage = (block + 1) & (STAGES - 1)
            mbarrier.wait(k_full.index(stage), (((block + 1) >> (STAGES // 2)) & 1))
            if PINGPONG:
                gl.inline_asm_elementwise(MY_TURN, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
            s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), s_zero, use_acc=False, is_async=True)
            v_stage = block & (STAGES - 1)
            mbarrier.wait(v_full.index(v_stage), ((block >> (STAGES // 2)) & 1))
            acc = warpgroup_mma(p16, v_smem.index(v_stage), acc, is_async=True)
            if PINGPONG:
                gl.inline_asm_elementwise(YOUR_TURN, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
            s = warpgroup_mma_wait(1, deps=[s])
            mbarrier.arrive(k_empty.index(stage), count=1)
            if OPTIMISTIC:
                p = gl.exp2(s * scale_log2 - m[:, None])
                part = thread_sums(p, KEYS)
                p16 = gl.convert_layout(p.to(dtype), P)
                gl.inline_asm_elementwise(VOTE, "=r,=r,f,f", [part], dtype=gl.int32, is_pure=False, pack=2)
                bad = gl.inline_asm_elementwise(READ, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
                alpha = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, S))
                if bad != 0:
                    m_new = gl.maximum(m, gl.max(s, 1) * scale_log2)
                    alpha = gl.exp2(m - m_new)
                    p = gl.exp2(s * scale_log2 - m_new[:, None])
                    part = thread_sums(p, KEYS)
                    p16 = gl.convert_layout(p.to(dtype), P)
                    sums = sums * gl.convert_layout(alpha, gl.SliceLayout(1, sums.type.layout))[:, None]
                    m = m_new
                sums += part
                acc = warpgroup_mma_wait(0, deps=[acc])
                mbarrier.arrive(v_empty.index(v_stage), count=1)
                if bad != 0:
                    acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, O))[:, None]
            else:
                m_new = gl.maximum(m, gl.max(s, 1) * scale_log2)
                alpha = gl.exp2(m - m_new)
                p = gl.exp2(s * scale_log2 - m_new[:, None])
                m = m_new
                sums = sums * gl.convert_layout(alpha, gl.SliceLayout(1, sums.type.layout))[:, None] + thread_sums(
                    p, KEYS
                )
                p16 = gl.convert_layout(p.to(dtype), P)
                acc = warpgroup_mma_wait(0, deps=[acc])
                mbarrier.arrive(v_empty.index(v_stage), count=1)
                acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, O))[:, None]
            block += 1

        stage = block & (STAGES - 1)
        mbarrier.wait(v_full.index(stage), ((block >> (STAGES // 2)) & 1))
        acc = warpgroup_mma(p16, v_smem.index(stage), acc, is_async=True)
        total = gl.sum(sums, 1)
        inverse = gl.convert_layout(1.0 / gl.where(total == 0.0, 1.0, total), gl.SliceLayout(1, O))
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_empty.index(stage), count=1)
        block += 1
        if SPLIT:
            if item >= whole:
                # A piece: what is merged is the sum as it is, with the maximum and the sum of weights of each row.
                rows = (item - whole) * 128 + WHICH * 64 + gl.arange(0, 64, gl.SliceLayout(1, O))
                cols = gl.arange(0, 128, gl.SliceLayout(0, O))
                gl.store(part_ptr + rows[:, None] * 128 + cols[None, :], acc)
                ends = part_ptr + (items - whole) * 128 * 128 + rows * 2
                gl.store(ends, gl.convert_layout(m, gl.SliceLayout(1, O)))
                gl.store(ends + 1, gl.convert_layout(total, gl.SliceLayout(1, O)))
            else:
                leave(o_desc, q, (acc * inverse[:, None]).to(dtype), batch, head, first)
        else:
            leave(o_desc, q, (acc * inverse[:, None]).to(dtype), batch, head, first)
        if not DEFER:
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index(buf), count=1)
        k += 1
        mbarrier.wait(q_full.index((k & (QBUFS - 1)) * 2 + WHICH), ((k >> (QBUFS // 2)) & 1))
        item = hear(item_smem, (k & (QBUFS - 1)) * 8)
    if DEFER:
        tma.store_wait(0)
    if PINGPONG:
        if WHICH == 0:
            gl.inline_asm_elementwise(MY_TURN, "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def attend(
    q_desc, k_desc, v_desc, o_desc, counter, tiles, items, heads_q, group, section, seqlen_q, seqlen_kv, scale_log2,
    whole, pieces, part_ptr, SPLIT: gl.constexpr, CAUSAL: gl.constexpr, RAGGED: gl.constexpr, STAGES: gl.constexpr, QBUFS: gl.constexpr,
    OPTIMISTIC: gl.constexpr, PINGPONG: gl.constexpr,
    DECLARE_0: gl.constexpr, VOTE_0: gl.constexpr, READ_0: gl.constexpr,
    DECLARE_1: gl.constexpr, VOTE_1: gl.constexpr, READ_1: gl.constexpr,
    DEFER: gl.constexpr, DRAW: gl.constexpr, SHARE: gl.constexpr, TURN_0: gl.constexpr, GIVE_0: gl.constexpr, TURN_1: gl.constexpr, GIVE_1: gl.constexpr,
):  # fmt: skip
    """Set up shared memory and barriers and start the roles."""
    KEYS: gl.constexpr = k_desc.block_shape[2]
    dtype: gl.constexpr = k_desc.dtype
    q_smem = gl.allocate_shared_memory(dtype, [QBUFS * 2, 64, 128], q_desc.layout)
    item_smem = gl.allocate_shared_memory(gl.int32, [QBUFS * 8, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, KEYS, 128], k_desc.layout)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES, KEYS, 128], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [QBUFS * 2, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [QBUFS * 2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(QBUFS * 2):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_empty.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=2)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(v_empty.index(i), count=2)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (consume, (
                o_desc, q_smem, k_smem, v_smem, item_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
                tiles, items, heads_q, section, seqlen_q, seqlen_kv, scale_log2, whole, pieces, part_ptr,
                SPLIT, CAUSAL, STAGES, QBUFS, 0, RAGGED, DEFER, OPTIMISTIC, PINGPONG, DECLARE_0, VOTE_0, READ_0, TURN_0, GIVE_0,
            )),
            (consume, (
                o_desc, q_smem, k_smem, v_smem, item_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
                tiles, items, heads_q, section, seqlen_q, seqlen_kv, scale_log2, whole, pieces, part_ptr,
                SPLIT, CAUSAL, STAGES, QBUFS, 1, RAGGED, DEFER, OPTIMISTIC, PINGPONG, DECLARE_1, VOTE_1, READ_1, TURN_1, GIVE_1,
            )),
            (produce, (
                q_desc, k_desc, v_desc, counter, q_smem, k_smem, v_smem, item_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
                tiles, items, heads_q, group, section, seqlen_q, seqlen_kv, whole, pieces, SPLIT,
                CAUSAL, STAGES, QBUFS, DRAW, SHARE,
            )),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@triton.jit
def merge(
    part_ptr, o_ptr, o_stride_b, o_stride_h, o_stride_s, tiles, heads_q, seqlen_q, whole, rest,
    PIECES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Add the pieces of some rows of a tile."""
    local = tl.program_id(0) % (128 // ROWS) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(0) // (128 // ROWS)
    dims = tl.arange(0, 128)
    pieces = tl.arange(0, PIECES)
    ends = part_ptr + rest * PIECES * 128 * 128 + ((part * PIECES + pieces[:, None]) * 128 + local[None, :]) * 2
    maxima = tl.load(ends)
    weights = tl.exp2(maxima - tl.max(maxima, 0)[None, :])
    weights = weights / tl.sum(weights * tl.load(ends + 1), 0)[None, :]
    at = ((part * PIECES + pieces[:, None, None]) * 128 + local[None, :, None]) * 128 + dims[None, None, :]
    out = tl.sum(tl.load(part_ptr + at) * weights[:, :, None], 0)
    tile = (whole + part) % tiles
    row = (whole + part) // tiles
    at = (row // heads_q).to(tl.int64) * o_stride_b + (row % heads_q).to(tl.int64) * o_stride_h
    rows = tile * 128 + local
    o_rows = o_ptr + at + rows[:, None].to(tl.int64) * o_stride_s + dims[None, :]
    tl.store(o_rows, out.to(o_ptr.dtype.element_ty), mask=rows[:, None] < seqlen_q)


DRAW = (
    "{ .reg .pred p; .reg .b32 l; mov.u32 l, %laneid; setp.eq.u32 p, l, 0; mov.b32 $0, 0; "
    "@p atom.global.relaxed.gpu.inc.u32 $0, [$1], $2; }"
)
SHARE = "shfl.sync.idx.b32 $0, $1, 0, 0x1f, 0xffffffff;"
COUNTERS: dict[tuple[int, int], torch.Tensor] = {}
PLANS: dict[tuple, Plan] = {}


def counter_of(device: torch.device) -> torch.Tensor:
    """Return the zero from which this stream's calls count their tiles; each call leaves a zero behind."""
    key = (device.index, triton.runtime.driver.active.get_current_stream(device.index))
    if key not in COUNTERS:
        COUNTERS[key] = torch.zeros(1, dtype=torch.int32, device=device)
    return COUNTERS[key]


def declare(which: int) -> str:
    """PTX: a register that holds a warp's vote."""
    return f".reg .b32 avo_bad{which}; mov.b32 avo_bad{which}, 0; mov.b32 $0, 0;"


def vote(which: int, limit: str) -> str:
    """PTX: does any thread of the warp have a sum above the limit, or NaN?"""
    return (
        "{ .reg .pred a, b, c; setp.gtu.f32 a, $2, " + limit + "; setp.gtu.f32 b, $3, " + limit + "; or.pred c, a, b; "
        f"vote.sync.any.pred a, c, 0xffffffff; selp.b32 avo_bad{which}, 1, 0, a; "
        f"mov.b32 $0, avo_bad{which}; mov.b32 $1, avo_bad{which}; }}"
    )


def read(which: int) -> str:
    """PTX: the warp's vote as a scalar."""
    return f"mov.b32 $0, avo_bad{which};"


class Plan:
    """What a call needs that depends on shapes, strides and types alone: compiled kernels, their grids and arguments."""

    def __init__(self, kernel, workers: int, args: dict, merging, merge_grid: int, merge_args: dict) -> None:
        """Keep all but the tensors."""
        names = list(args)
        self.kernel = kernel
        self.workers = workers
        self.descriptors = list(args.values())[:4]
        for descriptor in self.descriptors:
            descriptor.base = None
        self.part = names.index("part_ptr")
        self.part_shape = args["part_ptr"].shape if merging is not None else None
        self.args = [None if i < 5 or i == self.part else value for i, value in enumerate(args.values())]
        self.merging = merging
        self.merge_grid = merge_grid
        self.merge_args = list(merge_args.values())[2:]

    def launch(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Launch the kernels as Triton does after it has looked them up by their arguments."""
        out = torch.empty_like(q)
        args = self.args.copy()
        for i, (descriptor, x) in enumerate(zip(self.descriptors, (q, k, v, out), strict=True)):
            args[i] = rebased(descriptor, x)
        args[4] = args[self.part] = counter_of(q.device)
        if self.merging is not None:
            part = args[self.part] = torch.empty(self.part_shape, dtype=torch.float32, device=q.device)
        stream = triton.runtime.driver.active.get_current_stream(q.device.index)
        kernel = self.kernel
        kernel.run(self.workers, 1, 1, stream, kernel.function, kernel.packed_metadata, None, None, None, *args)
        if self.merging is not None:
            kernel = self.merging
            kernel.run(
                self.merge_grid, 1, 1, stream, kernel.function, kernel.packed_metadata, None, None, None,
                part, out, *self.merge_args,
            )  # fmt: skip
        return out


def rebased(descriptor: TensorDescriptor, x: torch.Tensor) -> TensorDescriptor:
    """Copy a checked description for another tensor of the same shape, strides and type."""
    copy = object.__new__(TensorDescriptor)
    copy.__dict__.update(descriptor.__dict__)
    copy.base = x
    return copy


def described(x: torch.Tensor, rows: int, layout: gl.NVMMASharedLayout) -> TensorDescriptor:
    """Describe x to the TMA in boxes of some rows of one head."""
    stride = [s if n > 1 else 128 for s, n in zip(x.stride()[:3], x.shape[:3], strict=True)]
    return TensorDescriptor(x, list(x.shape), [*stride, 1], [1, 1, rows, HEAD_DIM], layout)


def fit(x: torch.Tensor) -> torch.Tensor:
    """Copy what the TMA cannot address."""
    wrong = x.data_ptr() % 16 or any(n > 1 and (s <= 0 or s % 8) for s, n in zip(x.stride()[:3], x.shape[:3], strict=True))
    return x.clone(memory_format=torch.contiguous_format) if wrong else x


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    aligned = (q.data_ptr() | k.data_ptr() | v.data_ptr()) % 16 == 0
    key = (q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), q.dtype, k.dtype, v.dtype, q.device, causal, scale)
    if aligned and key in PLANS:
        return PLANS[key].launch(q, k, v)
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim != HEAD_DIM:
        raise NotImplementedError(f"head_dim {head_dim}: {HEAD_DIM} only")
    if q.numel() == 0 or k.numel() == 0:
        return torch.zeros_like(q)
    given = (q, k, v)
    q, k, v = fit(q), fit(k), fit(v)
    out = torch.empty_like(q)
    element = gl.bfloat16 if q.dtype == torch.bfloat16 else gl.float16
    q_layout = gl.NVMMASharedLayout.get_default_for([ROWS, HEAD_DIM], element)
    kv_layout = gl.NVMMASharedLayout.get_default_for([KEYS, HEAD_DIM], element)
    tiles = triton.cdiv(seqlen_q, 2 * ROWS)
    heads = batch * heads_q
    workers = min(torch.cuda.get_device_properties(q.device).multi_processor_count, tiles * heads)
    group = heads_q // heads_kv
    # Heads whose keys and values share the L2, and enough of them to fill the device with their longest tiles.
    section = max(SECTION_MIB * 2**20 // (seqlen_kv * HEAD_DIM * 4), 1) * group
    section = min(max(section, triton.cdiv(workers, tiles)), heads)
    while heads % section:
        section += 1
    ragged = seqlen_kv % KEYS != 0 or (causal and (seqlen_kv - seqlen_q) % KEYS != 0) or (causal and seqlen_q > seqlen_kv)
    # Without a mask all tiles take the same time: those of a last, short round are cut into pieces of their keys.
    items = whole = tiles * heads
    pieces = 1
    part = counter_of(q.device)
    rest = items % workers
    split = not causal and items > workers and 0 < rest <= workers // 4 and seqlen_kv >= 16 * KEYS
    if split:
        pieces = 16 if rest * 16 <= workers else 4
        whole = items - rest
        items = whole + rest * pieces
        part = torch.empty(rest * pieces * 128 * 130, dtype=torch.float32, device=q.device)
    # bfloat16 has the range of float32, float16 has not.
    limit = "0f5D800000" if q.dtype == torch.bfloat16 else "0f47000000"
    args = (
        described(q, ROWS, q_layout), described(k, KEYS, kv_layout), described(v, KEYS, kv_layout),
        described(out, ROWS, q_layout),
        counter_of(q.device), tiles, items, heads_q, group, section, seqlen_q, seqlen_kv, scale * LOG2_E, whole, pieces, part,
    )  # fmt: skip
    settings = {
        "SPLIT": split, "CAUSAL": causal, "RAGGED": ragged, "STAGES": STAGES, "QBUFS": 2, "OPTIMISTIC": OPTIMISTIC,
        "PINGPONG": PINGPONG,
        "DECLARE_0": declare(0), "VOTE_0": vote(0, limit), "READ_0": read(0),
        "DECLARE_1": declare(1), "VOTE_1": vote(1, limit), "READ_1": read(1),
        "DEFER": DEFER_STORE, "DRAW": DRAW, "SHARE": SHARE,
        "TURN_0": "bar.sync 9, 256; mov.b32 $0, 0;", "GIVE_0": "bar.arrive 10, 256; mov.b32 $0, 0;",
        "TURN_1": "bar.sync 10, 256; mov.b32 $0, 0;", "GIVE_1": "bar.arrive 9, 256; mov.b32 $0, 0;",
    }  # fmt: skip
    kernel = attend[(workers,)](*args, **settings, num_warps=4, maxnreg=168)
    merging, merge_grid, merge_args = None, 0, ()
    if split:
        merge_grid = rest * 128 // MERGE_ROWS
        merge_args = (part, out, *out.stride()[:3], tiles, heads_q, seqlen_q, whole, rest, pieces, MERGE_ROWS)
        merging = merge[(merge_grid,)](*merge_args, num_warps=4)
    if aligned and all(x is y for x, y in zip(given, (q, k, v), strict=True)) and hasattr(kernel, "run"):
        ordered = dict(zip(attend.arg_names, args, strict=False)) | settings
        PLANS[key] = Plan(
            kernel, workers, {name: ordered[name] for name in attend.arg_names}, merging, merge_grid,
            dict(zip(merge.arg_names, merge_args, strict=False)),
        )  # fmt: skip
    return out
