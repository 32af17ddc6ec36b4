"""Attention for Hopper: a warp-specialised CUDA kernel for head dimension 128, plain Triton for everything else.

The CUDA kernel is compiled once with NVRTC (it comes with torch) and launched through the CUDA driver. Per block of 128
queries it runs three warpgroups. One thread of the first feeds shared memory by TMA: the queries once, keys and values
in a ring of STAGES tiles of 128 keys. The other two own 64 queries each and keep scores, probabilities and output in
registers. It is fast because

- both matrix products are asynchronous wgmma instructions on swizzled TMA tiles, the probabilities going from the
  score registers straight into the second product;
- the scores of the next tile are computed, and the output of the last one accumulated, while the softmax runs;
- with PING_PONG the two consumers take turns at the tensor cores, so that the softmax of one hides behind the products
  of the other;
- only tiles that cross the diagonal or the end of the keys are masked, and a causal problem starts its longest blocks
  first.

Triton takes other head dimensions, strides or addresses that TMA cannot read, scales that are not positive, causal
problems with fewer keys than queries, other devices, and everything if NVRTC cannot build the kernel (a warning says so).
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
import warnings

import torch
import triton
import triton.language as tl

AVO = {"target": "sm90", "shapes": ["mha"]}

STAGES = 2
PING_PONG = 1

TUNABLES = {
    "STAGES": [2, 3],
    "PING_PONG": [0, 1],
}

LOG2_E = 1.4426950408889634

# Queries per block and keys per step of the CUDA kernel, and the bytes of such a tile of 128 columns.
TILE = 128
TILE_BYTES = 32768
THREADS = 384

CUDA_SOURCE = r"""
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int STAGES = @STAGES@;
constexpr bool PING_PONG = @PING_PONG@;
constexpr bool CAUSAL = @CAUSAL@;

constexpr int TILE = 128;
// A tile lies in shared memory as two halves of 64 columns: 128 rows of 128 bytes each, in the 128-byte swizzle.
constexpr u32 HALF_BYTES = TILE * 128;
constexpr u32 TILE_BYTES = 2 * HALF_BYTES;
constexpr u32 K_OFFSET = TILE_BYTES;
constexpr u32 V_OFFSET = TILE_BYTES * (1 + STAGES);
constexpr u32 Q_FULL = TILE_BYTES * (1 + 2 * STAGES);
constexpr u32 K_FULL = Q_FULL + 8;
constexpr u32 K_EMPTY = K_FULL + 8 * STAGES;
constexpr u32 V_FULL = K_EMPTY + 8 * STAGES;
constexpr u32 V_EMPTY = V_FULL + 8 * STAGES;
constexpr u32 CONSUMER_WARPS = 8;

struct alignas(64) TensorMap { u64 words[16]; };

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    u32 address;
    asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }"
        : "=r"(address) : "l"(reinterpret_cast<u64>(pointer)));
    return address;
}

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{ .reg .pred done; mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2; selp.u32 %0, 1, 0, done; }"
            : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    } while (!done);
}

__device__ __forceinline__ void load_half(u32 to, u64 map, u32 barrier, int column, int row, int head, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
        :: "r"(to), "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(head), "r"(batch) : "memory");
}

// Start the load of 128 rows; rows past the end arrive as zeros and count as loaded bytes.
__device__ __forceinline__ void load_tile(u32 to, u64 map, u32 barrier, int row, int head, int batch) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(TILE_BYTES) : "memory");
    load_half(to, map, barrier, 0, row, head, batch);
    load_half(to + HALF_BYTES, map, barrier, 64, row, head, batch);
}

// Describe a swizzled operand of wgmma: address, leading and stride byte offsets in units of 16 bytes, 128-byte swizzle.
__device__ __forceinline__ u64 describe(u32 address, u32 leading, u32 stride) {
    return (u64)((address & 0x3ffff) >> 4) | ((u64)(leading >> 4) << 16) | ((u64)(stride >> 4) << 32) | (1ull << 62);
}

// d (64 x 128) = a b, or d += a b: a and b in shared memory, both with the summed dimension contiguous.
__device__ __forceinline__ void wgmma_shared(float (&d)[64], u64 a, u64 b, int accumulate) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %66, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.@ELEM@.@ELEM@ {@REGS@}, %64, %65, p, 1, 1, 0, 0; }"
        : @OPERANDS@
        : "l"(a), "l"(b), "r"(accumulate));
}

