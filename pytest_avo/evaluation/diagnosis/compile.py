"""What a kernel compiles to, found without its GPU: registers, spills, shared memory, wgmma.

    python -m pytest_avo.evaluation.diagnosis.compile KERNEL.py --target sm90 --shapes-json -

reads a JSON list of shapes and writes JSON lines, each a `LaunchReport` or a `ShapeError` (decode them with `Record`).
It imports the kernel, so it has to run in a process of its own; importing this module costs neither torch nor triton.
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_avo.core.shape import DTYPE_NAMES, Shape
from pytest_avo.evaluation.diagnosis.confined import (
    command_line,
    confine,
    describe,
    is_refusal,
    load_attention,
    own_output,
)
from pytest_avo.evaluation.linux.python import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_avo.evaluation.diagnosis.nvcc import Function
    from pytest_avo.evaluation.diagnosis.sass import Assembly
    from pytest_avo.evaluation.kernel_process.dry_run import Launch, Specialisation

TRITON_OF_LIMITS = "3.6"
"""The Triton with which the limits on spills were tried: another one's ptxas puts other registers aside."""
SHARED_LIMITS_BYTES = {"sm90": 232448}
ARCHITECTURES = ("sm90",)


class LaunchReport(msgspec.Struct, frozen=True, tag="launch"):
    """One compiled launch of one shape.

    shape is the index in the list that was asked for. code is equal for launches of the same code, and constants are
    the names and values that it was compiled for. grid is None if the device would refuse the launch. registers are per
    thread at entry. wgmma_count, local_loads and local_stores count instructions in the machine code, hot_local the
    loads and stores in loops that multiply matrices. failures are what a kernel can be gated on, in words.

    Of CUDA C++ neither grid nor num_warps is known (None), and shared_bytes are the static ones: what a launch adds is
    asked for by host code that is not run.
    """

    shape: int
    kernel: str
    code: str
    constants: tuple[tuple[str, str], ...]
    grid: tuple[int, int, int] | None
    registers: int
    spill_stores: int
    spill_loads: int
    shared_bytes: int
    num_warps: int | None
    wgmma_count: int
    wgmma_serialized: bool
    local_loads: int
    local_stores: int
    hot_local: int
    failures: tuple[str, ...]
    tried: bool = False
    """An autotuner tried it and chose another: its failures are no failure of the shape."""


class ShapeError(msgspec.Struct, frozen=True, tag="error"):
    """A shape for which the kernel launched nothing, or failed before its launches were complete, and why."""

    shape: int
    error: str
    refused: bool = False
    """Whether attention() said that it does not do the shape, which only one that is claimed must not say."""


class ShapeUnknown(msgspec.Struct, frozen=True, tag="unknown"):
    """A shape of which this machine cannot say what it compiles to, and why."""

    shape: int
    reason: str


Record = LaunchReport | ShapeError | ShapeUnknown


def compile_kernel(path: Path, shapes: Sequence[Shape], *, target: str, folder: Path) -> Iterator[Record]:
    """Yield what each launch of attention() in the kernel file compiles to, shape by shape.

    Equal launches of different shapes are compiled once. Runs the kernel's code in this process and replaces Triton's
    driver for good. An error while importing the file is the error of every shape. `folder` is an empty one that is
    left to this call.
    """
    from pytest_avo.evaluation.diagnosis.nvcc import CudaBuilds
    from pytest_avo.evaluation.kernel_process.dry_run import DryRun

    @cache
    def analyse(specialisation: Specialisation) -> Assembly:
        from pytest_avo.evaluation.diagnosis.sass import assembly_of

        return assembly_of(specialisation.log, specialisation.cubin)

    def cost(specialisation: Specialisation) -> float:
        """By how much an autotuner is to avoid a configuration: for what fails, then for local memory in loops."""
        assembly = analyse(specialisation)
        failures = _figures(assembly, specialisation.shared_bytes, target)["failures"]
        return 1e6 * len(failures) + assembly.hot_local

    with DryRun(target, cost=cost) as run, CudaBuilds(folder) as builds:

        def failed(index: int, error: Exception) -> Record:
            if builds.is_missed:
                return ShapeUnknown(index, "needs nvcc, which is not on PATH")
            return ShapeError(index, describe(error), refused=is_refusal(error, path.absolute()))

        try:
            attention = load_attention(path)
        except Exception as error:
            yield from (failed(index, error) for index in range(len(shapes)))
            return
        for index, shape in enumerate(shapes):
            try:
                launches = run.launches(partial(call, attention, shape))
                reports = [report(index, launch, analyse(launch.specialisation), target) for launch in launches]
                reports += [cuda_report(index, function, target) for function in builds.called()]
            except Exception as error:
                yield failed(index, error)
                continue
            if not reports:
                expected = "expected a Triton or Gluon kernel, or a library that nvcc built and ctypes loads"
                yield ShapeError(index, f"attention() launched nothing: {expected}")
            yield from reports


