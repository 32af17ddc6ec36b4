"""Attention for Hopper: persistent Gluon programs, a warp that loads by TMA and two warpgroups that compute.

One program per multiprocessor takes tiles of 128 queries, 64 per warpgroup, from a counter. Causal tiles come longest first, heads
in groups whose keys and values stay in L2; the shortest quarter of all tiles comes behind all groups, in larger groups, so that
programs end together. A warp loads Q (two buffers), K and V (two stages of 128 keys each) as one stream across tiles:
the next tile is drawn and its Q loaded some blocks before the present one ends, its first K ahead of the last V.
On full masks programs go in pairs (clusters of two, launched as such although Triton compiled one program): a pair takes two
neighbouring row tiles of a head, each program loads half the columns of every tile of K and V, and multicast writes them into
both, so that L2 is read half as often. The first of the two draws for both.
The warpgroups issue the score product of a block together with the value product of the block before, and take the exponentials
of the new scores while the latter runs; they take turns in issuing, so that one has the tensor cores while the other has its
exponentials. Blocks are walked from the last to the first: a tile's first sets the row maxima, later ones are only checked by
their sums, and a warp whose sums got too large takes the block's maxima and rescales (a branch that is hardly ever taken). P goes
from the scores' registers straight into the value product; a tile's last value product runs beside the score product of the next
tile and its softmax, and O is scaled and leaves, through a buffer of its own, beside the score product of that tile's second block.
Only the triangle on the diagonal is masked, and the upper warpgroup multiplies half of the diagonal's block. A warp gives K and V
back to the loading warp by itself. Where the tiles of a full problem do not come out even, the first round of tiles and the odd
ones are shared out by blocks: a program starts with the second part of a tile, which it leaves in memory, and ends its share with
the first part of the next, which it merges with the second that another program left there long ago. So no round runs with most
programs idle. Launches go below Triton's wrapper, with what depends on shapes alone kept. Shapes that TMA or this tiling does not
take (other head sizes, odd strides, lengths that blocks of 128 do not divide) go to a plain Triton kernel.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
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

AVO = {"target": "sm90", "shapes": ["mha"]}

BLOCK_N = 128

# Row tiles that a group of heads should have at least: two a multiprocessor.
GROUP_WORK = 264

# Whether programs go in pairs on full masks.
PAIRS = True

TUNABLES = {
    "GROUP_WORK": [132, 264, 528],
    "PAIRS": [False, True],
}

LOG2_E = 1.4426950408889634
PAIR_BYTES = 229792  # shared memory of pairs: with these K lies 65,536 and V 131,072 bytes behind Q, as load_half expects

scratch = {}  # by stream, as launches on two may overlap: a counter and flags, zero after each launch, and partial outputs
launches = {}  # by shapes and strides: the launcher below Triton's wrapper and the arguments that depend on nothing else


@gluon.jit
def open_empty(readers):
    """Barriers in memory of their own (a whole swizzle period): they tell of free tiles, K's two and V's two; in pairs also of
    full ones, and of numbers drawn. At the thirteenth nobody arrives: its phase before the first is over."""
    gl.inline_asm_elementwise(
        """.shared .align 1024 .b8 empty_barriers[1024];
        {
        .reg .pred first; .reg .b32 at;
        mov.u32 at, %tid.x;
        setp.eq.u32 first, at, 0;
        mov.u32 at, empty_barriers;
        @first mbarrier.init.shared::cta.b64 [at], $1;
        @first mbarrier.init.shared::cta.b64 [at+8], $1;
        @first mbarrier.init.shared::cta.b64 [at+16], $1;
        @first mbarrier.init.shared::cta.b64 [at+24], $1;
        @first mbarrier.init.shared::cta.b64 [at+32], 1;
        @first mbarrier.init.shared::cta.b64 [at+40], 1;
        @first mbarrier.init.shared::cta.b64 [at+48], 1;
        @first mbarrier.init.shared::cta.b64 [at+56], 1;
        @first mbarrier.init.shared::cta.b64 [at+64], 1;
        @first mbarrier.init.shared::cta.b64 [at+80], 1;
        @first mbarrier.init.shared::cta.b64 [at+96], 1;
        mov.b32 $0, $1;
        }""",
        "=r,r", [readers], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def meet_peer():
    """All threads of both programs of a pair wait for each other: their barriers are open."""
    gl.inline_asm_elementwise(
        "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; mov.b32 $0, $1;",
        "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def idle():
    """Warps that have nothing to do but to be there when the pair meets."""
    meet_peer()


@gluon.jit
def load_half(stage, key, head, batch, WHAT: gl.constexpr):
    """Half the columns of a tile of K (0) or V (1) into both programs of a pair; the other program loads the other half."""
    if WHAT == 0:
        gl.inline_asm_elementwise(
            """{
            .reg .pred first; .reg .b32 at, full, column, part; .reg .b64 map; .reg .b16 both;
            mov.u32 at, %laneid;
            setp.eq.u32 first, at, 0;
            mov.b64 map, attend_tma_param_9;
            cvta.param.u64 map, map;
            mov.u32 part, %cluster_ctarank;
            shl.b32 column, part, 6;
            mov.u32 at, empty_barriers;
            mad.lo.u32 full, $1, 8, at;
            add.u32 full, full, 32;
            mad.lo.u32 at, $1, 32768, at;
            mad.lo.u32 at, part, 16384, at;
            add.u32 at, at, 66560;
            mov.b16 both, 3;
            @first mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 32768;
            @first cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [at], [map, {column, $2, $3, $4}], [full], both;
            mov.b32 $0, 0;
            }""",
            "=r,r,r,r,r", [stage, key, head, batch], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    else:
        gl.inline_asm_elementwise(
            """{
            .reg .pred first; .reg .b32 at, full, column, part; .reg .b64 map; .reg .b16 both;
            mov.u32 at, %laneid;
            setp.eq.u32 first, at, 0;
            mov.b64 map, attend_tma_param_18;
            cvta.param.u64 map, map;
            mov.u32 part, %cluster_ctarank;
            shl.b32 column, part, 6;
            mov.u32 at, empty_barriers;
            mad.lo.u32 full, $1, 8, at;
            add.u32 full, full, 48;
            mad.lo.u32 at, $1, 32768, at;
            mad.lo.u32 at, part, 16384, at;
            add.u32 at, at, 132096;
            mov.b16 both, 3;
            @first mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 32768;
            @first cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [at], [map, {column, $2, $3, $4}], [full], both;
            mov.b32 $0, 0;
            }""",
            "=r,r,r,r,r", [stage, key, head, batch], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@gluon.jit
def open_gifts(PART: gl.constexpr):
    """Where a warp's first two lanes arrive: at the barriers of the first and of the second program of a pair."""
    if PART == 0:
        gl.inline_asm_elementwise(
            """.reg .pred gives_0; .reg .b32 gifts_0;
            mov.u32 gifts_0, %laneid;
            setp.lt.u32 gives_0, gifts_0, 2;
            and.b32 gifts_0, gifts_0, 1;
            mapa.shared::cluster.u32 gifts_0, empty_barriers, gifts_0;
            mov.b32 $0, $1;""",
            "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    else:
        gl.inline_asm_elementwise(
            """.reg .pred gives_1; .reg .b32 gifts_1;
            mov.u32 gifts_1, %laneid;
            setp.lt.u32 gives_1, gifts_1, 2;
            and.b32 gifts_1, gifts_1, 1;
            mapa.shared::cluster.u32 gifts_1, empty_barriers, gifts_1;
            mov.b32 $0, $1;""",
            "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@gluon.jit
def give_back(number, PART: gl.constexpr, PAIR: gl.constexpr):
    """This warp has read the tile: one arrival of eight, without a barrier of the warpgroup; in a pair one to each program."""
    if not PAIR:
        give_back_alone(number)
    elif PART == 0:
        gl.inline_asm_elementwise(
            """{
            .reg .b32 at;
            mad.lo.u32 at, $1, 8, gifts_0;
            @gives_0 mbarrier.arrive.shared::cluster.b64 _, [at];
            mov.b32 $0, 0;
            }""",
            "=r,r", [number], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    else:
        gl.inline_asm_elementwise(
            """{
            .reg .b32 at;
            mad.lo.u32 at, $1, 8, gifts_1;
            @gives_1 mbarrier.arrive.shared::cluster.b64 _, [at];
            mov.b32 $0, 0;
            }""",
            "=r,r", [number], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@gluon.jit
def give_back_alone(number):
    """This warp has read the tile: one arrival of eight, without a barrier of the warpgroup."""
    gl.inline_asm_elementwise(
        """{
        .reg .pred first; .reg .b32 lane, at;
        mov.u32 lane, %laneid;
        setp.eq.u32 first, lane, 0;
        mov.u32 at, empty_barriers;
        mad.lo.u32 at, $1, 8, at;
        @first mbarrier.arrive.shared::cta.b64 _, [at];
        mov.b32 $0, 0;
        }""",
        "=r,r", [number], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def wait_tile(number, phase):
    """Wait until both warpgroups have read a tile of K (0, 1) or V (2, 3), or until one has come (4 to 7)."""
    gl.inline_asm_elementwise(
        """{
        .reg .pred free; .reg .b32 at;
        mov.u32 at, empty_barriers;
        mad.lo.u32 at, $1, 8, at;
        again:
        mbarrier.try_wait.parity.shared::cta.b64 free, [at], $2;
        @!free bra again;
        mov.b32 $0, 0;
        }""",
        "=r,r,r", [number, phase], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def tile_of_program(pid, tiles, heads, heads_per_group, CAUSAL: gl.constexpr):
    """Row tile and head of a number. Causal: heads in groups, longest tile first within a group; the shortest quarter of all
    heads' tiles comes behind the others, in groups of four times as many heads, and of it the shortest quarter once more."""
    if CAUSAL:
        end = tiles
        start = tiles // 4
        most = heads_per_group
        if pid >= heads * (end - start):
            pid -= heads * (end - start)
            end = start
            start = end // 4
            most = gl.minimum(most * 4, heads)
            if pid >= heads * (end - start):
                pid -= heads * (end - start)
                end = start
                start = 0
                most = heads
        rows = gl.maximum(end - start, 1)  # none where the number is behind the last tile
        groups = heads // most
        group = gl.minimum(pid // (most * rows), groups - 1)
        first_head = group * most
        size = gl.where(group == groups - 1, heads - first_head, most)
        rest = pid - first_head * rows
        row = rest // size
        tile = end - 1 - row
        head = first_head + rest - row * size
    else:
        head = pid // tiles
        tile = pid - head * tiles
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
def draw(counter, last):
    """Draw the next number, in a warp's first thread; the counter returns to zero after the last."""
    return gl.inline_asm_elementwise(
        """{
        .reg .pred first; .reg .b32 lane;
        mov.u32 lane, %laneid;
        setp.eq.u32 first, lane, 0;
        mov.u32 $0, 0;
        @first atom.global.inc.u32 $0, [$1], $2;
        }""",
        "=&r,l,r", [counter, last], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def share_number(drawn, draws, rank):
    """The first program of a pair sends the number that it drew to the second, by turns through two boxes."""
    return gl.inline_asm_elementwise(
        """{
        .reg .pred first, leads, gives, free; .reg .b32 lane, at, there, box, parity;
        mov.u32 lane, %laneid;
        setp.eq.u32 first, lane, 0;
        setp.eq.u32 leads, $3, 0;
        setp.eq.and.u32 gives, $3, 0, first;
        and.b32 parity, $2, 1;
        mov.u32 at, empty_barriers;
        mad.lo.u32 at, parity, 16, at;
        add.u32 at, at, 64;
        shr.u32 parity, $2, 1;
        and.b32 parity, parity, 1;
        mov.u32 $0, $1;
        mapa.shared::cluster.u32 there, at, 1;
        add.u32 box, there, 8;
        @gives st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [box], $0, [there];
        @leads bra shared_out;
        @first mbarrier.arrive.expect_tx.shared::cta.b64 _, [at], 4;
        again:
        mbarrier.try_wait.parity.shared::cta.b64 free, [at], parity;
        @!free bra again;
        @first ld.volatile.shared.u32 $0, [at+8];
        shared_out:
        redux.sync.or.b32 $0, $0, -1;
        }""",
        "=&r,r,r,r", [drawn, draws, rank], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def produce(
    q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem, q_full, q_empty, tile_full,
    k_full, v_full, counter,
    heads_q, group, heads, heads_per_group, tiles, shared, seqlen_q, seqlen_kv,
    BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """Draw tiles and load them: Q, then K of block i + 1 ahead of V of block i, from the last block to the first."""
    D: gl.constexpr = 128
    KV_BYTES: gl.constexpr = BLOCK_N * D * 2
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    programs = gl.num_programs(0)
    program = gl.program_id(0)
    if PAIR:
        # A pair counts as one program, and two neighbouring row tiles as one tile.
        meet_peer()
        program = same_in_warp(program)
        rank = program & 1
        program = program >> 1
        programs = same_in_warp(programs) >> 1
        tiles = same_in_warp(tiles) >> 1
        draws = rank * 0
    total = tiles * heads
    last = total - shared + programs - 1
    drawn = 0
    # Of the shared tiles every program takes as many blocks as the others: the rest of one tile, the start of the next.
    mine = 0
    first = 0
    left = 0
    if not CAUSAL:
        whole = (seqlen_kv + BLOCK_N - 1) // BLOCK_N
        start = program * (shared * whole) // programs
        left = (program + 1) * (shared * whole) // programs - start
        mine = start // whole
        first = start - mine * whole
    # One stream of blocks across tiles, ahead of it a step that loads nothing but the first tile's first keys.
    n = 0
    turn = 0
    high = 0
    blocks = 1
    place = 0
    next_high = 0
    next_blocks = 0
    next_place = 0
    while blocks > 0:
        for i in range(blocks):
            # Ahead of a tile's end the next one is drawn, announced, and its queries are loaded.
            when = gl.maximum(blocks - 4, gl.minimum(blocks - 1, 2))
            if (i == gl.maximum(when - 1, 0)) & (left == 0):
                if PAIR:
                    if rank == 0:
                        drawn = draw(counter, last)
                else:
                    drawn = draw(counter, last)
            if i == when:
                slot = turn & 1
                mbarrier.wait(q_empty.index(slot), ((turn >> 1) & 1) ^ 1)
                if PAIR:
                    number = total
                    if left == 0:
                        number = shared + share_number(drawn, draws, rank)
                        draws += 1
                else:
                    number = shared + same_in_warp(drawn)
                tile, index = tile_of_program(gl.where(left > 0, mine, number), tiles, heads, heads_per_group, CAUSAL)
                if PAIR:
                    tile = tile * 2 + rank
                low = first
                next_high = count_blocks(tile * 128, 128, seqlen_q, seqlen_kv, BLOCK_N, CAUSAL)
                some = (left > 0) | (number < total)
                if left > 0:
                    next_high = gl.minimum(next_high, low + left)
                    left -= next_high - low
                    mine += 1
                    first = 0
                batch = index // heads_q
                head = index - batch * heads_q
                next_place = batch * 65536 + head // group
                next_blocks = gl.where(some, next_high - low, 0)
                tile_smem.index(slot).store(gl.full([1], gl.where(some, tile, -1), gl.int32, ONE))
                index_smem.index(slot).store(gl.full([1], batch * 65536 + head, gl.int32, ONE))
                low_smem.index(slot).store(gl.full([1], low, gl.int32, ONE))
                high_smem.index(slot).store(gl.full([1], next_high, gl.int32, ONE))
                mbarrier.arrive(tile_full.index(slot), count=1)
                if some:
                    mbarrier.expect(q_full.index(slot), 2 * 64 * D * 2)
                    for part in gl.static_range(2):
                        tma.async_copy_global_to_shared(
                            q_desc, [batch, head, tile * 128 + 64 * part, 0], q_full.index(slot), q_smem.index(slot * 2 + part)
                        )
                turn += 1
            # The keys of the next block, of this tile or the next; block n of all.
            over = i == blocks - 1
            where = gl.where(over, next_place, place)
            block = gl.where(over, next_high - 1, high - 2 - i)
            if (i < blocks - 1) | (next_blocks > 0):
                wait_tile(n & 1, ((n >> 1) & 1) ^ 1)
                if PAIR:
                    load_half(n & 1, block * BLOCK_N, where & 65535, where >> 16, 0)
                else:
                    mbarrier.expect(k_full.index(n & 1), KV_BYTES)
                    tma.async_copy_global_to_shared(
                        k_desc, [where >> 16, where & 65535, block * BLOCK_N, 0], k_full.index(n & 1), k_smem.index(n & 1)
                    )
            # The values of the present block, n - 1.
            if n > 0:
                m = n - 1
                wait_tile(2 + (m & 1), ((m >> 1) & 1) ^ 1)
                if PAIR:
                    load_half(m & 1, (high - 1 - i) * BLOCK_N, place & 65535, place >> 16, 1)
                else:
                    mbarrier.expect(v_full.index(m & 1), KV_BYTES)
                    tma.async_copy_global_to_shared(
                        v_desc, [place >> 16, place & 65535, (high - 1 - i) * BLOCK_N, 0], v_full.index(m & 1), v_smem.index(m & 1)
                    )
            n += 1
        high = next_high
        blocks = next_blocks
        place = next_place
    if PAIR:
        # Stay until all arrivals of the peer's warps are in: for the last two tiles of V, for the last of K, and for the stage of
        # K that they give back once more behind the last tile. Not for the tile before in that stage: its phase may be over.
        for i in range(2):
            m = n - 1 + i
            wait_tile(2 + (m & 1), ((m >> 1) & 1) ^ 1)
        for i in range(2):
            m = n + i
            wait_tile(m & 1, ((m >> 1) & 1) ^ 1)


@gluon.jit
def widen(weights, BLOCK_N: gl.constexpr):
    """Weights of the first 64 keys of a block, and nothing for the others."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    W: gl.constexpr = weights.type.layout
    both = gl.join(weights, gl.zeros([64, 64], gl.float32, W)).permute((0, 2, 1)).reshape([64, BLOCK_N])
    return gl.convert_layout(both, S)


@gluon.jit
def sum_parts(weights):
    """Sums of a row's weights, each thread's own: the four threads of a row keep them apart."""
    PARTS: gl.constexpr = weights.shape[1] // 8
    OWN: gl.constexpr = gl.DistributedLinearLayout(
        reg_bases=[[8, 0]], lane_bases=[[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]], warp_bases=[[16, 0], [32, 0]],
        block_bases=[], shape=[64, 4],
    )  # fmt: skip
    return gl.convert_layout(gl.sum(gl.sum(weights.reshape([64, PARTS, 4, 2]), 3), 1), OWN)


@gluon.jit
def hide_triangle(scores, zero):
    """Of 64 keys on the diagonal, row i of a warpgroup sees i + 1. Zero, told late, keeps the comparison where it is."""
    L: gl.constexpr = scores.type.layout
    cols = gl.arange(0, 64, gl.SliceLayout(0, L))
    rows = gl.arange(0, 64, gl.SliceLayout(1, L)) + zero
    return gl.where(cols[None, :] <= rows[:, None], scores, float("-inf"))


@gluon.jit
def first_scores(q, k_smem, stage, BLOCK_N: gl.constexpr, HALF: gl.constexpr):
    """The score product of a tile's first block, or of its first half, in flight."""
    if HALF:
        S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
        nothing = gl.zeros([64, 64], gl.float32, S)
        k = k_smem.index(stage).reshape([BLOCK_N, 128]).slice(0, 64, 0).permute((1, 0))
        return warpgroup_mma(q, k, nothing, use_acc=False, is_async=True)
    else:
        S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
        nothing = gl.zeros([64, BLOCK_N], gl.float32, S)
        k = k_smem.index(stage).reshape([BLOCK_N, 128]).permute((1, 0))
        return warpgroup_mma(q, k, nothing, use_acc=False, is_async=True)


@gluon.jit
def first_weights(
    scores, seqlen_q, scale_log2, PART: gl.constexpr, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """Mask a tile's first block and take its maxima, exponentials and sums."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    if CAUSAL:
        zero = same_in_warp(seqlen_q * 0)
        if HALF:
            scores = hide_triangle(scores, zero)
        else:
            lower, upper = scores.reshape([64, 2, 64]).permute((0, 2, 1)).split()
            L: gl.constexpr = upper.type.layout
            if PART == 0:
                lower = hide_triangle(lower, zero)
                upper = gl.full([64, 64], float("-inf"), gl.float32, L)
            else:
                upper = hide_triangle(upper, zero)
            both = gl.join(lower, upper).permute((0, 2, 1)).reshape([64, BLOCK_N])
            scores = gl.convert_layout(both, S)
    base = gl.max(scores, 1) * scale_log2
    weights = gl.exp2(scores * scale_log2 - base[:, None])
    if HALF:
        return weights, gl.convert_layout(base, gl.SliceLayout(1, S)), sum_parts(weights)
    else:
        return weights, base, sum_parts(weights)


@gluon.jit
def declare_flag(PART: gl.constexpr):
    """A register of a thread that tells, outside of the compiler's sight, whether one of its sums got too large."""
    if PART == 0:
        gl.inline_asm_elementwise(
            ".reg .pred too_large_0; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )
    else:
        gl.inline_asm_elementwise(
            ".reg .pred too_large_1; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def any_above(sums, limit, PART: gl.constexpr):
    """Whether a sum of this warp's rows is above the limit or NaN: a scalar, the same in all threads of a warp."""
    if PART == 0:
        gl.inline_asm_elementwise("setp.ne.u32 too_large_0, $1, $1; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "setp.gtu.or.f32 too_large_0, $1, $2, too_large_0; mov.b32 $0, 0;",
            "=r,f,f", [sums, limit], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip
        return gl.inline_asm_elementwise(
            "{ .reg .pred any; vote.sync.any.pred any, too_large_0, -1; selp.b32 $0, 1, $1, any; }", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )
    else:
        gl.inline_asm_elementwise("setp.ne.u32 too_large_1, $1, $1; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "setp.gtu.or.f32 too_large_1, $1, $2, too_large_1; mov.b32 $0, 0;",
            "=r,f,f", [sums, limit], dtype=gl.int32, is_pure=False, pack=1,
        )  # fmt: skip
        return gl.inline_asm_elementwise(
            "{ .reg .pred any; vote.sync.any.pred any, too_large_1, -1; selp.b32 $0, 1, $1, any; }", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def take_turn(PART: gl.constexpr):
    """Wait until the other warpgroup has issued its products."""
    if PART == 0:
        gl.inline_asm_elementwise("bar.sync 9, 256; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1)
    else:
        gl.inline_asm_elementwise("bar.sync 10, 256; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def pass_turn(PART: gl.constexpr):
    """Let the other warpgroup issue its products."""
    if PART == 0:
        gl.inline_asm_elementwise("bar.arrive 10, 256; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1)
    else:
        gl.inline_asm_elementwise("bar.arrive 9, 256; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def put_out(o_desc, o_part, acc, total, index, row):
    """Divide a tile's output by its sums and store it, beside what else goes on; rows behind the last one are not written."""
    O: gl.constexpr = acc.type.layout
    inverse = 1.0 / gl.where(total == 0.0, 1.0, total)
    out = acc * gl.convert_layout(inverse, gl.SliceLayout(1, O))[:, None]
    # The output of the tile before has left the buffer long ago.
    tma.store_wait(0)
    o_part.reshape([64, 128]).store(out.to(o_desc.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(o_desc, [index >> 16, index & 65535, row, 0], o_part)


@gluon.jit
def step(
    n, q, k_smem, v_smem, k_full, v_full, weights, acc, base, row_sum, scale_log2, o_desc, o_part, total, index, row,
    BLOCK_N: gl.constexpr, PART: gl.constexpr, HALF: gl.constexpr, FIRST: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """Scores of block i together with the value product of block i - 1; the softmax of block i beside the latter. In a tile's
    first step the output of the tile before leaves beside the score product."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    P: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O, k_width=2)
    stage = n & 1
    stage_v = stage ^ 1
    p = gl.convert_layout(weights.to(v_smem.dtype), P)
    if PAIR:
        wait_tile(4 + stage, (n >> 1) & 1)
    else:
        mbarrier.wait(k_full.index(stage), (n >> 1) & 1)
    nothing = gl.zeros([64, BLOCK_N], gl.float32, S)
    take_turn(PART)
    k = k_smem.index(stage).reshape([BLOCK_N, 128]).permute((1, 0))
    scores = warpgroup_mma(q, k, nothing, use_acc=False, is_async=True)
    if FIRST:
        pass_turn(PART)
        # Without this the assembler puts the scaling of the output between the instructions of the score product.
        wait_tile(12, 1)
        put_out(o_desc, o_part, acc, total, index, row)
    if PAIR:
        wait_tile(6 + stage_v, ((n - 1) >> 1) & 1)
    else:
        mbarrier.wait(v_full.index(stage_v), ((n - 1) >> 1) & 1)
    v = v_smem.index(stage_v).reshape([BLOCK_N, 128])
    if HALF:
        v = v.slice(0, 64, 0)
    if FIRST:
        acc = warpgroup_mma(p, v, gl.zeros([64, 128], gl.float32, O), use_acc=False, is_async=True)
    else:
        acc = warpgroup_mma(p, v, acc, is_async=True)
        pass_turn(PART)
    scores = warpgroup_mma_wait(1, deps=[scores])
    give_back(stage, PART, PAIR)
    weights = gl.exp2(scores * scale_log2 - base[:, None])
    sums = sum_parts(weights)
    LIMIT: gl.constexpr = 2.0**64 if v_smem.dtype == gl.bfloat16 else 2.0**15
    rescale = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, S))
    again = any_above(sums, LIMIT, PART) != 0
    if again:
        new_base = gl.maximum(base, gl.max(scores, 1) * scale_log2)
        weights = gl.exp2(scores * scale_log2 - new_base[:, None])
        sums = sum_parts(weights)
        rescale = gl.exp2(base - new_base)
        base = new_base
    row_sum = row_sum * gl.convert_layout(rescale, gl.SliceLayout(1, row_sum.type.layout))[:, None] + sums
    acc = warpgroup_mma_wait(0, deps=[acc])
    give_back(2 + stage_v, PART, PAIR)
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
    o_desc, scratch, flags, o_smem, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem,
    q_full, q_empty, tile_full, k_full, v_full,
    heads_q, seqlen_q, seqlen_kv, scale_log2,
    PART: gl.constexpr, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """Attend with 64 rows of each tile that the producer draws."""
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    P: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O, k_width=2)
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    HALF: gl.constexpr = CAUSAL and PART == 0
    declare_flag(PART)
    if PAIR:
        meet_peer()
        open_gifts(PART)
    if PART == 1:
        pass_turn(1)
    done = 0
    turn = 0
    mbarrier.wait(tile_full.index(0), 0)
    tile = same_in_warp(tile_smem.index(0).load(ONE).item())
    mbarrier.wait(q_full.index(0), 0, pred=tile >= 0)
    if PAIR:
        if tile >= 0:
            wait_tile(4, 0)
    else:
        mbarrier.wait(k_full.index(0), 0, pred=tile >= 0)
    scores = first_scores(q_smem.index(PART).reshape([64, 128]), k_smem, 0, BLOCK_N, HALF)
    scores = warpgroup_mma_wait(0, deps=[scores])
    give_back(0, PART, PAIR)
    first, base, row_sum = first_weights(scores, seqlen_q, scale_log2, PART, BLOCK_N, CAUSAL, HALF)
    # The output of the tile before the first: behind the last row, where nothing is written.
    acc = gl.zeros([64, 128], gl.float32, O)
    total = base * 0.0
    index = turn
    row = seqlen_q
    while tile >= 0:
        slot = turn & 1
        blocks = same_in_warp(high_smem.index(slot).load(ONE).item())
        if not CAUSAL:
            blocks -= same_in_warp(low_smem.index(slot).load(ONE).item())
        q = q_smem.index(slot * 2 + PART).reshape([64, 128])
        o_part = o_smem.index(same_in_warp(PART))
        if blocks > 1:
            weights, acc, base, row_sum = step(
                done + 1, q, k_smem, v_smem, k_full, v_full, first, acc, base, row_sum, scale_log2, o_desc, o_part, total, index, row,
                BLOCK_N, PART, HALF, True, PAIR,
            )  # fmt: skip
        else:
            put_out(o_desc, o_part, acc, total, index, row)
            acc = gl.zeros([64, 128], gl.float32, O)
            if HALF:
                weights = widen(first, BLOCK_N)
            else:
                weights = first
        for n in range(done + 2, done + blocks):
            weights, acc, base, row_sum = step(
                n, q, k_smem, v_smem, k_full, v_full, weights, acc, base, row_sum, scale_log2, o_desc, o_part, total, index, row,
                BLOCK_N, PART, False, False, PAIR,
            )  # fmt: skip

        # The last value product of this tile, and beside it the first score product of the next (of nothing after the last).
        done += blocks
        stage = done & 1
        stage_v = stage ^ 1
        phase_v = ((done - 1) >> 1) & 1
        p = gl.convert_layout(weights.to(v_smem.dtype), P)
        mbarrier.wait(tile_full.index(slot ^ 1), ((turn + 1) >> 1) & 1)
        next_tile = same_in_warp(tile_smem.index(slot ^ 1).load(ONE).item())
        mbarrier.wait(q_full.index(slot ^ 1), ((turn + 1) >> 1) & 1, pred=next_tile >= 0)
        if PAIR:
            if next_tile >= 0:
                wait_tile(4 + stage, (done >> 1) & 1)
        else:
            mbarrier.wait(k_full.index(stage), (done >> 1) & 1, pred=next_tile >= 0)
        take_turn(PART)
        scores = first_scores(q_smem.index((slot ^ 1) * 2 + PART).reshape([64, 128]), k_smem, stage, BLOCK_N, HALF)
        if PAIR:
            wait_tile(6 + stage_v, phase_v)
        else:
            mbarrier.wait(v_full.index(stage_v), phase_v)
        acc = warpgroup_mma(p, v_smem.index(stage_v).reshape([BLOCK_N, 128]), acc, is_async=True)
        pass_turn(PART)
        scores = warpgroup_mma_wait(1, deps=[scores])
        give_back(stage, PART, PAIR)
        first, next_base, next_sum = first_weights(scores, seqlen_q, scale_log2, PART, BLOCK_N, CAUSAL, HALF)
        # Without this the assembler waits for the value product before it begins with the exponentials.
        wait_tile(12, 1)
        acc = warpgroup_mma_wait(0, deps=[acc])
        give_back(2 + stage_v, PART, PAIR)
        total = gl.convert_layout(gl.sum(row_sum, 1), gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])))
        # Read anew what few registers had no room for.
        index = same_in_warp(index_smem.index(slot).load(ONE).item())
        row = tile * 128 + 64 * PART
        if not CAUSAL:
            low = same_in_warp(low_smem.index(slot).load(ONE).item())
            high = same_in_warp(high_smem.index(slot).load(ONE).item())
            if low > 0:
                hand_over(acc, base, total, scratch, flags, same_in_warp(gl.program_id(0)) * 2 + PART)
                row = seqlen_q
            elif high * BLOCK_N < seqlen_kv:
                acc, total = merge(acc, base, total, scratch, flags, same_in_warp(gl.program_id(0)) * 2 + (4 if PAIR else 2) + PART)
        mbarrier.arrive(q_empty.index(slot), count=1)
        tile = next_tile
        base = next_base
        row_sum = next_sum
        turn += 1
    put_out(o_desc, o_smem.index(same_in_warp(PART)), acc, total, index, row)
    if PART == 0:
        take_turn(0)
    tma.store_wait(0)


@gluon.jit
def attend_tma(
    q_desc, k_desc, v_desc, o_desc, counter, scratch, flags,
    heads_q, group, heads, heads_per_group, tiles, shared, seqlen_q, seqlen_kv, scale_log2,
    BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """Write tiles of 128 rows of the output until none is left."""
    q_smem = gl.allocate_shared_memory(q_desc.dtype, [4, 1, 1, 64, 128], q_desc.layout)
    o_smem = gl.allocate_shared_memory(o_desc.dtype, [2, 1, 1, 64, 128], o_desc.layout)
    k_smem = gl.allocate_shared_memory(k_desc.dtype, [2, 1, 1, BLOCK_N, 128], k_desc.layout)
    v_smem = gl.allocate_shared_memory(v_desc.dtype, [2, 1, 1, BLOCK_N, 128], v_desc.layout)
    tile_smem = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    index_smem = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    low_smem = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    high_smem = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    tile_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    if PAIR:
        k_full = q_full  # not used: pairs have barriers for K and V of their own
        v_full = q_full
        open_empty(16)
    else:
        k_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        v_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        open_empty(8)
    for j in gl.static_range(2):
        mbarrier.init(q_full.index(j), count=1)
        mbarrier.init(q_empty.index(j), count=2)
        mbarrier.init(tile_full.index(j), count=1)
        if not PAIR:
            mbarrier.init(k_full.index(j), count=1)
            mbarrier.init(v_full.index(j), count=1)
    fence_async_shared()
    if PAIR:
        gl.inline_asm_elementwise(
            "fence.mbarrier_init.release.cluster; mov.b32 $0, $1;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
        )

    gl.warp_specialize(
        [
            (consume, (
                o_desc, scratch, flags, o_smem, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem,
                q_full, q_empty, tile_full, k_full, v_full,
                heads_q, seqlen_q, seqlen_kv, scale_log2,
                gl.constexpr(0), BLOCK_N, CAUSAL, PAIR)),
            (consume, (
                o_desc, scratch, flags, o_smem, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem,
                q_full, q_empty, tile_full, k_full, v_full,
                heads_q, seqlen_q, seqlen_kv, scale_log2,
                gl.constexpr(1), BLOCK_N, CAUSAL, PAIR)),
            (produce, (
                q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, tile_smem, index_smem, low_smem, high_smem, q_full, q_empty, tile_full,
                k_full, v_full, counter,
                heads_q, group, heads, heads_per_group, tiles, shared, seqlen_q, seqlen_kv, BLOCK_N, CAUSAL, PAIR)),
        ] + ([(idle, ()), (idle, ())] if PAIR else []),
        [4, 1, 1, 2] if PAIR else [4, 1],
        [240, 24, 24, 24] if PAIR else [240, 24],
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


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run at a time."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def geometry(x: torch.Tensor) -> tuple[list[int], list[int]]:
    """Shape and strides of a tensor map; the stride of a dimension of one element means nothing, but must fit."""
    strides = [s if n > 1 else 128 for n, s in zip(x.shape[:3], x.stride()[:3], strict=True)]
    return list(x.shape), [*strides, 1]


def below_wrapper(kernel, grid: int, scalars: tuple, shapes: tuple, causal: bool, pair: bool) -> tuple:
    """The compiled launcher and the arguments, as Triton's wrapper hands them on when it has encoded the tensor maps."""
    run = kernel.run
    kept = dict(zip(run.launch.__code__.co_freevars, (cell.cell_contents for cell in run.launch.__closure__), strict=True))
    encodings = tuple(
        (m["swizzle"], m["elem_size"], TMA_DTYPE_DEVICE_TO_HOST[m["elem_type"]], m["block_size"], *shape, 0)
        for m, shape in zip(kept["tensordesc_meta"], shapes, strict=True)
    )
    # Compiled as one program and launched in clusters of two: what a cluster needs is written out in it.
    warps, _, bytes_shared = kernel.packed_metadata
    packed = warps, 2 if pair else 1, bytes_shared
    head = (kernel.function, run.launch_cooperative_grid, run.launch_pdl, None, None, packed, None, None, None)
    return kept["launcher"], grid, head, encodings, tuple((*n, *s) for n, s in shapes), scalars, (BLOCK_N, causal, pair)


def prepare(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, buffers: tuple, causal: bool, scale: float
) -> tuple:
    """Compile the kernel and return what launches of these shapes need."""
    batch, heads_q, seqlen_q, _ = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    tiles = triton.cdiv(seqlen_q, 128)
    heads = batch * heads_q
    pair = PAIRS and not causal and tiles % 2 == 0
    units = tiles * heads // (2 if pair else 1)
    grid = min(units, multiprocessors(q.device) // (2 if pair else 1))
    left = units % grid
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
    kernel = attend_tma.warmup(
        *descriptors, *buffers, *scalars, scale * LOG2_E, BLOCK_N=BLOCK_N, CAUSAL=causal, PAIR=pair,
        grid=(grid,), num_warps=4, maxnreg=168,
    )  # fmt: skip
    if pair and kernel.metadata.shared != PAIR_BYTES:
        raise RuntimeError(f"shared memory is laid out in {kernel.metadata.shared} bytes, not as load_half expects")
    return below_wrapper(kernel, grid, scalars, shapes, causal, pair)


def buffers_of(device: torch.device, stream: int) -> tuple:
    """A counter, unfinished outputs and their flags, and their addresses."""
    known = scratch.get((device, stream))
    if known is None:
        programs = multiprocessors(device)
        buffers = (
            torch.zeros(1, dtype=torch.int32, device=device),
            torch.empty(programs * 2 * 64 * 130, dtype=torch.float32, device=device),
            torch.zeros(programs * 2 * 128, dtype=torch.int32, device=device),
        )
        known = scratch[device, stream] = buffers, tuple(x.data_ptr() for x in buffers)
    return known


def start(known: tuple, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scale: float) -> None:
    """Launch below Triton's wrapper, which would look at every argument anew."""
    driver = triton.runtime.driver.active
    stream = driver.get_current_stream(q.device.index)
    launch, grid, head, (to_q, to_k, to_v, to_out), (of_q, of_k, of_v, of_out), scalars, constants = known
    encode = driver.utils.fill_tma_descriptor
    launch(
        grid, 1, 1, stream, *head,
        encode(q.data_ptr(), *to_q), *of_q, encode(k.data_ptr(), *to_k), *of_k, encode(v.data_ptr(), *to_v), *of_v,
        encode(out.data_ptr(), *to_out), *of_out,
        *buffers_of(q.device, stream)[1], *scalars, scale * LOG2_E, *constants,
    )  # fmt: skip


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    # What depends on shapes and strides alone is kept, as it costs the host more than the launch.
    key = (q.shape, q.stride(), k.shape, k.stride(), v.stride(), q.dtype, q.device, causal)
    known = launches.get(key)
    if known is not None and scale > 0 and (q.data_ptr() | k.data_ptr() | v.data_ptr()) % 16 == 0:
        out = torch.empty_like(q)
        start(known, q, k, v, out, scale)
        return out
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    out = torch.empty_like(q)
    tensors = (q, k, v, out)
    even = seqlen_kv % 128 == 0 and (not causal or seqlen_q % 128 == 0 and seqlen_kv >= seqlen_q)
    if even and head_dim == 128 and scale > 0 and all(x.data_ptr() % 16 == 0 and fits_tma(x) for x in tensors):
        stream = triton.runtime.driver.active.get_current_stream(q.device.index)
        launches[key] = prepare(q, k, v, out, buffers_of(q.device, stream)[0], causal, scale)
        start(launches[key], q, k, v, out, scale)
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