// d (64 x 128) += a b: a in registers, b in shared memory with the columns of the result contiguous.
__device__ __forceinline__ void wgmma_registers(float (&d)[64], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %69, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.@ELEM@.@ELEM@ {@REGS@}, {%64, %65, %66, %67}, %68, p, 1, 1, 1; }"
        : @OPERANDS@
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(1));
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}

// Keep the compiler from moving reads and writes of these registers across this point.
__device__ __forceinline__ void pin(float (&x)[64]) {
    #pragma unroll
    for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(x[i]) :: "memory");
}

__device__ __forceinline__ void start_scores(float (&s)[64], u64 q, u64 k) {
    pin(s);
    wgmma_fence();
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
        const u64 step = (i >> 2) * (HALF_BYTES >> 4) + (i & 3) * 2;
        wgmma_shared(s, q + step, k + step, i != 0);
    }
    wgmma_commit();
}

__device__ __forceinline__ void start_output(float (&o)[64], u32 (&p)[32], u64 v) {
    pin(o);
    wgmma_fence();
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
        wgmma_registers(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], v + i * (16 * 128 >> 4));
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
    asm("cvt.rn.@ELEM@x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// A thread holds two rows, 8 apart: s[4 i + 2 r + e] is row r, column 8 i + 2 (lane % 4) + e.
// visible[r] is the number of keys that row r sees, less the tile's first key and the thread's first column.
__device__ __forceinline__ void hide(float (&s)[64], int visible0, int visible1) {
    const float nothing = __int_as_float(0xff800000);
    #pragma unroll
    for (int i = 0; i < 16; ++i) {
        #pragma unroll
        for (int e = 0; e < 2; ++e) {
            s[4 * i + e] = 8 * i + e < visible0 ? s[4 * i + e] : nothing;
            s[4 * i + 2 + e] = 8 * i + e < visible1 ? s[4 * i + 2 + e] : nothing;
        }
    }
}

// Turn scores into unnormalised probabilities, update maximum and (per-thread) sum, give the factor for older output.
// The first tile holds a visible key for every row, so that the maximum is finite.
__device__ __forceinline__ void softmax(
    float (&s)[64], float (&row_max)[2], float (&row_sum)[2], float (&rescale)[2], float scale_log2) {
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
        float even = row_max[r];
        float odd = s[2 * r + 1];
        #pragma unroll
        for (int i = 0; i < 16; ++i) {
            even = fmaxf(even, s[4 * i + 2 * r]);
            odd = fmaxf(odd, s[4 * i + 2 * r + 1]);
        }
        float top = fmaxf(even, odd);
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float base = top * scale_log2;
        rescale[r] = exp2_fast(row_max[r] * scale_log2 - base);
        row_max[r] = top;
    }
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float base = row_max[r] * scale_log2;
        float even = 0.0f;
        float odd = 0.0f;
        #pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int at = 4 * i + 2 * r;
            s[at] = exp2_fast(fmaf(s[at], scale_log2, -base));
            s[at + 1] = exp2_fast(fmaf(s[at + 1], scale_log2, -base));
            even += s[at];
            odd += s[at + 1];
        }
        row_sum[r] = row_sum[r] * rescale[r] + (even + odd);
    }
}

__device__ __forceinline__ void pack_all(u32 (&p)[32], float (&s)[64]) {
    #pragma unroll
    for (int i = 0; i < 32; ++i) p[i] = pack(s[2 * i], s[2 * i + 1]);
}

