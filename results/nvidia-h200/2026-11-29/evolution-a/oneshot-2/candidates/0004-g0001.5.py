"""Attention for Hopper: a warp-specialised Gluon kernel for whole tiles, a plain Triton kernel for everything else.

The fast kernel (`attend_tiles`) takes contiguous inputs with head_dim 128, lengths that are multiples of 128, no fewer
keys than queries under the causal mask, and a positive scale. Per tile of 128 queries it runs three groups of warps:

- One warp only loads. It brings Q, K and V to shared memory by TMA, K and V through two buffers each, and is told by
  mbarriers when a buffer is free, so the warps that compute neither form load addresses nor meet at a common barrier.
- Two warpgroups compute, 64 queries each, with the registers the loading warps give up. Each starts the product of Q
  with the next block of keys and the product of the present probabilities with their values together, and does the
  softmax of the new scores while the second product runs: tensor cores and exponentials overlap within a warpgroup,
  and the two warpgroups, which never wait for one another, overlap as well.

Keys are walked from last to first, so under the causal mask just the first block of the walk, the diagonal one, is
masked and the loop over the others holds no mask at all. Without the mask all tiles cost the same and as many programs
as there are multiprocessors stride over them, loading the next tile while the present one ends. With it, each program
takes one tile, the longest ones of a head first, and the hardware evens out the load.

Every other call goes to `attend` (online softmax through pointers, with the mask applied only to the blocks that need
it). It also takes over if the Triton at hand cannot compile the Gluon kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

AVO = {"target": "sm90", "shapes": ["mha"]}

# The tunables belong to the general kernel; the fast one has fixed tiles.
BLOCK_M = 128
BLOCK_N = 128
NUM_WARPS = 8
NUM_STAGES = 2

TUNABLES = {
    "BLOCK_M": [64, 128],
    "BLOCK_N": [32, 64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2, 3],
}

LOG2_E = 1.4426950408889634

# The fast kernel's tile: two warpgroups of GROUP_ROWS queries, blocks of TILE keys.
TILE = gl.constexpr(128)
GROUP_ROWS = gl.constexpr(64)
WIDTH = gl.constexpr(128)

# Cleared when the Gluon kernel turns out not to compile here.
gluon_compiles = True


@gluon.jit
def locate(tile, seqlen_q, seqlen_kv, CAUSAL: gl.constexpr):
    """Say which head and block of queries a tile is, and how many blocks of keys it sees."""
    q_blocks = seqlen_q // TILE
    kv_blocks = seqlen_kv // TILE
    head = tile // q_blocks
    block = tile % q_blocks
    if CAUSAL:
        block = q_blocks - 1 - block
        kv_blocks = kv_blocks - q_blocks + block + 1
    return head, block, kv_blocks


@gluon.jit
def wait_full(full, count):
    """Wait until the count-th block has arrived in its buffer, count % 2."""
    mbarrier.wait(full.index(count & 1), (count >> 1) & 1)


@gluon.jit
def release(empty, count):
    """Say that this warpgroup has read the count-th block."""
    mbarrier.arrive(empty.index(count & 1), count=1)


@gluon.jit
def load_block(desc, row, buffers, full, empty, count):
    """Load the count-th block, TILE rows from `row` on, once both warpgroups have read what its buffer held."""
    slot = count & 1
    mbarrier.wait(empty.index(slot), ((count >> 1) & 1) ^ 1)
    mbarrier.expect(full.index(slot), TILE * WIDTH * 2)
    tma.async_copy_global_to_shared(desc, [row, 0], full.index(slot), buffers.index(slot))


@gluon.jit
def load_partition(
    q_desc, k_desc, v_desc, q_smem, k_smem, v_smem,
    q_full, q_empty, k_full, k_empty, v_full, v_empty,
    heads, group, seqlen_q, seqlen_kv, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Load the blocks of all tiles of this program, keys one block ahead of values."""
    count = 0
    turn = 0
    for tile in range(gl.program_id(0), heads * (seqlen_q // TILE), gl.num_programs(0)):
        head, block, kv_blocks = locate(tile, seqlen_q, seqlen_kv, CAUSAL)
        q_row = head * seqlen_q + block * TILE
        kv_row = (head // group) * seqlen_kv + (kv_blocks - 1) * TILE

        load_block(k_desc, kv_row, k_smem, k_full, k_empty, count)
        mbarrier.wait(q_empty.index(0), (turn & 1) ^ 1)
        mbarrier.expect(q_full.index(0), TILE * WIDTH * 2)
        tma.async_copy_global_to_shared(q_desc, [q_row, 0], q_full.index(0), q_smem.index(0))
        tma.async_copy_global_to_shared(q_desc, [q_row + GROUP_ROWS, 0], q_full.index(0), q_smem.index(1))

        for _ in range(1, kv_blocks):
            load_block(k_desc, kv_row - TILE, k_smem, k_full, k_empty, count + 1)
            load_block(v_desc, kv_row, v_smem, v_full, v_empty, count)
            kv_row -= TILE
            count += 1
        load_block(v_desc, kv_row, v_smem, v_full, v_empty, count)
        count += 1
        turn += 1


@gluon.jit
def compute_partition(
    o_ptr, q_smem, k_smem, v_smem,
    q_full, q_empty, k_full, k_empty, v_full, v_empty,
    heads, seqlen_q, seqlen_kv, scale_log2, HALF: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Compute and write one half, GROUP_ROWS queries, of every tile of this program."""
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 16])
    operand: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=mma, k_width=2)
    rows = gl.arange(0, GROUP_ROWS, layout=gl.SliceLayout(1, mma))
    cols = gl.arange(0, TILE, layout=gl.SliceLayout(0, mma))
    dtype: gl.constexpr = o_ptr.dtype.element_ty
    q = q_smem.index(HALF)

    count = 0
    turn = 0
    for tile in range(gl.program_id(0), heads * (seqlen_q // TILE), gl.num_programs(0)):
        head, block, kv_blocks = locate(tile, seqlen_q, seqlen_kv, CAUSAL)
        no_scores = gl.zeros([GROUP_ROWS, TILE], gl.float32, mma)

        # The last block of keys: the diagonal one under the causal mask, where each row sees at least one key.
        mbarrier.wait(q_full.index(0), turn & 1)
        wait_full(k_full, count)
        first = warpgroup_mma(q, k_smem.index(count & 1).permute((1, 0)), no_scores, use_acc=False, is_async=True)
        first = warpgroup_mma_wait(num_outstanding=0, deps=(first,))
        release(k_empty, count)
        if CAUSAL:
            first = gl.where(cols[None, :] <= rows[:, None] + HALF * GROUP_ROWS, first, float("-inf"))
        row_max = gl.max(first, 1) * scale_log2
        first = gl.exp2(first * scale_log2 - row_max[:, None])
        row_sum = gl.sum(first, 1)
        p = gl.convert_layout(first.to(dtype), operand)
        acc = gl.zeros([GROUP_ROWS, WIDTH], gl.float32, mma)

        # p belongs to block `count`, whose values are still to be added; the scores are those of block count + 1.
        for _ in range(1, kv_blocks):
            wait_full(k_full, count + 1)
            wait_full(v_full, count)
            keys = k_smem.index((count + 1) & 1).permute((1, 0))
            scores = warpgroup_mma(q, keys, no_scores, use_acc=False, is_async=True)
            acc = warpgroup_mma(p, v_smem.index(count & 1), acc, is_async=True)
            scores = warpgroup_mma_wait(num_outstanding=1, deps=(scores,))
            release(k_empty, count + 1)
            new_max = gl.maximum(row_max, gl.max(scores, 1) * scale_log2)
            probs = gl.exp2(scores * scale_log2 - new_max[:, None])
            rescale = gl.exp2(row_max - new_max)
            row_sum = row_sum * rescale + gl.sum(probs, 1)
            row_max = new_max
            acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
            release(v_empty, count)
            acc = acc * rescale[:, None]
            p = gl.convert_layout(probs.to(dtype), operand)
            count += 1

        mbarrier.arrive(q_empty.index(0), count=1)
        wait_full(v_full, count)
        acc = warpgroup_mma(p, v_smem.index(count & 1), acc, is_async=True)
        acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
        release(v_empty, count)
        count += 1
        turn += 1

        out = acc / row_sum[:, None]
        first_row = head * seqlen_q + block * TILE + HALF * GROUP_ROWS
        out_ptrs = o_ptr + first_row.to(gl.int64) * WIDTH + rows[:, None] * WIDTH + cols[None, :]
        gl.store(out_ptrs, out.to(dtype))


@gluon.jit
def attend_tiles(
    q_desc, k_desc, v_desc, o_ptr, heads, group, seqlen_q, seqlen_kv, scale_log2, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Write the tiles of this program: every num_programs-th one, counted over heads and blocks of queries."""
    q_smem = gl.allocate_shared_memory(q_desc.dtype, [2, GROUP_ROWS, WIDTH], q_desc.layout)
    k_smem = gl.allocate_shared_memory(k_desc.dtype, [2, TILE, WIDTH], k_desc.layout)
    v_smem = gl.allocate_shared_memory(v_desc.dtype, [2, TILE, WIDTH], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    # A buffer is full when its one load has arrived, and empty when both warpgroups have released it.
    mbarrier.init(q_full.index(0), count=1)
    mbarrier.init(q_empty.index(0), count=2)
    for slot in gl.static_range(2):
        mbarrier.init(k_full.index(slot), count=1)
        mbarrier.init(k_empty.index(slot), count=2)
        mbarrier.init(v_full.index(slot), count=1)
        mbarrier.init(v_empty.index(slot), count=2)

    gl.warp_specialize([
        (compute_partition, (
            o_ptr, q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            heads, seqlen_q, seqlen_kv, scale_log2, 0, CAUSAL,
        )),
        (compute_partition, (
            o_ptr, q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            heads, seqlen_q, seqlen_kv, scale_log2, 1, CAUSAL,
        )),
        (load_partition, (
            q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            heads, group, seqlen_q, seqlen_kv, CAUSAL,
        )),
    ], [4, 1], [240, 24])  # fmt: skip


@triton.jit
def attend_keys(
    q, acc, row_max, row_sum, k_ptrs, v_ptrs, k_stride_s, v_stride_s, rows, shift, seqlen_kv, first, last, scale_log2,
    BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add the keys from first to last to the running maximum, sum and output."""
    lanes = tl.arange(0, BLOCK_N)
    for start in range(first, last, BLOCK_N):
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
        # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is NaN.
        base = new_max
        if MASKED:
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
        # The longest blocks start first.
        block = tl.num_programs(0) - 1 - block
    first_row = block * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_DIM)
    row_in_range = rows[:, None] < seqlen_q
    q = tl.load(q_ptr + rows[:, None].to(tl.int64) * q_stride_s + dims[None, :], mask=row_in_range, other=0.0)

    # Blocks before `whole` lie within the keys, and every row of this program sees all of them.
    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    whole = seqlen_kv
    if CAUSAL:
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)
        whole = tl.maximum(tl.minimum(seqlen_kv, first_row + shift + 1), 0)
    whole = whole // BLOCK_N * BLOCK_N

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    lanes = tl.arange(0, BLOCK_N)
    k_ptrs = k_ptr + lanes[:, None] * k_stride_s + dims[None, :]
    v_ptrs = v_ptr + lanes[:, None] * v_stride_s + dims[None, :]
    acc, row_max, row_sum, k_ptrs, v_ptrs = attend_keys(
        q, acc, row_max, row_sum, k_ptrs, v_ptrs, k_stride_s, v_stride_s, rows, shift, seqlen_kv, 0, whole, scale_log2,
        BLOCK_N, CAUSAL, False,
    )  # fmt: skip
    acc, row_max, row_sum, k_ptrs, v_ptrs = attend_keys(
        q, acc, row_max, row_sum, k_ptrs, v_ptrs, k_stride_s, v_stride_s, rows, shift, seqlen_kv, whole, end, scale_log2,
        BLOCK_N, CAUSAL, True,
    )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


def fits_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> bool:
    """Say whether the fast kernel takes this call."""
    seqlen_q, seqlen_kv = q.shape[2], k.shape[2]
    return (
        q.shape[3] == 128
        and min(seqlen_q, seqlen_kv) > 0
        and seqlen_q % 128 == 0
        and seqlen_kv % 128 == 0
        and (not causal or seqlen_kv >= seqlen_q)
        and scale > 0
        and all(x.is_contiguous() and x.data_ptr() % 16 == 0 for x in (q, k, v))
    )


def launch_tiles(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, causal: bool, scale: float
) -> None:
    """Run the fast kernel, seeing each tensor as a matrix of 128 columns."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    # Swizzle depends on the width of an element alone, which is the same for both dtypes.
    q_layout = gl.NVMMASharedLayout.get_default_for([64, 128], gl.float16)
    kv_layout = gl.NVMMASharedLayout.get_default_for([128, 128], gl.float16)
    q_desc = TensorDescriptor.from_tensor(q.view(-1, head_dim), [64, 128], q_layout)
    k_desc = TensorDescriptor.from_tensor(k.view(-1, head_dim), [128, 128], kv_layout)
    v_desc = TensorDescriptor.from_tensor(v.view(-1, head_dim), [128, 128], kv_layout)
    programs = batch * heads_q * (seqlen_q // 128)
    if not causal:
        programs = min(programs, torch.cuda.get_device_properties(q.device).multi_processor_count)
    attend_tiles[(programs,)](
        q_desc, k_desc, v_desc, out,
        batch * heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        CAUSAL=causal, num_warps=4, maxnreg=168,
    )  # fmt: skip


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    global gluon_compiles
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")

    if gluon_compiles and fits_tiles(q, k, v, causal, scale):
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        try:
            launch_tiles(q, k, v, out, causal, scale)
            return out
        except Exception:  # a compiler that lacks something the kernel needs: the general kernel does it all
            gluon_compiles = False

    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else max(16, BLOCK_N // 4)
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
