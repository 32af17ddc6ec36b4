"""Attention for Hopper: a warp-specialised CUDA kernel for bfloat16 heads of 128, plain Triton for everything else.

The CUDA kernel (compiled at the first call with NVRTC, launched through the driver) keeps one block of three warp
groups on every SM. One thread of the first group fetches tiles with TMA into swizzled shared memory, a ring of
KV_STAGES key and value blocks; the other two groups own 64 queries each and do the products with asynchronous wgmma. It
is fast because the tensor cores seldom wait:
- a group issues the scores of the next key block together with the output product of the present one, and does its
  softmax while the latter still runs; scores and probabilities never leave registers;
- with PING_PONG the two groups take turns at issuing products, so that one group's softmax runs under the other's;
- only blocks on the diagonal or over the end of the keys are masked;
- blocks are persistent and draw tiles from a counter, so loads of the next tile run under the end of the present one.
  Causal tiles are drawn longest first, within sets of heads whose keys and values fit in L2_BUDGET_MIB of cache.

The Triton kernel serves other dtypes and head dimensions, strides or addresses that TMA cannot take, scales that are
not positive, causal problems with more queries than keys, and machines where NVRTC is missing.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import warnings

import torch
import triton
import triton.language as tl

AVO = {"target": "sm90", "shapes": ["mha"]}

KV_STAGES = 2
PING_PONG = 1
L2_BUDGET_MIB = 32
BLOCK_M = 128
BLOCK_N = 64
NUM_WARPS = 8
NUM_STAGES = 2

TUNABLES = {
    "KV_STAGES": [2, 3],
    "PING_PONG": [0, 1],
    "L2_BUDGET_MIB": [16, 32],
    "BLOCK_M": [64, 128],
    "BLOCK_N": [32, 64, 128],
    "NUM_WARPS": [4, 8],
    "NUM_STAGES": [1, 2, 3],
}

LOG2_E = 1.4426950408889634

# Queries in a tile, keys in a block and the head dimension of the CUDA kernel: all the same.
HOPPER_BLOCK = 128
HOPPER_THREADS = 384
HOPPER_TILE_BYTES = HOPPER_BLOCK * HOPPER_BLOCK * 2

# @ACC@ stands for the 64 accumulator operands of a wgmma, @INOUT@ for their constraints on an array d.
HOPPER_SOURCE = r"""
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct alignas(64) TensorMap { u64 words[16]; };

struct Problem {
    unsigned short* out;
    i64 stride_b, stride_h, stride_s;
    int* next_tile;
    int tiles, query_blocks, heads, heads_q, group, heads_per_set, seqlen_q, seqlen_kv, causal;
    float scale_log2;
};

struct Tile { int first_row, batch, head, blocks, full_blocks; };

constexpr int BLOCK = 128;
constexpr u32 HALF_BYTES = 16384;  // 128 rows of 64 values: one TMA box, rows of 128 swizzled bytes
constexpr u32 TILE_BYTES = 2 * HALF_BYTES;

// Offsets in shared memory, from its first multiple of 1024.
constexpr u32 Q_AT = 0;
constexpr u32 K_AT = TILE_BYTES;
constexpr u32 V_AT = K_AT + KV_STAGES * TILE_BYTES;
constexpr u32 BARRIERS_AT = V_AT + KV_STAGES * TILE_BYTES;

// Indices of the barriers.
constexpr u32 Q_FULL = 0;
constexpr u32 Q_EMPTY = 1;
constexpr u32 K_FULL = 2;
constexpr u32 K_EMPTY = K_FULL + KV_STAGES;
constexpr u32 V_FULL = K_EMPTY + KV_STAGES;
constexpr u32 V_EMPTY = V_FULL + KV_STAGES;
constexpr u32 BARRIERS = V_EMPTY + KV_STAGES;
constexpr u32 TILE_SLOT_AT = BARRIERS_AT + 8 * BARRIERS;  // the tile that the consumers work on next

constexpr u32 CONSUMER_WARPS = 8;

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    u32 address;
    asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(address) : "l"(pointer));
    return address;
}

__device__ __forceinline__ u32 barrier_at(u32 base, u32 index) { return base + BARRIERS_AT + 8 * index; }
__device__ __forceinline__ u32 stage_of(u32 n) { return n % KV_STAGES; }
__device__ __forceinline__ u32 phase_of(u32 n) { return (n / KV_STAGES) & 1; }

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "LAB_WAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra LAB_DONE;\n"
        "bra LAB_WAIT;\n"
        "LAB_DONE:\n"
        "}\n" :: "r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