// One turn of a consumer: scores of tile j, output of tile j - 1, softmax of tile j.
template <bool MASKED>
__device__ __forceinline__ void turn(
    u32 j, u32 base, u32 consumer, u32 lane, u64 q, int visible0, int visible1, float scale_log2,
    float (&s)[64], u32 (&p)[32], float (&o)[64], float (&row_max)[2], float (&row_sum)[2]) {
    const u32 k_stage = j % STAGES;
    const u32 v_stage = (j - 1) % STAGES;
    barrier_wait(base + K_FULL + 8 * k_stage, (j / STAGES) & 1);
    if (PING_PONG) asm volatile("bar.sync %0, 256;" :: "r"(1 + consumer) : "memory");
    start_scores(s, q, describe(base + K_OFFSET + k_stage * TILE_BYTES, 16, 1024));
    barrier_wait(base + V_FULL + 8 * v_stage, ((j - 1) / STAGES) & 1);
    start_output(o, p, describe(base + V_OFFSET + v_stage * TILE_BYTES, HALF_BYTES, 1024));
    if (PING_PONG) asm volatile("bar.arrive %0, 256;" :: "r"(2 - consumer) : "memory");

    wgmma_wait<1>();
    pin(s);
    if (lane == 0) barrier_arrive(base + K_EMPTY + 8 * k_stage);
    if (MASKED) hide(s, visible0 - (int)j * TILE, visible1 - (int)j * TILE);
    float rescale[2];
    softmax(s, row_max, row_sum, rescale, scale_log2);
    pin(s);

    wgmma_wait<0>();
    pin(o);
    if (lane == 0) barrier_arrive(base + V_EMPTY + 8 * v_stage);
    pack_all(p, s);
    #pragma unroll
    for (int i = 0; i < 64; ++i) o[i] *= rescale[(i >> 1) & 1];
}

