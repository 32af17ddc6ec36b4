"""How many builds of their Triton kernels one check of a shape asks for: each takes a second or more on a card."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest
import torch

from pytest_avo.core.kernel import Claim
from pytest_avo.core.shape import Shape
from tests import ROOT, warm

ALL = Claim("sm90", ("any",), lse=True, varlen=True, paged=True)
SHAPES = {
    "mha": Shape(2, 16, 16, 256, 256, 128, True, "bf16"),
    "decode": Shape(2, 32, 8, 1, 1024, 128, False, "bf16"),
}
MOST = {"mha": 11, "decode": 30}
"""Half of them or more are for the plain calls of a battery. Several queries on most keys take one each, and short
prompts of a round whose consumers are mirrored are two of their own."""


def count_builds(kernel: Path, shape: Shape, found: Path) -> None:
    """Write the number of builds, and that of plain calls alone; in a process of its own, for Triton's driver goes."""
    from triton import knobs

    from pytest_avo.evaluation.correctness.extensions.cases import all_cases
    from pytest_avo.evaluation.correctness.extensions.drawing import draw_any
    from pytest_avo.evaluation.correctness.inputs import Case
    from pytest_avo.evaluation.diagnosis.confined import load
    from pytest_avo.evaluation.kernel_process.dry_run import DryRun

    builds: set[object] = set()
    plain: set[object] = set()
    sink = plain

    def note(*, key: object, fn: object, **_: object) -> bool:
        sink.add((str(fn), key))
        return True  # known already: nothing is compiled

    torch.set_num_threads(1)
    with DryRun("sm90"):
        module = load(kernel)
        knobs.runtime.jit_cache_hook = note
        generator = torch.Generator().manual_seed(1)
        for case in all_cases(shape, ALL, Random(1), place="cuda"):
            asked = draw_any(case, generator)
            sink = builds if case.lse or not isinstance(case, Case) else plain
            if function := getattr(module, asked.function, None):
                options = {**asked.tables, **asked.numbers, **({"return_lse": True} if case.lse else {})}
                function(*asked.tensors, causal=asked.causal, scale=asked.scale, **options)
    found.write_text(f"{len(builds | plain)} {len(plain)}")
    sys.stdout.flush()


@pytest.mark.parametrize("name", SHAPES)
def test_a_check_asks_for_few_builds(name: str, tmp_path: Path) -> None:
    found = tmp_path / "builds"
    process = warm.start(count_builds, ROOT / f"kernels/sm90/{name}.py", SHAPES[name], found)
    process.join()
    every, plain = map(int, found.read_text().split())
    assert every <= MOST[name]
    assert every <= 2 * plain + 2, "what is offered beside the plain call must not double the cost of a check"