// One arrival per warp.
__device__ __forceinline__ void release(u32 barrier, int lane) {
    asm volatile(
        "{\n"
        ".reg .pred first;\n"
        "setp.eq.s32 first, %1, 0;\n"
        "@first mbarrier.arrive.shared::cta.b64 _, [%0];\n"
        "}\n" :: "r"(barrier), "r"(lane) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void load_box(
    u32 to, const TensorMap& map, u32 barrier, int column, int row, int head, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4, %5, %6}], [%2];"
        :: "r"(to), "l"((u64)&map), "r"(barrier), "r"(column), "r"(row), "r"(head), "r"(batch) : "memory");
}

// 128 rows of 128 values, as two boxes of 64 columns.
__device__ __forceinline__ void load_tile(u32 to, const TensorMap& map, u32 barrier, int row, int head, int batch) {
    barrier_expect(barrier, TILE_BYTES);
    load_box(to, map, barrier, 0, row, head, batch);
    load_box(to + HALF_BYTES, map, barrier, 64, row, head, batch);
}

__device__ __forceinline__ void named_sync(int id) {
    asm volatile("bar.sync %0, 256;" :: "r"(id) : "memory");
}

__device__ __forceinline__ void named_arrive(int id) {
    asm volatile("bar.arrive %0, 256;" :: "r"(id) : "memory");
}

// A matrix in shared memory with rows swizzled over 128 bytes.
__device__ __forceinline__ u64 descriptor(u32 address, u32 leading_bytes, u32 stride_bytes) {
    return (u64)((address & 0x3FFFF) >> 4) | ((u64)(leading_bytes >> 4) << 16) | ((u64)(stride_bytes >> 4) << 32) |
           ((u64)1 << 62);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wgmma_wait(float (&d)[64]) {
    asm volatile("wgmma.wait_group.sync.aligned %64;" : @INOUT@ : "n"(PENDING) : "memory");
}

// Keeps the compiler from moving what defines d to behind this place, or what uses it to before.
__device__ __forceinline__ void pin(float (&d)[64]) {
    asm volatile("" : @INOUT@ : : "memory");
}

__device__ __forceinline__ void wgmma_shared(float (&d)[64], u64 a, u64 b, int accumulate) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {@ACC@}, %64, %65, p, 1, 1, 0, 0;\n"
        "}\n" : @INOUT@ : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void wgmma_registers(float (&d)[64], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {@ACC@}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
        "}\n" : @INOUT@ : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(1));
}

// s = Q K^T: both with the head dimension contiguous.
__device__ __forceinline__ void issue_scores(float (&s)[64], u32 q_tile, u32 k_tile) {
    const u64 a = descriptor(q_tile, 16, 1024);
    const u64 b = descriptor(k_tile, 16, 1024);
#pragma unroll
    for (int step = 0; step < 8; ++step) {
        const u32 offset = ((step / 4) * HALF_BYTES + (step % 4) * 32) >> 4;
        wgmma_shared(s, a + offset, b + offset, step > 0 ? 1 : 0);
    }
    wgmma_commit();
}

// o += P V: P in registers, V with the head dimension contiguous, which is not the summed one.
__device__ __forceinline__ void issue_output(float (&o)[64], u32 (&p)[32], u32 v_tile) {
    const u64 b = descriptor(v_tile, HALF_BYTES, 1024);
#pragma unroll
    for (int step = 0; step < 8; ++step) {
        wgmma_registers(o, p[4 * step], p[4 * step + 1], p[4 * step + 2], p[4 * step + 3], b + step * (2048 >> 4));
    }
    wgmma_commit();
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 both;
    asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// The accumulator's layout of scores is the operand's layout of probabilities.
__device__ __forceinline__ void pack_all(u32 (&p)[32], float (&s)[64]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) p[i] = pack(s[2 * i], s[2 * i + 1]);
}

// A thread holds two rows, 8 apart: s[4j + 2r + e] is row r, column 8j + e from first_column.
__device__ __forceinline__ void mask(float (&s)[64], int first_column, const int (&visible)[2]) {
#pragma unroll
    for (int j = 0; j < 16; ++j) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                if (first_column + 8 * j + e >= visible[r]) s[4 * j + 2 * r + e] = __int_as_float(0xff800000);
            }
        }
    }
}

