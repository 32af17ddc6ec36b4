"""Attention for Hopper: a warp-specialised Gluon kernel for whole tiles at head_dim 128, plain Triton for the rest.

The Gluon kernel gives a program 128 queries of one head and splits its warps by role. One producer warp copies Q, K and
V into shared memory with TMA, two buffers each for K and V, and hands its registers back. Two consumer warpgroups hold
64 queries each and run independently, so one can use the tensor cores while the other computes exponentials. Within a
warpgroup the products overlap the softmax too: the scores of block i and the output of block i - 1 are issued together,
and the softmax of block i runs while the output product is still in flight. Keys are visited from the last block to the
first, so the only causal block that needs a mask comes before the loop, and causal tiles start longest first.

That kernel takes contiguous inputs whose lengths are multiples of 128, a positive scale, and, when causal, no more
queries than keys. Everything else goes to the Triton kernel, which masks only the blocks that need it. Gluon is an
experimental interface: if its kernel cannot be compiled or launched here, a warning says so and Triton takes over.
"""

from __future__ import annotations

import inspect
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

BLOCK_M = 128
BLOCK_N = 128
NUM_WARPS = 8
NUM_STAGES = 2

TUNABLES = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2],
}

LOG2_E = 1.4426950408889634

# The Gluon kernel's tile: two warpgroups of ROWS queries, KEYS keys a block, heads WIDTH wide.
ROWS = gl.constexpr(64)
KEYS = gl.constexpr(128)
WIDTH = gl.constexpr(128)

# Older Gluon takes the partitions of a warp-specialised kernel as separate arguments, newer Gluon as one list.
PARTITION_LIST = "default_partition" not in inspect.signature(gl.warp_specialize).parameters

pipelined_works = True


@gluon.jit
def produce(
    PART: gl.constexpr, descs, tiles, bars, o_ptr, q_row, kv_row, num_blocks, scale_log2, CAUSAL: gl.constexpr
):  # fmt: skip
    """Producer warp: copy Q once, then K and V block by block from the last block to the first."""
    q_desc, k_desc, v_desc = descs
    q_tiles, k_tiles, v_tiles = tiles
    q_full, k_full, k_empty, v_full, v_empty = bars
    for part in gl.static_range(2):
        mbarrier.expect(q_full.index(part), ROWS * WIDTH * 2)
        tma.async_copy_global_to_shared(
            q_desc, [q_row + part * ROWS, 0], q_full.index(part), q_tiles.index(part)
        )
    for i in range(num_blocks):
        stage = i & 1
        free_phase = ((i >> 1) & 1) ^ 1
        row = kv_row + (num_blocks - 1 - i) * KEYS
        mbarrier.wait(k_empty.index(stage), free_phase)
        mbarrier.expect(k_full.index(stage), KEYS * WIDTH * 2)
        tma.async_copy_global_to_shared(k_desc, [row, 0], k_full.index(stage), k_tiles.index(stage))
        mbarrier.wait(v_empty.index(stage), free_phase)
        mbarrier.expect(v_full.index(stage), KEYS * WIDTH * 2)
        tma.async_copy_global_to_shared(v_desc, [row, 0], v_full.index(stage), v_tiles.index(stage))


