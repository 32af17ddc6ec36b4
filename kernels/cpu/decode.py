"""Attention of a few queries against a long cache: split over the keys, each key and value read once per head group.

Decoding one token is bound by reading the cache, so the work is cut along the keys (two cores are busy even with one
sequence and one head), and all query heads that share a key/value head walk its keys together. The C++ below keeps as
many dot products in registers as a register has lanes, whatever the group size is, sums them with one tree of shuffles,
and leaves scores, softmax and rescaling in that interleaved order. Rows ahead are prefetched because a cache row of one
head lies kilobytes from the next. With AVX512-BF16 the bfloat16 dot products need no conversion. Each split ends with
its maximum and sum, by which the splits are merged. Strides are passed through, so nothing is copied.

A cache in blocks is read by the same code, built anew with IS_PAGED: it lists the addresses of the keys of a softmax
step, and of those to prefetch, and takes rows from there. What is built for plain calls is as it would be without.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

AVO = {"target": "cpu", "shapes": ["decode-cpu"], "lse": True, "paged": True}

SPLIT_KEYS = 1024  # keys per task
BLOCK_K = 32  # keys per softmax step
PREFETCH_KEYS = 16  # how far ahead of the dot products rows are requested; 0 leaves it to the hardware
MAX_ROWS = 8  # query rows that share one pass over the keys

TUNABLES = {
    "SPLIT_KEYS": [256, 512, 1024, 2048, 4096],
    "BLOCK_K": [16, 32, 64, 128],
    "PREFETCH_KEYS": [0, 8, 16, 32, 64],
    "MAX_ROWS": [2, 4, 8],
}

SOURCE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <algorithm>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

// A vector wider than the registers is taken apart in memory, at many times the cost.
#ifdef __AVX512F__
constexpr int WIDTH = 16;
#else
constexpr int WIDTH = 8;
#endif
using vf = float __attribute__((vector_size(4 * WIDTH)));
using vi = int32_t __attribute__((vector_size(4 * WIDTH)));
using vf_at = float __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
using vh_at = uint16_t __attribute__((vector_size(2 * WIDTH), aligned(2), may_alias));
using vi_at = int32_t __attribute__((vector_size(4 * WIDTH), aligned(2), may_alias));

#ifdef IS_BF16
using element = uint16_t;
static inline vf load_vector(const element* p) { return (vf)(__builtin_convertvector(*(const vh_at*)p, vi) << 16); }
static inline element round_to(float x) {
    uint32_t u; std::memcpy(&u, &x, 4);
    return x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
#else
using element = float;
static inline vf load_vector(const element* p) { return *(const vf_at*)p; }
static inline element round_to(float x) { return x; }
#endif

// A dot-product operand is one register of D_STEP elements: pairs of bfloat16 where the hardware multiplies them.
#if defined(IS_BF16) && defined(__AVX512BF16__)
using operand = vi;
constexpr int D_STEP = 32;
static inline operand load_operand(const element* p) { return *(const vi_at*)p; }
static inline vf multiply_add(vf acc, operand a, operand b) {
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}
#else
using operand = vf;
constexpr int D_STEP = WIDTH;
static inline operand load_operand(const element* p) { return load_vector(p); }
static inline vf multiply_add(vf acc, operand a, operand b) { return acc + a * b; }
#endif

constexpr int D_PADDED = (HEAD_DIM + 31) / 32 * 32;
constexpr float LOWEST = -3e38f, LOG2_E = 1.44269504f;

// The last elements of a row may end short of a register: read no further than the row.
template <int N, class Load> static inline auto load_row(const element* row, int d, Load load) {
    if (d + N <= HEAD_DIM) return load(row + d);
    element padded[N] = {};
    if (d < HEAD_DIM) std::memcpy(padded, row + d, (HEAD_DIM - d) * sizeof(element));
    return load(padded);
}

static inline vf exp2_of(vf x) {  // x <= 0; below -126 the result is exactly zero
    const vi tiny = x < -126.f;
    x = tiny ? vf{} - 126.f : x;
    const vf shifted = x + 12582912.f;  // 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits
    const vf f = x - (shifted - 12582912.f);
    vf p = f * 1.32029823e-3f + 9.67495193e-3f;  // minimax on [-1/2, 1/2] with p(0) = 1: relative error below 7e-8
    p = (p * f + 5.55104738e-2f) * f + 2.40221660e-1f;
    p = (p * f + 6.93146596e-1f) * f + 1.f;
    return (vf)(((vi)p + ((vi)shifted << 23)) & ~tiny);
}

// Sum each of WIDTH registers; lane i of the result is the sum of a[i].
#define FOLD(x, y, ...) (__builtin_shufflevector(x, y, __VA_ARGS__))
#ifndef __AVX512F__
static inline vf sums_of(vf* a) {
    vf b[4], c[2];
    for (int i = 0; i < 4; i++)
        b[i] = FOLD(a[2 * i], a[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
               FOLD(a[2 * i], a[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    for (int i = 0; i < 2; i++)
        c[i] = FOLD(b[2 * i], b[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
               FOLD(b[2 * i], b[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return FOLD(c[0], c[1], 0, 1, 2, 3, 8, 9, 10, 11) + FOLD(c[0], c[1], 4, 5, 6, 7, 12, 13, 14, 15);
}
#else
static inline vf sums_of(vf* a) {
    vf b[8], c[4], d[2];
    for (int i = 0; i < 8; i++)
        b[i] = FOLD(a[2 * i], a[2 * i + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
               FOLD(a[2 * i], a[2 * i + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    for (int i = 0; i < 4; i++)
        c[i] = FOLD(b[2 * i], b[2 * i + 1], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
               FOLD(b[2 * i], b[2 * i + 1], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    for (int i = 0; i < 2; i++)
        d[i] = FOLD(c[2 * i], c[2 * i + 1], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
               FOLD(c[2 * i], c[2 * i + 1], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    return FOLD(d[0], d[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           FOLD(d[0], d[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
#endif

struct Strides { int64_t batch, head, row; };
struct Problem {
    int64_t batch, heads_q, heads_kv, seqlen_q, seqlen_kv, causal, threads, rows, chunks, splits;
    Strides q, k, v, out;
    int64_t block_size, table_stride;
};

// Where the rows of keys and values are: one behind the other, or in blocks that a table lists for the sequence.
struct Rows {
    const element *k, *v;
    int64_t k_row, v_row;
#ifdef IS_PAGED
    const int32_t* table;
    int64_t block_size, k_block, v_block;
    const element *keys[BLOCK_K + PREFETCH_KEYS], *values[BLOCK_K + PREFETCH_KEYS];
    int64_t base;
    void look_up(int64_t from, int64_t last) {
        base = from;
        int64_t block = from / block_size, slot = from % block_size;
        const int count = std::min<int64_t>(BLOCK_K + PREFETCH_KEYS, last - from);
        for (int i = 0; i < count; i++) {
            keys[i] = k + table[block] * k_block + slot * k_row;
            values[i] = v + table[block] * v_block + slot * v_row;
            if (++slot == block_size) { slot = 0; block++; }
        }
    }
    const element* key(int64_t j) const { return keys[j - base]; }
    const element* value(int64_t j) const { return values[j - base]; }
#else
    void look_up(int64_t, int64_t) {}
    const element* key(int64_t j) const { return k + j * k_row; }
    const element* value(int64_t j) const { return v + j * v_row; }
#endif
};

// One task: R query rows against keys [first, last). Lane i of a score register belongs to row i % R, key i / R.
template <int R> static void attend(const element* q[R], Rows kv, const int64_t limits[R], int64_t first, int64_t last,
                                    float scale, float* result) {
    constexpr int T = WIDTH / R;                           // keys per score register
    constexpr int WIDE = std::min(WIDTH / R, 8);           // value registers per row that are summed together
    alignas(64) float out[R][D_PADDED] = {};
    alignas(64) float weights[BLOCK_K * R];
    alignas(64) element queries[R][D_PADDED] = {};
    for (int r = 0; r < R; r++) std::memcpy(queries[r], q[r], HEAD_DIM * sizeof(element));
    vf top = vf{} + LOWEST, norm = {};
    vi limit, key_of_lane;
    for (int i = 0; i < WIDTH; i++) { limit[i] = std::max<int64_t>(limits[i % R] - first, 0); key_of_lane[i] = i / R; }
    const int64_t seen_by_all = *std::min_element(limits, limits + R);

    for (int64_t base = first; base < last; base += BLOCK_K) {
        const int keys = std::min<int64_t>(BLOCK_K, last - base);
        const bool masked = keys < BLOCK_K || base + BLOCK_K > seen_by_all;
        kv.look_up(base, last);
        vf higher = top;
        for (int t0 = 0; t0 < keys; t0 += T) {
            vf dots[WIDTH] = {};
            const element* rows[T];
            for (int t = 0; t < T; t++) {
                const int64_t j = std::min<int64_t>(base + t0 + t, last - 1);
                rows[t] = kv.key(j);
                if (PREFETCH_KEYS) {
                    const element* ahead = kv.key(std::min<int64_t>(j + PREFETCH_KEYS, last - 1));
                    for (int d = 0; d < HEAD_DIM; d += 64 / sizeof(element)) {
                        __builtin_prefetch(ahead + d);
                        __builtin_prefetch(kv.value(j) + d);
                    }
                }
            }
            for (int d = 0; d < HEAD_DIM; d += D_STEP)
                for (int t = 0; t < T; t++) {
                    const operand x = load_row<D_STEP>(rows[t], d, load_operand);
                    for (int r = 0; r < R; r++)
                        dots[t * R + r] = multiply_add(dots[t * R + r], x, load_operand(&queries[r][d]));
                }
            vf scores = sums_of(dots) * (scale * LOG2_E);
            if (masked) {
                const vi key = key_of_lane + (int)(base - first + t0);
                scores = (key < limit) & (key < (int)(last - first)) ? scores : vf{} - INFINITY;
            }
            *(vf*)&weights[t0 * R] = scores;
            higher = higher > scores ? higher : scores;
        }
        for (int step = R; step < WIDTH; step *= 2) {      // the maximum of a row, in all of its lanes
            vi from; for (int i = 0; i < WIDTH; i++) from[i] = (i + step) % WIDTH;
            const vf other = __builtin_shuffle(higher, from);
            higher = higher > other ? higher : other;
        }
        const vf shrink = exp2_of(top - higher);
        top = higher;
        norm *= shrink;
        for (int r = 0; r < R; r++)
            if (shrink[r] != 1.f)
                for (int d = 0; d < D_PADDED; d += WIDTH) *(vf*)&out[r][d] *= shrink[r];
        for (int i = 0; i < keys * R; i += WIDTH) {
            const vf w = exp2_of(*(vf*)&weights[i] - higher);
            norm += w;
            *(vf*)&weights[i] = w;
        }
        for (int d0 = 0; d0 < HEAD_DIM; d0 += WIDTH * WIDE) {
            vf sums[R][WIDE];
            for (int r = 0; r < R; r++)
                for (int w = 0; w < WIDE; w++)
                    sums[r][w] = d0 + WIDTH * w < D_PADDED ? *(vf*)&out[r][d0 + WIDTH * w] : vf{};
            for (int t = 0; t < keys; t++)
                for (int w = 0; w < WIDE; w++) {
                    if (d0 + WIDTH * w >= HEAD_DIM) continue;
                    const vf x = load_row<WIDTH>(kv.value(base + t), d0 + WIDTH * w, load_vector);
                    for (int r = 0; r < R; r++) sums[r][w] += weights[t * R + r] * x;
                }
            for (int r = 0; r < R; r++)
                for (int w = 0; w < WIDE; w++)
                    if (d0 + WIDTH * w < D_PADDED) *(vf*)&out[r][d0 + WIDTH * w] = sums[r][w];
        }
    }
    for (int r = 0; r < R; r++) {
        float sum = 0;
        for (int i = r; i < WIDTH; i += R) sum += norm[i];
        float* row = (float*)std::memcpy(result + r * (D_PADDED + 16), out[r], sizeof out[r]);
        row[D_PADDED] = top[r];
        row[D_PADDED + 1] = sum;
    }
}

// partial: (batch, heads_kv, splits, chunks * rows, D_PADDED + 16) floats: sums of values, then maximum and norm.
// lse: (batch, heads_q, seqlen_q), or null. table, lengths: of caches in blocks alone, else null.
extern "C" void attention(const element* q, const element* k, const element* v, element* out, float* partial,
                          float* lse, const int32_t* table, const int32_t* lengths, const Problem* problem,
                          float scale) {
    const Problem& s = *problem;
    const int64_t group = s.heads_q / s.heads_kv, total = group * s.seqlen_q, heads = s.batch * s.heads_kv;
    const int64_t width = D_PADDED + 16, padded_rows = s.chunks * s.rows;
    auto seen = [&](int64_t row, int64_t b) {  // rows of a group go query by query, the heads of the group within
        const int64_t length = lengths ? lengths[b] : s.seqlen_kv;
        return s.causal ? std::clamp<int64_t>(row / group + 1 + length - s.seqlen_q, 0, length) : length;
    };
    #pragma omp parallel for num_threads(s.threads) schedule(dynamic)
    for (int64_t task = 0; task < s.splits * heads * s.chunks; task++) {
        const int64_t chunk = task % s.chunks, head = task / s.chunks % heads, split = task / s.chunks / heads;
        const int64_t b = head / s.heads_kv, h = head % s.heads_kv;
        const element* rows[8];
        int64_t limits[8];
        for (int r = 0; r < s.rows; r++) {
            const int64_t row = std::min(chunk * s.rows + r, total - 1);
            rows[r] = q + b * s.q.batch + (h * group + row % group) * s.q.head + row / group * s.q.row;
            limits[r] = seen(row, b);
        }
        const int64_t first = split * SPLIT_KEYS;
        const int64_t last = std::max(first, std::min(first + SPLIT_KEYS, limits[s.rows - 1]));
#ifdef IS_PAGED
        const Rows kv = {k + h * s.k.head, v + h * s.v.head, s.k.row, s.v.row, table + b * s.table_stride, s.block_size,
                         s.k.batch, s.v.batch};
#else
        const Rows kv = {k + b * s.k.batch + h * s.k.head, v + b * s.v.batch + h * s.v.head, s.k.row, s.v.row};
#endif
        float* result = partial + ((head * s.splits + split) * padded_rows + chunk * s.rows) * width;
        switch (s.rows) {
            case 1: attend<1>(rows, kv, limits, first, last, scale, result); break;
            case 2: attend<2>(rows, kv, limits, first, last, scale, result); break;
            case 4: attend<4>(rows, kv, limits, first, last, scale, result); break;
            default: attend<8>(rows, kv, limits, first, last, scale, result);
        }
    }
    #pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t i = 0; i < heads * total; i++) {
        const int64_t head = i / total, row = i % total, b = head / s.heads_kv, h = head % s.heads_kv;
        const float* part = partial + (head * s.splits * padded_rows + row) * width;
        const int64_t next = padded_rows * width;
        float top = LOWEST, norm = 0, sums[D_PADDED] = {};
        for (int64_t n = 0; n < s.splits; n++) top = std::max(top, part[n * next + D_PADDED]);
        for (int64_t n = 0; n < s.splits; n++) {
            const float weight = std::exp2(part[n * next + D_PADDED] - top);
            norm += weight * part[n * next + D_PADDED + 1];
            for (int d = 0; d < D_PADDED; d++) sums[d] += weight * part[n * next + d];
        }
        const bool blind = seen(row, b) == 0;
        element* to = out + b * s.out.batch + (h * group + row % group) * s.out.head + row / group * s.out.row;
        for (int d = 0; d < HEAD_DIM; d++) to[d] = round_to(blind ? 0.f : sums[d] / norm);
        if (lse)
            lse[(b * s.heads_q + h * group + row % group) * s.seqlen_q + row / group] =
                blind ? -INFINITY : (top + std::log2(norm)) * 0.693147181f;
    }
}
"""