// Turns scores into unnormalised probabilities; row sums stay split over the four threads of a row.
template <bool FIRST>
__device__ __forceinline__ void softmax(
    float (&s)[64], float (&row_max)[2], float (&row_sum)[2], float (&rescale)[2], float scale) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float top = s[2 * r], other = s[2 * r + 1];
#pragma unroll
        for (int j = 1; j < 16; ++j) {
            top = fmaxf(top, s[4 * j + 2 * r]);
            other = fmaxf(other, s[4 * j + 2 * r + 1]);
        }
        top = fmaxf(top, other);
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        if (!FIRST) {
            top = fmaxf(top, row_max[r]);
            rescale[r] = exp2_fast((row_max[r] - top) * scale);
        }
        row_max[r] = top;
        const float base = top * scale;
        float even = 0.0f, odd = 0.0f;
#pragma unroll
        for (int j = 0; j < 16; ++j) {
            const int i = 4 * j + 2 * r;
            s[i] = exp2_fast(s[i] * scale - base);
            s[i + 1] = exp2_fast(s[i + 1] * scale - base);
            even += s[i];
            odd += s[i + 1];
        }
        row_sum[r] = FIRST ? even + odd : row_sum[r] * rescale[r] + (even + odd);
    }
}

__device__ __forceinline__ Tile locate(int index, const Problem& problem) {
    Tile tile;
    const int per_set = problem.heads_per_set * problem.query_blocks;
    const int first_head = index / per_set * problem.heads_per_set;
    const int rest = index % per_set;
    const int heads = min(problem.heads_per_set, problem.heads - first_head);
    const int head = first_head + rest % heads;
    int block = rest / heads;
    if (problem.causal) block = problem.query_blocks - 1 - block;
    tile.first_row = block * BLOCK;
    tile.batch = head / problem.heads_q;
    tile.head = head % problem.heads_q;
    int seen_by_all = problem.seqlen_kv, seen_by_any = problem.seqlen_kv;
    if (problem.causal) {
        const int shift = problem.seqlen_kv - problem.seqlen_q;
        seen_by_all = min(seen_by_all, tile.first_row + shift + 1);
        seen_by_any = min(seen_by_any, tile.first_row + shift + BLOCK);
    }
    tile.full_blocks = seen_by_all / BLOCK;
    tile.blocks = (seen_by_any + BLOCK - 1) / BLOCK;
    return tile;
}

// One thread: fetches the tiles of queries and the blocks of keys and values in the order that the consumers use them.
__device__ __forceinline__ void produce(
    u32 base, const TensorMap& q_map, const TensorMap& k_map, const TensorMap& v_map, const Problem& problem) {
    u32 n = 0;  // key blocks fetched so far
    int index = blockIdx.x;
    for (u32 round = 0;; ++round) {
        const u32 q_parity = (round & 1) ^ 1;
        if (index >= problem.tiles) {
            barrier_wait(barrier_at(base, Q_EMPTY), q_parity);
            asm volatile("st.shared.s32 [%0], %1;" :: "r"(base + TILE_SLOT_AT), "r"(-1) : "memory");
            barrier_arrive(barrier_at(base, Q_FULL));
            return;
        }
        const Tile tile = locate(index, problem);
        const int kv_head = tile.head / problem.group;
        for (int block = 0; block < tile.blocks; ++block, ++n) {
            const u32 stage = stage_of(n), parity = phase_of(n) ^ 1;
            barrier_wait(barrier_at(base, K_EMPTY + stage), parity);
            load_tile(base + K_AT + stage * TILE_BYTES, k_map, barrier_at(base, K_FULL + stage), block * BLOCK,
                      kv_head, tile.batch);
            if (block == 0) {
                barrier_wait(barrier_at(base, Q_EMPTY), q_parity);
                asm volatile("st.shared.s32 [%0], %1;" :: "r"(base + TILE_SLOT_AT), "r"(index) : "memory");
                load_tile(base + Q_AT, q_map, barrier_at(base, Q_FULL), tile.first_row, tile.head, tile.batch);
            }
            barrier_wait(barrier_at(base, V_EMPTY + stage), parity);
            load_tile(base + V_AT + stage * TILE_BYTES, v_map, barrier_at(base, V_FULL + stage), block * BLOCK,
                      kv_head, tile.batch);
        }
        index = atomicAdd(problem.next_tile, 1) + gridDim.x;
    }
}