@gluon.jit
def consume(
    PART: gl.constexpr, descs, tiles, bars, o_ptr, q_row, kv_row, num_blocks, scale_log2, CAUSAL: gl.constexpr
):  # fmt: skip
    """Consumer warpgroup PART: attend from its ROWS queries to every block and write their output."""
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 16])
    weights_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=mma, k_width=2)
    dtype: gl.constexpr = o_ptr.dtype.element_ty
    q_tiles, k_tiles, v_tiles = tiles
    q_full, k_full, k_empty, v_full, v_empty = bars

    rows = gl.arange(0, ROWS, layout=gl.SliceLayout(1, mma))
    dims = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, mma))
    no_scores = gl.zeros([ROWS, KEYS], dtype=gl.float32, layout=mma)
    acc = gl.zeros([ROWS, WIDTH], dtype=gl.float32, layout=mma)
    q = q_tiles.index(PART)

    # The last block of keys: under a causal mask the one on the diagonal, the only one that needs the mask.
    mbarrier.wait(q_full.index(PART), 0)
    mbarrier.wait(k_full.index(0), 0)
    first_pending = warpgroup_mma(q, k_tiles.index(0).permute((1, 0)), no_scores, use_acc=False, is_async=True)
    first_scores = warpgroup_mma_wait(num_outstanding=0, deps=(first_pending,))
    mbarrier.arrive(k_empty.index(0), count=1)
    if CAUSAL:
        cols = gl.arange(0, KEYS, layout=gl.SliceLayout(0, mma))
        first_scores = gl.where(cols[None, :] <= rows[:, None] + PART * ROWS, first_scores, float("-inf"))
    row_max = gl.max(first_scores, 1) * scale_log2
    first_p = gl.exp2(first_scores * scale_log2 - row_max[:, None])
    row_sum = gl.sum(first_p, 1)
    weights = gl.convert_layout(first_p.to(dtype), weights_layout)

    for i in range(1, num_blocks):
        k_stage = i & 1
        v_stage = k_stage ^ 1
        mbarrier.wait(k_full.index(k_stage), (i >> 1) & 1)
        pending_scores = warpgroup_mma(
            q, k_tiles.index(k_stage).permute((1, 0)), no_scores, use_acc=False, is_async=True
        )
        mbarrier.wait(v_full.index(v_stage), ((i - 1) >> 1) & 1)
        pending_acc = warpgroup_mma(weights, v_tiles.index(v_stage), acc, is_async=True)

        # The scores were issued first: with one product outstanding they are complete, and the softmax overlaps the
        # output product of the block before.
        scores = warpgroup_mma_wait(num_outstanding=1, deps=(pending_scores,))
        mbarrier.arrive(k_empty.index(k_stage), count=1)
        new_max = gl.maximum(row_max, gl.max(scores, 1) * scale_log2)
        rescale = gl.exp2(row_max - new_max)
        p = gl.exp2(scores * scale_log2 - new_max[:, None])
        row_sum = row_sum * rescale + gl.sum(p, 1)
        row_max = new_max

        done_acc = warpgroup_mma_wait(num_outstanding=0, deps=(pending_acc,))
        mbarrier.arrive(v_empty.index(v_stage), count=1)
        acc = done_acc * rescale[:, None]
        weights = gl.convert_layout(p.to(dtype), weights_layout)

    last = num_blocks - 1
    mbarrier.wait(v_full.index(last & 1), (last >> 1) & 1)
    last_pending = warpgroup_mma(weights, v_tiles.index(last & 1), acc, is_async=True)
    total = warpgroup_mma_wait(num_outstanding=0, deps=(last_pending,))

    inverse = 1.0 / row_sum
    out = total * inverse[:, None]
    first_row = q_row + PART * ROWS
    o_base = o_ptr + first_row.to(gl.int64) * WIDTH
    gl.store(o_base + (rows[:, None] * WIDTH + dims[None, :]), out.to(dtype))


