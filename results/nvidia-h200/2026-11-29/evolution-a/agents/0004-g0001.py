"""Attention for Hopper: persistent Gluon programs, a warp that loads by TMA and two warpgroups that compute.

One program per multiprocessor takes tiles of 128 queries, 64 per warpgroup, from a counter: causal tiles longest first, heads
in groups whose keys and values stay in L2. A warp loads Q (two buffers), K and V (two stages of 128 keys each) and runs ahead
into the next tile while the present one is finished. The warpgroups issue the score product of a block together with the value
product of the block before, and take the exponentials of the new scores while the latter runs. Blocks are walked from the
diagonal down: the first, masked ones set the row maxima, later ones are only checked by their sums, and a warp whose sums got
too large takes the block's maxima and rescales (a branch that is hardly ever taken). P goes from the scores' registers
straight into the value product; O leaves through Q's buffer while the next tile runs. Where the tiles of a full problem do
not come out even, the first round of tiles and the odd ones are shared out by blocks: a program starts with the second part
of a tile, which it leaves in memory, and ends its share with the first part of the next, which it merges with the second that
another program left there long ago. So no round runs with most programs idle. Shapes that TMA or this tiling cannot
take (other head sizes, odd strides) go to a plain Triton kernel.
"""

from __future__ import annotations

import functools

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

BLOCK_N = 128

TUNABLES = {
    "BLOCK_N": [64, 128],
}

LOG2_E = 1.4426950408889634
GROUP_WORK = 264  # row tiles that a group of heads should have at least: two a multiprocessor

scratch = {}  # by stream, as launches on two may overlap: a counter and flags, zero after each launch, and partial outputs
launches = {}  # by shapes and strides: the compiled kernel and the arguments that depend on nothing else