// Scores and softmax of key block n, under the output product of block n - 1.
template <bool MASKED>
__device__ __forceinline__ void advance(
    float (&o)[64], float (&s)[64], u32 (&p)[32], float (&row_max)[2], float (&row_sum)[2], u32 base, u32 q_tile,
    u32 n, int half, int lane, int first_column, const int (&visible)[2], float scale) {
    const u32 k_stage = stage_of(n), v_stage = stage_of(n - 1);
    float rescale[2];
    barrier_wait(barrier_at(base, K_FULL + k_stage), phase_of(n));
#if PING_PONG
    named_sync(1 + half);
#endif
    pin(o);
    wgmma_fence();
    issue_scores(s, q_tile, base + K_AT + k_stage * TILE_BYTES);
    barrier_wait(barrier_at(base, V_FULL + v_stage), phase_of(n - 1));
    issue_output(o, p, base + V_AT + v_stage * TILE_BYTES);
#if PING_PONG
    named_arrive(2 - half);
#endif
    wgmma_wait<1>(s);
    release(barrier_at(base, K_EMPTY + k_stage), lane);
    if (MASKED) mask(s, first_column, visible);
    softmax<false>(s, row_max, row_sum, rescale, scale);
    pin(s);
    wgmma_wait<0>(o);
    release(barrier_at(base, V_EMPTY + v_stage), lane);
    pack_all(p, s);
#pragma unroll
    for (int i = 0; i < 64; ++i) o[i] *= rescale[(i >> 1) & 1];
}

// A warp group: 64 queries of every tile.
__device__ __forceinline__ void consume(u32 base, int half, const Problem& problem) {
    const int lane = threadIdx.x % 32;
    const int warp = (threadIdx.x / 32) % 4;
    const u32 q_tile = base + Q_AT + half * (HALF_BYTES / 2);
    const float scale = problem.scale_log2;
    float o[64], s[64], row_max[2], row_sum[2], unused[2];
    u32 p[32];
    u32 n = 0;  // key blocks used by the tiles before
#if PING_PONG
    if (half == 1) named_arrive(1);  // the first half has the first turn
#endif
    for (u32 round = 0;; ++round) {
        barrier_wait(barrier_at(base, Q_FULL), round & 1);
        int index;
        asm volatile("ld.shared.s32 %0, [%1];" : "=r"(index) : "r"(base + TILE_SLOT_AT) : "memory");
        index = __shfl_sync(0xffffffffu, index, 0);
        if (index < 0) break;
        const Tile tile = locate(index, problem);
        const int row = tile.first_row + half * 64 + warp * 16 + lane / 4;
        const int column = 2 * (lane % 4);
        int visible[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            visible[r] = problem.seqlen_kv;
            if (problem.causal) {
                visible[r] = min(visible[r], row + 8 * r + problem.seqlen_kv - problem.seqlen_q + 1);
            }
        }
#pragma unroll
        for (int i = 0; i < 64; ++i) o[i] = 0.0f;

        // Every row sees key 0, so the running maximum is finite from the first block on.
        barrier_wait(barrier_at(base, K_FULL + stage_of(n)), phase_of(n));
        wgmma_fence();
        issue_scores(s, q_tile, base + K_AT + stage_of(n) * TILE_BYTES);
        wgmma_wait<0>(s);
        release(barrier_at(base, K_EMPTY + stage_of(n)), lane);
        if (tile.full_blocks == 0) mask(s, column, visible);
        softmax<true>(s, row_max, row_sum, unused, scale);
        pack_all(p, s);

        int block = 1;
        for (; block < tile.full_blocks; ++block) {
            advance<false>(o, s, p, row_max, row_sum, base, q_tile, n + block, half, lane, block * BLOCK + column,
                           visible, scale);
        }
        for (; block < tile.blocks; ++block) {
            advance<true>(o, s, p, row_max, row_sum, base, q_tile, n + block, half, lane, block * BLOCK + column,
                          visible, scale);
        }
        release(barrier_at(base, Q_EMPTY), lane);

        const u32 last = n + tile.blocks - 1;
        barrier_wait(barrier_at(base, V_FULL + stage_of(last)), phase_of(last));
        pin(o);
        wgmma_fence();
        issue_output(o, p, base + V_AT + stage_of(last) * TILE_BYTES);
        wgmma_wait<0>(o);
        release(barrier_at(base, V_EMPTY + stage_of(last)), lane);
        n += tile.blocks;

        unsigned short* line = problem.out + tile.batch * problem.stride_b + tile.head * problem.stride_h +
                               row * problem.stride_s + column;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float sum = row_sum[r];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const float inverse = 1.0f / sum;
            if (row + 8 * r < problem.seqlen_q) {
#pragma unroll
                for (int j = 0; j < 16; ++j) {
                    *(u32*)(line + 8 * r * problem.stride_s + 8 * j) =
                        pack(o[4 * j + 2 * r] * inverse, o[4 * j + 2 * r + 1] * inverse);
                }
            }
        }
    }