@gluon.jit
def attend_pipelined(
    q_desc, k_desc, v_desc, o_ptr, group, seqlen_q, seqlen_kv, scale_log2,
    CAUSAL: gl.constexpr, PARTITION_LIST: gl.constexpr,
):  # fmt: skip
    """Write 2 * ROWS rows of the output of one query head with a producer warp and two consumer warpgroups."""
    tile = gl.program_id(0)
    num_blocks = seqlen_kv // KEYS
    if CAUSAL:
        tile = gl.num_programs(0) - 1 - tile
        num_blocks = (tile * (2 * ROWS) + seqlen_kv - seqlen_q) // KEYS + 1
    q_row = gl.program_id(1) * seqlen_q + tile * (2 * ROWS)
    kv_row = gl.program_id(1) // group * seqlen_kv

    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [2, ROWS, WIDTH], q_desc.layout)
    k_tiles = gl.allocate_shared_memory(k_desc.dtype, [2, KEYS, WIDTH], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(v_desc.dtype, [2, KEYS, WIDTH], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        # A buffer is free once both consumers are done with it.
        mbarrier.init(k_empty.index(i), count=2)
        mbarrier.init(v_empty.index(i), count=2)
    fence_async_shared()

    descs = (q_desc, k_desc, v_desc)
    tiles = (q_tiles, k_tiles, v_tiles)
    bars = (q_full, k_full, k_empty, v_full, v_empty)
    if PARTITION_LIST:
        gl.warp_specialize([
            (consume, (0, descs, tiles, bars, o_ptr, q_row, kv_row, num_blocks, scale_log2, CAUSAL)),
            (consume, (1, descs, tiles, bars, o_ptr, q_row, kv_row, num_blocks, scale_log2, CAUSAL)),
            (produce, (1, descs, tiles, bars, o_ptr, q_row, kv_row, num_blocks, scale_log2, CAUSAL)),
        ], [4, 1], [240, 24])
    else:
        gl.warp_specialize(
            (0, descs, tiles, bars, o_ptr, q_row, kv_row, num_blocks, scale_log2, CAUSAL),
            consume,
            (1, descs, tiles, bars, o_ptr, q_row, kv_row, num_blocks, scale_log2, CAUSAL),
            [consume, produce],
            [4, 1],
            [240, 24],
        )


@triton.jit
def visit_keys(
    acc, row_max, row_sum, q, k_ptr, v_ptr, k_stride_s, v_stride_s, last_visible, seqlen_kv, scale_log2, first, end,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys from first to end; MASKED where a block may hold a key that some row must not see."""
    lanes = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, HEAD_DIM)
    keys = (first + lanes).to(tl.int64)
    k_ptrs = k_ptr + keys[:, None] * k_stride_s + dims[None, :]
    v_ptrs = v_ptr + keys[:, None] * v_stride_s + dims[None, :]
    for start in range(first, end, BLOCK_N):
        cols = start + lanes
        if MASKED:
            k = tl.load(k_ptrs, mask=cols[:, None] < seqlen_kv, other=0.0)
        else:
            k = tl.load(k_ptrs)
        scores = tl.dot(q, tl.trans(k)) * scale_log2
        if MASKED:
            visible = cols[None, :] < seqlen_kv
            if CAUSAL:
                visible = visible & (cols[None, :] <= last_visible[:, None])
            scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
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
def attend_general(
    q_ptr, k_ptr, v_ptr, o_ptr,
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    o_stride_b, o_stride_h, o_stride_s,
    heads_q, group, seqlen_q, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M rows of the output of one query head, for any lengths and strides."""
    batch = (tl.program_id(1) // heads_q).to(tl.int64)
    head = (tl.program_id(1) % heads_q).to(tl.int64)
    q_ptr += batch * q_stride_b + head * q_stride_h
    k_ptr += batch * k_stride_b + head // group * k_stride_h
    v_ptr += batch * v_stride_b + head // group * v_stride_h
    o_ptr += batch * o_stride_b + head * o_stride_h

    tile = tl.program_id(0)
    if CAUSAL:
        tile = tl.num_programs(0) - 1 - tile
    first_row = tile * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_DIM)
    row_in_range = rows[:, None] < seqlen_q
    q = tl.load(q_ptr + rows[:, None].to(tl.int64) * q_stride_s + dims[None, :], mask=row_in_range, other=0.0)

    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    # Every row of the tile sees every key before full_end, a multiple of BLOCK_N.
    full_end = seqlen_kv // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)
        full_end = tl.minimum(full_end, tl.maximum(first_row + shift + 1, 0) // BLOCK_N * BLOCK_N)

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    acc, row_max, row_sum = visit_keys(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_stride_s, v_stride_s, rows + shift, seqlen_kv, scale_log2,
        0, full_end, HEAD_DIM, BLOCK_N, CAUSAL, False,
    )  # fmt: skip
    acc, row_max, row_sum = visit_keys(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_stride_s, v_stride_s, rows + shift, seqlen_kv, scale_log2,
        full_end, end, HEAD_DIM, BLOCK_N, CAUSAL, True,
    )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


def suits_pipelined(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> bool:
    """Whether the Gluon kernel takes these inputs: whole tiles, rows of all heads at one stride, a visible key a row."""
    seqlen_q, seqlen_kv = q.shape[2], k.shape[2]
    return (
        q.shape[3] == WIDTH.value
        and q.numel() > 0
        and k.numel() > 0
        and seqlen_q % (2 * ROWS.value) == 0
        and seqlen_kv % KEYS.value == 0
        and (not causal or seqlen_q <= seqlen_kv)
        and scale > 0
        and q.dtype == k.dtype == v.dtype
        and all(x.is_contiguous() and x.data_ptr() % 16 == 0 for x in (q, k, v))
        and torch.cuda.get_device_capability(q.device)[0] == 9
    )


def row_descriptor(x: torch.Tensor, rows: int) -> TensorDescriptor:
    """Describe x as one matrix of all its heads' rows, copied by TMA in blocks of that many rows."""
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(x.view(-1, WIDTH.value), [rows, WIDTH.value], layout)


def run_pipelined(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """Launch the Gluon kernel: 12 warps of 168 registers, which the roles then share out as 240, 240 and 24."""
    batch, heads_q, seqlen_q, _ = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    out = torch.empty_like(q)
    grid = (seqlen_q // (2 * ROWS.value), batch * heads_q)
    attend_pipelined[grid](
        row_descriptor(q, ROWS.value), row_descriptor(k, KEYS.value), row_descriptor(v, KEYS.value), out,
        heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        CAUSAL=causal, PARTITION_LIST=PARTITION_LIST, num_warps=4, maxnreg=168,
    )  # fmt: skip
    return out


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    global pipelined_works
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    if pipelined_works and suits_pipelined(q, k, v, causal, scale):
        try:
            return run_pipelined(q, k, v, causal, scale)
        except Exception as error:
            pipelined_works = False
            warnings.warn(f"the Gluon kernel is not usable here, Triton takes over: {error}", stacklevel=2)
    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else 32
    out = torch.empty_like(q)
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads_q)
    attend_general[grid](
        q, k, v, out,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=block_n, CAUSAL=causal,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return out