extern "C" __global__ void __launch_bounds__(384, 1) attend_hopper(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
    const __grid_constant__ TensorMap v_map, u32* out,
    int heads_q, int group, int seqlen_q, int seqlen_kv, float scale_log2) {
    extern __shared__ unsigned char shared_memory[];
    const u32 base = (shared_address(shared_memory) + 1023u) & ~1023u;
    const int warpgroup = __shfl_sync(0xffffffffu, (int)(threadIdx.x / 128), 0);

    const int tile = CAUSAL ? (int)(gridDim.x - 1 - blockIdx.x) : (int)blockIdx.x;
    const int first_row = tile * TILE;
    const int shift = seqlen_kv - seqlen_q;
    const int end = CAUSAL ? min(seqlen_kv, first_row + TILE + shift) : seqlen_kv;
    const int tiles = (end + TILE - 1) / TILE;

    if (threadIdx.x == 0) {
        barrier_init(base + Q_FULL, 1);
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(base + K_FULL + 8 * i, 1);
            barrier_init(base + K_EMPTY + 8 * i, CONSUMER_WARPS);
            barrier_init(base + V_FULL + 8 * i, 1);
            barrier_init(base + V_EMPTY + 8 * i, CONSUMER_WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async;" ::: "memory");
    }
    __syncthreads();

    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            const int batch = blockIdx.y / heads_q;
            const int head = blockIdx.y % heads_q;
            const int head_kv = head / group;
            const u64 q_from = reinterpret_cast<u64>(&q_map);
            const u64 k_from = reinterpret_cast<u64>(&k_map);
            const u64 v_from = reinterpret_cast<u64>(&v_map);
            load_tile(base, q_from, base + Q_FULL, first_row, head, batch);
            // Values follow their keys one tile later, in the order in which the consumers need them.
            for (int j = 0; j <= tiles; ++j) {
                if (j < tiles) {
                    const u32 stage = (u32)j % STAGES;
                    barrier_wait(base + K_EMPTY + 8 * stage, (((u32)j / STAGES) & 1) ^ 1);
                    load_tile(base + K_OFFSET + stage * TILE_BYTES, k_from, base + K_FULL + 8 * stage, j * TILE,
                              head_kv, batch);
                }
                if (j > 0) {
                    const u32 stage = (u32)(j - 1) % STAGES;
                    barrier_wait(base + V_EMPTY + 8 * stage, (((u32)(j - 1) / STAGES) & 1) ^ 1);
                    load_tile(base + V_OFFSET + stage * TILE_BYTES, v_from, base + V_FULL + 8 * stage, (j - 1) * TILE,
                              head_kv, batch);
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        const u32 consumer = warpgroup - 1;
        const u32 lane = threadIdx.x % 32;
        const int consumer_row = first_row + (int)consumer * 64;
        const int row = consumer_row + (int)((threadIdx.x % 128) / 32) * 16 + (int)(lane / 4);
        const int column = 2 * (int)(lane % 4);
        const int visible0 = (CAUSAL ? min(seqlen_kv, row + shift + 1) : seqlen_kv) - column;
        const int visible1 = (CAUSAL ? min(seqlen_kv, row + 8 + shift + 1) : seqlen_kv) - column;
        // Tiles before this one are visible as a whole to every row of the consumer.
        const int first_masked = (CAUSAL ? min(seqlen_kv, consumer_row + shift + 1) : seqlen_kv) / TILE;

        float s[64];
        float o[64];
        u32 p[32];
        #pragma unroll
        for (int i = 0; i < 64; ++i) {
            s[i] = 0.0f;
            o[i] = 0.0f;
        }
        float row_max[2] = {__int_as_float(0xff800000), __int_as_float(0xff800000)};
        float row_sum[2] = {0.0f, 0.0f};

        // The first consumer has the first turn.
        if (PING_PONG && consumer == 1) asm volatile("bar.arrive 1, 256;" ::: "memory");

        const u64 q = describe(base + consumer * 64 * 128, 16, 1024);
        barrier_wait(base + Q_FULL, 0);
        barrier_wait(base + K_FULL, 0);
        start_scores(s, q, describe(base + K_OFFSET, 16, 1024));
        wgmma_wait<0>();
        pin(s);
        if (lane == 0) barrier_arrive(base + K_EMPTY);
        if (first_masked == 0) hide(s, visible0, visible1);
        float unused[2];
        softmax(s, row_max, row_sum, unused, scale_log2);
        pack_all(p, s);

        int j = 1;
        for (; j < first_masked; ++j) {
            turn<false>(j, base, consumer, lane, q, visible0, visible1, scale_log2, s, p, o, row_max, row_sum);
        }
        for (; j < tiles; ++j) {
            turn<true>(j, base, consumer, lane, q, visible0, visible1, scale_log2, s, p, o, row_max, row_sum);
        }

        const u32 last = tiles - 1;
        const u32 last_stage = last % STAGES;
        barrier_wait(base + V_FULL + 8 * last_stage, (last / STAGES) & 1);
        start_output(o, p, describe(base + V_OFFSET + last_stage * TILE_BYTES, HALF_BYTES, 1024));
        wgmma_wait<0>();
        pin(o);

        #pragma unroll
        for (int r = 0; r < 2; ++r) {
            float sum = row_sum[r];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const float factor = 1.0f / sum;
            const int out_row = row + 8 * r;
            if (out_row < seqlen_q) {
                u32* to = out + ((long long)blockIdx.y * seqlen_q + out_row) * 64 + lane % 4;
                #pragma unroll
                for (int i = 0; i < 16; ++i) {
                    to[4 * i] = pack(o[4 * i + 2 * r] * factor, o[4 * i + 2 * r + 1] * factor);
                }
            }
        }
    }
}
"""


@functools.cache
def cuda_driver() -> ctypes.CDLL:
    """The CUDA driver's library."""
    return ctypes.CDLL("libcuda.so.1")


def check(code: int, what: str) -> None:
    """Raise if a call into the driver or the compiler has failed."""
    if code != 0:
        raise RuntimeError(f"{what} failed with code {code}")


@functools.cache
def load_nvrtc() -> ctypes.CDLL:
    """The runtime compiler that comes with torch, or the one of an installed toolkit."""
    major = (torch.version.cuda or "12").split(".")[0]
    site = pathlib.Path(torch.__file__).resolve().parents[1]
    found = sorted(site.glob(f"nvidia/*/lib/libnvrtc.so.{major}*"))
    found += sorted(pathlib.Path("/usr/local").glob(f"cuda*/lib64/libnvrtc.so.{major}*"))
    for path in found:
        try:
            for builtins in sorted(path.parent.glob("libnvrtc-builtins.so*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return ctypes.CDLL(f"libnvrtc.so.{major}")


def compile_cuda(element: str, causal: bool) -> bytes:
    """Compile the CUDA kernel for one element type and mask to a binary for sm_90a."""
    values = {
        "@STAGES@": str(STAGES),
        "@PING_PONG@": "true" if PING_PONG else "false",
        "@CAUSAL@": "true" if causal else "false",
        "@ELEM@": element,
        "@REGS@": ", ".join(f"%{i}" for i in range(64)),
        "@OPERANDS@": ", ".join(f'"+f"(d[{i}])' for i in range(64)),
    }
    source = CUDA_SOURCE
    for name, value in values.items():
        source = source.replace(name, value)
    nvrtc = load_nvrtc()
    program = ctypes.c_void_p()
    check(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"attend_hopper.cu", 0, None, None),
        "nvrtcCreateProgram",
    )
    options = (ctypes.c_char_p * 2)(b"--gpu-architecture=sm_90a", b"--std=c++17")
    if nvrtc.nvrtcCompileProgram(program, 2, options) != 0:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value + 1)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.value.decode(errors="replace"))
    size = ctypes.c_size_t()
    check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "nvrtcGetCUBINSize")
    binary = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetCUBIN(program, binary), "nvrtcGetCUBIN")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return binary.raw


