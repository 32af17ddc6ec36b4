# avo: digest=f51ace106756fbb0 parent=aa2eb8e79097baff run=1 generation=1 operator=inbox
# avo: measured=1.161x [1.092, 1.234] over its parent, 1.161x over the seed, confirmed
# avo: on Intel(R) Xeon(R) Processor, torch 2.13.0+cpu, 2026-11-29
"""Attention of many queries: packed keys and values, register-tiled products, one online-softmax pass per query tile.

Prompt processing is bound by arithmetic, so everything serves two small matrix products that keep ROWS x VECTORS
accumulators in registers. Keys (transposed) and values are first packed into panels of consecutive lanes that stay in
the first cache level, once for all query heads and tiles that use them; strided inputs and group sharing end there. A
task is one tile of queries of one head; tiles late in a causal sequence cost most and start first, and neither product
touches panels of keys that the whole tile cannot see. Sequences of different lengths, packed one behind the other, are
tasks of one list, so that no core waits for the others at the end of each. With AVX512-BF16 a bfloat16 panel holds
pairs and each instruction does twice the multiplications; elsewhere bfloat16 is widened while packing.

With AMX products are made by tiles of 16 x 16 sums, and a task is as many queries of all heads of a group as fit into
the second cache level beside a block of keys; 32 of them meet the block at a time. A float32 is three bfloat16, and a
product of two the six largest products of theirs; its weights are made while tiles multiply something else. Weights
are taken relative to the maximum so far, which is looked for again where they came out too large.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

AVO = {"target": "cpu", "shapes": ["prefill-cpu"], "lse": True, "varlen": True}

BLOCK_Q = 96  # queries per tile
BLOCK_K = 128  # keys per softmax step
ROWS = 12  # queries per register tile; half as many where there are 16 registers and not 32
VECTORS = 2  # registers of 16 keys (or value elements) per register tile, or of 8 without AVX-512
TILE_KEYS = 256  # with AMX: keys per softmax step
TILE_STRIPS = 16  # with AMX: at most so many strips of 32 queries, of all heads of a group, per task

TUNABLES = {
    "BLOCK_Q": [48, 96, 144, 192],
    "BLOCK_K": [64, 128, 256, 512],
    "ROWS": [4, 6, 12],
    "VECTORS": [1, 2, 4],
    "TILE_KEYS": [64, 128, 256],
    "TILE_STRIPS": [8, 16, 32],
}

SOURCE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <algorithm>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__linux__)
#define TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

// A vector wider than the registers is taken apart in memory: it made products twenty times slower.
#ifdef __AVX512F__
constexpr int WIDTH = 16, TILE_ROWS = ROWS;
#else
constexpr int WIDTH = 8, TILE_ROWS = ROWS / 2;
#endif
using vf = float __attribute__((vector_size(4 * WIDTH)));
using vi = int32_t __attribute__((vector_size(4 * WIDTH)));

#ifdef IS_BF16
using element = uint16_t;
static inline float widen(element x) { uint32_t u = (uint32_t)x << 16; float f; std::memcpy(&f, &u, 4); return f; }
static inline element narrow(float x) {
    uint32_t u; std::memcpy(&u, &x, 4);
    return x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
#else
using element = float;
static inline float widen(element x) { return x; }
static inline element narrow(float x) { return x; }
#endif

// Operands are made of 32-bit words: one float, or two neighbouring bfloat16 along the dimension that is summed over.
#if defined(IS_BF16) && defined(__AVX512BF16__)
constexpr int PER_WORD = 2;
using word = uint32_t;
using operand = vi;
static inline word word_of(element low, element high) { return low | (uint32_t)high << 16; }
static inline vf multiply_add(vf acc, operand a, operand b) {
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}
static inline void store_weights(word* to, vf x) {
    _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)x));
}
#else
constexpr int PER_WORD = 1;
using word = float;
using operand = vf;
static inline word word_of(element low, element) { return widen(low); }
static inline vf multiply_add(vf acc, operand a, operand b) { return acc + a * b; }
static inline void store_weights(word* to, vf x) { std::memcpy(to, &x, sizeof x); }
#endif

constexpr int LANES = WIDTH * VECTORS;
constexpr int D_WORDS = (HEAD_DIM + PER_WORD - 1) / PER_WORD;
constexpr int D_LANES = (HEAD_DIM + LANES - 1) / LANES * LANES;
constexpr int K_WORDS = BLOCK_K * D_WORDS, V_WORDS = BLOCK_K / PER_WORD * D_LANES;
constexpr float LOWEST = -3e38f;

static inline word word_at(const element* row, int d) {  // word d of a row; an odd head dimension ends in half a word
    return word_of(row[d * PER_WORD], (d + 1) * PER_WORD <= HEAD_DIM ? row[(d + 1) * PER_WORD - 1] : 0);
}

struct Strides { int64_t head, row; };
struct Problem {
    int64_t sequences, heads_q, heads_kv, causal, threads;
    Strides q, k, v, out, lse;
};
struct Sequence {
    int64_t seqlen_q, seqlen_kv;
    int64_t q, k, v, out, lse;  // where each begins, in elements
};

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

static inline float largest(vf x) {
    vi upper;
    for (int i = 0; i < WIDTH; i++) upper[i] = (i + WIDTH / 2) % WIDTH;
    const vf other = __builtin_shuffle(x, upper);
    x = x > other ? x : other;
    float top = x[0];
    for (int i = 1; i < WIDTH / 2; i++) top = std::max(top, x[i]);
    return top;
}

// to (TILE_ROWS, LANES) = factor * a (TILE_ROWS, depth words) times panel (depth words, LANES), or += it.
template <bool ADD> static inline void product(const word* a, int a_row, const word* panel, int depth, float* to,
                                               int to_row, float factor) {
    vf sums[TILE_ROWS][VECTORS] = {};
    for (int i = 0; i < depth; i++) {
        operand b[VECTORS];
        for (int j = 0; j < VECTORS; j++) std::memcpy(&b[j], panel + i * LANES + WIDTH * j, sizeof b[j]);
        #pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; r++) {
            const operand x = a[r * a_row + i] - operand{};  // minus zero is a broadcast; plus zero would be computed
            for (int j = 0; j < VECTORS; j++) sums[r][j] = multiply_add(sums[r][j], x, b[j]);
        }
    }
    for (int r = 0; r < TILE_ROWS; r++)
        for (int j = 0; j < VECTORS; j++) {
            vf* cell = (vf*)(to + r * to_row + WIDTH * j);
            *cell = ADD ? *cell + sums[r][j] : sums[r][j] * factor;
        }
}

// Panels of one key block: (BLOCK_K / LANES, D_WORDS, LANES), keys along the lanes; absent keys are zero.
static void pack_keys(const element* k, int64_t stride, int keys, word* to) {
    std::memset(to, 0, sizeof(word) * D_WORDS * BLOCK_K);
    for (int j = 0; j < keys; j++) {
        const element* row = k + j * stride;
        word* column = to + j / LANES * LANES * D_WORDS + j % LANES;
        for (int d = 0; d < D_WORDS; d++) column[d * LANES] = word_at(row, d);
    }
}

// Panels of one value block: (D_LANES / LANES, BLOCK_K / PER_WORD, LANES), value elements along the lanes.
static void pack_values(const element* v, int64_t stride, int keys, word* to) {
    std::memset(to, 0, sizeof(word) * D_LANES * (BLOCK_K / PER_WORD));
    for (int j = 0; j < keys; j += PER_WORD) {
        const element *low = v + j * stride, *high = j + PER_WORD <= keys ? low + (PER_WORD - 1) * stride : nullptr;
        for (int d0 = 0; d0 < HEAD_DIM; d0 += LANES) {
            word* row = to + (d0 / LANES * (BLOCK_K / PER_WORD) + j / PER_WORD) * LANES;
            const int count = std::min(LANES, HEAD_DIM - d0);
            for (int d = 0; d < count; d++) row[d] = word_of(low[d0 + d], high ? high[d0 + d] : 0);
        }
    }
}

struct Tile {
    std::vector<vf> scores = std::vector<vf>(BLOCK_Q * BLOCK_K / WIDTH), norm = std::vector<vf>(BLOCK_Q);
    std::vector<vf> out = std::vector<vf>(BLOCK_Q * D_LANES / WIDTH);
    std::vector<word> q = std::vector<word>(BLOCK_Q * D_WORDS);
    std::vector<word> weights = std::vector<word>(BLOCK_Q * BLOCK_K / PER_WORD);
    float top[BLOCK_Q];
    int64_t seen[BLOCK_Q];  // how many keys each row sees; rows that only fill up a register tile see none
};

// One softmax step: scores to weights in place of words, with sums, maxima and outputs so far rescaled.
static void weigh(Tile& tile, int rows, int64_t base, int keys) {
    for (int r = 0; r < rows; r++) {
        vf* scores = &tile.scores[r * BLOCK_K / WIDTH];
        const int vectors = (keys + WIDTH - 1) / WIDTH, seen = (int)std::clamp<int64_t>(tile.seen[r] - base, 0, keys);
        vf higher = vf{} + tile.top[r];
        for (int i = 0; i < vectors; i++) {
            if (seen < WIDTH * (i + 1)) {
                vi lane;
                for (int j = 0; j < WIDTH; j++) lane[j] = WIDTH * i + j;
                scores[i] = lane < seen ? scores[i] : vf{} - INFINITY;
            }
            higher = higher > scores[i] ? higher : scores[i];
        }
        const float top = largest(higher);
        if (top > tile.top[r]) {
            const float shrink = std::exp2(tile.top[r] - top);
            tile.norm[r] *= shrink;
            for (int d = 0; d < D_LANES / WIDTH; d++) tile.out[r * (D_LANES / WIDTH) + d] *= shrink;
            tile.top[r] = top;
        }
        vf norm = tile.norm[r];
        for (int i = 0; i < vectors; i++) {
            const vf weight = exp2_of(scores[i] - top);
            norm += weight;
            store_weights(&tile.weights[(r * BLOCK_K + WIDTH * i) / PER_WORD], weight);
        }
        tile.norm[r] = norm;
    }
}

// One tile of queries of one head, from row `first` on: its results, and their log-sum-exp where there is a place.
static void attend(Tile& tile, const Problem& s, const Sequence& x, int64_t h, int64_t first, const element* q,
                   const word* packed_k, const word* packed_v, element* out, float* lse, float scale) {
    const int64_t shift = x.seqlen_kv - x.seqlen_q;
    const int count = std::min<int64_t>(BLOCK_Q, x.seqlen_q - first);
    const int rows = (count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    const element* queries = q + x.q + h * s.q.head + first * s.q.row;
    for (int r = 0; r < rows; r++) {
        const element* row = queries + std::min(r, count - 1) * s.q.row;
        for (int d = 0; d < D_WORDS; d++) tile.q[r * D_WORDS + d] = word_at(row, d);
        tile.seen[r] = r >= count ? 0 : s.causal ? std::min(first + r + 1 + shift, x.seqlen_kv) : x.seqlen_kv;
        tile.top[r] = LOWEST;
        tile.norm[r] = vf{};
    }
    std::fill_n(tile.out.begin(), rows * D_LANES / WIDTH, vf{});
    const int64_t end = tile.seen[count - 1];
    float *scores = (float*)tile.scores.data(), *sums = (float*)tile.out.data();
    for (int64_t base = 0; base < end; base += BLOCK_K) {
        const word* key_panels = packed_k + base / BLOCK_K * K_WORDS;
        const word* value_panels = packed_v + base / BLOCK_K * V_WORDS;
        const int keys = std::min<int64_t>(BLOCK_K, end - base);
        const int depth = (keys + WIDTH - 1) / WIDTH * WIDTH / PER_WORD;
        for (int j = 0; j < keys; j += LANES)
            for (int r = 0; r < rows; r += TILE_ROWS)
                product<false>(&tile.q[r * D_WORDS], D_WORDS, key_panels + j * D_WORDS, D_WORDS,
                               scores + r * BLOCK_K + j, BLOCK_K, scale * 1.44269504f);
        weigh(tile, rows, base, keys);
        for (int d = 0; d < D_LANES; d += LANES)
            for (int r = 0; r < rows; r += TILE_ROWS)
                product<true>(&tile.weights[r * BLOCK_K / PER_WORD], BLOCK_K / PER_WORD,
                              value_panels + d * (BLOCK_K / PER_WORD), depth, sums + r * D_LANES + d, D_LANES, 1.f);
    }
    for (int r = 0; r < count; r++) {
        float norm = 0;
        for (int i = 0; i < WIDTH; i++) norm += tile.norm[r][i];
        element* to = out + x.out + h * s.out.head + (first + r) * s.out.row;
        const bool blind = tile.seen[r] <= 0;
        for (int d = 0; d < HEAD_DIM; d++) to[d] = narrow(blind ? 0.f : sums[r * D_LANES + d] / norm);
        if (lse)
            lse[x.lse + h * s.lse.head + (first + r) * s.lse.row] =
                blind ? -INFINITY : (tile.top[r] + std::log2(norm)) * 0.693147181f;
    }
}

#ifdef TILES
// The same with tiles of AMX: 16 rows of 64 bytes, products of bfloat16 summed in single precision. A float32 is the
// sum of three bfloat16, each what the ones before leave over; of the nine products of two such sums the three below
// 2^-22 of the whole are left out: it errs less than the sums of single precision do (measured: half of torch's error).
#ifdef IS_BF16
constexpr int PARTS = 1, PRODUCTS = 1, PART_A[] = {0}, PART_B[] = {0};
#else
constexpr int PARTS = 3, PRODUCTS = 6, PART_A[] = {2, 1, 1, 0, 0, 0}, PART_B[] = {0, 0, 1, 1, 2, 0};
#endif
constexpr int TILE = 256;                        // words of a tile
constexpr int STEPS = (HEAD_DIM + 31) / 32;      // a product sums over 32 elements, in pairs (j, j + 16)
constexpr int STRIP = 32, STRIP_KEYS = TILE_KEYS / 32;  // of so many queries scores are weighed at a time
constexpr int64_t KEY_TILES = TILE_KEYS / 16 * STEPS * PARTS, VALUE_TILES = KEY_TILES;
constexpr int TILE_BYTES = 640 << 10;  // of the strips of a task
constexpr float RISE = 1 << 20;  // where weights relative to the maximum so far sum up to more, it is looked for anew

#define TILE_ZERO(t) asm volatile("tilezero %%tmm" #t ::: "memory")
#define TILE_LOAD(t, from) asm volatile("tileloadd (%0,%1,1), %%tmm" #t :: "r"(from), "r"(64l) : "memory")
#define TILE_STORE(t, to, bytes) asm volatile("tilestored %%tmm" #t ", (%0,%1,1)" :: "r"(to), "r"(bytes) : "memory")
#define TILE_MULTIPLY(t, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #t ::: "memory")

static bool tiles_permitted() { return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18); }

static void tiles_begin() {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, zero[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    } shapes;
    for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    asm volatile("ldtilecfg %0" :: "m"(shapes));
}
static void tiles_end() { asm volatile("tilerelease"); }

static inline __mmask16 first_of(int count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1; }

static inline vf load16(const element* from, int count) {  // the first `count` of 16 elements, others zero
#ifdef IS_BF16
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_of(count), from)), 16);
#else
    return (vf)_mm512_maskz_loadu_ps(first_of(count), from);
#endif
}

static inline void store16(element* to, vf x, int count) {  // the first `count` of 16
#ifdef IS_BF16
    _mm256_mask_storeu_epi16(to, first_of(count), (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    _mm512_mask_storeu_ps(to, first_of(count), (__m512)x);
#endif
}

// 32 numbers as words of pairs (j, j + 16), part by part, tiles apart.
static inline void store_parts(vf low, vf high, word* to) {
    for (int part = 0; part < PARTS; part++) {
        const vi upper = vi{} + (int)0xffff0000;
        _mm512_store_si512(to + part * TILE, (__m512i)((vi)_mm512_srli_epi32((__m512i)low, 16) | ((vi)high & upper)));
        low -= (vf)((vi)low & upper), high -= (vf)((vi)high & upper);
    }
}

// (keys / 32, STEPS, 2, PARTS) tiles of 16 keys, keys along the rows of memory: transposed words of pairs.
static void pack_key_tiles(const element* k, int64_t stride, int keys, word* to) {
    for (int first = 0; first < TILE_KEYS; first += 16)
        for (int step = 0; step < STEPS; step++) {
            alignas(64) word rows[PARTS * TILE];
            word* tiles = to + ((first / 32 * STEPS + step) * 2 + first / 16 % 2) * PARTS * TILE;
            for (int j = 0; j < 16; j++) {
                const element* row = k + (first + j) * stride + step * 32;
                const int count = first + j < keys ? HEAD_DIM - step * 32 : 0;
                store_parts(load16(row, count), load16(row + 16, count - 16), rows + j * 16);
            }
            for (int part = 0; part < PARTS; part++) {
                __m512i x[16];
                for (int j = 0; j < 16; j++) x[j] = _mm512_load_si512(rows + part * TILE + j * 16);
                vi lane;
                for (int j = 0; j < 16; j++) lane[j] = j;
                for (int s = 1; s < 16; s *= 2) {
                    const vi low = (lane & s) == 0 ? lane : lane - s + 16;
                    const vi high = (lane & s) == 0 ? lane + s : lane + 16;
                    for (int j = 0; j < 16; j++)
                        if (!(j & s)) {
                            const __m512i a = x[j], b = x[j + s];
                            x[j] = _mm512_permutex2var_epi32(a, (__m512i)low, b);
                            x[j + s] = _mm512_permutex2var_epi32(a, (__m512i)high, b);
                        }
                }
                for (int j = 0; j < 16; j++) _mm512_store_si512(tiles + part * TILE + j * 16, x[j]);
            }
        }
}

// (STEPS, keys / 32, 2, PARTS) tiles of 32 keys, in pairs, and 16 value elements.
static void pack_value_tiles(const element* v, int64_t stride, int keys, word* to) {
    for (int j = 0; j < TILE_KEYS; j = j % 32 == 15 ? j + 17 : j + 1)
        for (int d = 0; d < STEPS * 32; d += 16) {
            const element* row = v + j * stride + d;
            word* tiles = to + ((d / 32 * STRIP_KEYS + j / 32) * 2 + d / 16 % 2) * PARTS * TILE;
            const vf low = load16(row, j < keys ? HEAD_DIM - d : 0);
            store_parts(low, load16(row + 16 * stride, j + 16 < keys ? HEAD_DIM - d : 0), tiles + j % 16 * 16);
        }
}

// Tiles 0 to 3 += two tiles from `a`, `a_next` words apart, times two from `b`, in all parts; often calls `between`.
template <class Work> static inline void multiply(const word* a, int a_next, const word* b, Work& between) {
    #pragma GCC unroll 1
    for (int i = 0; i < PRODUCTS; i++) {
        if (!i || PART_A[i] != PART_A[i - 1]) {
            TILE_LOAD(4, a + PART_A[i] * TILE);
            TILE_LOAD(5, a + PART_A[i] * TILE + a_next);
        }
        if (!i || PART_B[i] != PART_B[i - 1]) {
            TILE_LOAD(6, b + PART_B[i] * TILE);
            TILE_LOAD(7, b + (PARTS + PART_B[i]) * TILE);
        }
        TILE_MULTIPLY(0, 4, 6);
        TILE_MULTIPLY(1, 4, 7);
        TILE_MULTIPLY(2, 5, 6);
        TILE_MULTIPLY(3, 5, 7);
        between();
    }
}

struct alignas(64) Strip {
    word q[2][STEPS][PARTS][TILE];    // two tiles of 16 queries
    float out[2][STEPS * 2][TILE];    // 16 queries x 16 value elements each
    vf norm[STRIP];
    float top[STRIP];
    int64_t seen[STRIP];  // how many keys each row sees; rows that only fill up a strip see none
};

static inline vf power_of_two(vf x) {  // 2^x for any x up to 127; minimax on [0, 1)
    const vf f = (vf)_mm512_reduce_ps((__m512)x, 9 /* what floor leaves */);
#ifdef IS_BF16
    vf p = f * 1.35341679e-2f + 5.20114606e-2f;  // relative error 3e-6: weights are rounded to 2e-3, their sums are not
    p = (p * f + 2.41442757e-1f) * f + 6.93003835e-1f;
    p = p * f + 1.00000259e0f;
#else
    vf p = f * 1.87757667e-3f + 8.98934009e-3f;  // relative error 8e-8
    p = (p * f + 5.58263180e-2f) * f + 2.40153617e-1f;
    p = (p * f + 6.93153073e-1f) * f + 9.99999925e-1f;
#endif
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
}

// Weights of 32 scores relative to 2^top, in parts; their sums. What is multiplied and subtracted at once is more than 0
// at the maximum, which was rounded, and from 2^28 on by more than an exponent holds; ROUNDED, all products are.
template <bool ROUNDED = false> static inline vf weights_of(const vf* scores, float factor, float top, word* to) {
    vf lower = scores[0] * factor, upper = scores[1] * factor;
    if (ROUNDED) asm("" : "+v"(lower), "+v"(upper));
    const vf low = power_of_two(lower - top), high = power_of_two(upper - top);
#ifdef IS_BF16
    store_parts((vf)((vi)low + 0x8000), (vf)((vi)high + 0x8000), to);
#else
    store_parts(low, high, to);
#endif
    return low + high;
}

static inline void hide(vf* scores, int vectors, int64_t seen) {  // scores of keys from `seen` on
    for (int i = std::max<int64_t>(seen, 0) / 16; i < vectors; i++) {
        vi lane;
        for (int j = 0; j < 16; j++) lane[j] = 16 * i + j;
        scores[i] = lane < (int)std::max<int64_t>(seen, 0) ? scores[i] : vf{} - INFINITY;
    }
}

static inline float largest_of(const vf* scores, int vectors) {
    vf higher = scores[0];
    for (int i = 1; i < vectors; i++) higher = higher > scores[i] ? higher : scores[i];
    return _mm512_reduce_max_ps((__m512)higher);
}

template <bool ROUNDED = false> static inline vf weights_of_row(const vf* scores, int vectors, float factor, float top,
                                                                word* to) {
    vf sums{};
    for (int i = 0; i < vectors; i += 2) sums += weights_of<ROUNDED>(scores + i, factor, top, to + i / 2 * PARTS * TILE);
    return sums;
}

static inline bool too_large(vf sums) { return _mm512_cmp_ps_mask((__m512)sums, (__m512)(vf{} + RISE), _CMP_GT_OQ); }

// One row of a block of scores: relative to the maximum so far if that will do (`known`: it may), else to a new one.
static inline void weigh_row(Strip& strip, int r, vf* scores, int vectors, int64_t seen, bool known, float factor,
                             word* to) {
    hide(scores, vectors, seen);
    if (known) {
        const vf sums = weights_of_row(scores, vectors, factor, strip.top[r], to);
        if (!too_large(sums)) {
            strip.norm[r] += sums;
            return;
        }
    }
    const float top = std::max(strip.top[r], largest_of(scores, vectors) * factor);
    const float shrink = std::exp2(strip.top[r] - top);
    for (int d = 0; d < STEPS * 2; d++) *(vf*)&strip.out[r / 16][d][r % 16 * 16] *= shrink;
    strip.top[r] = top;
    strip.norm[r] = strip.norm[r] * shrink + weights_of_row<true>(scores, vectors, factor, top, to);
}

constexpr int LOWER = STRIP_KEYS * PARTS * TILE;  // from the weights of the first 16 queries to those of the others
static inline int place(int r) { return r < 16 ? r * 16 : LOWER + (r - 16) * 16; }

// Weighs 32 rows of scores of 32 keys relative to the maxima so far, `share` of them a call, while tiles multiply.
struct Weigher {
    const vf* scores;
    const float* top;
    vf* sums;
    word* to;
    float factor;
    int share, left = STRIP;
    inline void weigh(int rows) {
        for (; rows > 0; rows--, left--) {
            if (left == 16) to += LOWER - TILE;
            *sums += weights_of(scores, factor, *top, to);
            scores += 2, top++, sums++, to += 16;
        }
    }
    inline void operator()() { weigh(std::min(share, left)); }
    inline void finish() { weigh(left); }
};

// Scores of 32 queries and 32 keys, rows `stride` bytes apart.
template <class Work> static inline void score(const Strip& strip, const word* keys, float* to, int64_t stride,
                                               Work& between) {
    TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2); TILE_ZERO(3);
    for (int i = 0; i < STEPS; i++)
        multiply(strip.q[0][i][0], STEPS * PARTS * TILE, keys + i * 2 * PARTS * TILE, between);
    TILE_STORE(0, to, stride);
    TILE_STORE(1, to + 16, stride);
    TILE_STORE(2, to + 4 * stride, stride);
    TILE_STORE(3, to + 4 * stride + 16, stride);
}

// Adds the weighted values of a block to the outputs of 32 queries, 32 value elements, those of number d.
template <class Work> static inline void add_values(Strip& strip, int d, int steps, const word* weights,
                                                    const word* values, Work& between) {
    float *low = strip.out[0][d * 2], *high = strip.out[1][d * 2];
    TILE_LOAD(0, low); TILE_LOAD(1, low + TILE);
    TILE_LOAD(2, high); TILE_LOAD(3, high + TILE);
    for (int j = 0; j < steps; j++)
        multiply(weights + j * PARTS * TILE, STRIP_KEYS * PARTS * TILE,
                 values + (d * STRIP_KEYS + j) * 2 * PARTS * TILE, between);
    TILE_STORE(0, low, 64l); TILE_STORE(1, low + TILE, 64l);
    TILE_STORE(2, high, 64l); TILE_STORE(3, high + TILE, 64l);
}

// What a thread needs for tiles: the strips of its task, and what is under way.
struct TileWork {
    struct Step { int strip, steps; int64_t base; };  // a strip's scores of a block: so many times 32 keys from base on
    static constexpr int BOTH = STRIP * 2;            // vectors of 32 queries' scores of 32 keys
    std::vector<Strip> strips;
    std::vector<Step> path;
    std::vector<vf> scores = std::vector<vf>(STRIP * TILE_KEYS / 16), sums = std::vector<vf>(STRIP);
    std::vector<vf> some = std::vector<vf>(2 * BOTH), weights = std::vector<vf>(2 * STRIP * STRIP_KEYS * PARTS);
    const word *packed_k, *packed_v;
    float factor;
    struct { void operator()() {} } nothing;

    word* weights_at(int i) { return (word*)&weights[i % 2 * (weights.size() / 2)]; }

    const word* keys_of(const Step& at, int j) {
        return packed_k + (at.base / TILE_KEYS * KEY_TILES + j * STEPS * 2 * PARTS) * TILE;
    }

    template <class Work> void add(int i, int d, Work& between) {
        const Step& at = path[i];
        add_values(strips[at.strip], d, at.steps, weights_at(i),
                   packed_v + at.base / TILE_KEYS * VALUE_TILES * TILE, between);
    }

    void weigh_block(int i, bool known) {
        const Step& at = path[i];
        Strip& strip = strips[at.strip];
        for (int j = 0; j < at.steps; j++)
            score(strip, keys_of(at, j), (float*)&scores[j * 2], TILE_KEYS * 4, nothing);
        for (int r = 0; r < STRIP; r++)
            weigh_row(strip, r, &scores[r * TILE_KEYS / 16], at.steps * 2, strip.seen[r] - at.base, known, factor,
                      weights_at(i) + place(r));
    }

    // Tiles that multiply leave half of the vector units to others: few weights are better made by themselves.
    void one_by_one() {
        for (int i = 0; i < (int)path.size(); i++) {
            weigh_block(i, path[i].base > 0);
            for (int d = 0; d < STEPS; d++) add(i, d, nothing);
        }
    }

    // Weights are made while tiles make the scores of the next 32 keys and add the values of the step before.
    void interleaved() {
        const int length = path.size();
        for (int i = 0, turn = 0; i < length; i++) {
            const Step& at = path[i];
            Strip& strip = strips[at.strip];
            if (!i) score(strip, keys_of(at, 0), (float*)&some[0], 128, nothing);
            std::fill(sums.begin(), sums.end(), vf{});
            for (int j = 0; j < at.steps; j++, turn ^= 1) {
                vf *here = &some[turn * BOTH], *there = &some[(turn ^ 1) * BOTH];
                const int64_t begin = at.base + j * 32;
                if (strip.seen[0] < begin + 32)
                    for (int r = 0; r < STRIP; r++) hide(here + r * 2, 2, strip.seen[r] - begin);
                // A first guess of the maximum; what only fills up a strip has none to look for.
                for (int r = 0; r < STRIP && !begin; r++)
                    strip.top[r] = strip.seen[r] > 0 ? largest_of(here + r * 2, 2) * factor : 0;
                const bool more = j + 1 < at.steps;
                const Step* next = more ? &at : i + 1 < length ? &path[i + 1] : nullptr;
                const int from = i ? j * STEPS / at.steps : 0, to = i ? (j + 1) * STEPS / at.steps : 0;
                const int calls = PRODUCTS * ((next ? STEPS : 0) + (i ? (to - from) * path[i - 1].steps : 0));
                Weigher weigher{here, strip.top, sums.data(), weights_at(i) + j * PARTS * TILE, factor,
                                calls ? (STRIP + calls - 1) / calls : STRIP};
                if (next) score(strips[next->strip], keys_of(*next, more ? j + 1 : 0), (float*)there, 128, weigher);
                for (int d = from; d < to; d++) add(i - 1, d, weigher);
                weigher.finish();
            }
            bool again = false;
            for (int r = 0; r < STRIP; r++) again |= too_large(sums[r]);
            if (again) weigh_block(i, false);
            for (int r = 0; r < STRIP && !again; r++) strip.norm[r] += sums[r];
        }
        for (int d = 0; d < STEPS && length; d++) add(length - 1, d, nothing);
    }
};

static void attend_tiles(TileWork& work, const Problem& s, const Sequence& x, int64_t h, int64_t first, int64_t count,
                         const element* q, element* out, float* lse) {
    const int64_t shift = x.seqlen_kv - x.seqlen_q, group = s.heads_q / s.heads_kv, rows = count * group;
    const int strips = (rows + STRIP - 1) / STRIP;
    if ((int)work.strips.size() < strips) work.strips.resize(strips);
    // Row r of all is query r / group of head r % group of the group: neighbours see the same keys.
    for (int r = 0; r < strips * STRIP; r++) {
        Strip& strip = work.strips[r / STRIP];
        const int i = r % STRIP;
        const int64_t position = first + r / group;
        const element* row = q + x.q + (h * group + r % group) * s.q.head + position * s.q.row;
        strip.seen[i] = r >= rows ? 0 : s.causal ? std::min(position + 1 + shift, x.seqlen_kv) : x.seqlen_kv;
        for (int step = 0; step < STEPS; step++) {
            const int left = r < rows ? HEAD_DIM - step * 32 : 0;
            store_parts(load16(row + step * 32, left), load16(row + step * 32 + 16, left - 16),
                        &strip.q[i / 16][step][0][i % 16 * 16]);
        }
        strip.top[i] = LOWEST;
        strip.norm[i] = vf{};
        for (int d = 0; d < STEPS * 2; d++) *(vf*)&strip.out[i / 16][d][i % 16 * 16] = vf{};
    }
    const int64_t end = s.causal ? std::min(first + count + shift, x.seqlen_kv) : x.seqlen_kv;
    work.path.clear();
    for (int64_t base = 0; base < end; base += TILE_KEYS)
        for (int n = 0; n < strips; n++) {
            const int64_t last = work.strips[n].seen[std::min<int64_t>(rows - n * STRIP, STRIP) - 1];
            const int steps = std::clamp<int64_t>((last - base + 31) / 32, 0, STRIP_KEYS);
            if (steps) work.path.push_back({n, steps, base});
        }
    PARTS > 1 ? work.interleaved() : work.one_by_one();
    for (int r = 0; r < rows; r++) {
        const Strip& strip = work.strips[r / STRIP];
        const int i = r % STRIP;
        const int64_t head = h * group + r % group, position = first + r / group;
        const bool blind = strip.seen[i] <= 0;
        const float norm = _mm512_reduce_add_ps((__m512)strip.norm[i]);
        element* to = out + x.out + head * s.out.head + position * s.out.row;
        for (int d = 0; d < HEAD_DIM; d += 16)
            store16(to + d, blind ? vf{} : *(vf*)&strip.out[i / 16][d / 16][i % 16 * 16] * (1 / norm), HEAD_DIM - d);
        if (lse)
            lse[x.lse + head * s.lse.head + position * s.lse.row] =
                blind ? -INFINITY : (strip.top[i] + std::log2(norm)) * 0.693147181f;
    }
}
#endif

// How a call is cut: blocks of keys are packed for all heads of keys, a task is a tile of queries of one head or group.
struct Plan {
    bool tiles;
    int64_t block_keys, key_words, value_words, heads, queries, threads;
    std::vector<int64_t> blocks{0}, tasks{0};  // before each sequence, over all heads, and in all
    int64_t blocks_of(const Sequence& x) const { return (x.seqlen_kv + block_keys - 1) / block_keys; }
    int64_t tiles_of(const Sequence& x) const { return (x.seqlen_q + queries - 1) / queries; }
};

static Plan plan_of(const Problem& s, const Sequence* sequences) {
    Plan plan{false, BLOCK_K, K_WORDS, V_WORDS, s.heads_q, BLOCK_Q};
#ifdef TILES
    static const bool permitted = tiles_permitted();
    if (permitted) {
        const int64_t group = s.heads_q / s.heads_kv;
        plan = {true, TILE_KEYS, KEY_TILES * TILE, VALUE_TILES * TILE, s.heads_kv};
        int64_t rows = 0;
        for (int64_t n = 0; n < s.sequences; n++) rows += sequences[n].seqlen_q * s.heads_q;
        // Strips that stay in the second cache level beside a block of keys; fewer where threads would have no task.
        int64_t strips = std::clamp<int64_t>(TILE_BYTES / sizeof(Strip), 2, TILE_STRIPS);
        while (strips > 2 && rows / (strips * STRIP) < 4 * s.threads) strips /= 2;
        plan.queries = std::max<int64_t>(1, strips * STRIP / group);
    }
#endif
    for (int64_t n = 0; n < s.sequences; n++) {
        plan.blocks.push_back(plan.blocks.back() + s.heads_kv * plan.blocks_of(sequences[n]));
        plan.tasks.push_back(plan.tasks.back() + plan.heads * plan.tiles_of(sequences[n]));
    }
    return plan;
}

extern "C" int64_t packed_words(const Problem* problem, const Sequence* sequences) {
    const Plan plan = plan_of(*problem, sequences);
    return plan.blocks.back() * (plan.key_words + plan.value_words);
}

// packed: as many words, aligned to 64 bytes: (sequence, heads_kv, blocks of the sequence) of keys, then of values; lse
// may be null.
extern "C" void attention(const element* q, const element* k, const element* v, element* out, float* lse, word* packed,
                          const Problem* problem, const Sequence* sequences, float scale) {
    const Problem& s = *problem;
    const Plan plan = plan_of(s, sequences);
    word *packed_k = packed, *packed_v = packed + plan.blocks.back() * plan.key_words;
    auto owner = [](const std::vector<int64_t>& before, int64_t i) {
        return std::upper_bound(before.begin(), before.end(), i) - before.begin() - 1;
    };
    #pragma omp parallel num_threads(s.threads)
    {
        #pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < plan.blocks.back(); i++) {
            const int64_t n = owner(plan.blocks, i), count = plan.blocks_of(sequences[n]);
            const Sequence& x = sequences[n];
            const int64_t first = (i - plan.blocks[n]) % count * plan.block_keys, h = (i - plan.blocks[n]) / count;
            const int keys = std::min<int64_t>(plan.block_keys, x.seqlen_kv - first);
            const element* from_k = k + x.k + h * s.k.head + first * s.k.row;
            const element* from_v = v + x.v + h * s.v.head + first * s.v.row;
            word *to_k = packed_k + i * plan.key_words, *to_v = packed_v + i * plan.value_words;
#ifdef TILES
            if (plan.tiles) {
                pack_key_tiles(from_k, s.k.row, keys, to_k);
                pack_value_tiles(from_v, s.v.row, keys, to_v);
                continue;
            }
#endif
            pack_keys(from_k, s.k.row, keys, to_k);
            pack_values(from_v, s.v.row, keys, to_v);
        }
#ifdef TILES
        if (plan.tiles) tiles_begin();
        TileWork work;
        work.factor = scale * 1.44269504f;
#endif
        Tile tile;
        #pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < plan.tasks.back(); i++) {
            const int64_t n = owner(plan.tasks, i), tiles = plan.tiles_of(sequences[n]);
            const int64_t h = (i - plan.tasks[n]) / tiles;
            const int64_t first = (tiles - 1 - (i - plan.tasks[n]) % tiles) * plan.queries;
            const int64_t block = plan.blocks[n] + h / (plan.heads / s.heads_kv) * plan.blocks_of(sequences[n]);
            const word *keys = packed_k + block * plan.key_words, *values = packed_v + block * plan.value_words;
#ifdef TILES
            if (plan.tiles) {
                const int64_t count = std::min(plan.queries, sequences[n].seqlen_q - first);
                work.packed_k = keys, work.packed_v = values;
                attend_tiles(work, s, sequences[n], h, first, count, q, out, lse);
                continue;
            }
#endif
            attend(tile, s, sequences[n], h, first, q, keys, values, out, lse, scale);
        }
#ifdef TILES
        if (plan.tiles) tiles_end();
#endif
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
def library(head_dim: int, dtype: torch.dtype) -> ctypes.CDLL:
    """Build SOURCE for one head dimension and element type, or load what an earlier process built."""
    defines = [f"-D{name}={globals()[name]}" for name in TUNABLES] + [f"-DHEAD_DIM={head_dim}"]
    if dtype is torch.bfloat16:
        defines.append("-DIS_BF16")
    command = ["g++", "-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-shared", "-fPIC", *defines]
    digest = hashlib.sha256("\0".join([SOURCE, *command]).encode()).hexdigest()[:16]
    built = build_folder() / f"avo-prefill-{digest}.so"
    if not built.exists():
        # Built under a private name and renamed: two processes may build at once, none loads half a file.
        partial = built.with_suffix(f".{os.getpid()}.so")
        command += ["-x", "c++", "-", "-o", str(partial)]
        run = subprocess.run(command, input=SOURCE, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"g++ failed on the prefill kernel:\n{run.stderr[-2000:]}")
        partial.replace(built)
    found = ctypes.CDLL(str(built))
    found.packed_words.restype = ctypes.c_int64
    return found


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float, return_lse: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim).

    With return_lse also the natural log-sum-exp of each row's scores, float32 (batch, heads_q, seqlen_q).
    """
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) if return_lse else None
    q, k, v, dtype = computable(q, k, v)
    out = torch.empty_like(q)
    tensors = [q, k, v, out, *([] if lse is None else [lse])]
    lengths = [(q.shape[2], k.shape[2])] * len(q)
    begin = [tuple(n * t.stride(0) for t in tensors) for n in range(len(q))]
    run(q, k, v, out, lse, lengths, begin, [t.stride()[1:3] for t in tensors], causal=causal, scale=scale)
    return out.to(dtype) if lse is None else (out.to(dtype), lse)


