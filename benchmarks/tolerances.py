"""How far honest kernels stay below the error limits, and wrong ones exceed them: the margins behind docs/trust.md.

    python benchmarks/tolerances.py [BATTERIES]

Runs torch's SDPA and the CPU kernels through the battery of every small shape of a few suites, in this process, and
prints the quantiles of error / limit, and how many were judged wrong.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from tabulate import tabulate

from pytest_avo.core.shape import Shape, read_suite
from pytest_avo.evaluation.correctness.battery import battery
from pytest_avo.evaluation.correctness.correctness import fault, worst_share
from pytest_avo.evaluation.correctness.inputs import draw
from pytest_avo.evaluation.correctness.nudge import nudges
from pytest_avo.evaluation.judge.peers import TORCH_SDPA

ROOT = Path(__file__).parents[1]
Attention = Callable[..., torch.Tensor]


def load(path: Path) -> Attention:
    """Import a kernel file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.attention  # type: ignore[no-any-return]


def sdpa() -> Attention:
    """The peer torch-sdpa."""
    namespace: dict[str, Any] = {}
    exec(TORCH_SDPA, namespace)
    return namespace["attention"]  # type: ignore[no-any-return]


def main(batteries: int) -> None:
    """Print the margins of all kernels."""
    torch.set_num_threads(1)
    kernels = {"torch-sdpa": sdpa()} | {path.stem: load(path) for path in sorted((ROOT / "kernels/cpu").glob("*.py"))}
    shapes = [shape for suite in ("smoke", "quickstart", "prefill-cpu", "decode-cpu") for shape in small(suite)]
    rows: list[list[Any]] = []
    faults = 0
    for name, attention in kernels.items():
        ratios: dict[str, list[float]] = {}
        for number in range(batteries):
            shape = shapes[number % len(shapes)]
            generator = torch.Generator().manual_seed(number)
            for case in battery(shape, Random(number)):
                if case.required and case.kind != "needle":
                    continue
                inputs = draw(case, generator)
                out = attention(*inputs.tensors, causal=inputs.causal, scale=inputs.scale)
                worst = worst_share(inputs, out)
                ratios.setdefault(f"{shape.dtype} {case.name}", []).append(worst)
                faults += fault(inputs, out) is not None
                for nudge in nudges(inputs, Random(number)) if case.required else ():
                    out = attention(*nudge.inputs.tensors, causal=inputs.causal, scale=inputs.scale)
                    worst = worst_share(nudge.inputs, out)
                    ratios.setdefault(f"{shape.dtype} {nudge.what}", []).append(worst)
                    faults += fault(nudge.inputs, out) is not None
        for case_name, values in sorted(ratios.items()):
            quantiles = torch.tensor(values).quantile(torch.tensor([0.5, 0.99, 1.0]))
            rows.append([name, case_name, len(values), *(f"{float(x):.2f}" for x in quantiles)])
    sys.stdout.write(tabulate(rows, headers=["kernel", "case", "n", "median", "99%", "max"]) + "\n")
    sys.stdout.write(f"judged wrong: {faults} of {sum(row[2] for row in rows)}\n")


def small(suite: str) -> list[Shape]:
    """Shapes of a suite with few heads."""
    return [shape for shape in read_suite(ROOT / "shapes" / f"{suite}.toml") if shape.heads_q <= 16]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