def shared_bytes() -> int:
    """Shared memory of the CUDA kernel: the tiles, their barriers and room to align them."""
    return TILE_BYTES * (1 + 2 * STAGES) + 8 * (1 + 4 * STAGES) + 1024


@functools.cache
def cuda_kernel(device: int, element: str, causal: bool) -> ctypes.c_void_p | None:
    """The CUDA kernel loaded on the current device, or None (with a warning) if it cannot be built there."""
    try:
        binary = compile_cuda(element, causal)
        driver = cuda_driver()
        module = ctypes.c_void_p()
        check(driver.cuModuleLoadData(ctypes.byref(module), binary), "cuModuleLoadData")
        function = ctypes.c_void_p()
        check(driver.cuModuleGetFunction(ctypes.byref(function), module, b"attend_hopper"), "cuModuleGetFunction")
        # 8 is CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
        check(driver.cuFuncSetAttribute(function, 8, shared_bytes()), "cuFuncSetAttribute")
    except (OSError, RuntimeError, AttributeError) as error:
        warnings.warn(f"no CUDA kernel, Triton computes instead: {error}", stacklevel=2)
        return None
    return function


@functools.cache
def is_hopper(device: int) -> bool:
    """Whether the device runs code for sm_90a."""
    return torch.cuda.get_device_capability(device) == (9, 0)


def byte_strides(tensor: torch.Tensor) -> list[int] | None:
    """Strides in bytes of sequence, head and batch as TMA wants them, or None if it cannot read the tensor."""
    strides = []
    for dim in (2, 1, 0):
        # The stride of a dimension of one element is never used and may be anything.
        stride = 2 * tensor.stride(dim) if tensor.shape[dim] > 1 else 256
        if stride <= 0 or stride % 16 or stride >= 2**40:
            return None
        strides.append(stride)
    return None if tensor.data_ptr() % 16 or tensor.stride(3) != 1 else strides


def encode_map(address: int, tensor: torch.Tensor, strides: list[int]) -> int:
    """Write the TMA description of boxes of 128 rows and 64 columns to address; the driver's code, 0 if all is well."""
    batch, heads, seqlen, head_dim = tensor.shape
    # CUtensorMapDataType: 9 is bfloat16, 6 is float16. Then: no interleave, 128-byte swizzle, 128-byte L2 promotion,
    # zeros out of bounds.
    return cuda_driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(address),
        ctypes.c_int(9 if tensor.dtype == torch.bfloat16 else 6),
        ctypes.c_uint32(4),
        ctypes.c_void_p(tensor.data_ptr()),
        (ctypes.c_uint64 * 4)(head_dim, seqlen, heads, batch),
        (ctypes.c_uint64 * 3)(*strides),
        (ctypes.c_uint32 * 4)(64, TILE, 1, 1),
        (ctypes.c_uint32 * 4)(1, 1, 1, 1),
        ctypes.c_int(0),
        ctypes.c_int(3),
        ctypes.c_int(2),
        ctypes.c_int(0),
    )


