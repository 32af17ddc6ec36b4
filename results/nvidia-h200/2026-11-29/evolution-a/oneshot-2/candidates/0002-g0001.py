"""Attention for Hopper: a warp-specialised Gluon kernel for whole tiles, and a plain Triton kernel for everything else.

The specialised kernel serves head dimension 128, contiguous tensors and lengths that are multiples of 128. One program
holds 128 queries of a head and splits its warps by duty. One warp brings the queries and, BLOCK by BLOCK, the keys and
values into shared memory with the tensor memory accelerator; two groups of four warps hold 64 queries each. They meet
only at the barriers that say "tile is here" and "tile is free", so one group's softmax runs beside the other's
products. Inside a group the scores of the next block and the output of the previous one are issued together, and the
softmax of the next block runs while the previous block's output is still being multiplied. Key blocks are walked from
the last to the first: as all lengths are multiples of the tile, a causal problem needs its mask in the first block
alone, and there every row sees at least its own diagonal. Long causal programs of a head start first.

The general kernel reads through pointers and takes any length, stride, mask and head dimension up to 256. It masks only
the blocks that need it. It also takes over, with a warning, where the installed Triton cannot build the specialised
kernel.
"""

from __future__ import annotations

import warnings

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

AVO = {"target": "sm90", "shapes": ["mha"]}

BLOCK_M = 128
BLOCK_N = 64
NUM_WARPS = 8
NUM_STAGES = 2
TILE_STAGES = 2

TUNABLES = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [32, 64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2, 3],
    "TILE_STAGES": [2, 3],
}

LOG2_E = 1.4426950408889634

# The specialised kernel: queries per warp group, keys per block and the head dimension it serves.
GROUP_ROWS = gl.constexpr(64)
BLOCK = gl.constexpr(128)
DIM = gl.constexpr(128)

# Turns False when the installed Triton cannot build the specialised kernel.
specialised_builds = True


