# avo: digest=7f6ef97e9f9eb4e9 parent=d3473bf9966f9322 run=1 generation=1 operator=inbox
# avo: measured=1.073x [1.044, 1.103] over its parent, 1.073x over the seed, confirmed
# avo: on NVIDIA H200, torch 2.11.0, 2026-11-29
"""Warp-specialised attention for Hopper in Gluon: TMA fills a ring of key and value tiles, wgmma reads them in place.

Why it is fast:
* One producer warp issues every load, two to four consumer warpgroups of 64 query rows each do the arithmetic, and
  mbarriers hand the tiles over; registers move from the producer to the consumers.
* A consumer issues the score product of tile i and the value product of tile i - 1 together and computes the softmax of
  tile i while the value product still runs. With PINGPONG, named barriers make the consumers take turns, so that one
  warpgroup's softmax hides behind another's matrix products.
* The steady loop looks for no row maximum and rescales nothing: probabilities are taken relative to the maximum of
  earlier keys, and the sum of what a thread holds, which is needed anyway, tells if one got too large for that. Then,
  and only then, the warp takes the true maximum, rescales, and computes its block again; the result is exact.
* Probabilities stay in registers: the accumulator layout of wgmma is its operand layout after conversion to 16 bits.
* Key tiles are walked from the last to the first, so that only the first few are masked and the steady loop masks
  nothing; a consumer passes those on unread that only the rows of later consumers see. Row sums are kept per thread and
  reduced across threads once, at the end.
* Up to some length, blocks of 64 keys waste less on the diagonal and are handed on sooner, and the consumers of a
  causal tile take two heads that share keys in place of two blocks of rows, so that none has a longer way than another.
  With no more tiles than processors the longest way is all that counts: there a tile is one head's i-th block of rows
  and its i-th from the end, and the consumer of the longer one has the tensor cores to itself most of the time.
* Where shared memory has room, the queries of the next tile arrive while this one ends.
* Without a mask all tiles take the same time, and the last round of them would leave most processors idle: its tiles
  are cut into pieces of their keys (Cut), which a second kernel brings together.
* Blocks of query rows are handed out longest first over a few heads at once: so few that keys and values are read from
  the L2 cache (L2_MIB), and so many that every multiprocessor has one; a persistent program takes its next block from
  a counter and loads it while the last one finishes. With many more keys than queries it takes every n-th block
  instead. There, where some programs would have much more to do than others and few keys are read at once, rounds begin
  with the longest and with the shortest blocks in turn. For 256 dimensions the host counts when the last block would
  end, and has more heads worked on at once, blocks of few queries drawn, too, or some blocks in reverse order where
  that is sooner.

The log-sum-exp is the maximum that sums are taken relative to plus the logarithm of the sum, both of which are there at
the end; a call that does not ask for it compiles to what it would without. Packed sequences have a plain Triton kernel
of their own, for TMA would fill up the end of a sequence with rows of the next.

What a call needs on the host is worked out once for shapes, strides and dtype (Plan); later calls hand Triton's
launcher what changes, the addresses (Quick). The counter is never set to zero: each call leaves it as it found it.

TMA descriptors describe the four dimensions as they lie in memory, so any layout with 16-byte aligned strides is read
without a copy, and rows past the end are filled with zeros on load and dropped on store.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.backends.nvidia.driver import TMA_DTYPE_DEVICE_TO_HOST
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

AVO = {"target": "sm90", "shapes": ["mha", "gqa", "hdim"], "lse": True, "varlen": True}

D64_CONSUMERS = 4
D64_BLOCK_N = 64
D64_STAGES = 4
D64_PINGPONG = True
D64_LATE = False  # wait for a value product only behind the softmax that hides it
D128_CONSUMERS = 2
D128_BLOCK_N = 128
D128_STAGES = 2
D128_PINGPONG = False
D128_LATE = True
D256_BLOCK_N = 64
D256_PINGPONG = False
D256_LATE = False
PACKED_BLOCK_M = 128  # of packed sequences; half as many where a head has 256 dimensions
PACKED_BLOCK_N = 64
PACKED_WARPS = 8
PACKED_STAGES = 2
SHORT_KEYS = 1024  # up to so many keys a sequence is short, and up to twice as many with a causal mask
SHORT_BLOCK_N = 64
SHORT_STAGES = 4
SHORT_LATE = False
MIRRORED_LATE = True  # where a short prompt has no more tiles than there are processors
CAUSAL_SCHEDULE = "dynamic"
FULL_SCHEDULE = "dynamic"
L2_MIB = 8  # keys and values of the heads that are worked on at once

TUNABLES = {
    "D64_CONSUMERS": [2, 3, 4],
    "D64_BLOCK_N": [64, 128],
    "D64_STAGES": [2, 3, 4],
    "D64_PINGPONG": [False, True],
    "D64_LATE": [False, True],
    "D128_CONSUMERS": [2, 3],
    "D128_BLOCK_N": [64, 128],
    "D128_STAGES": [2, 3],
    "D128_PINGPONG": [False, True],
    "D128_LATE": [False, True],
    "D256_BLOCK_N": [32, 64],
    "D256_PINGPONG": [False, True],
    "D256_LATE": [False, True],
    "CAUSAL_SCHEDULE": ["single", "static", "dynamic"],
    "FULL_SCHEDULE": ["single", "static", "dynamic"],
    "SHORT_KEYS": [512, 1024, 2048],
    "L2_MIB": [1, 4, 8, 16],
}

ROWS = 64  # query rows of a consumer: the height of one wgmma
# What one thread's probabilities of a row may add up to in a block, in PTX: 2^15, which float16 still holds, or 2^60,
# far from the end of bfloat16 and float32 even after the value product, which hardly any input reaches.
F16_LIMIT = gl.constexpr("0f47000000")
BF16_LIMIT = gl.constexpr("0f5D800000")
TURNED = gl.constexpr(1)  # orders of tiles that are not handed out by the counter, where 0 is longest first
MIRRORED = gl.constexpr(2)
FOLDED = gl.constexpr(3)  # drawn from the counter, all heads in one section
ALIKE = 4  # with so many times more keys than queries, causal tiles are nearly of one length, and need not be drawn
SAVED = 16  # rounds are turned to save a 16th: of 3% nothing was left, for a card at its power limit only clocks lower
BALANCED = 32  # of so many rounds of tiles or fewer it is worth a millisecond of the host to count how they end
FOLDED_ROUNDS = 4  # of so many rounds of tiles or fewer
FOLDED_ROWS = 16  # of a head, in tiles, at least
FOLDS = 0.03  # what it has to save
SHARED_LIMIT = 232448 - 1024  # bytes a block may allocate, less room for the mbarriers
LOG2_E = 1.4426950408889634
LN_2 = gl.constexpr(0.6931471805599453)
EVERYTHING = 1 << 30  # keys beyond its own place that a row sees where there is no mask


@gluon.constexpr_function
def turn_asm(op, consumer, consumers):
    """PTX of one named-barrier operation; ids from 12 on are free, the lower ones belong to the compiler."""
    return f"bar.{op} {12 + consumer % consumers}, 256; mov.b32 $0, $1;"


@gluon.jit
def turn(op: gl.constexpr, consumer: gl.constexpr, consumers: gl.constexpr, enabled: gl.constexpr):
    """Wait for (op sync) or pass on (op arrive) the right to issue matrix products."""
    if enabled:
        one_per_thread: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        asm: gl.constexpr = turn_asm(op, consumer, consumers)
        token = gl.zeros([128], gl.int32, one_per_thread)
        gl.inline_asm_elementwise(asm, "=r,r", [token], dtype=gl.int32, is_pure=False, pack=1)


@gluon.constexpr_function
def flag_asm(op, consumer, bf16=False):
    """PTX on two registers of a consumer: if a thread of its warp found a sum too large, and if that is asked for."""
    flag, asked = f"avo_flag{consumer}", f"avo_asked{consumer}"
    if op == "declare":
        return f".reg .b32 {flag}, {asked}; mov.b32 {flag}, $1; mov.b32 $0, $1;"
    if op == "ask":
        return f"mov.b32 {asked}, 1; mov.b32 $0, $1;"
    if op == "answer":
        return f"and.b32 $0, {flag}, {asked}; mov.b32 {asked}, 0; // $1"
    limit = BF16_LIMIT.value if bf16 else F16_LIMIT.value
    compare = f"setp.gtu.f32 p, $2, {limit}; setp.gtu.f32 q, $3, {limit}; or.pred p, p, q;"
    vote = f"vote.sync.any.pred p, p, 0xffffffff; selp.b32 {flag}, 1, 0, p;"
    return f"{{ .reg .pred p, q; {compare} {vote} mov.b32 $0, 0; mov.b32 $1, 0; }}"


@gluon.jit
def tell(op: gl.constexpr, consumer: gl.constexpr, zero):
    """Run one operation of flag_asm that takes no sums; zero is a 0 that the compiler does not know to be one."""
    asm: gl.constexpr = flag_asm(op, consumer)
    return gl.inline_asm_elementwise(asm, "=r,r", [zero], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def too_large(sums, consumer: gl.constexpr, bf16: gl.constexpr, zero):
    """A scalar of each warp: 1 if a sum (64, 4) of its rows exceeds the limit or is NaN, else, or if asked before, 0.

    A reduction would go through shared memory and stop the warpgroup, and a tensor cannot be branched on.
    """
    asm: gl.constexpr = flag_asm("compare", consumer, bf16)
    gl.inline_asm_elementwise(asm, "=r,=r,r,r", [sums], dtype=gl.int32, is_pure=False, pack=2)
    return tell("answer", consumer, zero)


@gluon.jit
def opaque(x):
    """Return x itself, of which the compiler computes nothing ahead of time."""
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=gl.float32, is_pure=False, pack=1)


@gluon.jit
def same(x):
    """Return the integer x itself, of which the compiler computes nothing ahead of time."""
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def uniform(x):
    """Return x, which all threads of a warp share; ptxas then knows, and keeps what follows in uniform registers."""
    return gl.inline_asm_elementwise(
        "redux.sync.max.s32 $0, $1, 0xffffffff;", "=r,r", [x], dtype=gl.int32, is_pure=False, pack=1)  # fmt: skip


@gluon.jit
def key_blocks(row, sizes, HEIGHT: gl.constexpr, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr):
    """Number of key blocks that any of HEIGHT query rows from row on sees, and of those that each of them sees."""
    seqlen_q = sizes[4]
    seqlen_kv = sizes[5]
    last = seqlen_kv
    first = seqlen_kv
    if CAUSAL:
        shift = seqlen_kv - seqlen_q
        last = gl.minimum(seqlen_kv, gl.maximum(0, row + HEIGHT + shift))
        first = gl.minimum(seqlen_kv, gl.maximum(0, row + 1 + shift))
    # Rows that see no key still walk one block, wholly masked, and so write their zeros without a path of their own.
    return gl.maximum(1, gl.cdiv(last, BLOCK_N)), first // BLOCK_N


@gluon.jit
def locate(
    tile, sizes, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, CAUSAL: gl.constexpr,
    ORDER: gl.constexpr,
):  # fmt: skip
    """Map a tile number to (batch, query head, first row, key blocks that the tile reads).

    Tiles are numbered section by section; a section is a run of heads, and within it rows come before heads, the
    longest first. TURNED, every other section begins with its shortest. MIRRORED, the rows are those of the last
    consumer; mirrored says where those of the first begin. FOLDED, all heads are one section, and some of its rows,
    from one rank of length on up to another, come the shortest first; section has both ranks.
    """
    row_tiles, heads_total, heads_q, section, _seqlen_q, _seqlen_kv = sizes
    per_section = row_tiles * section
    if ORDER == FOLDED:
        first_head = 0
        width = heads_total
        rest = tile
    elif CAUSAL or HEAD_DIM == 64:
        # What is left over joins the last section, for a small one would end with a few long tiles on an idle device.
        # Without a mask only ptxas notices: its code is 2.7% faster for 64 dimensions and 1% slower for 128 (H200).
        which = gl.minimum(tile // per_section, heads_total // section - 1)
        first_head = which * section
        left = heads_total - first_head
        width = gl.where(left < 2 * section, left, section)
        rest = tile - first_head * row_tiles
    else:
        first_head = tile // per_section * section
        width = gl.minimum(section, heads_total - first_head)
        rest = tile % per_section
    head = first_head + rest % width
    row = rest // width
    if CAUSAL:
        if ORDER == TURNED:
            row = gl.where(which % 2 == 0, row_tiles - 1 - row, row)
        elif ORDER == MIRRORED:
            row = 2 * row_tiles - 1 - row
        elif ORDER == FOLDED:
            begin = section >> 16
            end = section & 65535
            row = row_tiles - 1 - gl.where((row >= begin) & (row < end), begin + end - 1 - row, row)
        else:
            row = row_tiles - 1 - row
    blocks, _whole = key_blocks(row * BLOCK_M, sizes, BLOCK_M, BLOCK_N, CAUSAL)
    return head // heads_q, head % heads_q, row * BLOCK_M, blocks


@gluon.jit
def mirrored(row, sizes):
    """The first of the 64 rows that are as far from the begin of all rows as those from row on are from their end."""
    return (2 * sizes[0] - 1) * 64 - row


@gluon.jit
def unpacked(cut):
    """The numbers of a Cut: whole tiles, pieces of the first kind, parts of a tile of both kinds."""
    whole, packed = cut
    return whole, packed >> 12, (packed >> 6) & 63, packed & 63


@gluon.jit
def units(tiles, cut):
    """How many pieces of work there are, whole tiles among them."""
    whole, first, parts_1, parts_2 = unpacked(cut)
    return whole + first + (tiles - whole - first // parts_1) * parts_2


@gluon.jit
def piece(unit, blocks, cut):
    """Of the unit-th piece of work: (key blocks from, to) of the blocks of its tile; a whole tile has them all."""
    whole, first, parts_1, parts_2 = unpacked(cut)
    part = unit - whole
    parts = gl.where(part < first, parts_1, parts_2)
    part = gl.where(part < first, part, part - first)
    part = gl.where(unit < whole, 0, part % parts)
    size = gl.where(unit < whole, blocks, gl.cdiv(blocks, parts))
    return part * size, gl.minimum(blocks, (part + 1) * size)


@gluon.jit
def tile_of_unit(unit, cut):
    """The tile that the unit-th piece of work belongs to: whole ones first, then two kinds of pieces."""
    whole, first, parts_1, parts_2 = unpacked(cut)
    part = unit - whole
    tile = gl.where(part < first, whole + part // parts_1, whole + first // parts_1 + (part - first) // parts_2)
    return gl.where(unit < whole, unit, tile)


@gluon.jit
def draw(counter_ptr, last):
    """Return the counter's value and count up, for the one warp that calls; behind last it begins anew.

    As many tiles are drawn in a call as there are, so that every call leaves the counter at zero, as it found it.
    """
    return gl.inline_asm_elementwise(
        "{ .reg .pred p; .reg .b32 lane; mov.u32 lane, %laneid; setp.eq.u32 p, lane, 0;"
        " @p atom.global.inc.u32 $0, [$1], $2; shfl.sync.idx.b32 $0, $0, 0, 31, 0xffffffff; }",
        "=r,l,r", [counter_ptr.to(gl.int64), last], dtype=gl.int32, is_pure=False, pack=1)  # fmt: skip


@gluon.jit
def produce(
    q_desc, k_desc, v_desc, shared, bars, sizes, cut, group, counter_ptr,
    CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    CAUSAL: gl.constexpr, DYNAMIC: gl.constexpr, HEADS: gl.constexpr, Q_STAGES: gl.constexpr, ORDER: gl.constexpr,
    PIECES: gl.constexpr,
):  # fmt: skip
    """Load the queries, keys and values of one tile after the other, and draw the tiles from the counter."""
    q_s, k_s, v_s, _o_s, next_s = shared
    q_full, q_empty, k_full, k_empty, v_full, v_empty, next_full, next_empty = bars
    tiles = sizes[0] * sizes[1]
    if PIECES:
        tiles = units(tiles, cut)
    unit = gl.program_id(0)
    turn_count = 0
    filled = 0
    while unit < tiles:
        tile = unit
        if PIECES:
            tile = tile_of_unit(unit, cut)
        batch, head, row, blocks = locate(
            tile, sizes, 64 if HEADS or ORDER == MIRRORED else CONSUMERS * 64, BLOCK_N, q_s.shape[4], CAUSAL, ORDER,
        )  # fmt: skip
        upto = blocks
        if PIECES:
            start, upto = piece(unit, blocks, cut)
            blocks = upto - start
        kv_head = head // group
        for c in gl.static_range(CONSUMERS):
            at_q = turn_count % Q_STAGES * CONSUMERS + c
            mbarrier.wait(q_empty.index(at_q), (turn_count // Q_STAGES & 1) ^ 1)
            mbarrier.expect(q_full.index(at_q), q_desc.block_type.nbytes)
            if ORDER == MIRRORED:
                at = [batch, head, mirrored(row, sizes) if c == 0 else row, 0]
            else:
                at = [batch, head * CONSUMERS + c, row, 0] if HEADS else [batch, head, row + c * 64, 0]
            tma.async_copy_global_to_shared(q_desc, at, q_full.index(at_q), q_s.index(at_q))
        for i in range(blocks):
            stage = (filled + i) % STAGES
            phase = ((filled + i) // STAGES) & 1
            first_key = (upto - 1 - i) * BLOCK_N
            mbarrier.wait(k_empty.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            at = [batch, kv_head, first_key, 0]
            tma.async_copy_global_to_shared(k_desc, at, k_full.index(stage), k_s.index(stage))
            mbarrier.wait(v_empty.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(v_desc, at, v_full.index(stage), v_s.index(stage))
        if DYNAMIC:
            # Drawn only now: the consumers still have tiles in the ring, which hides the latency of the atomic.
            unit = gl.num_programs(0) + draw(counter_ptr, tiles - 1)
            mbarrier.wait(next_empty, (turn_count & 1) ^ 1)
            next_s.store(gl.full([1], unit, gl.int32, gl.BlockedLayout([1], [32], [1], [0])))
            mbarrier.arrive(next_full, count=1)
        else:
            unit += gl.num_programs(0)
        filled += blocks
        turn_count += 1


@gluon.jit
def hide(qk, room):
    """Set the scores (64, n) of the columns from room (64,) on to -inf.

    A thread holds columns 8 i + 2 t + e for its own t. Seen that way, a column compares the constant 8 i + e with one
    value per row and thread; compared as columns they cost a register each, computed far ahead and then spilled.
    """
    layout: gl.constexpr = qk.type.layout
    split = qk.reshape([qk.shape[0], qk.shape[1] // 8, 4, 2])
    parts: gl.constexpr = split.type.layout
    i = gl.arange(0, qk.shape[1] // 8, gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, parts))))
    t = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, parts))))
    e = gl.arange(0, 2, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, parts))))
    room = gl.convert_layout(room, gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, parts))), assert_trivial=True)
    left = room[:, None, None, None] - 2 * t[None, None, :, None]
    split = gl.where(8 * i[None, :, None, None] + e[None, None, None, :] < left, split, float("-inf"))
    return gl.convert_layout(split.reshape(qk.shape), layout, assert_trivial=True)


@gluon.jit
def softmax_step(qk, row_max, scale_log2, limit, first_key, MASKED: gl.constexpr):
    """Turn scores into unnormalised probabilities: (p, new row maximum, factor for what came before).

    limit is the number of keys that each row sees; only a MASKED block looks at it.
    """
    if MASKED:
        qk = hide(qk, limit - first_key)
    new_max = gl.maximum(row_max, gl.max(qk, 1) * scale_log2)
    base = new_max
    if MASKED:
        # -inf - -inf is NaN: a row without a visible key so far subtracts nothing.
        base = gl.where(new_max == float("-inf"), 0.0, new_max)
    p = gl.exp2(qk * scale_log2 - base[:, None])
    return p, new_max, gl.exp2(row_max - base)


@gluon.jit
def pack(p, BF16: gl.constexpr):
    """Convert p (64, n) to 16 bits, two neighbours to an int32 (64, n / 2).

    Carried through a loop as 16-bit values, the operand would be taken apart and put together in every iteration.
    """
    low, high = gl.split(p.reshape([p.shape[0], p.shape[1] // 2, 2]))
    asm: gl.constexpr = "cvt.rn.bf16x2.f32 $0, $2, $1;" if BF16 else "cvt.rn.f16x2.f32 $0, $2, $1;"
    return gl.inline_asm_elementwise(asm, "=r,r,r", [low, high], dtype=gl.int32, is_pure=True, pack=1)


@gluon.jit
def unpack(packed, dtype: gl.constexpr, layout: gl.constexpr):
    """Undo pack: the (64, n) operand of the value product, without moving data between threads."""
    low, high = gl.inline_asm_elementwise(
        "mov.b32 {$0, $1}, $2;", "=h,=h,r", [packed], dtype=(gl.int16, gl.int16), is_pure=True, pack=1)  # fmt: skip
    p = gl.join(low, high).to(dtype, bitcast=True).reshape([packed.shape[0], packed.shape[1] * 2])
    return gl.convert_layout(p, layout, assert_trivial=True)


@gluon.jit
def thread_sums(p):
    """Sum the columns of p that one thread holds: (64, 4), a column for each thread that shares a row."""
    n: gl.constexpr = p.shape[1]
    return gl.sum(gl.sum(p.reshape([p.shape[0], n // 8, 4, 2]), 3), 1)


@gluon.jit
def rescaled(acc, row_sum, factor):
    """The accumulator (64, d) and the sums (64, 4) brought to a new maximum by a factor for each row."""
    acc = acc * gl.convert_layout(factor, gl.SliceLayout(1, acc.type.layout))[:, None]
    return acc, row_sum * gl.convert_layout(factor, gl.SliceLayout(1, row_sum.type.layout))[:, None]


@gluon.jit
def consume_block(
    i, state, q_t, k_s, v_s, bars, filled, upto, limit, scale_log2, zero,
    CONSUMER: gl.constexpr, CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    PINGPONG: gl.constexpr, LATE: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Issue the scores of block i and the values of block i - 1; return the state with block i's probabilities."""
    acc, packed, row_sum, row_max = state
    _q_full, _q_empty, k_full, k_empty, v_full, v_empty, _next_full, _next_empty = bars
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    BF16: gl.constexpr = q_t.dtype == gl.bfloat16
    stage = (filled + i) % STAGES
    phase = ((filled + i) // STAGES) & 1
    last = (filled + i - 1) % STAGES
    last_phase = ((filled + i - 1) // STAGES) & 1
    mbarrier.wait(k_full.index(stage), phase)
    turn("sync", CONSUMER, CONSUMERS, PINGPONG)
    none = gl.zeros([64, BLOCK_N], gl.float32, s_layout)
    k_t = k_s.index(stage).reshape([BLOCK_N, q_t.shape[1]]).permute((1, 0))
    scores = warpgroup_mma(q_t, k_t, none, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(last), last_phase)
    v_t = v_s.index(last).reshape([BLOCK_N, q_t.shape[1]])
    p_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=acc.type.layout, k_width=2)
    values = warpgroup_mma(unpack(packed, q_t.dtype, p_layout), v_t, acc, is_async=True)
    turn("arrive", CONSUMER + 1, CONSUMERS, PINGPONG)
    qk = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(k_empty.index(stage), count=1)
    first_key = (upto - 1 - i) * BLOCK_N
    if MASKED:
        p, row_max, rescale = softmax_step(qk, row_max, scale_log2, limit, first_key, True)
        sums = thread_sums(p)
        packed = pack(p, BF16)
        acc = warpgroup_mma_wait(0, deps=[values])
        mbarrier.arrive(v_empty.index(last), count=1)
        acc, row_sum = rescaled(acc, row_sum, rescale)
    elif LATE:
        p = gl.exp2(qk * scale_log2 - row_max[:, None])
        sums = thread_sums(p)
        packed = pack(p, BF16)
        tell("ask", CONSUMER, zero)
        again = too_large(sums, CONSUMER, BF16, zero)
        rescale = gl.full([64], 1.0, gl.float32, row_max.type.layout)
        if again != 0:
            p, row_max, rescale = softmax_step(qk, row_max, scale_log2, limit, first_key, False)
            sums = thread_sums(p)
            packed = pack(p, BF16)
        acc = warpgroup_mma_wait(0, deps=[values])
        mbarrier.arrive(v_empty.index(last), count=1)
        if again != 0:
            acc, row_sum = rescaled(acc, row_sum, rescale)
    else:
        acc = warpgroup_mma_wait(0, deps=[values])
        mbarrier.arrive(v_empty.index(last), count=1)
        tell("ask", CONSUMER, zero)
        again = zero + 1
        sums = row_sum
        # A loop and not a branch, so that the probabilities are computed by the same code, once or twice.
        while again != 0:
            p = gl.exp2(qk * scale_log2 - row_max[:, None])
            sums = thread_sums(p)
            packed = pack(p, BF16)
            again = too_large(sums, CONSUMER, BF16, zero)
            if again != 0:
                new_max = gl.maximum(row_max, gl.max(opaque(qk), 1) * scale_log2)
                acc, row_sum = rescaled(acc, row_sum, gl.exp2(row_max - new_max))
                row_max = new_max
    return acc, packed, row_sum + sums, row_max


@gluon.jit
def halves(x):
    """The left and the right half of the columns of x (64, n), without moving data between threads."""
    n: gl.constexpr = x.shape[1] // 2
    left, right = gl.split(x.reshape([x.shape[0], 2, n]).permute((0, 2, 1)))
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, n, 16])
    return gl.convert_layout(left, layout, assert_trivial=True), gl.convert_layout(right, layout, assert_trivial=True)


