"""Attention for Hopper: a Gluon kernel that overlaps softmax with the tensor cores, and a plain Triton one for the rest.

The fast kernel (head_dim 128, keys a multiple of 128) keeps 128 queries per program, two warpgroups of 64 rows. TMA
fills two slots of shared memory, each with the keys of one block and the values of the block before it. Each step
issues the asynchronous product of the queries with the next keys, then the product of the present probabilities with
their values, and computes the next softmax while the second product still runs. Blocks of keys are visited from last to
first, so that the masked ones of a causal problem come first and the main loop holds no mask. The scale is folded into
the exponent, and causal tiles start with the longest ones.

Everything else (other head widths, odd key lengths, strides that no two-dimensional TMA descriptor expresses, a scale
that is not positive) goes to the plain Triton kernel, which masks every block. It also serves if this Triton's Gluon
cannot compile the fast kernel; a warning says so.
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

# Tiles of the plain Triton kernel.
BLOCK_M = 128
BLOCK_N = 64
NUM_WARPS = 8
NUM_STAGES = 2

TUNABLES = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [32, 64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2, 3],
}

LOG2_E = 1.4426950408889634

# Queries, keys and head width of a tile of the fast kernel.
FAST_TILE = 128

# Triton renamed this builtin between releases.
cta_barrier = getattr(gl, "barrier", None) or getattr(gl, "thread_barrier", None)


@gluon.jit
def fetch(k_desc, v_desc, k_smem, v_smem, bars, step, steps, k_row, k_col, v_row, v_col, TILE: gl.constexpr):
    """Start loading what a step needs: the keys of its block and the values of the block before it."""
    slot = step % 2
    wanted = step <= steps
    bar = bars.index(slot)
    key_block = steps - 1 - step
    mbarrier.expect(bar, 2 * TILE * TILE * 2, pred=wanted)
    # The step after the last block has no keys: what it loads here (perhaps zeros from outside) is never read.
    tma.async_copy_global_to_shared(k_desc, [k_row + key_block * TILE, k_col], bar, k_smem.index(slot), pred=wanted)
    tma.async_copy_global_to_shared(
        v_desc, [v_row + (key_block + 1) * TILE, v_col], bar, v_smem.index(slot), pred=wanted
    )


@gluon.jit
def softmax_block(
    scores, row_max, row_sum, last_visible, first_col, scale_log2, DTYPE: gl.constexpr,
    MASKED: gl.constexpr, TILE: gl.constexpr, MMA: gl.constexpr, P_LAYOUT: gl.constexpr,
):  # fmt: skip
    """Online softmax of one block: the probabilities, the new maximum and sum, and the factor for older results."""
    if MASKED:
        cols = first_col + gl.arange(0, TILE, layout=gl.SliceLayout(0, MMA))
        scores = gl.where(cols[None, :] <= last_visible[:, None], scores, float("-inf"))
    new_max = gl.maximum(row_max, gl.max(scores, 1))
    base = new_max * scale_log2
    if MASKED:
        # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
        base = gl.where(new_max == float("-inf"), 0.0, base)
    p = gl.exp2(scores * scale_log2 - base[:, None])
    rescale = gl.exp2(row_max * scale_log2 - base)
    row_sum = row_sum * rescale + gl.sum(p, 1)
    p = gl.convert_layout(p.to(DTYPE), P_LAYOUT)
    return p, new_max, row_sum, rescale


@gluon.jit
def advance(
    k_desc, v_desc, q_smem, k_smem, v_smem, bars, step, steps, k_row, k_col, v_row, v_col,
    acc, p, row_max, row_sum, last_visible, scale_log2,
    MASKED: gl.constexpr, TILE: gl.constexpr, MMA: gl.constexpr, P_LAYOUT: gl.constexpr,
):  # fmt: skip
    """Scores and softmax of this step's block, while the output of the block before it is accumulated."""
    slot = step % 2
    mbarrier.wait(bars.index(slot), (step // 2) % 2)
    scores = gl.zeros([TILE, TILE], gl.float32, MMA)
    scores = warpgroup_mma(q_smem, k_smem.index(slot).permute((1, 0)), scores, use_acc=False, is_async=True)
    acc = warpgroup_mma(p, v_smem.index(slot), acc, is_async=True)
    scores = warpgroup_mma_wait(num_outstanding=1, deps=(scores,))
    first_col = (steps - 1 - step) * TILE
    new_p, row_max, row_sum, rescale = softmax_block(
        scores, row_max, row_sum, last_visible, first_col, scale_log2, k_desc.dtype, MASKED, TILE, MMA, P_LAYOUT
    )
    # The probabilities are read from registers until the product is done, so they pass through the wait as well.
    acc, p = warpgroup_mma_wait(num_outstanding=0, deps=(acc, p))
    # Both warpgroups have read the slot before it is filled again.
    cta_barrier()
    fetch(k_desc, v_desc, k_smem, v_smem, bars, step + 2, steps, k_row, k_col, v_row, v_col, TILE)
    acc = acc * rescale[:, None]
    return acc, new_p, row_max, row_sum


@gluon.jit
def attend_fast(
    q_desc, k_desc, v_desc, o_ptr,
    q_row_b, q_row_h, q_col_h, k_row_b, k_row_h, k_col_h, v_row_b, v_row_h, v_col_h,
    o_stride_b, o_stride_h, o_stride_s,
    heads_q, group, seqlen_q, seqlen_kv, scale_log2,
    TILE: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Write TILE rows of the output of one query head."""
    MMA: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[8, 1], instr_shape=[16, TILE, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=MMA, k_width=2)
    ROWS: gl.constexpr = gl.SliceLayout(1, MMA)
    STORE: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [8, 1], [1, 0])

    batch = gl.program_id(1) // heads_q
    head = gl.program_id(1) % heads_q
    head_kv = head // group
    tile = gl.program_id(0)
    if CAUSAL:
        tile = gl.num_programs(0) - 1 - tile
    first_row = tile * TILE
    q_row = batch * q_row_b + head * q_row_h + first_row
    q_col = head * q_col_h
    k_row = batch * k_row_b + head_kv * k_row_h
    k_col = head_kv * k_col_h
    v_row = batch * v_row_b + head_kv * v_row_h
    v_col = head_kv * v_col_h

    # Blocks of keys are visited from the last to the first: `masked` of them with a mask, the rest without.
    shift = seqlen_kv - seqlen_q
    steps = seqlen_kv // TILE
    masked = 1
    if CAUSAL:
        end = gl.minimum(seqlen_kv, gl.maximum(first_row + TILE + shift, 1))
        steps = (end + TILE - 1) // TILE
        whole = gl.minimum(seqlen_kv, gl.maximum(first_row + shift + 1, 0)) // TILE
        masked = gl.maximum(steps - whole, 1)
    last_visible = first_row + shift + gl.arange(0, TILE, layout=ROWS)

    q_smem = gl.allocate_shared_memory(q_desc.dtype, [TILE, TILE], q_desc.layout)
    k_smem = gl.allocate_shared_memory(k_desc.dtype, [2, TILE, TILE], k_desc.layout)
    v_smem = gl.allocate_shared_memory(v_desc.dtype, [2, TILE, TILE], v_desc.layout)
    bars = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    mbarrier.init(bars.index(0), count=1)
    mbarrier.init(bars.index(1), count=1)
    cta_barrier()

    mbarrier.expect(bars.index(0), 2 * TILE * TILE * 2)
    tma.async_copy_global_to_shared(q_desc, [q_row, q_col], bars.index(0), q_smem)
    tma.async_copy_global_to_shared(k_desc, [k_row + (steps - 1) * TILE, k_col], bars.index(0), k_smem.index(0))
    fetch(k_desc, v_desc, k_smem, v_smem, bars, 1, steps, k_row, k_col, v_row, v_col, TILE)

    row_max = gl.full([TILE], float("-inf"), gl.float32, ROWS)
    row_sum = gl.full([TILE], 0.0, gl.float32, ROWS)
    acc = gl.zeros([TILE, TILE], gl.float32, MMA)

    mbarrier.wait(bars.index(0), 0)
    scores = gl.zeros([TILE, TILE], gl.float32, MMA)
    scores = warpgroup_mma(q_smem, k_smem.index(0).permute((1, 0)), scores, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(num_outstanding=0, deps=(scores,))
    cta_barrier()
    fetch(k_desc, v_desc, k_smem, v_smem, bars, 2, steps, k_row, k_col, v_row, v_col, TILE)
    p, row_max, row_sum, rescale = softmax_block(
        scores, row_max, row_sum, last_visible, (steps - 1) * TILE, scale_log2, k_desc.dtype,
        CAUSAL, TILE, MMA, P_LAYOUT,
    )  # fmt: skip

    if CAUSAL:
        for step in range(1, masked):
            acc, p, row_max, row_sum = advance(
                k_desc, v_desc, q_smem, k_smem, v_smem, bars, step, steps, k_row, k_col, v_row, v_col,
                acc, p, row_max, row_sum, last_visible, scale_log2, True, TILE, MMA, P_LAYOUT,
            )  # fmt: skip
    for step in range(masked, steps):
        acc, p, row_max, row_sum = advance(
            k_desc, v_desc, q_smem, k_smem, v_smem, bars, step, steps, k_row, k_col, v_row, v_col,
            acc, p, row_max, row_sum, last_visible, scale_log2, False, TILE, MMA, P_LAYOUT,
        )  # fmt: skip

    slot = steps % 2
    mbarrier.wait(bars.index(slot), (steps // 2) % 2)
    acc = warpgroup_mma(p, v_smem.index(slot), acc, is_async=True)
    acc, p = warpgroup_mma_wait(num_outstanding=0, deps=(acc, p))

    out = acc / gl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    out = gl.convert_layout(out.to(o_ptr.dtype.element_ty), STORE)
    rows = first_row + gl.arange(0, TILE, layout=gl.SliceLayout(1, STORE))
    dims = gl.arange(0, TILE, layout=gl.SliceLayout(0, STORE))
    o_ptr += batch.to(gl.int64) * o_stride_b + head.to(gl.int64) * o_stride_h
    o_ptrs = o_ptr + rows[:, None].to(gl.int64) * o_stride_s + dims[None, :]
    in_range = (rows[:, None] < seqlen_q) & (dims[None, :] < TILE)
    gl.store(o_ptrs, out, mask=in_range)


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


def as_matrix(tensor: torch.Tensor):
    """Express (batch, heads, seqlen, head_dim) as one matrix for TMA, or return None where that is not possible.

    Returns the matrix and what a batch adds to the row, a head to the row and a head to the column.
    """
    batch, heads, seqlen, head_dim = tensor.shape
    stride_b, stride_h, stride_s, stride_d = tensor.stride()
    if stride_d != 1 or stride_s < head_dim or stride_s % 8 or tensor.data_ptr() % 16 or stride_b % stride_s:
        return None
    row_b = stride_b // stride_s
    if stride_h % stride_s == 0:
        row_h, col_h = stride_h // stride_s, 0
    elif (heads - 1) * stride_h + head_dim <= stride_s:
        row_h, col_h = 0, stride_h
    else:
        return None
    height = (batch - 1) * row_b + (heads - 1) * row_h + seqlen
    width = (heads - 1) * col_h + head_dim
    if height >= 2**31 - FAST_TILE:
        return None
    return tensor.as_strided((height, width), (stride_s, 1)), (row_b, row_h, col_h)


fast_kernel_compiles = True


def attention_fast(q, k, v, out, causal, scale) -> bool:
    """Write the output with the fast kernel where it applies; say whether it did."""
    global fast_kernel_compiles
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if not fast_kernel_compiles or head_dim != FAST_TILE or seqlen_kv == 0 or seqlen_kv % FAST_TILE or not scale > 0:
        return False
    if q.numel() == 0 or torch.cuda.get_device_capability(q.device)[0] != 9:
        return False
    matrices = [as_matrix(tensor) for tensor in (q, k, v)]
    if any(matrix is None for matrix in matrices):
        return False
    tile = [FAST_TILE, FAST_TILE]
    layout = gl.NVMMASharedLayout.get_default_for(tile, gl.bfloat16 if q.dtype == torch.bfloat16 else gl.float16)
    descriptors = [TensorDescriptor.from_tensor(matrix, tile, layout) for matrix, _ in matrices]
    steps = [step for _, where in matrices for step in where]
    grid = (triton.cdiv(seqlen_q, FAST_TILE), batch * heads_q)
    try:
        attend_fast[grid](
            *descriptors, out, *steps, *out.stride()[:3],
            heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
            TILE=FAST_TILE, CAUSAL=causal, num_warps=8,
        )  # fmt: skip
    except Exception as error:  # a compiler that refuses the kernel raises many kinds
        fast_kernel_compiles = False
        warnings.warn(f"the Gluon kernel did not start, the plain Triton kernel serves: {error!r}", stacklevel=2)
        return False
    return True


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    out = torch.empty_like(q)
    if attention_fast(q, k, v, out, causal, scale):
        return out
    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else BLOCK_N // 2
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads_q)
    attend[grid](
        q, k, v, out,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, BLOCK_M=BLOCK_M, BLOCK_N=block_n, CAUSAL=causal,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return out
