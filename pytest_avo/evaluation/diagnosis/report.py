"""A kernel's compile report, made in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.child import Child
from pytest_avo.evaluation.diagnosis.compile import Record

LIMIT_S = 600.0


def compiled_records(kernel: Kernel, shapes: Sequence[Shape], *, target: str, confined: bool) -> list[Record]:
    """What a kernel launches on shapes, compiled in a process of its own that has no key and no GPU.

    EvaluatorError when that process ends without a report, or not within LIMIT_S.
    """
    arguments = ["--target", target, "--shapes-json", "-"]
    with Child("compile", kernel, confined=confined, arguments=arguments) as child, child.within(LIMIT_S):
        try:
            with child.requests:
                child.requests.write(msgspec.json.encode(list(shapes)))
        except BrokenPipeError:
            pass  # what it says on its way out is read below
        lines = child.answers.read().splitlines()
        status = child.status()
        if not child.in_time:
            raise EvaluatorError(f"{kernel.path.name}: no compile report within {LIMIT_S:g} s")
        if status:
            raise EvaluatorError(f"{kernel.path.name}: the compile report ended early: {child.last_words()}")
    return [msgspec.json.decode(line, type=Record) for line in lines]
