"""CUDA C++ in the compile report, as nvcc builds it from a kernel's own host code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from pytest_avo.evaluation.diagnosis.compile import LaunchReport, Record, ShapeError, ShapeUnknown
from pytest_avo.evaluation.diagnosis.nvcc import functions, plain_name
from tests.warm import run_module

from .test_compile import COMPILE, shape

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
KERNEL = r'''
import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

AVO = {"target": "sm90", "shapes": ["one"]}
FLAGS = ["-std=c++17", "-O3", "-gencode=arch=compute_90a,code=sm_90a", "-shared", "-Xcompiler", "-fPIC"]
SOURCE = r"""
using bf16 = unsigned short;  // the header of the type itself takes seconds to compile
__device__ float wide(bf16 x) { return __uint_as_float((unsigned)x << 16); }
__device__ bf16 narrow(float x) { return __float_as_uint(x) >> 16; }
namespace {
template <int D> __global__ void attend(const bf16* q, bf16* out, long size) {
  __shared__ float row[D];
  long at = blockIdx.x * (long)blockDim.x + threadIdx.x;
  BODY
  row[threadIdx.x % D] = at < size ? wide(q[at]) : 0.f;
  __syncthreads();
  if (at < size) out[at] = narrow(row[threadIdx.x % D]);
}
}
extern "C" int launch(const void* q, void* out, long size, void* stream) {
  attend<HEAD_DIM><<<(size + 255) / 256, 256, 0, (cudaStream_t)stream>>>(
      (const bf16*)q, (bf16*)out, size);
  return (int)cudaGetLastError();
}
"""


@cache
def library(head_dim):
    folder = Path(tempfile.mkdtemp())
    (folder / "kernel.cu").write_text(SOURCE)
    command = ["nvcc", *FLAGS, f"-DHEAD_DIM={head_dim}", str(folder / "kernel.cu"), "-o", str(folder / "kernel.so")]
    subprocess.run(command, check=True, capture_output=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


def attention(q, k, v, *, causal, scale):
    if causal:
        raise NotImplementedError("full attention only")
    out = torch.empty(q.shape, dtype=q.dtype, device="cuda")
    launch = library(q.shape[-1]).launch
    launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p]
    if error := launch(q.data_ptr(), out.data_ptr(), q.numel(), torch.cuda.current_stream().cuda_stream):
        raise RuntimeError(f"launch failed: {error}")
    return out
'''
SPILLS = """
  float x[96];
  for (int i = 0; i < 96; ++i) x[i] = wide(q[at + i]);
  for (int j = 0; j < 96; ++j) for (int i = 0; i < 96; ++i) x[i] = x[i] * x[95 - i] + x[j];
  for (int i = 0; i < 96; ++i) out[at + i] = narrow(x[i]);
"""


def compiled(source: str, folder: Path, *shapes: dict[str, object], path: str = "") -> list[Record]:
    kernel = folder / "kernel.py"
    kernel.write_text(source)
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {"PATH": path or os.environ["PATH"], "TMPDIR": str(scratch), "TRITON_CACHE_DIR": str(scratch)}
    arguments = [str(kernel), "--target", "sm90", "--shapes-json", "-"]
    finished = run_module(COMPILE, arguments, stdin=json.dumps(shapes).encode(), environment=environment)
    assert finished.returncode == 0, finished.stderr.decode()
    return [msgspec.json.decode(line, type=Record) for line in finished.stdout.splitlines()]


@needs_nvcc
def test_what_nvcc_built_is_reported_for_each_shape_that_calls_it(tmp_path: Path) -> None:
    source = KERNEL.replace("BODY", "")
    shapes = shape(head_dim=64), shape(head_dim=128), shape(causal=True), shape(head_dim=64, batch=2)
    first, second, refused, again = compiled(source, tmp_path, *shapes)
    assert isinstance(first, LaunchReport)
    assert (first.kernel, first.shared_bytes, first.num_warps, first.grid) == ("attend", 256, None, None)
    assert first.registers > 0
    assert first.failures == ()
    assert isinstance(second, LaunchReport)
    assert second.shared_bytes == 512
    assert (first.constants, second.constants) == ((("<0>", "64"),), (("<0>", "128"),))
    assert first.code != second.code
    assert refused == ShapeError(2, "NotImplementedError: full attention only", refused=True)
    assert again == msgspec.structs.replace(first, shape=3), "built once, and called again"


@needs_nvcc
def test_spills_of_cuda_are_failures(tmp_path: Path) -> None:
    source = KERNEL.replace("BODY", SPILLS).replace('"-O3"', '"-O3", "-maxrregcount=32"')
    (launch,) = compiled(source, tmp_path, shape())
    assert isinstance(launch, LaunchReport)
    assert launch.registers <= 32
    assert launch.local_stores > 0
    expected = f"registers spilled: {launch.spill_stores} bytes stored, {launch.spill_loads} bytes loaded"
    assert launch.failures == (expected,)


@needs_nvcc
def test_an_error_of_the_compiler_is_the_message(tmp_path: Path) -> None:
    (error,) = compiled(KERNEL.replace("BODY", "nonsense;"), tmp_path, shape())
    assert isinstance(error, ShapeError)
    assert 'identifier "nonsense" is undefined' in error.error


@needs_nvcc
def test_too_much_static_shared_memory_is_said_by_the_compiler(tmp_path: Path) -> None:
    much = "__shared__ float much[60000]; much[at % 60000] = at; __syncthreads(); out[at] = much[at * 7 % 60000];"
    (error,) = compiled(KERNEL.replace("BODY", much), tmp_path, shape())
    assert isinstance(error, ShapeError)
    assert "uses too much shared data" in error.error


def test_without_nvcc_nothing_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "cat", "mktemp"):
        (folder / tool).symlink_to(shutil.which(tool) or "")
    found = compiled(KERNEL.replace("BODY", ""), tmp_path, shape(), path=str(folder))
    assert found == [ShapeUnknown(0, "needs nvcc, which is not on PATH")]


def test_a_warning_is_held_against_the_function_that_it_names() -> None:
    log = """\
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to X in function\
 'two'
ptxas info    : Compiling entry function 'one' for 'sm_90a'
    0 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compiling entry function 'two' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
"""
    listing = "Function : two\n /*0010*/ HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;\n"
    one, two = functions(log, listing)
    assert one.key != two.key
    assert (one.name, one.shared_bytes, one.assembly.registers) == ("one", 1024, 168)
    assert (one.assembly.spill_stores_bytes, one.assembly.spill_loads_bytes) == (8, 16)
    assert (one.assembly.wgmma_serialized, two.assembly.wgmma_serialized) == (False, True)
    assert two.assembly.opcodes["HGMMA"] == 1


@pytest.mark.parametrize(
    ("symbol", "name", "arguments"),
    [
        ("attend", "attend", ()),
        ("_Z6attendILi64EEvPf", "attend", ("64",)),
        ("_ZN12_GLOBAL__N_16attendILi64ELb1ELin2EEEvPf", "attend", ("64", "true", "-2")),
        ("_ZN2fa6kernel7forwardEv", "forward", ()),
        ("_Z6attendI13__nv_bfloat16EvPT_", "attend", ()),
    ],
)
def test_names_without_their_mangling(symbol: str, name: str, arguments: tuple[str, ...]) -> None:
    assert plain_name(symbol) == (name, arguments)
