from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import pytest

from pytest_avo.evaluation.diagnosis.compile import LaunchReport, Record, ShapeError
from tests import ROOT
from tests.warm import run_module

SM90 = ROOT / "kernels" / "sm90"
COMPILE = "pytest_avo.evaluation.diagnosis.compile"

COPY = """
import torch
import triton
import triton.language as tl

SM_COUNT = torch.cuda.get_device_properties(0).multi_processor_count

@triton.jit
def copy(source, target, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at, mask=at < size), mask=at < size)

def attention(q, k, v, *, causal, scale):
    print("noise on standard output")
    assert q.is_cuda
    if causal:
        raise NotImplementedError("full attention only")
    out = torch.empty(q.shape, dtype=q.dtype, device="cuda")
    copy[(triton.cdiv(q.numel(), 1024),)](q, out, q.numel(), BLOCK=1024)
    copy[(triton.cdiv(q.numel(), 1024),)](k, out, q.numel(), BLOCK=1024)
    copy[(SM_COUNT,)](v, out, q.numel(), BLOCK=1024)
    return out
"""

GREEDY = """
import torch
import triton
import triton.language as tl

@triton.jit
def first(x, y, SIZE: tl.constexpr):
    short, long = tl.arange(0, 128), tl.arange(0, SIZE)
    product = tl.dot(tl.load(x + short[:, None] * SIZE + long), tl.load(y + long[:, None] * 128 + short))
    tl.store(x + short[:, None] * 128 + short, product.to(tl.bfloat16))

@triton.jit
def second(x, y, SIZE: tl.constexpr):
    short, long = tl.arange(0, 128), tl.arange(0, SIZE)
    product = tl.dot(tl.load(x + short[:, None] * SIZE + long), tl.load(y + long[:, None] * 128 + short))
    tl.store(x + short[:, None] * 128 + short, product.to(tl.bfloat16))

@triton.autotune(configs=[triton.Config({}, num_warps=warps) for warps in (1, 2)], key=[])
@triton.jit
def fallback(x):
    tl.store(x, 1.0)

def attention(q, k, v, *, causal, scale):
    try:
        first[(1,)](q, k, SIZE=512, num_warps=8)
    except triton.runtime.errors.OutOfResources:
        pass
    if causal:
        fallback[(1,)](q)
    else:
        second[(1,)](q, k, SIZE=512, num_warps=8)
    return q
"""

BELOW_THE_WRAPPER = """
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

@triton.jit
def twice(source, target, ROWS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * 128 + tl.arange(0, 128)
    tl.store(target + at, source.load([0, 0]) * 2)

def attention(q, k, v, *, causal, scale):
    out = torch.empty_like(q)
    rows = TensorDescriptor(q, [q.numel() // 128, 128], [128, 1], [16, 128])
    kernel = twice.warmup(rows, out, ROWS=16, grid=(1,))
    run, driver = kernel.run, triton.runtime.driver.active
    kept = dict(zip(run.launch.__code__.co_freevars, (cell.cell_contents for cell in run.launch.__closure__)))
    (meta,), stream = kept["tensordesc_meta"], driver.get_current_stream(q.device.index)
    encoded = driver.utils.fill_tma_descriptor(q.data_ptr(), meta["swizzle"], meta["elem_size"])
    fixed = run.launch_cooperative_grid, run.launch_pdl, None, None, kernel.packed_metadata, None, None, None
    kept["launcher"](7, 1, 1, stream, kernel.function, *fixed, encoded, out.data_ptr(), 16)
    return out
"""


def shape(**changes: Any) -> dict[str, Any]:
    base = {
        "batch": 1, "heads_q": 16, "heads_kv": 16, "seqlen_q": 1024, "seqlen_kv": 1024, "head_dim": 128,
        "causal": False, "dtype": "bf16", "scale": 0.09,
    }  # fmt: skip
    return base | changes


