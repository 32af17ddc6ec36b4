"""Attention for Hopper: a warp-specialised Gluon kernel, and a plain Triton kernel for what it does not take.

The pipelined kernel gives each program 128 queries of one head. One warp does nothing but issue TMA loads of keys and
values into a ring of buffers; two warpgroups own 64 queries each and meet the loader only at mbarriers, so one can keep
the tensor cores busy while the other is in its softmax. Inside a warpgroup the product of the next scores is issued
together with the product of the present weights with the values, and the softmax of the next scores runs while the
second is still in flight. Keys are walked from the last block to the first: with a causal mask and lengths that the
tile divides only the first block visited is masked, so the loop itself masks nothing. Scaling is folded into the
exponent. Causal programs start with the longest ones, over sections of heads whose keys and values fit in the L2 cache.

It takes contiguous 16-bit tensors of head_dim 128 whose lengths 128 divides. All else goes to the plain kernel (online
softmax, loads through pointers, masks only on the blocks that need one), and so does everything if this release of
Triton cannot compile the pipelined kernel.
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

KV_STAGES = 2

TUNABLES = {
    "KV_STAGES": [2, 3],
}

LOG2_E = 1.4426950408889634

# The pipelined kernel: its tile is square, and each of two warpgroups holds half of its rows.
TILE = 128
# Keys and values of the heads that causal programs work on at the same time stay below this.
L2_BYTES = 16 * 1024 * 1024
# Releases of Triton differ in how the partitions of a kernel are passed.
GROUPED_ARGS = "default_partition" not in inspect.signature(gl.warp_specialize).parameters

# The plain kernel.
BLOCK_M = 128
BLOCK_N = 128
NUM_WARPS = 8
NUM_STAGES = 2

pipelined_compiles = True


@gluon.jit
def load_tiles(
    q_desc, k_desc, v_desc, o_desc, q_bufs, k_bufs, v_bufs, q_ready, k_ready, k_free, v_ready, v_free,
    q_row, kv_row, num_blocks, scale_log2,
    ROWS: gl.constexpr, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Load the queries once, then keys and values block by block, from the last to the first."""
    mbarrier.expect(q_ready, 2 * ROWS * HEAD_DIM * 2)
    tma.async_copy_global_to_shared(q_desc, [q_row, 0], q_ready, q_bufs.index(0))
    tma.async_copy_global_to_shared(q_desc, [q_row + ROWS, 0], q_ready, q_bufs.index(1))
    for i in range(0, num_blocks):
        stage = i % STAGES
        phase = (i // STAGES) & 1
        row = kv_row + (num_blocks - 1 - i) * BLOCK_N
        mbarrier.wait(k_free.index(stage), phase ^ 1)
        mbarrier.expect(k_ready.index(stage), BLOCK_N * HEAD_DIM * 2)
        tma.async_copy_global_to_shared(k_desc, [row, 0], k_ready.index(stage), k_bufs.index(stage))
        mbarrier.wait(v_free.index(stage), phase ^ 1)
        mbarrier.expect(v_ready.index(stage), BLOCK_N * HEAD_DIM * 2)
        tma.async_copy_global_to_shared(v_desc, [row, 0], v_ready.index(stage), v_bufs.index(stage))


@gluon.jit
def attend_rows(
    HALF: gl.constexpr,
    q_desc, k_desc, v_desc, o_desc, q_bufs, k_bufs, v_bufs, q_ready, k_ready, k_free, v_ready, v_free,
    q_row, kv_row, num_blocks, scale_log2,
    ROWS: gl.constexpr, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Attend with one warpgroup from half of the rows of a tile. BLOCK_N and HEAD_DIM are equal: one layout fits."""
    MMA: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HEAD_DIM, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=MMA, k_width=2)

    q = q_bufs.index(HALF)
    no_scores = gl.zeros([ROWS, BLOCK_N], gl.float32, MMA)
    acc = gl.zeros([ROWS, HEAD_DIM], gl.float32, MMA)

    mbarrier.wait(q_ready, 0)
    mbarrier.wait(k_ready.index(0), 0)
    first = warpgroup_mma(q, k_bufs.index(0).permute((1, 0)), no_scores, use_acc=False, is_async=True)
    first = warpgroup_mma_wait(num_outstanding=0, deps=(first,))
    mbarrier.arrive(k_free.index(0), count=1)
    if CAUSAL:
        rows = gl.arange(0, ROWS, layout=gl.SliceLayout(1, MMA)) + HALF * ROWS
        cols = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, MMA))
        first = gl.where(cols[None, :] <= rows[:, None], first, float("-inf"))
    row_max = gl.max(first, axis=1) * scale_log2
    first_weights = gl.exp2(first * scale_log2 - row_max[:, None])
    row_sum = gl.sum(first_weights, axis=1)
    weights = gl.convert_layout(first_weights.to(q_desc.dtype), WEIGHTS)

    for i in range(1, num_blocks):
        k_stage = i % STAGES
        k_phase = (i // STAGES) & 1
        v_stage = (i - 1) % STAGES
        v_phase = ((i - 1) // STAGES) & 1
        mbarrier.wait(k_ready.index(k_stage), k_phase)
        scores = warpgroup_mma(q, k_bufs.index(k_stage).permute((1, 0)), no_scores, use_acc=False, is_async=True)
        mbarrier.wait(v_ready.index(v_stage), v_phase)
        acc = warpgroup_mma(weights, v_bufs.index(v_stage), acc, is_async=True)
        # The scores are done; the product with the values goes on under the softmax.
        scores = warpgroup_mma_wait(num_outstanding=1, deps=(scores,))
        mbarrier.arrive(k_free.index(k_stage), count=1)
        new_max = gl.maximum(row_max, gl.max(scores, axis=1) * scale_log2)
        rescale = gl.exp2(row_max - new_max)
        exact_weights = gl.exp2(scores * scale_log2 - new_max[:, None])
        row_sum = row_sum * rescale + gl.sum(exact_weights, axis=1)
        row_max = new_max
        acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
        mbarrier.arrive(v_free.index(v_stage), count=1)
        weights = gl.convert_layout(exact_weights.to(q_desc.dtype), WEIGHTS)
        acc = acc * rescale[:, None]

    last = num_blocks - 1
    mbarrier.wait(v_ready.index(last % STAGES), (last // STAGES) & 1)
    acc = warpgroup_mma(weights, v_bufs.index(last % STAGES), acc, is_async=True)
    acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))

    # These queries are needed no more: their buffer takes the output on its way out.
    out = acc * (1.0 / row_sum)[:, None]
    q.store(out.to(q_desc.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(o_desc, [q_row + HALF * ROWS, 0], q)
    tma.store_wait(pendings=0)


@gluon.jit
def attend_upper(
    q_desc, k_desc, v_desc, o_desc, q_bufs, k_bufs, v_bufs, q_ready, k_ready, k_free, v_ready, v_free,
    q_row, kv_row, num_blocks, scale_log2,
    ROWS: gl.constexpr, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Attend from the first half of the rows of a tile."""
    attend_rows(
        0, q_desc, k_desc, v_desc, o_desc, q_bufs, k_bufs, v_bufs, q_ready, k_ready, k_free, v_ready, v_free,
        q_row, kv_row, num_blocks, scale_log2, ROWS, BLOCK_N, HEAD_DIM, STAGES, CAUSAL,
    )  # fmt: skip


@gluon.jit
def attend_lower(
    q_desc, k_desc, v_desc, o_desc, q_bufs, k_bufs, v_bufs, q_ready, k_ready, k_free, v_ready, v_free,
    q_row, kv_row, num_blocks, scale_log2,
    ROWS: gl.constexpr, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Attend from the second half of the rows of a tile."""
    attend_rows(
        1, q_desc, k_desc, v_desc, o_desc, q_bufs, k_bufs, v_bufs, q_ready, k_ready, k_free, v_ready, v_free,
        q_row, kv_row, num_blocks, scale_log2, ROWS, BLOCK_N, HEAD_DIM, STAGES, CAUSAL,
    )  # fmt: skip


@gluon.jit
def attend_pipelined(
    q_desc, k_desc, v_desc, o_desc, group, blocks_q, blocks_kv, section, scale_log2,
    ROWS: gl.constexpr, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
    GROUPED_ARGS: gl.constexpr,
):  # fmt: skip
    """Write 2 * ROWS rows of the output of one query head; a section of heads is done before the next begins."""
    pid = gl.program_id(0)
    in_section = pid % (section * blocks_q)
    plane = pid // (section * blocks_q) * section + in_section % section
    block = in_section // section
    num_blocks = blocks_kv
    if CAUSAL:
        block = blocks_q - 1 - block
        num_blocks = block + 1 + blocks_kv - blocks_q
    q_row = (plane * blocks_q + block) * (2 * ROWS)
    kv_row = plane // group * blocks_kv * BLOCK_N

    q_bufs = gl.allocate_shared_memory(q_desc.dtype, [2, ROWS, HEAD_DIM], q_desc.layout)
    k_bufs = gl.allocate_shared_memory(k_desc.dtype, [STAGES, BLOCK_N, HEAD_DIM], k_desc.layout)
    v_bufs = gl.allocate_shared_memory(v_desc.dtype, [STAGES, BLOCK_N, HEAD_DIM], v_desc.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(v_ready.index(stage), count=1)
        # Both warpgroups read every buffer.
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_free.index(stage), count=2)

    args = (
        q_desc, k_desc, v_desc, o_desc, q_bufs, k_bufs, v_bufs, q_ready, k_ready, k_free, v_ready, v_free,
        q_row, kv_row, num_blocks, scale_log2, ROWS, BLOCK_N, HEAD_DIM, STAGES, CAUSAL,
    )  # fmt: skip
    if GROUPED_ARGS:
        gl.warp_specialize([(attend_upper, args), (attend_lower, args), (load_tiles, args)], [4, 1], [240, 24])
    else:
        gl.warp_specialize(args, attend_upper, args, [attend_lower, load_tiles], [4, 1], [240, 24])


@triton.jit
def walk(
    q, k_ptr, v_ptr, k_stride_s, v_stride_s, row_max, row_sum, acc, rows, begin, end, seqlen_kv, shift, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Take the keys from begin to end into the running maximum, sum and output."""
    lanes = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, HEAD_DIM)
    k_ptrs = k_ptr + (begin + lanes)[:, None].to(tl.int64) * k_stride_s + dims[None, :]
    v_ptrs = v_ptr + (begin + lanes)[:, None].to(tl.int64) * v_stride_s + dims[None, :]
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
    return row_max, row_sum, acc


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

    # Keys before unmasked_end come in whole blocks and are visible to every row.
    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    visible_to_all = seqlen_kv
    if CAUSAL:
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)
        visible_to_all = tl.maximum(tl.minimum(seqlen_kv, first_row + shift + 1), 0)
    unmasked_end = visible_to_all // BLOCK_N * BLOCK_N

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    row_max, row_sum, acc = walk(
        q, k_ptr, v_ptr, k_stride_s, v_stride_s, row_max, row_sum, acc, rows, 0, unmasked_end, seqlen_kv, shift,
        scale_log2, HEAD_DIM, BLOCK_N, False, CAUSAL,
    )  # fmt: skip
    row_max, row_sum, acc = walk(
        q, k_ptr, v_ptr, k_stride_s, v_stride_s, row_max, row_sum, acc, rows, unmasked_end, end, seqlen_kv, shift,
        scale_log2, HEAD_DIM, BLOCK_N, True, CAUSAL,
    )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


def suits_pipeline(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> bool:
    """Whether the pipelined kernel is right for these inputs."""
    seqlen_q, seqlen_kv = q.shape[2], k.shape[2]
    return (
        q.shape[3] == TILE
        and seqlen_q % TILE == 0
        and seqlen_kv % TILE == 0
        and min(seqlen_q, seqlen_kv) >= 2 * TILE
        and (not causal or seqlen_kv >= seqlen_q)
        and scale > 0.0  # The maximum is taken before scaling.
        and all(x.dtype == q.dtype and x.is_contiguous() and x.data_ptr() % 16 == 0 for x in (q, k, v))
    )


def run_pipelined(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """Launch the pipelined kernel, one program for each tile of queries."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    out = torch.empty_like(q)
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    q_desc, o_desc = (
        TensorDescriptor.from_tensor(x.reshape(-1, head_dim), [TILE // 2, head_dim], layout) for x in (q, out)
    )
    k_desc, v_desc = (TensorDescriptor.from_tensor(x.reshape(-1, head_dim), [TILE, head_dim], layout) for x in (k, v))
    planes = batch * heads_q
    section = 1
    if causal:
        section = max(1, min(planes, L2_BYTES // (seqlen_kv * head_dim * 4)))
        while planes % section:
            section -= 1
    blocks_q = seqlen_q // TILE
    attend_pipelined[(planes * blocks_q,)](
        q_desc, k_desc, v_desc, o_desc, heads_q // heads_kv, blocks_q, seqlen_kv // TILE, section, scale * LOG2_E,
        ROWS=TILE // 2, BLOCK_N=TILE, HEAD_DIM=head_dim, STAGES=KV_STAGES, CAUSAL=causal, GROUPED_ARGS=GROUPED_ARGS,
        num_warps=4,
    )  # fmt: skip
    return out


def run_plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """Launch the plain kernel."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else BLOCK_N // 4
    out = torch.empty_like(q)
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads_q)
    attend_plain[grid](
        q, k, v, out,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=block_n, CAUSAL=causal,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return out


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    global pipelined_compiles
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if q.shape[3] not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {q.shape[3]}: a power of two from 16 to 256 only")
    if pipelined_compiles and suits_pipeline(q, k, v, causal, scale):
        try:
            return run_pipelined(q, k, v, causal, scale)
        except Exception as error:  # Gluon is experimental: its interface changes between releases.
            pipelined_compiles = False
            warnings.warn(f"the pipelined kernel cannot be built, the plain one is used: {error}", stacklevel=2)
    return run_plain(q, k, v, causal, scale)