def attend_cuda(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, causal: bool, scale: float
) -> bool:
    """Fill out with the CUDA kernel; False, with nothing launched, if the problem is not one of its kind."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    if not q.is_cuda or not is_hopper(q.device.index) or head_dim != 128 or batch * heads_q > 65535:
        return False
    # It takes the maximum before it scales, and relies on every row seeing the first key.
    if scale < 1e-30 or seqlen_kv == 0 or (causal and seqlen_kv < seqlen_q):
        return False
    with torch.cuda.device(q.device):
        element = "bf16" if q.dtype == torch.bfloat16 else "f16"
        function = cuda_kernel(q.device.index, element, bool(causal))
        if function is None:
            return False
        # A tensor map has 128 bytes and must be aligned; the launch copies it.
        buffer = (ctypes.c_uint8 * (4 * 128))()
        first_map = (ctypes.addressof(buffer) + 127) // 128 * 128
        maps = [first_map + 128 * i for i in range(3)]
        for address, tensor in zip(maps, (q, k, v)):
            strides = byte_strides(tensor)
            if strides is None or encode_map(address, tensor, strides) != 0:
                return False
        values = [
            ctypes.c_void_p(out.data_ptr()),
            ctypes.c_int(heads_q),
            ctypes.c_int(heads_q // heads_kv),
            ctypes.c_int(seqlen_q),
            ctypes.c_int(seqlen_kv),
            ctypes.c_float(scale * LOG2_E),
        ]
        addresses = maps + [ctypes.addressof(value) for value in values]
        parameters = (ctypes.c_void_p * len(addresses))(*addresses)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        code = cuda_driver().cuLaunchKernel(
            function,
            ctypes.c_uint(triton.cdiv(seqlen_q, TILE)), ctypes.c_uint(batch * heads_q), ctypes.c_uint(1),
            ctypes.c_uint(THREADS), ctypes.c_uint(1), ctypes.c_uint(1),
            ctypes.c_uint(shared_bytes()), stream, parameters, None,
        )  # fmt: skip
        check(code, "cuLaunchKernel")
    return True


@triton.jit
def walk_keys(
    acc, row_max, row_sum, q, k_ptr, v_ptr, k_stride_s, v_stride_s, begin, end, rows, shift, seqlen_kv, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Attend to the keys from begin to end; without MASKED every row must see all of them."""
    dims = tl.arange(0, HEAD_DIM)
    lanes = tl.arange(0, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        cols = start + lanes
        offsets = cols[:, None].to(tl.int64)
        k_ptrs = k_ptr + offsets * k_stride_s + dims[None, :]
        v_ptrs = v_ptr + offsets * v_stride_s + dims[None, :]
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
    return acc, row_max, row_sum


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
    """Write BLOCK_M rows of the output of one query head; causal blocks start with the longest."""
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

    shift = seqlen_kv - seqlen_q
    end = seqlen_kv
    first_masked = seqlen_kv // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = tl.minimum(seqlen_kv, first_row + BLOCK_M + shift)
        first_masked = tl.maximum(tl.minimum(seqlen_kv, first_row + shift + 1), 0) // BLOCK_N * BLOCK_N

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    acc, row_max, row_sum = walk_keys(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_stride_s, v_stride_s, 0, first_masked, rows, shift, seqlen_kv,
        scale_log2, HEAD_DIM, BLOCK_N, CAUSAL, False,
    )  # fmt: skip
    acc, row_max, row_sum = walk_keys(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_stride_s, v_stride_s, first_masked, end, rows, shift, seqlen_kv,
        scale_log2, HEAD_DIM, BLOCK_N, CAUSAL, True,
    )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_rows = rows[:, None].to(tl.int64) * o_stride_s
    tl.store(o_ptr + o_rows + dims[None, :], out.to(o_ptr.dtype.element_ty), mask=row_in_range)


def attend_triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, causal: bool, scale: float
) -> None:
    """Fill out with the Triton kernel."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    block_m = 128
    # The widest head leaves too few registers for a whole tile of scores beside its output.
    block_n = 64 if head_dim < 256 else 32
    grid = (triton.cdiv(seqlen_q, block_m), batch * heads_q)
    attend[grid](
        q, k, v, out,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads_q, heads_q // heads_kv, seqlen_q, seqlen_kv, scale * LOG2_E,
        HEAD_DIM=head_dim, BLOCK_M=block_m, BLOCK_N=block_n, CAUSAL=causal,
        num_warps=8, num_stages=2,
    )  # fmt: skip


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"dtype {q.dtype}: float16 and bfloat16 only")
    if q.shape[3] not in (16, 32, 64, 128, 256):
        raise NotImplementedError(f"head_dim {q.shape[3]}: a power of two from 16 to 256 only")
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if out.numel() > 0 and not attend_cuda(q, k, v, out, causal, scale):
        attend_triton(q, k, v, out, causal, scale)
    return out