def attention_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int, max_seqlen_k: int, causal: bool, scale: float, return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend within packed sequences from q (tokens, heads_q, head_dim) to k and v (tokens, heads_kv, head_dim).

    With return_lse also the log-sum-exp, float32 (heads_q, tokens).
    """
    lse = torch.empty((q.shape[1], len(q)), dtype=torch.float32, device=q.device) if return_lse else None
    q, k, v, dtype = computable(q, k, v)
    out = torch.empty_like(q)
    queries, keys = (list(itertools.pairwise(ends.tolist())) for ends in (cu_seqlens_q, cu_seqlens_k))
    lengths = [(end - first, last - start) for (first, end), (start, last) in zip(queries, keys, strict=True)]
    steps = [t.stride(0) for t in (q, k, v, out)]
    begin = [
        (first * steps[0], start * steps[1], start * steps[2], first * steps[3], first)
        for (first, _), (start, _) in zip(queries, keys, strict=True)
    ]
    strides = [t.stride()[1::-1] for t in (q, k, v, out)]
    run(q, k, v, out, lse, lengths, begin, [*strides, (len(q), 1)], causal=causal, scale=scale)
    return out.to(dtype) if lse is None else (out.to(dtype), lse)


def computable(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.dtype]:
    """The tensors in a type that there is code for, and the type that they had."""
    if q.dtype is torch.float16:
        return q.float(), k.float(), v.float(), q.dtype
    if q.dtype not in (torch.float32, torch.bfloat16):
        raise NotImplementedError(f"prefill: expected float32, bfloat16 or float16, got {q.dtype}")
    return q, k, v, q.dtype


def run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor | None,
    lengths: list[tuple[int, int]], begin: list[tuple[int, ...]], strides: list[tuple[int, ...]],
    *, causal: bool, scale: float,
) -> None:  # fmt: skip
    """Fill out, and lse where there is one, of sequences with these lengths of queries and keys.

    begin: where each sequence begins in q, k, v, out and lse; strides: of heads and rows of the same, all in elements.
    """
    heads_q, heads_kv, head_dim = q.shape[1], k.shape[1], q.shape[-1]
    sizes = [len(lengths), heads_q, heads_kv, int(causal), torch.get_num_threads(), *itertools.chain(*strides)]
    problem = (ctypes.c_int64 * 15)(*sizes)
    rows = [(*sizes, *offsets, *(0,) * (5 - len(offsets))) for sizes, offsets in zip(lengths, begin, strict=True)]
    sequences = (ctypes.c_int64 * (7 * len(rows)))(*itertools.chain(*rows))
    built = library(head_dim, q.dtype)
    packed = torch.empty(built.packed_words(problem, sequences), dtype=torch.int32, device=q.device)
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (q, k, v, out, lse, packed)]
    built.attention(*pointers, problem, sequences, ctypes.c_float(scale))
