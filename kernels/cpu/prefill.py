"""Attention of many queries: packed keys and values, register-tiled products, one online-softmax pass per query tile.

Prompt processing is bound by arithmetic, so everything serves two small matrix products that keep ROWS x VECTORS
accumulators in registers. Keys (transposed) and values are first packed into panels of consecutive lanes that stay in
the first cache level, once for all query heads and tiles that use them; strided inputs and group sharing end there. A
task is one tile of queries of one head; tiles late in a causal sequence cost most and start first, and neither product
touches panels of keys that the whole tile cannot see. With AVX512-BF16 a bfloat16 panel holds pairs and each
instruction does twice the multiplications; elsewhere bfloat16 is widened while packing.
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

AVO = {"target": "cpu", "shapes": ["prefill-cpu"]}

BLOCK_Q = 96  # queries per tile
BLOCK_K = 128  # keys per softmax step
ROWS = 12  # queries per register tile; half as many where there are 16 registers and not 32
VECTORS = 2  # registers of 16 keys (or value elements) per register tile, or of 8 without AVX-512

TUNABLES = {
    "BLOCK_Q": [48, 96, 144, 192],
    "BLOCK_K": [64, 128, 256, 512],
    "ROWS": [4, 6, 12],
    "VECTORS": [1, 2, 4],
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
constexpr float LOWEST = -3e38f;

static inline word word_at(const element* row, int d) {  // word d of a row; an odd head dimension ends in half a word
    return word_of(row[d * PER_WORD], (d + 1) * PER_WORD <= HEAD_DIM ? row[(d + 1) * PER_WORD - 1] : 0);
}

struct Strides { int64_t batch, head, row; };
struct Problem {
    int64_t batch, heads_q, heads_kv, seqlen_q, seqlen_kv, causal, threads;
    Strides q, k, v, out;
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

// packed_k: (batch * heads_kv, blocks, BLOCK_K * D_WORDS) words; packed_v: (..., BLOCK_K / PER_WORD * D_LANES) words.
extern "C" void attention(const element* q, const element* k, const element* v, element* out, word* packed_k,
                          word* packed_v, const Problem* problem, float scale) {
    const Problem& s = *problem;
    const int64_t blocks = (s.seqlen_kv + BLOCK_K - 1) / BLOCK_K, tiles = (s.seqlen_q + BLOCK_Q - 1) / BLOCK_Q;
    const int64_t shift = s.seqlen_kv - s.seqlen_q, k_words = BLOCK_K * D_WORDS, v_words = BLOCK_K / PER_WORD * D_LANES;
    #pragma omp parallel num_threads(s.threads)
    {
        #pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s.batch * s.heads_kv * blocks; i++) {
            const int64_t block = i % blocks, b = i / blocks / s.heads_kv, h = i / blocks % s.heads_kv;
            const int keys = std::min<int64_t>(BLOCK_K, s.seqlen_kv - block * BLOCK_K);
            const element* from_k = k + b * s.k.batch + h * s.k.head + block * BLOCK_K * s.k.row;
            const element* from_v = v + b * s.v.batch + h * s.v.head + block * BLOCK_K * s.v.row;
            pack_keys(from_k, s.k.row, keys, packed_k + i * k_words);
            pack_values(from_v, s.v.row, keys, packed_v + i * v_words);
        }
        Tile tile;
        #pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * s.heads_q * tiles; task++) {
            const int64_t b = task / tiles / s.heads_q, h = task / tiles % s.heads_q;
            const int64_t first = (tiles - 1 - task % tiles) * BLOCK_Q;
            const int count = std::min<int64_t>(BLOCK_Q, s.seqlen_q - first);
            const int rows = (count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
            const element* queries = q + b * s.q.batch + h * s.q.head + first * s.q.row;
            for (int r = 0; r < rows; r++) {
                const element* row = queries + std::min(r, count - 1) * s.q.row;
                for (int d = 0; d < D_WORDS; d++) tile.q[r * D_WORDS + d] = word_at(row, d);
                tile.seen[r] = r >= count ? 0 : s.causal ? std::min(first + r + 1 + shift, s.seqlen_kv) : s.seqlen_kv;
                tile.top[r] = LOWEST;
                tile.norm[r] = vf{};
            }
            std::fill_n(tile.out.begin(), rows * D_LANES / WIDTH, vf{});
            const int64_t end = tile.seen[count - 1], kv_head = b * s.heads_kv + h / (s.heads_q / s.heads_kv);
            float *scores = (float*)tile.scores.data(), *sums = (float*)tile.out.data();
            for (int64_t base = 0; base < end; base += BLOCK_K) {
                const word* key_panels = packed_k + (kv_head * blocks + base / BLOCK_K) * k_words;
                const word* value_panels = packed_v + (kv_head * blocks + base / BLOCK_K) * v_words;
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
                                      value_panels + d * (BLOCK_K / PER_WORD), depth, sums + r * D_LANES + d,
                                      D_LANES, 1.f);
            }
            for (int r = 0; r < count; r++) {
                float norm = 0;
                for (int i = 0; i < WIDTH; i++) norm += tile.norm[r][i];
                element* to = out + b * s.out.batch + h * s.out.head + (first + r) * s.out.row;
                const bool blind = tile.seen[r] <= 0;
                for (int d = 0; d < HEAD_DIM; d++) to[d] = narrow(blind ? 0.f : sums[r * D_LANES + d] / norm);
            }
        }
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
    names = ("BLOCK_Q", "BLOCK_K", "ROWS", "VECTORS")
    defines = [f"-D{name}={globals()[name]}" for name in names] + [f"-DHEAD_DIM={head_dim}"]
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
    return ctypes.CDLL(str(built))


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    if q.dtype is torch.float16:
        return attention(q.float(), k.float(), v.float(), causal=causal, scale=scale).half()
    if q.dtype not in (torch.float32, torch.bfloat16):
        raise NotImplementedError(f"prefill: expected float32, bfloat16 or float16, got {q.dtype}")
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1], k.shape[2]
    out = torch.empty_like(q)
    # One 32-bit word per element suffices for any packing, with the head dimension rounded up to the widest panels.
    lanes = 16 * VECTORS
    words = batch * heads_kv * -(-seqlen_kv // BLOCK_K) * BLOCK_K * -(-head_dim // lanes) * lanes
    packed_k, packed_v = (torch.empty(words, dtype=torch.float32, device=q.device) for _ in range(2))
    strides = [size for t in (q, k, v, out) for size in t.stride()[:3]]
    sizes = (batch, heads_q, heads_kv, seqlen_q, seqlen_kv, int(causal), torch.get_num_threads())
    problem = (ctypes.c_int64 * (len(sizes) + len(strides)))(*sizes, *strides)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (q, k, v, out, packed_k, packed_v)]
    library(head_dim, q.dtype).attention(*pointers, problem, ctypes.c_float(scale))
    return out
