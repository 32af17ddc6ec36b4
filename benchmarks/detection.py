"""How often one check finds a wrong kernel: the shares in docs/error-rates.md.

    python benchmarks/detection.py CHECKS FILE.py... [--suites FOLDER]

Asks each kernel, in this process and with one thread, all that a judge asks before it times one, CHECKS times with
other seeds: on the shapes of the suites that it claims, from FOLDER or the shipped ones, and on those of the self-test
where it claims none. A check ends at the first fault. Prints how many checks found one, the processor time of a check,
and which calls found it. Only for kernels that do nothing but compute: they run here, unconfined.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

import torch

from pytest_avo.core.evaluation import KERNEL, EvaluationRequest, Subject
from pytest_avo.core.kernel import claim_of
from pytest_avo.core.shape import Shape, read_suite
from pytest_avo.evaluation.arms.arm import Slice
from pytest_avo.evaluation.arms.arms import Arms
from pytest_avo.evaluation.arms.batch import Batch
from pytest_avo.evaluation.arms.faults import KernelFault, KernelRaised
from pytest_avo.evaluation.arms.memory import Memory, host_memory
from pytest_avo.evaluation.correctness.inputs import Arguments
from pytest_avo.evaluation.correctness.room import HOST
from pytest_avo.evaluation.judge.checks import Checks
from pytest_avo.evaluation.kernel_process.calls import deliver_all, function, options, places, tensors

SHAPES = Path(__file__).parents[1] / "shapes"
MEMORY_BYTES = 256 << 20


class Here:
    """A kernel in this process, in the place of the processes that a judge starts, and of each of them."""

    room = HOST

    def __init__(self, source: str, given: Memory, result: Memory) -> None:
        self._functions: dict[str, Any] = {"__name__": "kernel"}
        self._given, self._result = given, result
        exec(compile(source, "kernel.py", "exec"), self._functions)

    def get(self, *_: object, **__: object) -> Here:
        return self

    def is_first_call(self, *_: object) -> bool:
        return False

    def note_check(self, *_: object) -> None:
        pass

    def take_build_s(self, *_: object) -> float:
        return 0.0

    def call(
        self, batch: Sequence[Arguments] | Batch, dtype: Any, *, guarded: bool = False, lse: bool = False, **_: object
    ) -> Slice:
        """As `Arm.call`."""
        laid = batch if isinstance(batch, Batch) else Batch(batch, dtype, guarded=guarded, lse=lse)
        laid.write(self._given, self._result)
        given, result = (
            memory.tensor(torch.uint8, elements=memory.size, offset=0) for memory in (self._given, self._result)
        )
        for call in laid.calls:
            try:
                returned = function(self._functions, call)(*tensors(given, call), **options(given, call))
            except NotImplementedError as error:
                raise KernelRaised("unsupported", str(error)) from None
            except Exception as error:
                raise KernelRaised("crashed", repr(error)) from None
            deliver_all(returned, places(result, call))
        return Slice(
            seconds=0.0,
            claimed_s=0.0,
            replayed=False,
            output=lambda number: laid.output(number, self._result),
            outputs=lambda: laid.outputs(self._result),
            lse=lambda number: laid.lse(number, self._result),
        )


def shapes_of(path: Path, source: str, folder: Path) -> tuple[Shape, ...]:
    """What a kernel is to be checked on."""
    claim = claim_of(source, path=path)
    names = ("selftest",) if claim is None else claim.shapes
    found = [folder / f"{name}.toml" for name in names]
    return tuple(shape for file in found for shape in read_suite(file if file.is_file() else SHAPES / file.name))


def check(path: Path, shapes: tuple[Shape, ...], seed: int, memories: tuple[Memory, Memory]) -> str:
    """What one check finds wrong with a kernel, or ""."""
    source = path.read_text(encoding="utf-8")
    subject, here, random = Subject(path.name, source), Here(source, *memories), Random(seed)
    checks = Checks(cast("Arms", here), say=lambda _: None, place="cpu")
    request = EvaluationRequest(number=0, subject=subject, shapes=shapes)
    for shape in shapes:
        try:
            checks.battery(KERNEL, subject, request, shape, seed=random.getrandbits(62), what="")
        except KernelFault as fault:
            return fault.reason.rpartition("(")[2].rstrip(")").partition(", b")[0]
    return ""


def main(checks: int, paths: Sequence[Path], folder: Path) -> None:
    """Print a line for each kernel."""
    torch.set_num_threads(1)
    memories = host_memory(MEMORY_BYTES), host_memory(MEMORY_BYTES)
    for path in paths:
        shapes = shapes_of(path, path.read_text(encoding="utf-8"), folder)
        start = time.process_time()
        found = Counter(check(path, shapes, seed, memories) for seed in range(checks))
        seconds = (time.process_time() - start) / checks
        missed = found.pop("", 0)
        where = "; ".join(f"{name} {count}" for name, count in found.most_common(4))
        row = (path.stem, f"{checks - missed} of {checks}", f"{seconds:.2f} s", where)
        sys.stdout.write("\t".join(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("checks", type=int)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--suites", type=Path, default=SHAPES)
    asked = parser.parse_args()
    main(asked.checks, asked.paths, asked.suites)