@functools.cache
def build_folder() -> Path:
    """A folder that only this user can write to: a library that somebody else put there must not be loaded."""
    folder = Path(tempfile.gettempdir()) / f"avo-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="avo-kernels-"))


@functools.cache
def library(head_dim: int, dtype: torch.dtype, paged: bool) -> ctypes.CDLL:
    """Build SOURCE for one head dimension, element type and cache, or load what an earlier process built."""
    names = ("SPLIT_KEYS", "BLOCK_K", "PREFETCH_KEYS")
    defines = [f"-D{name}={globals()[name]}" for name in names] + [f"-DHEAD_DIM={head_dim}"]
    if dtype is torch.bfloat16:
        defines.append("-DIS_BF16")
    if paged:
        defines.append("-DIS_PAGED")
    command = ["g++", "-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-shared", "-fPIC", *defines]
    digest = hashlib.sha256("\0".join([SOURCE, *command]).encode()).hexdigest()[:16]
    built = build_folder() / f"avo-decode-{digest}.so"
    if not built.exists():
        # Built under a private name and renamed: two processes may build at once, none loads half a file.
        partial = built.with_suffix(f".{os.getpid()}.so")
        command += ["-x", "c++", "-", "-o", str(partial)]
        run = subprocess.run(command, input=SOURCE, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"g++ failed on the decode kernel:\n{run.stderr[-2000:]}")
        partial.replace(built)
    return ctypes.CDLL(str(built))


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float, return_lse: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim).

    With return_lse also the natural log-sum-exp of each row's scores, float32 (batch, heads_q, seqlen_q).
    """
    return run(q, k, v, k.shape[2], causal=causal, scale=scale, return_lse=return_lse)


def attention_paged(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, *, block_table: torch.Tensor,
    cache_seqlens: torch.Tensor, causal: bool, scale: float, return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend from q to keys and values in blocks: (blocks, block_size, heads_kv, head_dim); results as of attention().

    block_table (batch, most blocks) and cache_seqlens (batch,) are int32.
    """
    k, v, longest = k_cache.transpose(1, 2), v_cache.transpose(1, 2), int(cache_seqlens.max())
    paging = (block_table, cache_seqlens)
    return run(q, k, v, longest, causal=causal, scale=scale, return_lse=return_lse, paging=paging)