#if PING_PONG
    if (half == 0) named_sync(1);  // takes the turn that is left over
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1) attend_hopper(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
    const __grid_constant__ TensorMap v_map, const __grid_constant__ Problem problem) {
    extern __shared__ unsigned char shared_memory[];
    const u32 base = (shared_address(shared_memory) + 1023) & ~1023u;
    if (threadIdx.x == 0) {
        barrier_init(barrier_at(base, Q_FULL), 1);
        barrier_init(barrier_at(base, Q_EMPTY), CONSUMER_WARPS);
        for (u32 stage = 0; stage < KV_STAGES; ++stage) {
            barrier_init(barrier_at(base, K_FULL + stage), 1);
            barrier_init(barrier_at(base, K_EMPTY + stage), CONSUMER_WARPS);
            barrier_init(barrier_at(base, V_FULL + stage), 1);
            barrier_init(barrier_at(base, V_EMPTY + stage), CONSUMER_WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();

    const int warp_group = __shfl_sync(0xffffffffu, (int)(threadIdx.x / 128), 0);
    if (warp_group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) produce(base, q_map, k_map, v_map, problem);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume(base, warp_group - 1, problem);
    }
}
"""


class Problem(ctypes.Structure):
    """The CUDA kernel's struct of the same name."""

    _fields_ = [
        ("out", ctypes.c_void_p),
        ("stride_b", ctypes.c_longlong),
        ("stride_h", ctypes.c_longlong),
        ("stride_s", ctypes.c_longlong),
        ("next_tile", ctypes.c_void_p),
        ("tiles", ctypes.c_int),
        ("query_blocks", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("heads_q", ctypes.c_int),
        ("group", ctypes.c_int),
        ("heads_per_set", ctypes.c_int),
        ("seqlen_q", ctypes.c_int),
        ("seqlen_kv", ctypes.c_int),
        ("causal", ctypes.c_int),
        ("scale_log2", ctypes.c_float),
    ]


def check(code: int, what: str) -> None:
    """Raise if a call of NVRTC or of the driver failed."""
    if code != 0:
        raise RuntimeError(f"{what} failed with code {code}")


@functools.lru_cache(maxsize=None)
def driver() -> ctypes.CDLL:
    """The CUDA driver's library."""
    return ctypes.CDLL("libcuda.so.1")


def nvrtc_library() -> ctypes.CDLL:
    """The runtime compiler that torch was installed with, or the system's."""
    major = str(torch.version.cuda).split(".")[0]
    site_packages = os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__)))
    names = [f"libnvrtc.so.{major}"]
    names += sorted(glob.glob(os.path.join(site_packages, "nvidia", "*", "lib", f"libnvrtc.so.{major}*")))
    names += sorted(glob.glob(f"/usr/local/cuda*/lib64/libnvrtc.so.{major}*"))
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("no libnvrtc found")


def compile_cubin() -> bytes:
    """The machine code of HOPPER_SOURCE."""
    source = HOPPER_SOURCE.replace("@ACC@", ", ".join(f"%{i}" for i in range(64)))
    source = source.replace("@INOUT@", ", ".join(f'"+f"(d[{i}])' for i in range(64)))
    options = [b"--gpu-architecture=sm_90a", b"--std=c++17"]
    options += [f"-DKV_STAGES={KV_STAGES}".encode(), f"-DPING_PONG={PING_PONG}".encode()]
    nvrtc = nvrtc_library()
    program = ctypes.c_void_p()
    check(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"attend_hopper.cu", 0, None, None),
        "nvrtcCreateProgram",
    )
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    if code != 0:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value + 1)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError("NVRTC: " + log.value.decode(errors="replace"))
    check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "nvrtcGetCUBINSize")
    cubin = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetCUBIN(program, cubin), "nvrtcGetCUBIN")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw


def shared_bytes() -> int:
    """Shared memory of one block: room to align, queries, keys and values, barriers, the tile's number."""
    return 1024 + (1 + 2 * KV_STAGES) * HOPPER_TILE_BYTES + 8 * (2 + 4 * KV_STAGES) + 16