@gluon.jit
def store(desc, at, staged, x):
    """Write x (64, n) through shared memory, once what was staged there before is read."""
    tma.store_wait(0)
    staged.reshape([x.shape[0], x.shape[1]]).store(x)
    fence_async_shared()
    tma.async_copy_shared_to_global(desc, at, staged)


@gluon.jit
def finish(
    o_desc, lse_ptr, o_t, q_empty, at, sizes, acc, total, row_max, CONSUMERS: gl.constexpr, HEADS: gl.constexpr,
    O_PARTS: gl.constexpr,
):  # fmt: skip
    """Write the 64 rows of a tile whose sums are complete."""
    batch, head, row = at
    seqlen_q = sizes[4]
    dtype: gl.constexpr = o_t.dtype
    HEAD_DIM: gl.constexpr = acc.shape[1]
    o_layout: gl.constexpr = acc.type.layout
    acc = acc * (1.0 / gl.where(total == 0.0, 1.0, total))[:, None]
    if lse_ptr is not None:
        rows = row + gl.arange(0, 64, gl.SliceLayout(1, o_layout))
        top = gl.convert_layout(row_max, gl.SliceLayout(1, o_layout))
        # Without a visible key both are -inf.
        lse = (top + gl.log2(total)) * LN_2
        first = (batch * (sizes[2] * CONSUMERS if HEADS else sizes[2]) + head).to(gl.int64) * seqlen_q
        gl.store(lse_ptr + first + rows, lse, mask=rows < seqlen_q)
    if O_PARTS == 2:
        left, right = halves(acc.to(dtype))
        store(o_desc, [batch, head, row, 0], o_t, left)
        store(o_desc, [batch, head, row, HEAD_DIM // 2], o_t, right)
    else:
        store(o_desc, [batch, head, row, 0], o_t, acc.to(dtype))
    if O_PARTS == 0:
        tma.store_wait(0)
        mbarrier.arrive(q_empty, count=1)


@gluon.jit
def set_aside(part_ptr, piece, pieces, acc, total, row_max, CONSUMER: gl.constexpr, CONSUMERS: gl.constexpr):
    """Keep the sums (64, d) of a piece of a tile, what the rows add up to, and the maxima they are relative to."""
    HEAD_DIM: gl.constexpr = acc.shape[1]
    o_layout: gl.constexpr = acc.type.layout
    rows = (piece * CONSUMERS + CONSUMER) * 64 + gl.arange(0, 64, gl.SliceLayout(1, o_layout))
    cols = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, o_layout))
    gl.store(part_ptr + rows[:, None] * HEAD_DIM + cols[None, :], acc)
    stats = part_ptr + pieces * (CONSUMERS * 64 * HEAD_DIM) + rows * 2
    gl.store(stats, gl.convert_layout(row_max, gl.SliceLayout(1, o_layout)))
    gl.store(stats + 1, total)