def run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seqlen_kv: int, *, causal: bool, scale: float, return_lse: bool,
    paging: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend to k and v (batch or blocks, heads_kv, keys, head_dim), of which a sequence has at most seqlen_kv.

    paging: the table of blocks and the lengths of sequences.
    """
    given = q.dtype
    if given is torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    if q.dtype not in (torch.float32, torch.bfloat16):
        raise NotImplementedError(f"decode: expected float32, bfloat16 or float16, got {q.dtype}")
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv = k.shape[1]
    out = torch.empty_like(q)
    lse = torch.empty((batch, heads_q, seqlen_q), dtype=torch.float32, device=q.device) if return_lse else None
    total = heads_q // heads_kv * seqlen_q
    rows = min(MAX_ROWS, 1 << (total - 1).bit_length())
    chunks = -(-total // rows)
    splits = -(-seqlen_kv // SPLIT_KEYS)
    width = -(-head_dim // 32) * 32 + 16
    partial = torch.empty(batch * heads_kv * splits * chunks * rows * width, dtype=torch.float32, device=q.device)
    strides = [size for t in (q, k, v, out) for size in t.stride()[:3]]
    sizes = (batch, heads_q, heads_kv, seqlen_q, seqlen_kv, int(causal), torch.get_num_threads(), rows, chunks, splits)
    table, lengths = paging or (None, None)
    blocks = (0, 0) if table is None else (k.shape[2], table.stride(0))
    problem = (ctypes.c_int64 * (len(sizes) + len(strides) + 2))(*sizes, *strides, *blocks)
    tensors = (q, k, v, out, partial, lse, table, lengths)
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    library(head_dim, q.dtype, paging is not None).attention(*pointers, problem, ctypes.c_float(scale))
    out = out.to(given)
    return out if lse is None else (out, lse)