def run(kernel: Path, shapes: str, cache: Path) -> CompletedProcess[bytes]:
    environment = {"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(cache)}
    arguments = [str(kernel), "--target", "sm90", "--shapes-json", "-"]
    return run_module(COMPILE, arguments, stdin=shapes.encode(), environment=environment)


def compiled(kernel: Path, shapes: list[dict[str, Any]], cache: Path) -> list[Record]:
    finished = run(kernel, json.dumps(shapes), cache)
    assert finished.returncode == 0, finished.stderr.decode()
    return [msgspec.json.decode(line, type=Record) for line in finished.stdout.splitlines()]


def launches(records: list[Record]) -> list[LaunchReport]:
    assert not [record for record in records if isinstance(record, ShapeError)]
    return [record for record in records if isinstance(record, LaunchReport)]


def test_reports_each_different_launch_of_each_shape(tmp_path: Path) -> None:
    kernel = tmp_path / "copy.py"
    kernel.write_text(COPY)

    records = compiled(kernel, [shape(), shape(batch=2), shape(causal=True), shape()], tmp_path / "cache")

    first, persistent, *of_second, refused, again, _ = records
    assert isinstance(first, LaunchReport)
    assert (first.kernel, first.grid, first.num_warps, first.failures) == ("copy", (2048, 1, 1), 4, ())
    assert 0 < first.registers <= 255
    assert first.wgmma_count == first.local_loads == first.local_stores == first.shared_bytes == 0
    assert persistent == msgspec.structs.replace(first, grid=(132, 1, 1)), "the module saw an H200 when it was imported"
    assert of_second == [
        msgspec.structs.replace(first, shape=1, grid=(4096, 1, 1)),
        msgspec.structs.replace(first, shape=1, grid=(132, 1, 1)),
    ]
    assert refused == ShapeError(shape=2, error="NotImplementedError: full attention only", refused=True)
    assert again == msgspec.structs.replace(first, shape=3)
    assert len(list((tmp_path / "cache").rglob("*.cubin"))) == 1, "equal launches are compiled once"


def test_a_launch_below_tritons_wrapper_is_one_too(tmp_path: Path) -> None:
    kernel = tmp_path / "below.py"
    kernel.write_text(BELOW_THE_WRAPPER)
    (launch,) = launches(compiled(kernel, [shape()], tmp_path / "cache"))
    assert (launch.kernel, launch.grid) == ("twice", (7, 1, 1))
    assert launch.constants[0] == ("ROWS", "16")


def test_a_file_that_does_not_import_is_the_error_of_every_shape(tmp_path: Path) -> None:
    kernel = tmp_path / "broken.py"
    kernel.write_text("import nosuchmodule\n")
    found = compiled(kernel, [shape(), shape(batch=2)], tmp_path / "cache")
    assert found == [ShapeError(index, "ModuleNotFoundError: No module named 'nosuchmodule'") for index in (0, 1)]


def test_spills_and_serialised_wgmma_are_failures(tmp_path: Path) -> None:
    kernel = tmp_path / "spills.py"
    source = (SM90 / "naive.py").read_text()
    source = source.replace("\nBLOCK_N = 64", "\nBLOCK_N = 128")
    kernel.write_text(source.replace("\nNUM_WARPS = 8", "\nNUM_WARPS = 4"))

    (launch,) = launches(compiled(kernel, [shape()], tmp_path / "cache"))

    assert launch.spill_stores > 0
    assert launch.local_stores > 0
    assert launch.wgmma_serialized
    assert launch.failures == (
        f"registers spilled: {launch.spill_stores} bytes stored, {launch.spill_loads} bytes loaded",
        "wgmma serialised by ptxas",
    )


def test_too_much_shared_memory_is_a_failure_of_every_such_shape(tmp_path: Path) -> None:
    kernel = tmp_path / "greedy.py"
    source = (SM90 / "naive.py").read_text()
    source = source.replace("\nBLOCK_N = 64", "\nBLOCK_N = 128")
    kernel.write_text(source.replace("\nNUM_STAGES = 2", "\nNUM_STAGES = 4"))

    first, second = launches(compiled(kernel, [shape(), shape(batch=2)], tmp_path / "cache"))

    assert first.grid is None
    assert first.shared_bytes > 232448
    assert f"shared memory {first.shared_bytes} bytes, over the limit of 232448" in first.failures
    assert second == msgspec.structs.replace(first, shape=1)


def test_a_refused_launch_is_told_from_another_that_needs_as_much(tmp_path: Path) -> None:
    """Triton raises a copy of its first error at later launches; what is caught is no launch of the shape."""
    kernel = tmp_path / "greedy.py"
    kernel.write_text(GREEDY)
    shapes = [shape(), shape(causal=True), shape(batch=2)]
    first, caught, tried, again = compiled(kernel, shapes, tmp_path / "cache")
    assert isinstance(first, LaunchReport)
    assert (first.kernel, first.grid) == ("second", None)
    assert first.constants == (("SIZE", "512"), ("num_stages", "3"))
    assert first.failures == (f"shared memory {first.shared_bytes} bytes, over the limit of 232448",)
    assert isinstance(caught, LaunchReport)
    assert (caught.kernel, caught.grid, caught.num_warps, caught.tried) == ("fallback", (1, 1, 1), 1, False)
    assert isinstance(tried, LaunchReport)
    assert (tried.kernel, tried.num_warps, tried.tried) == ("fallback", 2, True)
    assert again == msgspec.structs.replace(first, shape=2)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ("[{}]", "missing required field `batch` - at `$[0]`"),
        (json.dumps([shape(dtype="fp8")]), "Invalid enum value 'fp8' - at `$[0].dtype`"),
        ("nonsense", "JSON is malformed"),
    ],
)
def test_a_wrong_list_of_shapes_is_a_usage_error(shapes: str, message: str, tmp_path: Path) -> None:
    finished = run(SM90 / "naive.py", shapes, tmp_path / "cache")
    assert finished.returncode == 2
    assert message in finished.stderr.decode()