@functools.lru_cache(maxsize=None)
def hopper_kernel(device: int):
    """The CUDA kernel's handle and the number of SMs of a device, or None where the kernel cannot be had."""
    properties = torch.cuda.get_device_properties(device)
    if (properties.major, properties.minor) != (9, 0):
        return None
    try:
        cubin = compile_cubin()
        cuda = driver()
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        check(cuda.cuModuleLoadData(ctypes.byref(module), cubin), "cuModuleLoadData")
        check(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"attend_hopper"), "cuModuleGetFunction")
        # 8 is CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
        check(cuda.cuFuncSetAttribute(function, 8, shared_bytes()), "cuFuncSetAttribute")
    except (OSError, RuntimeError, AttributeError) as error:
        warnings.warn(f"the CUDA kernel is not available, Triton takes its place: {error}", stacklevel=2)
        return None
    return function, properties.multi_processor_count


def tensor_map(tensor: torch.Tensor):
    """A TMA descriptor of boxes of 128 rows by 64 columns, as (its memory, its address), or None if TMA cannot do it."""
    batch, heads, length, dim = tensor.shape
    byte_strides = []
    for axis in (2, 1, 0):
        step = tensor.stride(axis) * 2
        if tensor.shape[axis] == 1:
            step = dim * 2  # never used
        if step <= 0 or step % 16 != 0:
            return None
        byte_strides.append(step)
    if tensor.stride(3) != 1 or tensor.data_ptr() % 16 != 0:
        return None
    memory = ctypes.create_string_buffer(128 + 64)
    address = (ctypes.addressof(memory) + 63) & ~63
    code = driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(address),
        9,  # bfloat16
        4,
        ctypes.c_void_p(tensor.data_ptr()),
        (ctypes.c_uint64 * 4)(dim, length, heads, batch),
        (ctypes.c_uint64 * 3)(*byte_strides),
        (ctypes.c_uint32 * 4)(64, HOPPER_BLOCK, 1, 1),
        (ctypes.c_uint32 * 4)(1, 1, 1, 1),
        0,  # not interleaved
        3,  # swizzled over 128 bytes
        2,  # fetched into L2 by 128 bytes
        0,  # zeros out of range
    )
    return (memory, address) if code == 0 else None


def hopper_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float):
    """The result of the CUDA kernel, or None where it does not apply."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if head_dim != HOPPER_BLOCK or any(t.dtype != torch.bfloat16 for t in (q, k, v)):
        return None
    if q.numel() == 0 or k.numel() == 0 or not scale > 0 or (causal and seqlen_kv < seqlen_q):
        return None
    with torch.cuda.device(q.device):
        # The counter that persistent blocks draw tiles from. Made first: it also makes torch's context current.
        next_tile = torch.zeros(1, dtype=torch.int32, device=q.device)
        kernel = hopper_kernel(q.device.index)
        if kernel is None:
            return None
        maps = [tensor_map(t) for t in (q, k, v)]
        if any(entry is None for entry in maps):
            return None
        function, sms = kernel
        out = torch.empty_like(q)
        heads, group = batch * heads_q, heads_q // heads_kv
        query_blocks = triton.cdiv(seqlen_q, HOPPER_BLOCK)
        heads_per_set = 1
        if causal:
            kv_bytes = 2 * seqlen_kv * head_dim * 2
            heads_per_set = min(heads, max(1, L2_BUDGET_MIB * 2**20 // kv_bytes) * group)
        tiles = heads * query_blocks
        problem = Problem(
            out.data_ptr(), *out.stride()[:3], next_tile.data_ptr(),
            tiles, query_blocks, heads, heads_q, group, heads_per_set, seqlen_q, seqlen_kv, int(causal),
            scale * LOG2_E,
        )  # fmt: skip
        arguments = (ctypes.c_void_p * 4)(*(address for _, address in maps), ctypes.addressof(problem))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        check(
            driver().cuLaunchKernel(
                function, min(sms, tiles), 1, 1, HOPPER_THREADS, 1, 1, shared_bytes(), stream, arguments, None
            ),
            "cuLaunchKernel",
        )
    return out


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


def triton_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """The result of the Triton kernel."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = BLOCK_N if head_dim < 256 else BLOCK_N // 2
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


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    head_dim = q.shape[3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if head_dim not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {head_dim}: a power of two from 16 to 256 only")
    out = hopper_attention(q, k, v, causal, scale)
    if out is None:
        out = triton_attention(q, k, v, causal, scale)
    return out
