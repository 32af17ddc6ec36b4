"""Split-KV attention for decoding in plain Triton: few queries, many keys, bound by how fast keys and values arrive.

Why it is fast:
* The query heads that share a key/value head, and their query positions, are packed into the rows of one tile, so keys
  and values are read once per group instead of once per query head, and the tensor cores have rows to work on.
* The keys are cut into splits so that every multiprocessor has work even for one sequence. The splits are as long as
  they can be without costing a further wave of programs, and end within a block where the sequence does: a cache that
  grows by a token keeps its even cut.
* Queries are loaded with the first keys where all programs begin at once: before the loop, keys would wait for them.
* Where heads have up to 64 dimensions and all rows fit into a tile of 16, each warp has keys, maxima, sums and rows of
  its own, and meets the others only at the end.
* Where all splits of a head fit into one cluster of programs, they merge by themselves: each gives every other one what
  that one will merge, through distributed shared memory, and writes its share of the result.
* Elsewhere the merging kernel comes up while the splits still run (programmatic dependent launch) and waits for their
  results; one warp does a row, or a part of its dimensions, and asks for all that it needs at once.
* What a call needs on the host is worked out once for shapes, strides and dtype (Plan).
* Loads run several blocks ahead of the arithmetic (NUM_STAGES), which is what it takes to keep the memory busy.

A cache in blocks is read by the same kernel, which then looks up the block of every key; how long the sequences are is
read on the device alone, so that the launch can be captured. Calls with a cache in blocks or a log-sum-exp take builds
of their own, few for all sizes and masks; a plain call compiles to what it would without them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton import knobs

AVO = {"target": "sm90", "shapes": ["decode"], "lse": True, "paged": True}

BLOCK_N = 128  # keys; half as many where a head has 256 dimensions
D64_BLOCK_N = 128
D64_STAGES = 4  # half as many bytes a block: one more must be under way
LATE_KEYS = 4096  # of a split, up to which its queries are loaded with its first keys
SHORT_KEYS = 2048  # up to so many keys, where nothing is split, blocks are of 64
NUM_WARPS = 4
OWN_KEYS = True  # warps have keys of their own where tiles have 16 rows and heads 64 dimensions
NUM_STAGES = 3
PROGRAMS_PER_SM = 1
MERGE_WARPS = 1
OVERLAP_MERGE = True  # programmatic dependent launch: the merging kernel starts while the last splits still run

TUNABLES = {
    "BLOCK_N": [32, 64, 128],
    "NUM_WARPS": [2, 4, 8],
    "NUM_STAGES": [2, 3, 4],
    "D64_BLOCK_N": [64, 128, 256],
    "D64_STAGES": [3, 4, 5],
    "PROGRAMS_PER_SM": [1, 2, 3, 4],
    "MERGE_WARPS": [1, 2, 4],
    "OVERLAP_MERGE": [False, True],
    "OWN_KEYS": [False, True],
}

CLUSTERS = not knobs.runtime.interpret
OVERLAP = OVERLAP_MERGE and not knobs.runtime.interpret  # Triton's interpreter has no dependent launches
MAX_SPLITS = 128
GRAIN = 16  # keys; splits are multiples of it, so that what they begin with is aligned
BLOCK_SHARE = 0.25  # of a block's time, which it takes although none of its keys are there
WAVE_KEYS = 96  # whose time a wave of programs takes before it has any
CLUSTER_SIZES = (2, 3, 4, 5, 6, 7, 8, 16)  # programs; of those above 8 Triton's launcher allows 16 alone
SHARED_BYTES = 232448  # that a program may have, on every card of this target
MERGE_BLOCK = 64  # partial results that the merging kernel holds at once, at most
MERGE_HELD = 512  # numbers of partial results that a program of it holds
LOG2_E = 1.4426950408889634
Paging = tuple[torch.Tensor | None, int | None, torch.Tensor | None, int | None]
"""The table of blocks, its stride, the lengths of sequences and the size of blocks."""
LN_2 = tl.constexpr(0.6931471805599453)
EVERYTHING = 1 << 30  # keys beyond its own place that a row sees where there is no mask

# Worth builds of their own are a single query, a single head that uses its keys, and lengths that 16 divides: keys
# share a mask then. All else is left to run time, for every build takes a second or more.
STRIDES = [f"{x}_stride_{dim}" for x in "qkvo" for dim in "bhs"]


@triton.jit
def attend_own_keys(
    q_ptr, k_ptr, v_ptr, q_rows, row_in_range, seen, k_stride_b, k_stride_s, v_stride_b, v_stride_s,
    first, end, scale_log2, table_ptr, block_size,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WARPS: tl.constexpr,
    LATE_Q: tl.constexpr,
):  # fmt: skip
    """Maxima, sums and unnormalised rows over the keys from first up to end, of which each warp has its own.

    The first dimension of all tiles is the warp, so that nothing is exchanged between warps in the loop.
    """
    dims = tl.arange(0, HEAD_DIM)[None, None, :]
    own = tl.arange(0, WARPS)[:, None] * (BLOCK_N // WARPS) + tl.arange(0, BLOCK_N // WARPS)[None, :]
    nothing = tl.zeros([WARPS, 1, 1], tl.int32)
    q_at = q_rows[None, :, None] + dims + nothing
    q_in_range = row_in_range[None, :, None] & (nothing == 0)
    if not LATE_Q:
        q = tl.load(q_ptr + q_at, mask=q_in_range, other=0.0)
    row_max = tl.full([WARPS, BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([WARPS, BLOCK_M], tl.float32)
    acc = tl.zeros([WARPS, BLOCK_M, HEAD_DIM], tl.float32)
    for start in range(first, end, BLOCK_N):
        cols = start + own
        kv_rows = cols[:, :, None].to(tl.int64)
        there = kv_rows < end
        if LATE_Q:
            # Always the same queries, which the compiler must not see: in the loop they are loaded ahead, beside the
            # keys; before it, the keys would wait for them.
            q = tl.load(q_ptr + tl.minimum(start, 0) + q_at, mask=q_in_range, other=0.0)
        if table_ptr is None:
            k = tl.load(k_ptr + kv_rows * k_stride_s + dims, mask=there, other=0.0)
            v = tl.load(v_ptr + kv_rows * v_stride_s + dims, mask=there, other=0.0)
        else:
            numbers = cols // block_size
            blocks = tl.load(table_ptr + numbers, mask=cols < end, other=0).to(tl.int64)[:, :, None]
            slots = (cols - numbers * block_size).to(tl.int64)[:, :, None]
            k = tl.load(k_ptr + blocks * k_stride_b + slots * k_stride_s + dims, mask=there, other=0.0)
            v = tl.load(v_ptr + blocks * v_stride_b + slots * v_stride_s + dims, mask=there, other=0.0)
        scores = tl.dot(q, tl.permute(k, (0, 2, 1))) * scale_log2
        visible = cols[:, None, :] < end
        if CAUSAL:
            visible = cols[:, None, :] < seen[None, :, None]
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 2))
        # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(scores - base[:, :, None])
        rescale = tl.exp2(row_max - base)
        row_sum = row_sum * rescale + tl.sum(p, 2)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, :, None])
        row_max = new_max

    top = tl.max(row_max, 0)
    weight = tl.exp2(row_max - tl.where(top == float("-inf"), 0.0, top)[None, :])
    # Halves are added in pairs, each thread what it holds; tl.sum over warps takes six times as many instructions.
    acc = tl.permute(acc * weight[:, :, None], (1, 2, 0))
    if WARPS == 8:
        even, odd = tl.split(tl.reshape(acc, [BLOCK_M, HEAD_DIM, 4, 2]))
        acc = even + odd
    even, odd = tl.split(tl.reshape(acc, [BLOCK_M, HEAD_DIM, 2, 2]))
    even, odd = tl.split(even + odd)
    return top, tl.sum(row_sum * weight, 0), even + odd


@triton.jit
def attend_shared_keys(
    q_ptr, k_ptr, v_ptr, q_rows, row_in_range, seen, k_stride_b, k_stride_s, v_stride_b, v_stride_s,
    first, end, scale_log2, table_ptr, block_size,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, LATE_Q: tl.constexpr,
):  # fmt: skip
    """The same where the warps share each block of keys: for tiles whose rows are too many to be held by every warp."""
    dims = tl.arange(0, HEAD_DIM)[None, :]
    q_at = q_rows[:, None] + dims
    if not LATE_Q:
        q = tl.load(q_ptr + q_at, mask=row_in_range[:, None], other=0.0)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for start in range(first, end, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        kv_rows = cols[:, None].to(tl.int64)
        if LATE_Q:
            q = tl.load(q_ptr + tl.minimum(start, 0) + q_at, mask=row_in_range[:, None], other=0.0)
        if table_ptr is None:
            k = tl.load(k_ptr + kv_rows * k_stride_s + dims, mask=kv_rows < end, other=0.0)
            v = tl.load(v_ptr + kv_rows * v_stride_s + dims, mask=kv_rows < end, other=0.0)
        else:
            numbers = cols[:, None] // block_size
            blocks = tl.load(table_ptr + numbers, mask=kv_rows < end, other=0).to(tl.int64)
            slots = (cols[:, None] - numbers * block_size).to(tl.int64)
            k = tl.load(k_ptr + blocks * k_stride_b + slots * k_stride_s + dims, mask=kv_rows < end, other=0.0)
            v = tl.load(v_ptr + blocks * v_stride_b + slots * v_stride_s + dims, mask=kv_rows < end, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale_log2
        visible = cols[None, :] < end
        if CAUSAL:
            visible = cols[None, :] < seen[:, None]
        scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(scores - base[:, None])
        rescale = tl.exp2(row_max - base)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None])
        row_max = new_max
    return row_max, row_sum, acc


@triton.jit
def give(value, rank, offset):
    """Store numbers at an offset, in bytes, into the meeting place of the program with that rank; none where rank < 0."""
    tl.inline_asm_elementwise(
        """{
        .reg .pred taken; .reg .b32 at;
        setp.ge.s32 taken, $2, 0;
        mov.u32 at, meeting;
        add.u32 at, at, $3;
        @taken mapa.shared::cluster.u32 at, at, $2;
        @taken st.shared::cluster.b32 [at], $1;
        mov.b32 $0, $3;
        }""",
        "=r,r,r,r", [value, rank, offset], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def given(offset):
    """The numbers at an offset, in bytes, in this program's own meeting place."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 at;
        mov.u32 at, meeting;
        add.u32 at, at, $1;
        ld.shared.b32 $0, [at];
        }""",
        "=r,r", [offset], dtype=tl.float32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def merge_in_cluster(
    row_max, row_sum, acc, split, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr,
    CLUSTER: tl.constexpr, RANKS: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """Numbers of the result from split * PIECE on, PIECE of the ROWS * HEAD_DIM of a tile: merged by this program.

    The meeting place holds PIECE unnormalised numbers of every split, then a maximum and a sum of each row of every split.
    """
    of_rows: tl.constexpr = CLUSTER * PIECE * 4
    rows = tl.arange(0, BLOCK_M)[:, None]
    # All have begun, so that their shared memory is there.
    tl.inline_asm_elementwise(
        "barrier.cluster.wait.aligned; mov.b32 $0, $1;", "=r,r", [0], dtype=tl.int32, is_pure=False, pack=1
    )
    numbers = rows * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    give(acc, tl.where(rows < ROWS, numbers // PIECE, -1), (split * PIECE + numbers % PIECE) * 4)
    ranks = tl.arange(0, RANKS)[None, :] + rows * 0
    ranks = tl.where((rows < ROWS) & (ranks < CLUSTER), ranks, -1)
    at = of_rows + (split * ROWS + rows + ranks * 0) * 8
    give(row_max[:, None] + ranks * 0.0, ranks, at)
    give(row_sum[:, None] + ranks * 0.0, ranks, at + 4)
    tl.inline_asm_elementwise(
        """barrier.cluster.arrive.release.aligned;
        barrier.cluster.wait.acquire.aligned;
        mov.b32 $0, $1;""",
        "=r,r", [0], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip
    mine = tl.arange(0, PIECE)
    at = of_rows + tl.minimum((split * PIECE + mine) // HEAD_DIM, ROWS - 1) * 8
    top = given(at)
    for other in tl.static_range(1, CLUSTER):
        top = tl.maximum(top, given(at + other * ROWS * 8))
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros([PIECE], tl.float32)
    merged = tl.zeros([PIECE], tl.float32)
    for other in tl.static_range(CLUSTER):
        weight = tl.exp2(given(at + other * ROWS * 8) - base)
        total += weight * given(at + (other * ROWS * 8 + 4))
        merged += weight * given((other * PIECE + mine) * 4)
    return merged / tl.where(total == 0.0, 1.0, total)


@triton.jit(do_not_specialize=["heads_kv"], do_not_specialize_on_alignment=["group", "seqlen_q"])
def attend_split(
    q_ptr, k_ptr, v_ptr, o_ptr, part_ptr, max_ptr, sum_ptr,
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    o_stride_b, o_stride_h, o_stride_s,
    heads_kv, group, seqlen_q, seqlen_kv, keys_per_split, scale_log2, reach,
    table_ptr, table_stride, lengths_ptr, block_size,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
    FINAL: tl.constexpr, OVERLAP_MERGE: tl.constexpr, UNIT: tl.constexpr, OWN_WARPS: tl.constexpr, LATE_Q: tl.constexpr,
    CLUSTER: tl.constexpr, ROWS: tl.constexpr, PIECE: tl.constexpr, MEETING: tl.constexpr,
):  # fmt: skip
    """Attend from BLOCK_M packed rows of one key/value head to one split of its keys.

    Row r is query position r % seqlen_q of head r // seqlen_q of the group. With a single split the result is FINAL and
    goes to o. Where the splits are a CLUSTER, each merges a PIECE of the numbers in ROWS rows; MEETING declares room for
    that and says that a program has begun. Else unnormalised rows, maxima and sums go to part, max and sum.

    With a table, key t of a sequence is in row t % block_size of a block, of which k_stride_b and v_stride_b are the strides. reach is how many keys a row
    of a CAUSAL call sees beyond the mask. Strides of q, k and v are in UNIT elements: what no specialisation says.
    """
    if CLUSTER > 0:
        tl.inline_asm_elementwise(MEETING, "=r,r", [0], dtype=tl.int32, is_pure=False, pack=1)
    elif OVERLAP_MERGE and not FINAL:
        # The merging kernel may come up as soon as every split has begun: it waits for their results by itself.
        tl.extra.cuda.gdc_launch_dependents()
    if UNIT > 1:
        q_stride_b, q_stride_h, q_stride_s = q_stride_b * UNIT, q_stride_h * UNIT, q_stride_s * UNIT
        k_stride_b, k_stride_h, k_stride_s = k_stride_b * UNIT, k_stride_h * UNIT, k_stride_s * UNIT
        v_stride_b, v_stride_h, v_stride_s = v_stride_b * UNIT, v_stride_h * UNIT, v_stride_s * UNIT
    split = tl.program_id(0)
    batch = (tl.program_id(1) // heads_kv).to(tl.int64)
    head = (tl.program_id(1) % heads_kv).to(tl.int64)
    rows = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows_total = group * seqlen_q
    row_in_range = rows < rows_total
    heads = head * group + rows // seqlen_q
    positions = (rows % seqlen_q).to(tl.int64)
    dims = tl.arange(0, HEAD_DIM)

    q_rows = batch * q_stride_b + heads * q_stride_h + positions * q_stride_s
    if table_ptr is None:
        k_ptr += batch * k_stride_b + head * k_stride_h
        v_ptr += batch * v_stride_b + head * v_stride_h
    else:
        seqlen_kv = tl.load(lengths_ptr + batch)
        table_ptr += batch * table_stride
        k_ptr += head * k_stride_h
        v_ptr += head * v_stride_h
    first = split * keys_per_split
    end = tl.minimum(seqlen_kv, first + keys_per_split)
    beyond = 0 if reach is None else reach
    seen = tl.minimum(end, positions + (seqlen_kv - seqlen_q + beyond + 1)).to(tl.int32)
    if OWN_WARPS > 0:
        row_max, row_sum, acc = attend_own_keys(
            q_ptr, k_ptr, v_ptr, q_rows, row_in_range, seen, k_stride_b, k_stride_s, v_stride_b, v_stride_s,
            first, end, scale_log2, table_ptr, block_size, HEAD_DIM, BLOCK_M, BLOCK_N, CAUSAL, OWN_WARPS, LATE_Q,
        )  # fmt: skip
    else:
        row_max, row_sum, acc = attend_shared_keys(
            q_ptr, k_ptr, v_ptr, q_rows, row_in_range, seen, k_stride_b, k_stride_s, v_stride_b, v_stride_s,
            first, end, scale_log2, table_ptr, block_size, HEAD_DIM, BLOCK_M, BLOCK_N, CAUSAL, LATE_Q,
        )  # fmt: skip

    if FINAL:
        out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
        o_rows = batch * o_stride_b + heads * o_stride_h + positions * o_stride_s
        tl.store(o_ptr + o_rows[:, None] + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range[:, None])
    elif CLUSTER > 0:
        out = merge_in_cluster(
            row_max, row_sum, acc, split, HEAD_DIM, BLOCK_M, ROWS, CLUSTER, 16 if CLUSTER > 8 else 8, PIECE
        )
        numbers = split * PIECE + tl.arange(0, PIECE)
        row = tl.program_id(2) * BLOCK_M + numbers // HEAD_DIM
        o_ptr += batch * o_stride_b + (head * group + row // seqlen_q) * o_stride_h
        o_ptr += (row % seqlen_q).to(tl.int64) * o_stride_s + numbers % HEAD_DIM
        there = (numbers < ROWS * HEAD_DIM) & (row < rows_total)
        tl.store(o_ptr, out.to(o_ptr.dtype.element_ty), mask=there)
    else:
        at = (tl.program_id(1).to(tl.int64) * rows_total + rows) * tl.num_programs(0) + split
        tl.store(part_ptr + at[:, None] * HEAD_DIM + dims[None, :], acc, mask=row_in_range[:, None])
        tl.store(max_ptr + at, row_max, mask=row_in_range)
        tl.store(sum_ptr + at, row_sum, mask=row_in_range)


@triton.jit(do_not_specialize=["heads_kv", "group", "seqlen_q", "splits"])
def merge_splits(
    part_ptr, max_ptr, sum_ptr, o_ptr, lse_ptr, o_stride_b, o_stride_h, o_stride_s, heads_kv, group, seqlen_q, splits,
    HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, MERGE_BLOCK: tl.constexpr, OVERLAP_MERGE: tl.constexpr,
):  # fmt: skip
    """Merge DIMS dimensions of the partial results of a row: each weighs its sum, brought to the largest maximum."""
    if OVERLAP_MERGE:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0)
    at = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + row) * splits
    dims = tl.program_id(2) * DIMS + tl.arange(0, DIMS)
    lanes = tl.arange(0, MERGE_BLOCK)

    top = float("-inf")
    total = 0.0
    acc = tl.zeros([DIMS], tl.float32)
    for start in range(0, splits, MERGE_BLOCK):
        # All that a block needs is asked for at once, and waited for once.
        here = start + lanes
        in_range = here < splits
        maxima = tl.load(max_ptr + at + here, mask=in_range, other=float("-inf"))
        sums = tl.load(sum_ptr + at + here, mask=in_range, other=0.0)
        part = part_ptr + (at + here)[:, None] * HEAD_DIM + dims[None, :]
        rows = tl.load(part, mask=in_range[:, None], other=0.0)
        new_top = tl.maximum(top, tl.max(maxima, 0))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.exp2(maxima - base)
        rescale = tl.exp2(top - base)
        total = total * rescale + tl.sum(weight * sums, 0)
        acc = acc * rescale + tl.sum(weight[:, None] * rows, 0)
        top = new_top

    batch = (tl.program_id(1) // heads_kv).to(tl.int64)
    head = tl.program_id(1) % heads_kv * group + row // seqlen_q
    o_ptr += batch * o_stride_b + head.to(tl.int64) * o_stride_h + (row % seqlen_q).to(tl.int64) * o_stride_s
    out = acc / tl.where(total == 0.0, 1.0, total)
    tl.store(o_ptr + dims, out.to(o_ptr.dtype.element_ty))
    if lse_ptr is not None:
        # Without a visible key the sum is 0 and its logarithm -inf.
        at = (batch * heads_kv * group + head) * seqlen_q + row % seqlen_q
        lse = (tl.where(top == float("-inf"), 0.0, top) + tl.log2(total)) * LN_2
        tl.store(lse_ptr + at, lse, mask=tl.program_id(2) == 0)


# One build for every size, and for strides that differ in what divides them.
attend_any = triton.jit(
    do_not_specialize=[
        *STRIDES, "heads_kv", "group", "seqlen_q", "seqlen_kv", "reach", "table_stride", "block_size",
    ],
)(attend_split.fn)  # fmt: skip
merge_any = triton.jit(do_not_specialize=[*STRIDES[-3:], "heads_kv", "group", "seqlen_q", "splits"])(merge_splits.fn)


@functools.cache
def choose_split(tiles: int, slots: int, keys: int, block_n: int) -> int:
    """Keys per split for tiles * splits programs on slots: the fewest splits within 3% of the shortest time.

    keys: how many a sequence has, a multiple of GRAIN. Time is counted in keys, as waves of programs times what each one
    walks: its keys, a part of every block that it begins, however few keys there are in the last one, and what it takes
    until the first ones arrive.
    """

    def length(splits: int) -> int:
        return GRAIN * triton.cdiv(keys, GRAIN * splits)

    def time(splits: int) -> float:
        walked = length(splits) + BLOCK_SHARE * (triton.cdiv(length(splits), block_n) * block_n - length(splits))
        return triton.cdiv(tiles * triton.cdiv(keys, length(splits)), slots) * (walked + WAVE_KEYS)

    times = [time(splits) for splits in range(1, min(MAX_SPLITS, triton.cdiv(keys, block_n)) + 1)]
    fewest = next(splits for splits, taken in enumerate(times, 1) if taken <= 1.03 * min(times))
    return length(fewest)


class Plan:
    """What a plain call needs that depends on shapes, strides and dtype alone; made once, so that calls cost little."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, causal: bool) -> None:
        batch, heads_q, seqlen_q, head_dim = q.shape
        heads_kv, seqlen_kv = k.shape[1:3]
        group = heads_q // heads_kv
        rows = group * seqlen_q
        block_m = min(64, max(16, triton.next_power_of_2(rows)))
        cut = cut_keys(q, heads_kv, seqlen_kv, block_m, packed=True)
        self.stages = cut.stages
        self.splits = splits = cut.splits
        # Of partial results; a multiple of 16 bytes, for the compiled code relies on aligned pointers.
        self.rows = -(-batch * heads_q * seqlen_q * splits // 4) * 4
        self.head_dim = head_dim
        self.grid = (splits, batch * heads_kv, cut.row_tiles)
        strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3])
        self.scalars = (*strides, heads_kv, group, seqlen_q, seqlen_kv, cut.keys_per_split)
        self.constants = {
            "HEAD_DIM": head_dim, "BLOCK_M": block_m, "BLOCK_N": cut.block_n, "CAUSAL": causal and seqlen_q > 1,
            "FINAL": splits == 1, "OVERLAP_MERGE": OVERLAP, "UNIT": 1,
            "OWN_WARPS": own_warps(block_m, head_dim), "LATE_Q": cut.late_queries, **ALONE,
        }  # fmt: skip
        self.values = tuple(self.constants.values())
        tiles = batch * heads_kv * cut.row_tiles
        self.clustered, self.meeting = clustered(rows, block_m, head_dim, cut.splits, tiles, q.device)
        block = min(MERGE_BLOCK, triton.next_power_of_2(splits))
        dims = min(head_dim, MERGE_HELD // block)
        self.merge_grid = (rows, batch * heads_kv, head_dim // dims)
        self.merge_scalars = (*out.stride()[:3], heads_kv, group, seqlen_q, splits)
        self.merge_constants = {
            "HEAD_DIM": head_dim, "DIMS": dims, "MERGE_BLOCK": block,
            "OVERLAP_MERGE": OVERLAP,
        }  # fmt: skip
        self.merge_values = tuple(self.merge_constants.values())
        self.compiled: Any = None
        self.compiled_merge: Any = None
        self.compiled_cluster: Any = None

    def room(self, q: torch.Tensor) -> torch.Tensor | None:
        """Memory for the partial results, their maxima and sums; None where nothing is split."""
        if self.splits == 1:
            return None
        return torch.empty(self.rows * (self.head_dim + 2), dtype=torch.float32, device=q.device)

    def compile_and_launch_cluster(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scale_log2: float
    ) -> bool:
        """Attend in clusters that merge by themselves; False where this device does not run one a tile at a time.

        It is compiled as one program and launched in clusters: what these need is written out in it.
        """
        constants = self.constants | self.clustered
        compiled = attend_split.warmup(
            q, k, v, out, None, None, None, *self.scalars, scale_log2, *PLAIN, **constants,
            grid=self.grid, num_warps=NUM_WARPS, num_stages=self.stages,
        )  # fmt: skip
        if compiled is None:  # as Triton's own launches do nothing where its hook says that a build is known
            return True
        warps, _, shared = compiled.packed_metadata
        if shared + self.meeting > SHARED_BYTES:
            self.clustered = {}
            return False
        run = compiled.run
        ask = getattr(triton.runtime.driver.active.utils, "cuOccupancyMaxActiveClusters", None)
        try:
            most = self.grid[1] * self.grid[2] if ask is None else ask(compiled.function, shared, self.splits)
        except RuntimeError:
            most = 0
        if most < self.grid[1] * self.grid[2]:
            self.clustered = {}
            return False
        self.compiled_cluster = run
        self.cluster_head = (compiled.function, (warps, self.splits, shared), None, None, None)
        self.cluster_values = tuple(constants.values())
        self.launch_cluster(q, k, v, out, scale_log2)
        return True

    def launch_cluster(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scale_log2: float
    ) -> None:
        """One launch, whose programs merge by themselves."""
        stream = triton.runtime.driver.active.get_current_stream(q.device.index)
        self.compiled_cluster(
            1, *self.grid[1:], stream, *self.cluster_head,
            q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), None, None, None,
            *self.scalars, scale_log2, *PLAIN, *self.cluster_values,
        )  # fmt: skip

    def compile_and_launch(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scale_log2: float
    ) -> None:
        """Attend from q to k and v into out through Triton, which compiles what is new."""
        parts = (None, None, None)
        if (work := self.room(q)) is not None:
            parts = (work, work[self.rows * self.head_dim :], work[self.rows * (self.head_dim + 1) :])
        self.compiled = attend_split[self.grid](
            q, k, v, out, *parts, *self.scalars, scale_log2, *PLAIN, **self.constants,
            num_warps=NUM_WARPS, num_stages=self.stages,
        )  # fmt: skip
        if work is not None:
            self.compiled_merge = merge_splits[self.merge_grid](
                *parts, out, None, *self.merge_scalars, **self.merge_constants,
                num_warps=MERGE_WARPS, launch_pdl=OVERLAP,
            )  # fmt: skip

    def launch(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scale_log2: float) -> None:
        """The same with the code that was compiled before, without what Triton does in Python each time."""
        stream = triton.runtime.driver.active.get_current_stream(q.device.index)
        at_out, parts = out.data_ptr(), (None, None, None)
        if (work := self.room(q)) is not None:
            first, size = work.data_ptr(), 4 * self.rows
            parts = (first, first + size * self.head_dim, first + size * (self.head_dim + 1))
        split, merge = self.compiled, self.compiled_merge
        split.run(*self.grid, stream, split.function, split.packed_metadata, None, None, None,
                  q.data_ptr(), k.data_ptr(), v.data_ptr(), at_out, *parts,
                  *self.scalars, scale_log2, *PLAIN, *self.values)  # fmt: skip
        if merge is not None:
            merge.run(*self.merge_grid, stream, merge.function, merge.packed_metadata, None, None, None,
                      *parts, at_out, None, *self.merge_scalars, *self.merge_values)  # fmt: skip


PLAIN = (None, None, None, None, None)  # reach, table, its stride, lengths, size of blocks: a plain call has none
MOST_KEPT = 4096
PLANS: dict[tuple[object, ...], Plan] = {}


def hooked() -> bool:
    """Whether somebody (a profiler) wants to see launches, which only Triton's own way shows."""
    hook = knobs.runtime.launch_enter_hook
    return bool(getattr(hook, "calls", hook))


def require(q: torch.Tensor) -> None:
    """Refuse what the kernels cannot do."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if q.shape[3] not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {q.shape[3]}: a power of two from 16 to 256 only")


def empty_lse(q: torch.Tensor) -> torch.Tensor:
    """Room for the log-sum-exp of each row of q."""
    return torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float, return_lse: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim).

    With return_lse also the natural log-sum-exp of each row's scores, float32 (batch, heads_q, seqlen_q).
    """
    if return_lse:
        require(q)
        return attend_with_lse(q, k, v, k.shape[1], k.shape[2], causal=causal, scale=scale)
    # Triton's code depends on whether pointers are aligned: what is not goes through Triton each time.
    odd = (q.data_ptr() | k.data_ptr() | v.data_ptr()) % 16
    key = (q.shape, k.shape, q.stride(), k.stride(), v.stride(), q.dtype, causal, q.device)
    plan = PLANS.get(key)
    out = torch.empty_like(q)
    if plan is None:
        require(q)
        if len(PLANS) >= MOST_KEPT:
            PLANS.clear()
        plan = PLANS[key] = Plan(q, k, v, out, causal)
    if odd:
        Plan(q, k, v, out, causal).compile_and_launch(q, k, v, out, scale * LOG2_E)
    elif plan.compiled_cluster is not None and not hooked():
        plan.launch_cluster(q, k, v, out, scale * LOG2_E)
    elif plan.clustered and not hooked() and plan.compile_and_launch_cluster(q, k, v, out, scale * LOG2_E):
        pass
    elif plan.compiled is None or hooked():
        plan.compile_and_launch(q, k, v, out, scale * LOG2_E)
    else:
        plan.launch(q, k, v, out, scale * LOG2_E)
    return out


def attention_paged(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, *, block_table: torch.Tensor,
    cache_seqlens: torch.Tensor, causal: bool, scale: float, return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend from q to keys and values in blocks: (blocks, block_size, heads_kv, head_dim); results as of attention().

    block_table (batch, most blocks) and cache_seqlens (batch,) are int32.
    """
    require(q)
    block_size, heads_kv = k_cache.shape[1:3]
    k, v = k_cache.transpose(1, 2), v_cache.transpose(1, 2)
    most = block_table.shape[1] * block_size  # known without waiting for the device
    paging = (block_table, block_table.stride(0), cache_seqlens, block_size)
    out, lse = attend_with_lse(q, k, v, heads_kv, most, causal=causal, scale=scale, paging=paging)
    return (out, lse) if return_lse else out


def attend_with_lse(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads_kv: int, seqlen_kv: int, *, causal: bool, scale: float,
    paging: Paging = (None, None, None, None),
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Result and log-sum-exp for k and v (batch or blocks, heads_kv, keys, head_dim), at most seqlen_kv a sequence.

    paging: the table of blocks, its stride, the lengths of sequences and the size of blocks.
    """
    batch, heads_q, seqlen_q, head_dim = q.shape
    group = heads_q // heads_kv
    rows = group * seqlen_q
    block_m = 16 if rows <= 16 else 64
    cut = cut_keys(q, heads_kv, seqlen_kv, block_m, packed=False)
    strides = [*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]]
    unit = 16 if all(stride % 16 == 0 for stride in strides) else 1
    out = torch.empty_like(q)
    lse = torch.empty((batch, heads_q, seqlen_q), dtype=torch.float32, device=q.device)
    part, max_, sum_ = partial_results(q, cut.splits)
    attend_any[(cut.splits, batch * heads_kv, cut.row_tiles)](
        q, k, v, out, part, max_, sum_, *(stride // unit for stride in strides), *out.stride()[:3],
        heads_kv, group, seqlen_q, seqlen_kv, cut.keys_per_split, scale * LOG2_E, 0 if causal else EVERYTHING, *paging,
        HEAD_DIM=head_dim, BLOCK_M=block_m, BLOCK_N=cut.block_n, CAUSAL=True, FINAL=False,
        OVERLAP_MERGE=OVERLAP, UNIT=unit, OWN_WARPS=own_warps(block_m, head_dim), LATE_Q=block_m == 16, **ALONE,
        num_warps=NUM_WARPS, num_stages=cut.stages,
    )  # fmt: skip
    dims = min(head_dim, MERGE_HELD // MERGE_BLOCK)
    merge_any[(rows, batch * heads_kv, head_dim // dims)](
        part, max_, sum_, out, lse, *out.stride()[:3], heads_kv, group, seqlen_q, cut.splits,
        HEAD_DIM=head_dim, DIMS=dims, MERGE_BLOCK=MERGE_BLOCK, OVERLAP_MERGE=OVERLAP, num_warps=MERGE_WARPS,
        launch_pdl=OVERLAP,
    )  # fmt: skip
    return out, lse


ALONE = {"CLUSTER": 0, "ROWS": 0, "PIECE": 0, "MEETING": ""}


def clustered(
    rows: int, block_m: int, head_dim: int, splits: int, tiles: int, device: torch.device
) -> tuple[dict[str, int | str], int]:
    """What splits that merge in a cluster are compiled for, and the bytes that they give each other.

    Nothing where they cannot, or would not all run at once.
    """
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    if not CLUSTERS or block_m > 32 or splits not in CLUSTER_SIZES or tiles * splits > processors:
        return {}, 0
    of_tile = min(block_m, max(4, triton.next_power_of_2(rows)))
    piece = triton.next_power_of_2(triton.cdiv(of_tile * head_dim, splits))
    # A multiple of what the compiler may want the rest of shared memory to be aligned to.
    size = 1024 * triton.cdiv(4 * splits * (piece + 2 * of_tile), 1024)
    meeting = f".shared .align 1024 .b8 meeting[{size}]; barrier.cluster.arrive.relaxed.aligned; mov.b32 $0, $1;"
    return {"CLUSTER": splits, "ROWS": of_tile, "PIECE": piece, "MEETING": meeting}, size


def own_warps(block_m: int, head_dim: int) -> int:
    """How many warps have keys of their own, 0 for none: what each of them holds must fit into its registers."""
    return NUM_WARPS if OWN_KEYS and NUM_WARPS > 2 and block_m == 16 and head_dim <= 64 else 0


class Cut(NamedTuple):
    """Tiles of rows, and how the keys of a sequence are cut for them."""

    row_tiles: int
    block_n: int
    stages: int
    keys_per_split: int
    splits: int
    late_queries: bool
    """Whether queries are loaded with the first keys, in the loop: worth it where all programs begin at once."""


def cut_keys(q: torch.Tensor, heads_kv: int, seqlen_kv: int, block_m: int, *, packed: bool) -> Cut:
    """Into splits that give every multiprocessor work; packed: for blocks of which two programs fit into one."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    row_tiles = triton.cdiv(heads_q // heads_kv * seqlen_q, block_m)
    processors = torch.cuda.get_device_properties(q.device).multi_processor_count
    tiles = batch * heads_kv * row_tiles
    block_n, stages = BLOCK_N, NUM_STAGES
    if head_dim <= 64:
        block_n, stages = D64_BLOCK_N, D64_STAGES
    elif head_dim == 256:
        block_n = BLOCK_N // 2
    elif packed and tiles > processors and seqlen_kv <= SHORT_KEYS:
        block_n, stages = 64, 4  # one program begins while the other ends
    keys = choose_split(tiles, processors * PROGRAMS_PER_SM, GRAIN * triton.cdiv(seqlen_kv, GRAIN), block_n)
    splits = triton.cdiv(seqlen_kv, keys)
    late = block_m <= 32 and tiles * splits <= processors and keys <= LATE_KEYS
    return Cut(row_tiles, block_n, stages, keys, splits, late)


def partial_results(q: torch.Tensor, splits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Room for the unnormalised rows of every split, their maxima and their sums."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    part = torch.empty((batch * heads_q * seqlen_q, splits, head_dim), dtype=torch.float32, device=q.device)
    max_ = torch.empty((batch * heads_q * seqlen_q, splits), dtype=torch.float32, device=q.device)
    return part, max_, torch.empty_like(max_)