@gluon.jit
def load_tiles(
    q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_free, v_free,
    q_row, kv_row, num_blocks, STAGES: gl.constexpr,
):  # fmt: skip
    """The loading warp: both groups' queries once, then key and value blocks from the last to the first."""
    mbarrier.expect(q_ready, 2 * q_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(q_desc, [q_row, 0], q_ready, q_tiles.index(0))
    tma.async_copy_global_to_shared(q_desc, [q_row + GROUP_ROWS, 0], q_ready, q_tiles.index(1))
    for i in range(num_blocks):
        stage = i % STAGES
        # The first round finds every buffer free: a fresh barrier counts as past the odd phase.
        free_phase = ((i // STAGES) & 1) ^ 1
        row = kv_row + (num_blocks - 1 - i) * BLOCK

        mbarrier.wait(k_free.index(stage), free_phase)
        mbarrier.expect(k_ready.index(stage), k_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(k_desc, [row, 0], k_ready.index(stage), k_tiles.index(stage))

        mbarrier.wait(v_free.index(stage), free_phase)
        mbarrier.expect(v_ready.index(stage), v_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(v_desc, [row, 0], v_ready.index(stage), v_tiles.index(stage))


@gluon.jit
def attend_rows(
    GROUP: gl.constexpr, o_ptr, q_tiles, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_free, v_free,
    q_row, num_blocks, scale_log2, CAUSAL: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """One group of four warps: the output of GROUP_ROWS queries."""
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=layout, k_width=2)
    rows = gl.arange(0, GROUP_ROWS, layout=gl.SliceLayout(1, layout))
    cols = gl.arange(0, BLOCK, layout=gl.SliceLayout(0, layout))

    q = q_tiles.index(GROUP)
    zeros = gl.zeros([GROUP_ROWS, BLOCK], gl.float32, layout)
    acc = gl.zeros([GROUP_ROWS, DIM], gl.float32, layout)

    # The last key block, the only one a causal mask cuts.
    mbarrier.wait(q_ready, 0)
    mbarrier.wait(k_ready.index(0), 0)
    first_async = warpgroup_mma(q, k_tiles.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
    first = warpgroup_mma_wait(0, deps=(first_async,))
    mbarrier.arrive(k_free.index(0), count=1)
    if CAUSAL:
        first = gl.where(cols[None, :] <= rows[:, None] + GROUP * GROUP_ROWS, first, float("-inf"))
    row_max = gl.max(first, axis=1) * scale_log2
    first_probs = gl.exp2(first * scale_log2 - row_max[:, None])
    row_sum = gl.sum(first_probs, axis=1)
    p = gl.convert_layout(first_probs.to(o_ptr.dtype.element_ty), p_layout)

    for i in range(1, num_blocks):
        stage = i % STAGES
        mbarrier.wait(k_ready.index(stage), (i // STAGES) & 1)
        scores_async = warpgroup_mma(q, k_tiles.index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)

        before = (i - 1) % STAGES
        mbarrier.wait(v_ready.index(before), ((i - 1) // STAGES) & 1)
        acc_async = warpgroup_mma(p, v_tiles.index(before), acc, is_async=True)

        # The softmax of this block runs beside the product with the previous block's values.
        scores = warpgroup_mma_wait(1, deps=(scores_async,))
        mbarrier.arrive(k_free.index(stage), count=1)
        new_max = gl.maximum(row_max, gl.max(scores, axis=1) * scale_log2)
        probs = gl.exp2(scores * scale_log2 - new_max[:, None])
        rescale = gl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + gl.sum(probs, axis=1)
        row_max = new_max

        acc = warpgroup_mma_wait(0, deps=(acc_async,))
        mbarrier.arrive(v_free.index(before), count=1)
        acc = acc * rescale[:, None]
        p = gl.convert_layout(probs.to(o_ptr.dtype.element_ty), p_layout)

    final = (num_blocks - 1) % STAGES
    mbarrier.wait(v_ready.index(final), ((num_blocks - 1) // STAGES) & 1)
    out_async = warpgroup_mma(p, v_tiles.index(final), acc, is_async=True)
    out = warpgroup_mma_wait(0, deps=(out_async,))
    inverse = 1.0 / row_sum
    out = out * inverse[:, None]
    o_base = o_ptr + (q_row + GROUP * GROUP_ROWS).to(gl.int64) * DIM
    gl.store(o_base + rows[:, None] * DIM + cols[None, :], out.to(o_ptr.dtype.element_ty))


@gluon.jit
def attend_specialised(
    q_desc, k_desc, v_desc, o_ptr, heads_q, heads_kv, seqlen_q, seqlen_kv, scale_log2,
    CAUSAL: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Write 2 * GROUP_ROWS rows of the output of one query head."""
    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [2, GROUP_ROWS, DIM], q_desc.layout)
    k_tiles = gl.allocate_shared_memory(k_desc.dtype, [STAGES, BLOCK, DIM], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(v_desc.dtype, [STAGES, BLOCK, DIM], v_desc.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(v_ready.index(stage), count=1)
        # A tile is free once both groups have read it.
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_free.index(stage), count=2)

    block = gl.program_id(0)
    num_blocks = seqlen_kv // BLOCK
    if CAUSAL:
        block = gl.num_programs(0) - 1 - block
        num_blocks = (block * (2 * GROUP_ROWS) + 2 * GROUP_ROWS + seqlen_kv - seqlen_q) // BLOCK
    batch = gl.program_id(1) // heads_q
    head_kv = (gl.program_id(1) % heads_q) // (heads_q // heads_kv)
    q_row = gl.program_id(1) * seqlen_q + block * (2 * GROUP_ROWS)
    kv_row = (batch * heads_kv + head_kv) * seqlen_kv

    gl.warp_specialize(
        [
            (
                attend_rows,
                (0, o_ptr, q_tiles, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_free, v_free,
                 q_row, num_blocks, scale_log2, CAUSAL, STAGES),
            ),
            (
                attend_rows,
                (1, o_ptr, q_tiles, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_free, v_free,
                 q_row, num_blocks, scale_log2, CAUSAL, STAGES),
            ),
            (
                load_tiles,
                (q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_ready, k_ready, v_ready, k_free, v_free,
                 q_row, kv_row, num_blocks, STAGES),
            ),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@triton.jit
def attend_keys(
    q, k_ptrs, v_ptrs, k_stride_s, v_stride_s, acc, row_max, row_sum, begin, end, last_visible, seqlen_kv, scale_log2,
    BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take the keys from begin to end into the running output, maximum and sum of the general kernel."""
    lanes = tl.arange(0, BLOCK_N)
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
    return acc, row_max, row_sum, k_ptrs, v_ptrs


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

    # Keys before full_end lie in whole blocks that every row sees.
    shift = seqlen_kv - seqlen_q
    full_end = seqlen_kv // BLOCK_N * BLOCK_N
    end = seqlen_kv
    if CAUSAL:
        full_end = tl.maximum(tl.minimum(seqlen_kv, first_row + 1 + shift), 0) // BLOCK_N * BLOCK_N
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    lanes = tl.arange(0, BLOCK_N)
    k_ptrs = k_ptr + lanes[:, None] * k_stride_s + dims[None, :]
    v_ptrs = v_ptr + lanes[:, None] * v_stride_s + dims[None, :]
    acc, row_max, row_sum, k_ptrs, v_ptrs = attend_keys(
        q, k_ptrs, v_ptrs, k_stride_s, v_stride_s, acc, row_max, row_sum, 0, full_end, rows + shift, seqlen_kv,
        scale_log2, BLOCK_N, CAUSAL, False,
    )  # fmt: skip
    acc, row_max, row_sum, k_ptrs, v_ptrs = attend_keys(
        q, k_ptrs, v_ptrs, k_stride_s, v_stride_s, acc, row_max, row_sum, full_end, end, rows + shift, seqlen_kv,
        scale_log2, BLOCK_N, CAUSAL, True,
    )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


def suits_specialised(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> bool:
    """Whether the specialised kernel serves this problem."""
    seqlen_q, head_dim = q.shape[2:]
    seqlen_kv = k.shape[2]
    return (
        head_dim == 128
        and seqlen_q % 128 == 0
        and seqlen_kv % 128 == 0
        and (not causal or seqlen_kv >= seqlen_q)
        # The maximum is taken before scaling, which keeps the order of the scores for a positive scale only.
        and scale > 0.0
        and all(
            t.dtype == q.dtype
            and t.is_contiguous()
            and t.data_ptr() % 16 == 0
            and 0 < t.numel() < 128 * (2**31 - 1)
            for t in (q, k, v)
        )
    )


def launch_specialised(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, causal: bool, scale: float
) -> None:
    """Start the specialised kernel: 128 queries a program, heads as the slow index so that neighbours share keys."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    dtype = gl.bfloat16 if q.dtype == torch.bfloat16 else gl.float16
    q_layout = gl.NVMMASharedLayout.get_default_for([64, 128], dtype)
    kv_layout = gl.NVMMASharedLayout.get_default_for([128, 128], dtype)
    attend_specialised[(seqlen_q // 128, batch * heads_q)](
        TensorDescriptor.from_tensor(q.view(-1, head_dim), [64, 128], q_layout),
        TensorDescriptor.from_tensor(k.view(-1, head_dim), [128, 128], kv_layout),
        TensorDescriptor.from_tensor(v.view(-1, head_dim), [128, 128], kv_layout),
        out, heads_q, heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        CAUSAL=causal, STAGES=TILE_STAGES, num_warps=4,
    )  # fmt: skip


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    global specialised_builds
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    out = torch.empty_like(q)

    if specialised_builds and suits_specialised(q, k, v, causal, scale):
        try:
            launch_specialised(q, k, v, out, causal, scale)
            return out
        except Exception as error:
            specialised_builds = False
            warnings.warn(f"the specialised attention kernel does not build, using the general one: {error}")

    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else BLOCK_N // 2
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads_q)
    attend_general[grid](
        q, k, v, out,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=block_n, CAUSAL=causal,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return out