@gluon.jit
def pass_on(block, bars, CONSUMER: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, PINGPONG: gl.constexpr):
    """Release a key and a value tile unread. Each is awaited, or its barrier would count this for an earlier tile."""
    _q_full, _q_empty, k_full, k_empty, v_full, v_empty, _next_full, _next_empty = bars
    stage = block % STAGES
    phase = (block // STAGES) & 1
    turn("sync", CONSUMER, CONSUMERS, PINGPONG)
    turn("arrive", CONSUMER + 1, CONSUMERS, PINGPONG)
    mbarrier.wait(k_full.index(stage), phase)
    mbarrier.arrive(k_empty.index(stage), count=1)
    mbarrier.wait(v_full.index(stage), phase)
    mbarrier.arrive(v_empty.index(stage), count=1)


@gluon.jit
def consume(
    o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
    CONSUMER: gl.constexpr, CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    CAUSAL: gl.constexpr, DYNAMIC: gl.constexpr, PINGPONG: gl.constexpr, LATE: gl.constexpr, O_PARTS: gl.constexpr,
    HEADS: gl.constexpr, Q_STAGES: gl.constexpr, ORDER: gl.constexpr,
):  # fmt: skip
    """Compute 64 rows of each tile that the producer loads, and store them."""
    q_s, k_s, v_s, o_s, next_s = shared
    HEAD_DIM: gl.constexpr = q_s.shape[4]
    dtype: gl.constexpr = q_s.dtype
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=o_layout, k_width=2)
    row_layout: gl.constexpr = gl.SliceLayout(1, s_layout)
    q_full, q_empty, k_full, k_empty, v_full, v_empty, next_full, next_empty = bars
    PIECES: gl.constexpr = part_ptr is not None
    tiles = sizes[0] * sizes[1]
    if PIECES:
        tiles = units(tiles, cut)
    seqlen_q = sizes[4]
    seqlen_kv = sizes[5]
    o_t = o_s.index(CONSUMER)
    zero = seqlen_q - seqlen_q
    tell("declare", CONSUMER, zero)

    unit = gl.program_id(0)
    turn_count = 0
    filled = 0
    if CONSUMER == CONSUMERS - 1:
        turn("arrive", CONSUMERS, CONSUMERS, PINGPONG)
    while unit < tiles:
        tile = unit
        if PIECES:
            tile = tile_of_unit(unit, cut)
        batch, head, row, blocks = locate(
            tile, sizes, 64 if HEADS or ORDER == MIRRORED else CONSUMERS * 64, BLOCK_N, HEAD_DIM, CAUSAL, ORDER,
        )  # fmt: skip
        upto = blocks
        if PIECES:
            start, upto = piece(unit, blocks, cut)
            blocks = upto - start
        if HEADS:
            head = head * CONSUMERS + CONSUMER
        elif ORDER == MIRRORED:
            if CONSUMER == 0:
                row = mirrored(row, sizes)
        else:
            row += CONSUMER * 64
        at_q = turn_count % Q_STAGES * CONSUMERS + CONSUMER
        q_t = q_s.index(at_q).reshape([64, HEAD_DIM])
        limit = gl.full([64], seqlen_kv, gl.int32, row_layout)
        if CAUSAL:
            limit = gl.minimum(limit, row + gl.arange(0, 64, row_layout) + (1 + seqlen_kv - seqlen_q))
        own, whole = key_blocks(row, sizes, 64, BLOCK_N, CAUSAL)

        begin = 0  # the first block that these rows see; those before it are for consumers further down
        if CAUSAL and CONSUMER < CONSUMERS - 1 and not HEADS:
            begin = blocks - own
            for i in range(begin):
                pass_on(filled + i, bars, CONSUMER, CONSUMERS, STAGES, PINGPONG)
        stage = (filled + begin) % STAGES
        mbarrier.wait(q_full.index(at_q), turn_count // Q_STAGES & 1)
        mbarrier.wait(k_full.index(stage), ((filled + begin) // STAGES) & 1)
        turn("sync", CONSUMER, CONSUMERS, PINGPONG)
        none = gl.zeros([64, BLOCK_N], gl.float32, s_layout)
        k_t = k_s.index(stage).reshape([BLOCK_N, HEAD_DIM]).permute((1, 0))
        scores = warpgroup_mma(q_t, k_t, none, use_acc=False, is_async=True)
        turn("arrive", CONSUMER + 1, CONSUMERS, PINGPONG)
        qk = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(k_empty.index(stage), count=1)
        row_max = gl.full([64], float("-inf"), gl.float32, row_layout)
        p, row_max, _rescale = softmax_step(qk, row_max, scale_log2, limit, (upto - 1 - begin) * BLOCK_N, True)
        row_sum = thread_sums(p)
        state = (gl.zeros([64, HEAD_DIM], gl.float32, o_layout), pack(p, dtype == gl.bfloat16), row_sum, row_max)

        masked = 1  # without a causal mask only the last key tile, done above, can be partial
        if CAUSAL:
            masked = gl.maximum(begin + 1, blocks - whole)
            for i in range(begin + 1, masked):
                state = consume_block(i, state, q_t, k_s, v_s, bars, filled, upto, limit, scale_log2, zero,
                                      CONSUMER, CONSUMERS, BLOCK_N, STAGES, PINGPONG, LATE, True)  # fmt: skip
        for i in range(masked, blocks):
            state = consume_block(i, state, q_t, k_s, v_s, bars, filled, upto, limit, scale_log2, zero,
                                  CONSUMER, CONSUMERS, BLOCK_N, STAGES, PINGPONG, LATE, False)  # fmt: skip
        acc, packed, row_sum, row_max = state

        filled += blocks
        stage = (filled - 1) % STAGES
        if O_PARTS > 0:
            mbarrier.arrive(q_empty.index(at_q), count=1)
        mbarrier.wait(v_full.index(stage), ((filled - 1) // STAGES) & 1)
        v_t = v_s.index(stage).reshape([BLOCK_N, HEAD_DIM])
        acc = warpgroup_mma(unpack(packed, dtype, p_layout), v_t, acc, is_async=False)
        mbarrier.arrive(v_empty.index(stage), count=1)
        total = gl.convert_layout(gl.sum(row_sum, 1), gl.SliceLayout(1, o_layout))
        if PIECES:
            if unit >= cut[0]:
                set_aside(part_ptr, unit - cut[0], tiles - cut[0], acc, total, row_max, CONSUMER, CONSUMERS)
                if O_PARTS == 0:
                    mbarrier.arrive(q_empty.index(at_q), count=1)
            else:
                if HEAD_DIM == 128:
                    # Found out again: what is kept through the loop takes a register that ptxas lacks there.
                    batch, head, row, _blocks = locate(
                        same(unit), sizes, CONSUMERS * 64, BLOCK_N, HEAD_DIM, CAUSAL, ORDER)  # fmt: skip
                    row += CONSUMER * 64
                finish(o_desc, lse_ptr, o_t, q_empty.index(at_q), (batch, head, row), sizes, acc, total, row_max,
                       CONSUMERS, HEADS, O_PARTS)  # fmt: skip
        else:
            finish(o_desc, lse_ptr, o_t, q_empty.index(at_q), (batch, head, row), sizes, acc, total, row_max,
                   CONSUMERS, HEADS, O_PARTS)  # fmt: skip

        if DYNAMIC:
            mbarrier.wait(next_full, turn_count & 1)
            unit = uniform(gl.max(next_s.load(gl.BlockedLayout([1], [32], [4], [0])), 0))
            mbarrier.arrive(next_empty, count=1)
        else:
            unit += gl.num_programs(0)
        turn_count += 1
    tma.store_wait(0)


SCALARS = ["row_tiles", "heads_total", "heads_q", "group", "section", "seqlen_q", "seqlen_kv", "whole", "parts"]


@gluon.jit(do_not_specialize=SCALARS)
def attend(
    q_desc, k_desc, v_desc, o_desc, counter_ptr, lse_ptr, part_ptr,
    row_tiles, heads_total, heads_q, group, section, seqlen_q, seqlen_kv, whole, parts, scale_log2,
    CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
    DYNAMIC: gl.constexpr, PINGPONG: gl.constexpr, LATE: gl.constexpr, O_PARTS: gl.constexpr,
    HEADS: gl.constexpr, Q_STAGES: gl.constexpr, ORDER: gl.constexpr,
    CONSUMER_REGISTERS: gl.constexpr, PRODUCER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Allocate the rings and start one producer warp and CONSUMERS warpgroups."""
    dtype: gl.constexpr = q_desc.dtype
    HEAD_DIM: gl.constexpr = q_desc.block_type.shape[3]
    q_s = gl.allocate_shared_memory(dtype, [Q_STAGES * CONSUMERS, 1, 1, 64, HEAD_DIM], q_desc.layout)
    k_s = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, HEAD_DIM], k_desc.layout)
    v_s = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, HEAD_DIM], v_desc.layout)
    o_s = q_s
    if O_PARTS > 0:
        o_s = gl.allocate_shared_memory(dtype, [CONSUMERS, 1, 1, 64, HEAD_DIM // O_PARTS], o_desc.layout)
    next_s = gl.allocate_shared_memory(gl.int32, [1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full = gl.allocate_shared_memory(gl.int64, [Q_STAGES * CONSUMERS, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [Q_STAGES * CONSUMERS, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    next_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    next_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for c in gl.static_range(Q_STAGES * CONSUMERS):
        mbarrier.init(q_full.index(c), count=1)
        mbarrier.init(q_empty.index(c), count=1)
    for s in gl.static_range(STAGES):
        mbarrier.init(k_full.index(s), count=1)
        mbarrier.init(v_full.index(s), count=1)
        mbarrier.init(k_empty.index(s), count=CONSUMERS)
        mbarrier.init(v_empty.index(s), count=CONSUMERS)
    mbarrier.init(next_full, count=1)
    mbarrier.init(next_empty, count=CONSUMERS)

    bars = (q_full, q_empty, k_full, k_empty, v_full, v_empty, next_full, next_empty)
    sizes = (row_tiles, heads_total, heads_q, section, seqlen_q, seqlen_kv)
    cut = (whole, parts)
    shared = (q_s, k_s, v_s, o_s, next_s)
    # The tuples stand inside the calls because a constexpr in a tuple that is assigned to a name becomes a tensor.
    if CONSUMERS == 2:
        gl.warp_specialize([
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       0, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       1, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (produce, (q_desc, k_desc, v_desc, shared, bars, sizes, cut, group, counter_ptr,
                       CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, HEADS, Q_STAGES, ORDER, part_ptr is not None)),
        ], [4, 1], [CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
    elif CONSUMERS == 4:
        gl.warp_specialize([
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       0, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       1, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       2, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       3, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (produce, (q_desc, k_desc, v_desc, shared, bars, sizes, cut, group, counter_ptr,
                       CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, HEADS, Q_STAGES, ORDER, part_ptr is not None)),
        ], [4, 4, 4, 1], [CONSUMER_REGISTERS, CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
    else:
        gl.warp_specialize([
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       0, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       1, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (consume, (o_desc, shared, bars, sizes, cut, scale_log2, lse_ptr, part_ptr,
                       2, CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, PINGPONG, LATE, O_PARTS,
                       HEADS, Q_STAGES, ORDER)),
            (produce, (q_desc, k_desc, v_desc, shared, bars, sizes, cut, group, counter_ptr,
                       CONSUMERS, BLOCK_N, STAGES, CAUSAL, DYNAMIC, HEADS, Q_STAGES, ORDER, part_ptr is not None)),
        ], [4, 4, 1], [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip


@gluon.jit
def merge_rows(
    part_ptr, out_ptr, lse_ptr, begin, tile, row, sizes, stats, parts,
    HEIGHT: gl.constexpr, HEAD_DIM: gl.constexpr, ROWS_EACH: gl.constexpr, PARTS: gl.constexpr,
):  # fmt: skip
    """Write ROWS_EACH rows of a tile from row on, of which parts (up to PARTS) pieces lie from piece begin on."""
    warps: gl.constexpr = min(4, PARTS)
    full: gl.constexpr = gl.BlockedLayout([1, 1, 4], [1, 1, 32], [4 // warps, warps, 1], [2, 1, 0])
    flat: gl.constexpr = gl.SliceLayout(2, full)
    batch, head, first_row, _blocks = locate(tile, sizes, HEIGHT, 64, HEAD_DIM, False, 0)
    r = row + gl.arange(0, ROWS_EACH, gl.SliceLayout(1, flat))
    p = gl.arange(0, PARTS, gl.SliceLayout(0, flat))
    d = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, gl.SliceLayout(1, full)))
    places = (begin + p)[None, :] * HEIGHT + r[:, None]
    there = gl.broadcast(p[None, :] < parts, places)[0]
    top = gl.load(stats + places * 2, mask=there, other=float("-inf"))
    total = gl.load(stats + places * 2 + 1, mask=there, other=0.0)
    acc = gl.load(part_ptr + places[:, :, None] * HEAD_DIM + d[None, None, :], mask=there[:, :, None], other=0.0)
    highest = gl.max(top, 1)
    weight = gl.exp2(top - highest[:, None])
    whole = gl.sum(weight * total, 1)
    result = gl.sum(acc * weight[:, :, None], 1)
    rows: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(1, full))
    result = result / gl.convert_layout(whole, rows)[:, None]
    to = gl.convert_layout(first_row + r, rows)
    line = ((batch * sizes[4] + to).to(gl.int64) * sizes[2] + head) * HEAD_DIM
    gl.store(out_ptr + line[:, None] + d[None, :], result.to(out_ptr.dtype.element_ty), mask=(to < sizes[4])[:, None])
    if lse_ptr is not None:
        lse = (highest + gl.log2(whole)) * LN_2
        to = first_row + r
        gl.store(lse_ptr + (batch * sizes[2] + head).to(gl.int64) * sizes[4] + to, lse, mask=to < sizes[4])


@gluon.jit(do_not_specialize=SCALARS)
def merge(
    part_ptr, out_ptr, lse_ptr, row_tiles, heads_total, heads_q, section, seqlen_q, whole, parts,
    HEIGHT: gl.constexpr, HEAD_DIM: gl.constexpr, PARTS_1: gl.constexpr, PARTS_2: gl.constexpr,
):  # fmt: skip
    """Bring the pieces of tiles together: MERGED of them, times rows, at once."""
    sizes = (row_tiles, heads_total, heads_q, section, seqlen_q, seqlen_q)
    _whole, first, parts_1, parts_2 = unpacked((whole, parts))
    stats = part_ptr + (units(row_tiles * heads_total, (whole, parts)) - whole) * (HEIGHT * HEAD_DIM)
    ROWS_1: gl.constexpr = MERGED // PARTS_1
    ROWS_2: gl.constexpr = MERGED // PARTS_2
    coarse = first // parts_1
    programs = coarse * (HEIGHT // ROWS_1)
    at = gl.program_id(0)
    if at < programs:
        which = at // (HEIGHT // ROWS_1)
        merge_rows(part_ptr, out_ptr, lse_ptr, which * parts_1, whole + which, at % (HEIGHT // ROWS_1) * ROWS_1,
                   sizes, stats, parts_1, HEIGHT, HEAD_DIM, ROWS_1, PARTS_1)  # fmt: skip
    else:
        at -= programs
        which = at // (HEIGHT // ROWS_2)
        merge_rows(part_ptr, out_ptr, lse_ptr, first + which * parts_2, whole + coarse + which,
                   at % (HEIGHT // ROWS_2) * ROWS_2, sizes, stats, parts_2,
                   HEIGHT, HEAD_DIM, ROWS_2, PARTS_2)  # fmt: skip


MERGED = gl.constexpr(32)  # pieces, times rows, that a program of merge takes in at once
MOST_PARTS = 32
MOST_PIECES = 4  # a processor, or they take up too much memory
MERGE_US = 4.0  # what a second launch costs


class Cut(NamedTuple):
    """How the tiles of a last round are cut: behind whole ones come first pieces of 1 / parts_1, then 1 / parts_2."""

    whole: int
    first: int
    parts_1: int
    parts_2: int
    units: int

    def packed(self) -> tuple[int, int]:
        """As the kernel takes it, for registers are scarce."""
        return self.whole, self.first << 12 | self.parts_1 << 6 | self.parts_2

    @classmethod
    def of(cls, tiles: int, processors: int, blocks: int, tile_us: float, piece_us: float) -> Cut | None:
        """The cut that ends soonest, or None if none is worth a second launch."""
        whole = tiles // processors * processors
        rest = tiles - whole
        if not whole or not rest:
            return None
        able = [n for n in range(2, MOST_PARTS + 1) if triton.cdiv(blocks, triton.cdiv(blocks, n)) == n]
        best, least = None, tile_us * 0.9 - MERGE_US

        def spent(count: int, parts: int) -> float:
            """Time of count tiles in so many parts; a piece takes a block more than it has."""
            rounds = triton.cdiv(count * parts, processors)
            return rounds * tile_us * (triton.cdiv(blocks, parts) + 1) / blocks + count * parts * piece_us

        for parts_1 in (1, 2, 3, 4):
            coarse = 0 if parts_1 == 1 else processors // parts_1
            if coarse >= rest or (parts_1 > 1 and parts_1 not in able):
                continue
            for parts_2 in able:
                time = spent(rest - coarse, parts_2) + (spent(coarse, parts_1) if coarse else 0.0)
                if time < least and coarse * parts_1 + (rest - coarse) * parts_2 <= MOST_PIECES * processors:
                    first = coarse * parts_1
                    best, least = cls(whole, first, parts_1, parts_2, whole + first + (rest - coarse) * parts_2), time
        return best


class Loop(NamedTuple):
    """How tiles are worked on: constants of the compiled kernel."""

    consumers: int
    block_n: int
    stages: int
    pingpong: bool
    late: bool
    heads: bool = False  # consumers share keys by the heads of one group and not by rows alone
    mirrored: bool = False  # of one head, one consumer takes rows as far from the first as the other from the last

    @classmethod
    def of(
        cls, head_dim: int, seqlen_q: int, seqlen_kv: int, causal: bool, group: int, heads: int, processors: int
    ) -> Loop:
        """What was measured to be best; heads are those of all sequences."""
        if head_dim == 64:
            consumers = 2 if seqlen_kv <= SHORT_KEYS and causal else D64_CONSUMERS
            consumers = max(2, min(consumers, triton.cdiv(seqlen_q, ROWS)))
            return cls(consumers, D64_BLOCK_N, D64_STAGES, D64_PINGPONG, D64_LATE)
        if head_dim == 256:
            return cls(2, D256_BLOCK_N, 2, D256_PINGPONG, D256_LATE)
        if seqlen_kv <= SHORT_KEYS * (2 if causal else 1):
            pairs = triton.cdiv(seqlen_q, 2 * ROWS)
            if causal and pairs > 1 and pairs * heads <= processors and seqlen_kv < 2 * seqlen_q:
                return cls(2, SHORT_BLOCK_N, SHORT_STAGES, False, MIRRORED_LATE, mirrored=True)
            return cls(2, SHORT_BLOCK_N, SHORT_STAGES, False, SHORT_LATE, heads=causal and group % 2 == 0)
        return cls(D128_CONSUMERS, D128_BLOCK_N, D128_STAGES, D128_PINGPONG, D128_LATE)


def causal_lengths(seqlen_q: int, seqlen_kv: int, height: int, block_n: int) -> list[int]:
    """Key blocks of one head's causal tiles and one more, which is what a tile costs besides; the longest first."""
    shift = seqlen_kv - seqlen_q
    ends = range(shift + triton.cdiv(seqlen_q, height) * height, shift, -height)
    return [max(1, triton.cdiv(min(end, seqlen_kv), block_n)) + 1 for end in ends]


def in_order(lengths: list[int], heads: int, section: int, turned: bool) -> list[int]:
    """The lengths of all tiles in the order of locate, from those of one head's, longest first."""
    sections = heads // section
    tiles: list[int] = []
    for which in range(sections):
        width = section if which < sections - 1 else heads - which * section
        tiles += [length for length in (lengths[::-1] if turned and which % 2 else lengths) for _ in range(width)]
    return tiles


def most_blocks(lengths: list[int], heads: int, section: int, programs: int, turned: bool) -> int:
    """What the busiest program has to do where each takes every programs-th tile, in the order of locate."""
    tiles = in_order(lengths, heads, section, turned)
    return max(sum(tiles[program::programs]) for program in range(programs))


def last_end(lengths: list[int], heads: int, section: int, programs: int) -> int:
    """When the last tile ends, counted in blocks, where a program that is free takes the next one."""
    free = [0] * programs
    end = 0
    for length in in_order(lengths, heads, section, False):
        done = free[0] + length
        end = max(end, done)
        heapq.heapreplace(free, done)
    return end


def balanced(lengths: list[int], heads: int, section: int, group: int, programs: int) -> int:
    """How many heads a section needs, from section on, for the last tile to end nearly as soon as it can.

    Where a section is less than a round, or little more, the longest tiles of the last one begin too late. Of what ends
    within 2% of the best the smallest is taken, for keys of few heads stay in the L2 cache.
    """
    least = max(lengths[0], sum(lengths) * heads / programs)
    widest = triton.cdiv(4 * programs, len(lengths) * group) * group  # four rounds
    ends: dict[int, int] = {}
    for width in range(section, max(section, min(widest, heads)) + 1, group):
        ends[width] = last_end(lengths, heads, width, programs)
        if ends[width] <= 1.02 * least:
            return width
    best = min(ends.values())
    return next(width for width, end in ends.items() if end <= 1.02 * best)


def folded(lengths: list[int], heads: int, section: int, programs: int) -> int | None:
    """The ranks of the FOLDED order that ends soonest, or None where it saves nothing that is worth another build.

    With two or three tiles a program, longest first makes the first two of all programs equally long together, and of
    the third ones there are too few. Ends of the folded part are tried in steps of an eighth of the rows.
    """
    before = last_end(lengths, heads, section, programs)
    most = before / (1 + FOLDS)
    least = max(lengths[0], sum(lengths) * heads / programs)
    if least > most or len(lengths) < FOLDED_ROWS or len(lengths) * heads > FOLDED_ROUNDS * programs:
        return None
    found = []
    for begin, end in itertools.combinations([len(lengths) * eighth // 8 for eighth in range(9)], 2):
        order = lengths[:begin] + lengths[begin:end][::-1] + lengths[end:]
        found.append((last_end(order, heads, heads, programs), begin << 16 | end))
    after, ranks = min(found)
    return ranks if after <= most else None


class Plan:
    """What a call needs that depends on shapes, strides and dtype alone."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, causal: bool) -> None:
        batch, heads_q, seqlen_q, head_dim = q.shape
        heads_kv, seqlen_kv = k.shape[1:3]
        group = heads_q // heads_kv
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count
        loop = Loop.of(head_dim, seqlen_q, seqlen_kv, causal, group, batch * heads_q, processors)
        if loop.heads:
            heads_q, group = heads_q // loop.consumers, group // loop.consumers
        row_tiles = triton.cdiv(seqlen_q, ROWS if loop.heads else loop.consumers * ROWS)
        tiles = row_tiles * batch * heads_q
        schedule = CAUSAL_SCHEDULE if causal else FULL_SCHEDULE
        if tiles <= processors:
            schedule = "single"  # nothing to hand out
        elif schedule == "dynamic" and causal and seqlen_kv >= ALIKE * seqlen_q:
            schedule = "static"
        self.counted = schedule == "dynamic"
        self.height = ROWS if loop.heads else loop.consumers * ROWS
        cut = None
        if self.counted and not causal and head_dim >= 128:
            tile_us = 4 * self.height * seqlen_kv * head_dim / FLOP_PER_US
            piece_us = self.height * head_dim / PIECE_PER_US
            cut = Cut.of(tiles, processors, triton.cdiv(seqlen_kv, loop.block_n), tile_us, piece_us)
        self.cut = cut
        self.grid = tiles if schedule == "single" else min(tiles, processors)
        # Tiles become shorter within a section, so one must occupy every processor to the end.
        cached = (L2_MIB << 20) // (4 * seqlen_kv * head_dim)
        section = max(1, cached, processors // (row_tiles * group)) * group
        tile = loop.consumers * ROWS * head_dim * 2
        room = SHARED_LIMIT - tile - 4 * loop.stages * loop.block_n * head_dim
        # Pieces that results leave in; 0: through the queries.
        parts = 1 if room >= tile else 2 if room >= tile // 2 else 0
        section = min(section, batch * heads_q)
        order = MIRRORED.value if loop.mirrored else 0
        if head_dim == 256 and causal and CAUSAL_SCHEDULE == "dynamic" and processors < tiles <= BALANCED * processors:
            lengths = causal_lengths(seqlen_q, seqlen_kv, self.height, loop.block_n)
            width = balanced(lengths, batch * heads_q, section, group, processors)
            if schedule == "static":
                before = most_blocks(lengths, batch * heads_q, section, self.grid, False)
                after = last_end(lengths, batch * heads_q, width, processors)
                self.counted = SAVED * (before - after) >= before
            if self.counted:
                schedule, section = "dynamic", width
                ranks = folded(lengths, batch * heads_q, width, processors)
                if ranks is not None:
                    order, section = FOLDED.value, ranks
        # With fewer tiles than that, queries ahead only stand in the way of keys that are waited for.
        q_stages = 2 if room >= 2 * tile and tiles >= 2 * processors else 1
        abreast = processors // (row_tiles * group)
        # A program has a tile of every round. Where a round is a section and every other one TURNED, all have as much
        # to do, but those on the same keys also read each block of them at once, with nobody ahead. On an H200 that
        # gained 8% with 8 MiB of keys a round and queries ahead, and took 23% longer with 64 MiB and none ahead.
        if schedule == "static" and causal and q_stages == 2 and 1 <= abreast <= cached:
            lengths = causal_lengths(seqlen_q, seqlen_kv, self.height, loop.block_n)
            turned = abreast * group
            count = row_tiles * turned
            before = most_blocks(lengths, batch * heads_q, section, self.grid, False)
            if SAVED * (before - most_blocks(lengths, batch * heads_q, turned, count, True)) >= before:
                order, section, self.grid = TURNED.value, turned, count
        packed = cut.packed() if cut else (0, 0)
        self.sizes = (row_tiles, batch * heads_q, heads_q, group, section, seqlen_q, seqlen_kv, *packed)
        if cut:
            pieces = cut.units - cut.whole
            self.part_floats = pieces * self.height * (head_dim + 2)
            coarse = cut.first // cut.parts_1
            fine = tiles - cut.whole - coarse
            wide_1, wide_2 = triton.next_power_of_2(cut.parts_1), triton.next_power_of_2(cut.parts_2)
            self.merge_grid = (coarse * wide_1 + fine * wide_2) * self.height // MERGED.value
            self.merge_sizes = (row_tiles, batch * heads_q, heads_q, section, seqlen_q, *packed)
            self.merge_constants = {"HEIGHT": self.height, "HEAD_DIM": head_dim, "PARTS_1": wide_1, "PARTS_2": wide_2}
        self.constants = {
            "CONSUMERS": loop.consumers, "BLOCK_N": loop.block_n, "STAGES": loop.stages, "CAUSAL": causal,
            "DYNAMIC": self.counted, "PINGPONG": loop.pingpong, "LATE": loop.late, "O_PARTS": parts,
            "HEADS": loop.heads, "Q_STAGES": q_stages, "ORDER": order,
            "CONSUMER_REGISTERS": {2: 240, 3: 160, 4: 112}[loop.consumers],
            "PRODUCER_REGISTERS": {2: 24, 3: 32, 4: 24}[loop.consumers],
        }  # fmt: skip
        blocks = ((ROWS, 1), (loop.block_n, 1), (loop.block_n, 1), (ROWS, parts or 1))
        self.tiles = [tile_of(x, rows, pieces) for x, (rows, pieces) in zip((q, k, v, out), blocks, strict=True)]
        self.quick: Quick | None = None

    def compile_and_launch(
        self, tensors: tuple[torch.Tensor, ...], scale_log2: float, lse: torch.Tensor | None = None
    ) -> None:
        """Attend from q to k and v into out, the four tensors, through Triton, which compiles what is new."""
        counter = torch.zeros(1, dtype=torch.int32, device=tensors[0].device) if self.counted else None
        described = [TensorDescriptor(x, *tile) for x, tile in zip(tensors, self.tiles, strict=True)]
        part = merging = None
        if self.cut:
            part = torch.empty(self.part_floats, dtype=torch.float32, device=tensors[0].device)
        compiled = attend[(self.grid,)](
            *described, counter, lse, part, *self.sizes, scale_log2, **self.constants, num_warps=4)  # fmt: skip
        if self.cut:
            merging = merge[(self.merge_grid,)](
                part, tensors[3], lse, *self.merge_sizes, **self.merge_constants, num_warps=4)  # fmt: skip
        if lse is None:
            self.quick = Quick.of(compiled, self, merging)


class Counters:
    """Zeroed counters of one device; every call leaves its own at zero.

    Calls on one stream follow each other and share a counter; what a CUDA graph records keeps one to itself, since a
    graph may run beside anything.
    """

    def __init__(self, device: torch.device) -> None:
        self.cells = torch.zeros(COUNTERS, dtype=torch.int32, device=device)
        self.first = self.cells.data_ptr()
        self.taken = itertools.count()
        self.of_stream: dict[int, int] = {}

    def take(self) -> int | None:
        """Address of a counter that nobody else has, or None when all are taken."""
        index = next(self.taken)
        return self.first + 4 * index if index < COUNTERS else None

    def address(self, stream: int) -> int | None:
        """Address of the counter for a call on a stream now, or None when all are taken."""
        if torch.cuda.is_current_stream_capturing():
            return self.take()
        found = self.of_stream.get(stream) or self.take()
        if found is not None:
            self.of_stream[stream] = found
        return found


class Quick:
    """The launch of a compiled plan without what Triton does in Python each time; descriptors are kept by address."""

    @classmethod
    def of(cls, compiled: Any, plan: Plan, merging: Any) -> Quick | None:
        """Of a compiled kernel, or None where this Triton keeps its launcher elsewhere."""
        try:
            inner = inspect.getclosurevars(compiled.run.launch).nonlocals
            return cls(compiled, plan, inner["launcher"], inner["tensordesc_meta"], merging)
        except (AttributeError, KeyError, TypeError):
            return None

    def __init__(self, compiled: Any, plan: Plan, launcher: Any, metas: list[dict[str, Any]], merging: Any) -> None:
        self.launcher = launcher
        self.fill = triton.runtime.driver.active.utils.fill_tma_descriptor
        self.stream_of = triton.runtime.driver.active.get_current_stream
        self.fills = [
            (meta["swizzle"], meta["elem_size"], TMA_DTYPE_DEVICE_TO_HOST[meta["elem_type"]], meta["block_size"],
             shape, strides, 0) for meta, (shape, strides, _block, _layout) in zip(metas, plan.tiles, strict=True)
        ]  # fmt: skip
        self.maps: list[dict[int, object]] = [{}, {}, {}, {}]
        run = compiled.run
        self.part_floats = 0
        if merging is not None:
            self.part_floats = plan.part_floats
            self.merge = merging.run.launch
            self.merge_start = (plan.merge_grid, 1, 1)
            self.merge_next = (merging.function, merging.run.launch_cooperative_grid, merging.run.launch_pdl, None,
                               None, merging.packed_metadata, None, None, None)  # fmt: skip
            self.merge_end = (None, *plan.merge_sizes, *plan.merge_constants.values())
        self.start = (compiled.function, run.launch_cooperative_grid, run.launch_pdl, None, None,
                      compiled.packed_metadata, None, None, None)  # fmt: skip
        self.dims = [(*shape, *strides) for shape, strides, _block, _layout in plan.tiles]
        self.end = tuple(plan.constants.values())
        self.grid, self.counted, self.sizes = plan.grid, plan.counted, plan.sizes

    def described(self, which: int, address: int) -> object:
        """The descriptor of one of q, k, v and out at an address."""
        maps = self.maps[which]
        found = maps.get(address)
        if found is None:
            if len(maps) >= MOST_KEPT:
                maps.clear()
            found = maps[address] = self.fill(address, *self.fills[which])
        return found

    def launch(self, q: int, k: int, v: int, out: int, device: torch.device, scale_log2: float) -> bool:
        """Attend from q to k and v into out, given by their addresses; False if there is no counter."""
        stream = self.stream_of(device.index)
        counter = None
        if self.counted:
            counters = COUNTED.get(device)
            if counters is None:
                if torch.cuda.is_current_stream_capturing():
                    return False
                counters = COUNTED[device] = Counters(device)
            counter = counters.address(stream)
            if counter is None:
                return False
        described, dims = self.described, self.dims
        part = None
        if self.part_floats:
            part = torch.empty(self.part_floats, dtype=torch.float32, device=device)
        self.launcher(
            self.grid, 1, 1, stream, *self.start, described(0, q), *dims[0], described(1, k), *dims[1],
            described(2, v), *dims[2], described(3, out), *dims[3], counter, None, part, *self.sizes, scale_log2,
            *self.end,
        )  # fmt: skip
        if part is not None:
            self.merge(*self.merge_start, stream, *self.merge_next, part, out, *self.merge_end)
        return True


FLOP_PER_US = 6.2e6  # of one multiprocessor
PIECE_PER_US = 3e5  # floats of pieces written and read again
COUNTERS = 1 << 16
COUNTED: dict[torch.device, Counters] = {}
MOST_KEPT = 4096
PLANS: dict[tuple[object, ...], Plan] = {}


def tile_of(x: torch.Tensor, rows: int, parts: int) -> tuple[list[int], list[int], list[int], gl.NVMMASharedLayout]:
    """How TMA moves (1, 1, rows, head_dim / parts) tiles of x (batch, heads, seqlen, head_dim).

    Shape, strides, block and layout.
    """
    # The stride of a dimension of size 1 is never used, but TMA checks its alignment all the same.
    outer = zip(x.shape[:-1], x.stride()[:-1], strict=True)
    strides = [*(stride if size > 1 else x.shape[-1] for size, stride in outer), 1]
    block = [1, 1, rows, x.shape[-1] // parts]
    dtype = gl.float16 if x.dtype == torch.float16 else gl.bfloat16
    return list(x.shape), strides, block, gl.NVMMASharedLayout.get_default_for(block, dtype)


def aligned(x: torch.Tensor) -> torch.Tensor:
    """Return x itself if TMA can read it in place, else a contiguous copy."""
    used = [stride for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    if x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(stride > 0 and stride % 8 == 0 for stride in used):
        return x
    return x.clone(memory_format=torch.contiguous_format)


@triton.jit
def packed_block(
    q, acc, row_max, row_sum, rows, start, k_ptr, v_ptr, k_stride_s, v_stride_s, seqlen_kv, shift, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take in the keys from start on, BLOCK_N of them; only a MASKED block looks at what its rows see."""
    cols = start + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, HEAD_DIM)
    kv_rows = cols[:, None].to(tl.int64)
    if MASKED:
        k = tl.load(k_ptr + kv_rows * k_stride_s + dims[None, :], mask=kv_rows < seqlen_kv, other=0.0)
        v = tl.load(v_ptr + kv_rows * v_stride_s + dims[None, :], mask=kv_rows < seqlen_kv, other=0.0)
    else:
        k = tl.load(k_ptr + kv_rows * k_stride_s + dims[None, :])
        v = tl.load(v_ptr + kv_rows * v_stride_s + dims[None, :])
    scores = tl.dot(q, tl.trans(k)) * scale_log2
    if MASKED:
        visible = (cols[None, :] < seqlen_kv) & (cols[None, :] <= rows[:, None] + shift)
        scores = tl.where(visible, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    p = tl.exp2(scores - base[:, None])
    rescale = tl.exp2(row_max - base)
    acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None])
    return acc, new_max, row_sum * rescale + tl.sum(p, 1)


@triton.jit(do_not_specialize=[
    "q_stride_s", "q_stride_h", "k_stride_s", "k_stride_h", "v_stride_s", "v_stride_h", "o_stride_s", "o_stride_h",
    "tokens_q", "group", "reach",
])  # fmt: skip
def attend_packed(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, ends_q_ptr, ends_k_ptr,
    q_stride_s, q_stride_h, k_stride_s, k_stride_h, v_stride_s, v_stride_h, o_stride_s, o_stride_h,
    tokens_q, group, scale_log2, reach,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of one query head of one sequence; of a program for rows that it does not have, nothing.

    One build for all sizes and both masks: reach is how many keys a row sees beyond the causal mask. Strides are in
    UNIT elements, by which the compiler knows that loads may be of 16 bytes.
    """
    if UNIT > 1:
        q_stride_s, q_stride_h, k_stride_s, k_stride_h = (
            q_stride_s * UNIT, q_stride_h * UNIT, k_stride_s * UNIT, k_stride_h * UNIT)  # fmt: skip
        v_stride_s, v_stride_h, o_stride_s, o_stride_h = (
            v_stride_s * UNIT, v_stride_h * UNIT, o_stride_s * UNIT, o_stride_h * UNIT)  # fmt: skip
    first_q = tl.load(ends_q_ptr + tl.program_id(2)).to(tl.int64)
    first_k = tl.load(ends_k_ptr + tl.program_id(2)).to(tl.int64)
    seqlen_q = (tl.load(ends_q_ptr + tl.program_id(2) + 1) - first_q).to(tl.int32)
    seqlen_kv = (tl.load(ends_k_ptr + tl.program_id(2) + 1) - first_k).to(tl.int32)
    # The last rows of a causal sequence take the longest and so start first.
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    if first_row < seqlen_q:
        head = tl.program_id(1).to(tl.int64)
        rows = first_row + tl.arange(0, BLOCK_M)
        dims = tl.arange(0, HEAD_DIM)
        in_range = rows[:, None] < seqlen_q
        tokens = (first_q + rows)[:, None]
        q = tl.load(q_ptr + head * q_stride_h + tokens * q_stride_s + dims[None, :], mask=in_range, other=0.0)
        k_ptr += head // group * k_stride_h + first_k * k_stride_s
        v_ptr += head // group * v_stride_h + first_k * v_stride_s
        shift = seqlen_kv - seqlen_q + reach
        end = tl.maximum(0, tl.minimum(seqlen_kv, first_row + BLOCK_M + shift))
        whole = tl.maximum(0, tl.minimum(seqlen_kv, first_row + 1 + shift)) // BLOCK_N * BLOCK_N
        row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
        row_sum = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
        for start in range(0, whole, BLOCK_N):
            acc, row_max, row_sum = packed_block(
                q, acc, row_max, row_sum, rows, start, k_ptr, v_ptr, k_stride_s, v_stride_s, seqlen_kv, shift,
                scale_log2, HEAD_DIM, BLOCK_N, False)  # fmt: skip
        for start in range(whole, end, BLOCK_N):
            acc, row_max, row_sum = packed_block(
                q, acc, row_max, row_sum, rows, start, k_ptr, v_ptr, k_stride_s, v_stride_s, seqlen_kv, shift,
                scale_log2, HEAD_DIM, BLOCK_N, True)  # fmt: skip
        out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
        o_rows = o_ptr + head * o_stride_h + tokens * o_stride_s
        tl.store(o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=in_range)
        lse = (row_max + tl.log2(row_sum)) * LN_2
        tl.store(lse_ptr + head * tokens_q + first_q + rows, lse, mask=rows < seqlen_q)


def hooked() -> bool:
    """Whether somebody (a profiler) wants to see launches, which only Triton's own way shows."""
    hook = knobs.runtime.launch_enter_hook
    return bool(getattr(hook, "calls", hook))


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float, return_lse: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim).

    With return_lse also the natural log-sum-exp of each row's scores, float32 (batch, heads_q, seqlen_q).
    """
    shape, device = q.shape, q.device
    plan = PLANS.get((shape, k.shape, q.stride(), k.stride(), v.stride(), q.dtype, causal, device))
    at_q, at_k, at_v = q.data_ptr(), k.data_ptr(), v.data_ptr()
    known = plan is not None and plan.quick is not None
    if not known or return_lse or scale <= 0 or (at_q | at_k | at_v) % 16 or hooked():
        return prepared(q, k, v, causal=causal, scale=scale, return_lse=return_lse)
    out = torch.empty((shape[0], shape[2], shape[1], shape[3]), dtype=q.dtype, device=device).transpose(1, 2)
    if not plan.quick.launch(at_q, at_k, at_v, out.data_ptr(), device, scale * LOG2_E):
        plan.compile_and_launch((q, k, v, out), scale * LOG2_E)
    return out


def prepared(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float, return_lse: bool
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The same for a call that is new or needs more: refuses what the kernel cannot do, and keeps the plan."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if q.shape[3] not in (64, 128, 256):
        raise NotImplementedError(f"head_dim {q.shape[3]}: 64, 128 and 256 only")
    if scale <= 0:
        # The running maximum is taken before scaling, which needs a positive factor.
        q, scale = (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)
    q, k, v = aligned(q), aligned(k), aligned(v)
    batch, heads_q, seqlen_q, head_dim = q.shape
    out = torch.empty((batch, seqlen_q, heads_q, head_dim), dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty((batch, heads_q, seqlen_q), dtype=torch.float32, device=q.device) if return_lse else None
    key = (q.shape, k.shape, q.stride(), k.stride(), v.stride(), q.dtype, causal, q.device)
    plan = PLANS.get(key)
    if plan is None:
        if len(PLANS) >= MOST_KEPT:
            PLANS.clear()
        plan = PLANS[key] = Plan(q, k, v, out, causal)
    plan.compile_and_launch((q, k, v, out), scale * LOG2_E, lse)
    return out if lse is None else (out, lse)


def attention_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int, max_seqlen_k: int, causal: bool, scale: float, return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend within packed sequences from q (tokens, heads_q, head_dim) to k and v (tokens, heads_kv, head_dim).

    With return_lse also the log-sum-exp, float32 (heads_q, tokens).
    """
    tokens, heads_q, head_dim = q.shape
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    out = torch.empty_like(q)
    lse = torch.empty((heads_q, tokens), dtype=torch.float32, device=q.device)
    strides = [*q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2]]
    unit = 16 if all(stride % 16 == 0 for stride in strides) else 1
    block_m = PACKED_BLOCK_M if head_dim < 256 else PACKED_BLOCK_M // 2
    attend_packed[(triton.cdiv(max_seqlen_q, block_m), heads_q, len(cu_seqlens_q) - 1)](
        q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, *(stride // unit for stride in strides),
        tokens, heads_q // k.shape[1], scale * LOG2_E, 0 if causal else EVERYTHING,
        HEAD_DIM=head_dim, BLOCK_M=block_m, BLOCK_N=PACKED_BLOCK_N, UNIT=unit,
        num_warps=PACKED_WARPS, num_stages=PACKED_STAGES,
    )  # fmt: skip
    return (out, lse) if return_lse else out
