"""Attention of many queries: packed keys and values, register-tiled products, one online-softmax pass per query tile.

Prompt processing is bound by arithmetic, so everything serves two small matrix products that keep ROWS x VECTORS
accumulators in registers. Keys (transposed) and values are first packed into panels of consecutive lanes that stay in
the first cache level, once for all query heads and tiles that use them; strided inputs and group sharing end there. A
task is one tile of queries of one head; tiles late in a causal sequence cost most and start first, and neither product
touches panels of keys that the whole tile cannot see. Sequences of different lengths, packed one behind the other, are
tasks of one list, so that no core waits for the others at the end of each. With AVX512-BF16 a bfloat16 panel holds
pairs and each instruction does twice the multiplications; elsewhere bfloat16 is widened while packing.
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

static int64_t blocks_of(const Sequence& x) { return (x.seqlen_kv + BLOCK_K - 1) / BLOCK_K; }
static int64_t tiles_of(const Sequence& x) { return (x.seqlen_q + BLOCK_Q - 1) / BLOCK_Q; }

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

// packed_k: (sequence, heads_kv, blocks of the sequence, K_WORDS) words; packed_v: V_WORDS likewise; lse may be null.
extern "C" void attention(const element* q, const element* k, const element* v, element* out, float* lse,
                          word* packed_k, word* packed_v, const Problem* problem, const Sequence* sequences,
                          float scale) {
    const Problem& s = *problem;
    std::vector<int64_t> blocks{0}, tasks{0};  // before each sequence, over all heads, and in all
    for (int64_t n = 0; n < s.sequences; n++) {
        blocks.push_back(blocks.back() + s.heads_kv * blocks_of(sequences[n]));
        tasks.push_back(tasks.back() + s.heads_q * tiles_of(sequences[n]));
    }
    auto owner = [](const std::vector<int64_t>& before, int64_t i) {
        return std::upper_bound(before.begin(), before.end(), i) - before.begin() - 1;
    };
    #pragma omp parallel num_threads(s.threads)
    {
        #pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks.back(); i++) {
            const int64_t n = owner(blocks, i), count = blocks_of(sequences[n]);
            const Sequence& x = sequences[n];
            const int64_t first = (i - blocks[n]) % count * BLOCK_K, h = (i - blocks[n]) / count;
            const int keys = std::min<int64_t>(BLOCK_K, x.seqlen_kv - first);
            pack_keys(k + x.k + h * s.k.head + first * s.k.row, s.k.row, keys, packed_k + i * K_WORDS);
            pack_values(v + x.v + h * s.v.head + first * s.v.row, s.v.row, keys, packed_v + i * V_WORDS);
        }
        Tile tile;
        #pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks.back(); i++) {
            const int64_t n = owner(tasks, i), tiles = tiles_of(sequences[n]), h = (i - tasks[n]) / tiles;
            const int64_t first = (tiles - 1 - (i - tasks[n]) % tiles) * BLOCK_Q;
            const int64_t block = blocks[n] + h / (s.heads_q / s.heads_kv) * blocks_of(sequences[n]);
            attend(tile, s, sequences[n], h, first, q, packed_k + block * K_WORDS, packed_v + block * V_WORDS, out, lse,
                   scale);
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
    # One 32-bit word per element suffices for any packing, with the head dimension rounded up to the widest panels.
    lanes = 16 * VECTORS
    blocks = sum(-(-keys // BLOCK_K) for _, keys in lengths)
    words = heads_kv * blocks * BLOCK_K * -(-head_dim // lanes) * lanes
    packed_k, packed_v = (torch.empty(words, dtype=torch.float32, device=q.device) for _ in range(2))
    sizes = [len(lengths), heads_q, heads_kv, int(causal), torch.get_num_threads(), *itertools.chain(*strides)]
    problem = (ctypes.c_int64 * 15)(*sizes)
    rows = [(*sizes, *offsets, *(0,) * (5 - len(offsets))) for sizes, offsets in zip(lengths, begin, strict=True)]
    sequences = (ctypes.c_int64 * (7 * len(rows)))(*itertools.chain(*rows))
    tensors = (q, k, v, out, lse, packed_k, packed_v)
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    library(head_dim, q.dtype).attention(*pointers, problem, sequences, ctypes.c_float(scale))