def call(attention: Callable[..., Any], shape: Shape) -> None:
    """Call attention() on uninitialised CPU tensors of the shape, laid out as (batch, seqlen, heads, head_dim).

    Their memory is committed by the operating system on first use, so untouched inputs cost none.
    """
    import torch

    dtype = getattr(torch, DTYPE_NAMES[shape.dtype])
    q = torch.empty((shape.batch, shape.seqlen_q, shape.heads_q, shape.head_dim), dtype=dtype).transpose(1, 2)
    k = torch.empty((shape.batch, shape.seqlen_kv, shape.heads_kv, shape.head_dim), dtype=dtype).transpose(1, 2)
    attention(q, k, torch.empty_like(k), causal=shape.causal, scale=shape.softmax_scale)


def report(index: int, launch: Launch, assembly: Assembly, target: str) -> LaunchReport:
    """Put the figures of one launch together and name what is wrong with them."""
    specialisation = launch.specialisation
    return LaunchReport(
        shape=index,
        kernel=specialisation.kernel,
        code=specialisation.key,
        constants=specialisation.constants,
        grid=launch.grid,
        shared_bytes=specialisation.shared_bytes,
        num_warps=specialisation.num_warps,
        tried=launch.tried,
        **_figures(assembly, specialisation.shared_bytes, target),
    )


def cuda_report(index: int, function: Function, target: str) -> LaunchReport:
    """The report of one function that nvcc built."""
    return LaunchReport(
        shape=index,
        kernel=function.name,
        code=function.key,
        constants=function.constants,
        grid=None,
        shared_bytes=function.shared_bytes,
        num_warps=None,
        **_figures(function.assembly, function.shared_bytes, target),
    )


def _figures(assembly: Assembly, shared_bytes: int, target: str) -> dict[str, Any]:
    """What the assembly says, and what is wrong with it."""
    failures = []
    if shared_bytes > (limit := SHARED_LIMITS_BYTES[target]):
        failures.append(f"shared memory {shared_bytes} bytes, over the limit of {limit}")
    # A register that is put aside once for a whole tile of the output costs nothing that could be measured.
    if assembly.hot_local and (assembly.spill_stores_bytes or assembly.spill_loads_bytes):
        spilled, loaded = assembly.spill_stores_bytes, assembly.spill_loads_bytes
        failures.append(f"registers spilled: {spilled} bytes stored, {loaded} bytes loaded")
    if assembly.wgmma_serialized:
        failures.append("wgmma serialised by ptxas")
    return {
        "registers": assembly.registers,
        "spill_stores": assembly.spill_stores_bytes,
        "spill_loads": assembly.spill_loads_bytes,
        "wgmma_count": assembly.opcodes["HGMMA"],
        "wgmma_serialized": assembly.wgmma_serialized,
        "local_loads": assembly.opcodes["LDL"],
        "local_stores": assembly.opcodes["STL"],
        "hot_local": assembly.hot_local,
        "failures": tuple(failures),
    }


def main() -> int:
    """Run the command line; usage errors end with status 2, a bad list of shapes among them."""
    parser = command_line("compile")
    parser.add_argument("--target", choices=list(ARCHITECTURES), required=True)
    parser.add_argument("--shapes-json", required=True, metavar="FILE", help="JSON list of shapes; - reads stdin")
    arguments = parser.parse_args()
    source = arguments.shapes_json
    text = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        shapes = msgspec.json.decode(text, type=list[Shape])
    except msgspec.DecodeError as error:
        parser.error(f"--shapes-json {source}: {error}")
    with importing():
        from pytest_avo.evaluation.diagnosis import nvcc, sass  # noqa: F401 - out of reach once confined
        from pytest_avo.evaluation.kernel_process import dry_run  # noqa: F401

    confine(arguments.scratch)
    with own_output() as output, tempfile.TemporaryDirectory(prefix="nvcc-", dir=arguments.scratch) as folder:
        for record in compile_kernel(arguments.kernel, shapes, target=arguments.target, folder=Path(folder)):
            output.write(msgspec.json.encode(record) + b"\n")
            output.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