@gluon.jit
def tile_of_program(pid, tiles, heads, heads_per_group, CAUSAL: gl.constexpr):
    """Row tile and head of a program: heads in groups, causal ones longest tile first within a group."""
    if CAUSAL:
        groups = gl.maximum(heads // heads_per_group, 1)
        group = gl.minimum(pid // (heads_per_group * tiles), groups - 1)
        first_head = group * heads_per_group
        size = gl.where(group == groups - 1, heads - first_head, heads_per_group)
        rest = pid - first_head * tiles
        tile = tiles - 1 - rest // size
        head = first_head + rest % size
    else:
        tile = pid % tiles
        head = pid // tiles
    return tile, head


@gluon.jit
def count_blocks(first_row, rows, seqlen_q, seqlen_kv, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr):
    """Blocks of keys that a tile walks over, at least one so that every row is written."""
    end = seqlen_kv
    if CAUSAL:
        last = gl.minimum(first_row + rows, seqlen_q) - 1 + seqlen_kv - seqlen_q
        end = gl.minimum(seqlen_kv, last + 1)
    return gl.maximum((end + BLOCK_N - 1) // BLOCK_N, 1)


@gluon.jit
def same_in_warp(x):
    """A number that is the same in all threads of a warp, told to the assembler."""
    return gl.inline_asm_elementwise("redux.sync.or.b32 $0, $1, -1;", "=r,r", [x], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def take_number(counter, last):
    """Draw the next number, once per warp; the counter returns to zero after the last."""
    return gl.inline_asm_elementwise(
        """{
        .reg .pred first; .reg .b32 lane;
        mov.u32 lane, %laneid;
        setp.eq.u32 first, lane, 0;
        mov.u32 $0, 0;
        @first atom.global.inc.u32 $0, [$1], $2;
        redux.sync.or.b32 $0, $0, -1;
        }""",
        "=&r,l,r", [counter, last], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def produce(
    q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem, q_full, q_empty, tile_full,
    k_full, k_empty, v_full, v_empty, counter,
    heads_q, group, heads, heads_per_group, tiles, shared, seqlen_q, seqlen_kv,
    BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Draw tiles and load them: Q, then K of block i + 1 ahead of V of block i, from the last block to the first."""
    D: gl.constexpr = 128
    KV_BYTES: gl.constexpr = BLOCK_N * D * 2
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    total = tiles * heads
    programs = gl.num_programs(0)
    last = total - shared + programs - 1
    number = shared + take_number(counter, last)
    # Of the shared tiles every program takes as many blocks as the others: the rest of one tile, the start of the next.
    mine = 0
    first = 0
    left = 0
    if not CAUSAL:
        whole = (seqlen_kv + BLOCK_N - 1) // BLOCK_N
        start = gl.program_id(0) * (shared * whole) // programs
        left = (gl.program_id(0) + 1) * (shared * whole) // programs - start
        mine = start // whole
        first = start - mine * whole
    done = 0
    turn = 0
    while (left > 0) | (number < total):
        slot = turn & 1
        mbarrier.wait(q_empty.index(slot), (((turn + 1) >> 1) & 1) ^ 1)
        tile, index = tile_of_program(gl.where(left > 0, mine, number), tiles, heads, heads_per_group, CAUSAL)
        low = first
        high = count_blocks(tile * 128, 128, seqlen_q, seqlen_kv, BLOCK_N, CAUSAL)
        if left > 0:
            high = gl.minimum(high, low + left)
            left -= high - low
            mine += 1
            first = 0
        else:
            number = shared + take_number(counter, last)
        tile_smem.index(slot).store(gl.full([1], tile, gl.int32, ONE))
        index_smem.index(slot).store(gl.full([1], index, gl.int32, ONE))
        low_smem.index(slot).store(gl.full([1], low, gl.int32, ONE))
        high_smem.index(slot).store(gl.full([1], high, gl.int32, ONE))
        mbarrier.arrive(tile_full.index(slot), count=1)
        batch = index // heads_q
        head = index % heads_q
        kv_head = head // group
        blocks = high - low
        mbarrier.expect(q_full.index(slot), 2 * 64 * D * 2)
        for part in gl.static_range(2):
            tma.async_copy_global_to_shared(
                q_desc, [batch, head, tile * 128 + 64 * part, 0], q_full.index(slot), q_smem.index(slot * 2 + part)
            )
        for i in range(blocks + 1):
            if i < blocks:
                n = done + i
                stage = n & 1
                mbarrier.wait(k_empty.index(stage), ((n >> 1) & 1) ^ 1)
                mbarrier.expect(k_full.index(stage), KV_BYTES)
                tma.async_copy_global_to_shared(
                    k_desc, [batch, kv_head, (high - 1 - i) * BLOCK_N, 0], k_full.index(stage), k_smem.index(stage)
                )
            if i > 0:
                m = done + i - 1
                stage_v = m & 1
                mbarrier.wait(v_empty.index(stage_v), ((m >> 1) & 1) ^ 1)
                mbarrier.expect(v_full.index(stage_v), KV_BYTES)
                tma.async_copy_global_to_shared(
                    v_desc, [batch, kv_head, (high - i) * BLOCK_N, 0], v_full.index(stage_v), v_smem.index(stage_v)
                )
        done += blocks
        turn += 1
    slot = turn & 1
    mbarrier.wait(q_empty.index(slot), (((turn + 1) >> 1) & 1) ^ 1)
    tile_smem.index(slot).store(gl.full([1], -1, gl.int32, ONE))
    mbarrier.arrive(tile_full.index(slot), count=1)


@gluon.jit
def hide(scores, first_key, first_row, seqlen_q, seqlen_kv, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr):
    """Scores of keys that a row must not see become -inf."""
    S: gl.constexpr = scores.type.layout
    cols = first_key + gl.arange(0, BLOCK_N, gl.SliceLayout(0, S))
    if CAUSAL:
        rows = first_row + gl.arange(0, 64, gl.SliceLayout(1, S))
        limit = gl.minimum(rows + (seqlen_kv - seqlen_q), seqlen_kv - 1)
        return gl.where(cols[None, :] <= limit[:, None], scores, float("-inf"))
    else:
        return gl.where((cols < seqlen_kv)[None, :], scores, float("-inf"))


@gluon.jit
def declare_flag(PART: gl.constexpr):
    """A register of a thread that tells, outside of the compiler's sight, whether one of its sums got too large."""
    if PART == 0:
        gl.inline_asm_elementwise(
            ".reg .b32 too_large_0; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )
    else:
        gl.inline_asm_elementwise(
            ".reg .b32 too_large_1; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def any_above(sums, limit, PART: gl.constexpr):
    """Whether a sum of this warp's rows is above the limit or NaN: a scalar, the same in all threads of a warp."""
    if PART == 0:
        gl.inline_asm_elementwise("mov.b32 too_large_0, 0; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "{ .reg .pred ok; setp.le.f32 ok, $1, $2; @!ok mov.b32 too_large_0, 1; mov.b32 $0, 0; }",
            "=r,f,f", [sums, limit], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip
        return gl.inline_asm_elementwise(
            "redux.sync.or.b32 $0, too_large_0, -1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )
    else:
        gl.inline_asm_elementwise("mov.b32 too_large_1, 0; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "{ .reg .pred ok; setp.le.f32 ok, $1, $2; @!ok mov.b32 too_large_1, 1; mov.b32 $0, 0; }",
            "=r,f,f", [sums, limit], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip
        return gl.inline_asm_elementwise(
            "redux.sync.or.b32 $0, too_large_1, -1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def step(
    n, q, k_smem, v_smem, k_full, k_empty, v_full, v_empty, weights, acc, base, row_sum, scale_log2,
    top, first_row, seqlen_q, seqlen_kv,
    BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr, MASKED: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    """Scores of block i together with the value product of block i - 1; the softmax of block i beside the latter."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    P: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O, k_width=2)
    stage = n & 1
    stage_v = stage ^ 1
    p = gl.convert_layout(weights.to(v_smem.dtype), P)
    mbarrier.wait(k_full.index(stage), (n >> 1) & 1)
    nothing = gl.zeros([64, BLOCK_N], gl.float32, S)
    k = k_smem.index(stage).reshape([BLOCK_N, 128]).permute((1, 0))
    scores = warpgroup_mma(q, k, nothing, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(stage_v), ((n - 1) >> 1) & 1)
    v = v_smem.index(stage_v).reshape([BLOCK_N, 128])
    acc = warpgroup_mma(p, v, acc, is_async=True)
    scores = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(k_empty.index(stage), count=1)
    if MASKED:
        scores = hide(scores, (top - n) * BLOCK_N, first_row, seqlen_q, seqlen_kv, BLOCK_N, CAUSAL)
    if MASKED:
        new_base = gl.maximum(base, gl.max(scores, 1) * scale_log2)
        safe = gl.where(new_base == float("-inf"), 0.0, new_base)
        weights = gl.exp2(scores * scale_log2 - safe[:, None])
        rescale = gl.exp2(base - safe)
        row_sum = row_sum * rescale + gl.sum(weights, 1)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_empty.index(stage_v), count=1)
        acc = acc * gl.convert_layout(rescale, gl.SliceLayout(1, O))[:, None]
        base = new_base
    else:
        weights = gl.exp2(scores * scale_log2 - base[:, None])
        sums = gl.sum(weights, 1)
        LIMIT: gl.constexpr = 2.0**40 if v_smem.dtype == gl.bfloat16 else 2.0**15
        rescale = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, S))
        again = any_above(sums, LIMIT, PART) != 0
        if again:
            new_base = gl.maximum(base, gl.max(scores, 1) * scale_log2)
            weights = gl.exp2(scores * scale_log2 - new_base[:, None])
            sums = gl.sum(weights, 1)
            rescale = gl.exp2(base - new_base)
            base = new_base
        row_sum = row_sum * rescale + sums
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_empty.index(stage_v), count=1)
        if again:
            acc = acc * gl.convert_layout(rescale, gl.SliceLayout(1, O))[:, None]
    return weights, acc, base, row_sum


@gluon.jit
def places(scratch, slot, acc, base):
    """Where a warpgroup's unfinished output, maxima and sums lie."""
    O: gl.constexpr = acc.type.layout
    ROW: gl.constexpr = base.type.layout
    start = scratch + slot * (64 * 130)
    rows = gl.arange(0, 64, gl.SliceLayout(1, O))
    cols = gl.arange(0, 128, gl.SliceLayout(0, O))
    row = gl.arange(0, 64, ROW)
    return start + rows[:, None] * 128 + cols[None, :], start + 64 * 128 + row, start + 64 * 129 + row


@gluon.jit
def hand_over(acc, base, row_sum, scratch, flags, slot):
    """Leave a tile's second part to the program that has its first; a thread has a flag for its twin there."""
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    accs, bases, sums = places(scratch, slot, acc, base)
    gl.store(accs, acc)
    gl.store(bases, base)
    gl.store(sums, row_sum)
    gl.inline_asm_elementwise(
        "{ bar.warp.sync -1; st.release.gpu.global.b32 [$1], 1; mov.b32 $0, 0; }",
        "=r,l", [flags + slot * 128 + gl.arange(0, 128, ONE)], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def merge(acc, base, row_sum, scratch, flags, slot):
    """Add the second part of a tile, which the next program did first of all: it is there, as a rule."""
    O: gl.constexpr = acc.type.layout
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    gl.inline_asm_elementwise(
        """{
        .reg .pred set; .reg .b32 flag;
        again:
        ld.acquire.gpu.global.b32 flag, [$1];
        setp.ne.u32 set, flag, 0;
        vote.sync.all.pred set, set, -1;
        @!set bra again;
        bar.warp.sync -1;
        st.global.b32 [$1], 0;
        mov.b32 $0, 0;
        }""",
        "=r,l", [flags + slot * 128 + gl.arange(0, 128, ONE)], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip
    accs, bases, sums = places(scratch, slot, acc, base)
    other_base = gl.load(bases, volatile=True)
    new_base = gl.maximum(base, other_base)
    ours = gl.exp2(base - new_base)
    theirs = gl.exp2(other_base - new_base)
    row_sum = row_sum * ours + gl.load(sums, volatile=True) * theirs
    ours = gl.convert_layout(ours, gl.SliceLayout(1, O))[:, None]
    theirs = gl.convert_layout(theirs, gl.SliceLayout(1, O))[:, None]
    return acc * ours + gl.load(accs, volatile=True) * theirs, row_sum


@gluon.jit
def consume(
    o_desc, scratch, flags, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem,
    q_full, q_empty, tile_full, k_full, k_empty, v_full, v_empty,
    heads_q, seqlen_q, seqlen_kv, scale_log2,
    PART: gl.constexpr, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Attend with 64 rows of each tile that the producer draws."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    P: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O, k_width=2)
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    declare_flag(PART)
    done = 0
    turn = 0
    mbarrier.wait(tile_full.index(0), 0)
    tile = same_in_warp(tile_smem.index(0).load(ONE).item())
    while tile >= 0:
        low = same_in_warp(low_smem.index(turn & 1).load(ONE).item())
        high = same_in_warp(high_smem.index(turn & 1).load(ONE).item())
        blocks = high - low
        first_row = tile * 128 + 64 * PART
        masked = blocks * 0 + 1
        if CAUSAL:
            seen = gl.minimum(gl.maximum(first_row + 1 + seqlen_kv - seqlen_q, 0), seqlen_kv)
            masked = gl.minimum(gl.maximum(high - seen // BLOCK_N, 1), blocks)
        slot = turn & 1
        stage = done & 1

        q_part = q_smem.index(slot * 2 + PART)
        q = q_part.reshape([64, 128])
        mbarrier.wait(q_full.index(slot), (turn >> 1) & 1)
        mbarrier.wait(k_full.index(stage), (done >> 1) & 1)
        nothing = gl.zeros([64, BLOCK_N], gl.float32, S)
        k = k_smem.index(stage).reshape([BLOCK_N, 128]).permute((1, 0))
        scores = warpgroup_mma(q, k, nothing, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(k_empty.index(stage), count=1)
        scores = hide(scores, (high - 1) * BLOCK_N, first_row, seqlen_q, seqlen_kv, BLOCK_N, CAUSAL)
        base = gl.max(scores, 1) * scale_log2
        weights = gl.exp2(scores * scale_log2 - gl.where(base == float("-inf"), 0.0, base)[:, None])
        row_sum = gl.sum(weights, 1)
        acc = gl.zeros([64, 128], gl.float32, O)
        # The output of the tile before has left the other buffer by now; before the first tile it is free, too.
        tma.store_wait(0)
        mbarrier.arrive(q_empty.index(slot ^ 1), count=1)

        top = high - 1 + done
        if CAUSAL:
            for n in range(done + 1, done + masked):
                weights, acc, base, row_sum = step(
                    n, q, k_smem, v_smem, k_full, k_empty, v_full, v_empty, weights, acc, base, row_sum, scale_log2,
                    top, first_row, seqlen_q, seqlen_kv, BLOCK_N, CAUSAL, True, PART,
                )  # fmt: skip
        for n in range(done + masked, done + blocks):
            weights, acc, base, row_sum = step(
                n, q, k_smem, v_smem, k_full, k_empty, v_full, v_empty, weights, acc, base, row_sum, scale_log2,
                top, first_row, seqlen_q, seqlen_kv, BLOCK_N, CAUSAL, False, PART,
            )  # fmt: skip

        done += blocks
        stage = (done - 1) & 1
        p = gl.convert_layout(weights.to(v_smem.dtype), P)
        mbarrier.wait(v_full.index(stage), ((done - 1) >> 1) & 1)
        acc = warpgroup_mma(p, v_smem.index(stage).reshape([BLOCK_N, 128]), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_empty.index(stage), count=1)
        # Read anew what few registers had no room for.
        index = same_in_warp(index_smem.index(slot).load(ONE).item())
        batch = index // heads_q
        head = index % heads_q
        if not CAUSAL:
            low = same_in_warp(low_smem.index(slot).load(ONE).item())
            high = same_in_warp(high_smem.index(slot).load(ONE).item())
            if low > 0:
                hand_over(acc, base, row_sum, scratch, flags, same_in_warp(gl.program_id(0)) * 2 + PART)
            elif high * BLOCK_N < seqlen_kv:
                acc, row_sum = merge(acc, base, row_sum, scratch, flags, same_in_warp(gl.program_id(0)) * 2 + 2 + PART)
        if low == 0:
            inverse = 1.0 / gl.where(row_sum == 0.0, 1.0, row_sum)
            out = acc * gl.convert_layout(inverse, gl.SliceLayout(1, O))[:, None]
            # This warpgroup alone reads its part of Q, and is done with it: the output leaves from there.
            q.store(out.to(v_smem.dtype))
            fence_async_shared()
            tma.async_copy_shared_to_global(o_desc, [batch, head, first_row, 0], q_part)
        turn += 1
        mbarrier.wait(tile_full.index(turn & 1), (turn >> 1) & 1)
        tile = same_in_warp(tile_smem.index(turn & 1).load(ONE).item())
    tma.store_wait(0)


@gluon.jit
def attend_tma(
    q_desc, k_desc, v_desc, o_desc, counter, scratch, flags,
    heads_q, group, heads, heads_per_group, tiles, shared, seqlen_q, seqlen_kv, scale_log2,
    BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Write tiles of 128 rows of the output until none is left."""
    q_smem = gl.allocate_shared_memory(q_desc.dtype, [4, 1, 1, 64, 128], q_desc.layout)
    k_smem = gl.allocate_shared_memory(k_desc.dtype, [2, 1, 1, BLOCK_N, 128], k_desc.layout)
    v_smem = gl.allocate_shared_memory(v_desc.dtype, [2, 1, 1, BLOCK_N, 128], v_desc.layout)
    tile_smem = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    index_smem = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    low_smem = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    high_smem = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    tile_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for j in gl.static_range(2):
        mbarrier.init(q_full.index(j), count=1)
        mbarrier.init(q_empty.index(j), count=2)
        mbarrier.init(tile_full.index(j), count=1)
        mbarrier.init(k_full.index(j), count=1)
        mbarrier.init(k_empty.index(j), count=2)
        mbarrier.init(v_full.index(j), count=1)
        mbarrier.init(v_empty.index(j), count=2)
    fence_async_shared()

    gl.warp_specialize(
        [
            (consume, (
                o_desc, scratch, flags, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem,
                q_full, q_empty, tile_full, k_full, k_empty, v_full, v_empty,
                heads_q, seqlen_q, seqlen_kv, scale_log2,
                gl.constexpr(0), BLOCK_N, CAUSAL)),
            (consume, (
                o_desc, scratch, flags, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem,
                q_full, q_empty, tile_full, k_full, k_empty, v_full, v_empty,
                heads_q, seqlen_q, seqlen_kv, scale_log2,
                gl.constexpr(1), BLOCK_N, CAUSAL)),
            (produce, (
                q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem, q_full, q_empty, tile_full,
                k_full, k_empty, v_full, v_empty, counter,
                heads_q, group, heads, heads_per_group, tiles, shared, seqlen_q, seqlen_kv, BLOCK_N, CAUSAL)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@triton.jit
def attend_plain(
    q_ptr, k_ptr, v_ptr, o_ptr,
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    o_stride_b, o_stride_h, o_stride_s,
    heads_q, group, seqlen_q, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of the output of one query head, for what TMA or the tiling above cannot take."""
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


def fits_tma(x: torch.Tensor) -> bool:
    """Whether a tensor map can describe it: strides of 16 bytes, none of them zero."""
    return x.numel() > 0 and x.stride(3) == 1 and all(
        s > 0 and s % 8 == 0 or n == 1 for n, s in zip(x.shape[:3], x.stride()[:3], strict=True)
    )


class Described:
    """What Triton's launcher reads of a tensor descriptor: it makes the map that the kernel gets."""

    __slots__ = ("base", "shape", "strides")
    padding = "zero"

    def __init__(self, base: torch.Tensor, shape: list[int], strides: list[int]) -> None:
        self.base, self.shape, self.strides = base, shape, strides


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run at a time."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def geometry(x: torch.Tensor) -> tuple[list[int], list[int]]:
    """Shape and strides of a tensor map; the stride of a dimension of one element means nothing, but must fit."""
    strides = [s if n > 1 else 128 for n, s in zip(x.shape[:3], x.stride()[:3], strict=True)]
    return list(x.shape), [*strides, 1]


def prepare(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, buffers: tuple, causal: bool, scale: float
) -> tuple:
    """Launch the kernel through Triton, which compiles it, and return what later launches of these shapes need."""
    batch, heads_q, seqlen_q, _ = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    tiles = triton.cdiv(seqlen_q, 128)
    heads = batch * heads_q
    grid = min(tiles * heads, multiprocessors(q.device))
    left = tiles * heads % grid
    shared = grid + left if left and not causal else 0
    heads_per_group = min(heads, triton.cdiv(GROUP_WORK, tiles + 1))
    scalars = (heads_q, heads_q // heads_kv, heads, heads_per_group, tiles, shared, seqlen_q, seqlen_kv)
    layout = gl.NVMMASharedLayout(128, 16, rank=4)
    shapes = tuple(geometry(x) for x in (q, k, v, out))
    boxes = (64, BLOCK_N, BLOCK_N, 64)
    descriptors = [
        TensorDescriptor(x, *shape, [1, 1, rows, 128], layout)
        for x, shape, rows in zip((q, k, v, out), shapes, boxes, strict=True)
    ]
    kernel = attend_tma[(grid,)](
        *descriptors, *buffers, *scalars, scale * LOG2_E, BLOCK_N=BLOCK_N, CAUSAL=causal, num_warps=4, maxnreg=168
    )
    return kernel, grid, scalars, shapes


def attend_by_tma(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, causal: bool, scale: float) -> None:
    """Launch the Gluon kernel; what depends on shapes alone is kept, as it costs the host more than the launch."""
    key = (q.shape, q.stride(), k.shape, k.stride(), v.stride(), out.stride(), q.dtype, q.device, causal)
    stream = triton.runtime.driver.active.get_current_stream(q.device.index)
    buffers = scratch.get((q.device, stream))
    if buffers is None:
        programs = multiprocessors(q.device)
        buffers = scratch[q.device, stream] = (
            torch.zeros(1, dtype=torch.int32, device=q.device),
            torch.empty(programs * 2 * 64 * 130, dtype=torch.float32, device=q.device),
            torch.zeros(programs * 2 * 128, dtype=torch.int32, device=q.device),
        )
    known = launches.get(key)
    if known is None:
        launches[key] = prepare(q, k, v, out, buffers, causal, scale)
        return
    kernel, grid, scalars, shapes = known
    kernel.run(
        grid, 1, 1, stream, kernel.function, kernel.packed_metadata, None, None, None,
        Described(q, *shapes[0]), Described(k, *shapes[1]), Described(v, *shapes[2]), Described(out, *shapes[3]),
        *buffers, *scalars, scale * LOG2_E, BLOCK_N, causal,
    )  # fmt: skip


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    out = torch.empty_like(q)
    tensors = (q, k, v, out)
    if head_dim == 128 and scale > 0 and all(x.data_ptr() % 16 == 0 and fits_tma(x) for x in tensors):
        attend_by_tma(q, k, v, out, causal, scale)
        return out
    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = 64 if head_dim < 256 else 32
    grid = (triton.cdiv(seqlen_q, 128), batch * heads_q)
    attend_plain[grid](
        q, k, v, out,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, BLOCK_M=128, BLOCK_N=block_n, CAUSAL=causal,
        num_warps=8, num_stages=2,
    )  # fmt: skip
    return out
