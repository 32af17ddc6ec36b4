"""What many items and generations cost the controller: processor time for each, and memory.

    python benchmarks/scale.py [ITEMS [GENERATIONS]]

Runs pytest in a project of its own, whose conftest.py puts an evaluator in place that answers at once with made-up
samples: what is left is what the plugin and pytest do themselves. Items are measured by the difference between a small
bench and one of ITEMS (default: 10,000) items; generations (default: 500) over five shapes by when the lineage says
that each began.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from pytest_avo.lineage.database import FILE
from pytest_avo.lineage.view import View

FEW = 100
SHAPES_PER_KERNEL = 50
SHAPE = """
[[shape]]
batch = 1
heads_q = 8
heads_kv = 8
seqlen_q = {length}
seqlen_kv = 1024
head_dim = 64
causal = true
dtype = "f32"
"""
KERNEL = """
\"\"\"Stands for a kernel.\"\"\"

AVO = {{"target": "cpu", "shapes": ["{suite}"]}}
NUMBER = 0


def attention(q, k, v, *, causal, scale):
    raise NotImplementedError
"""
CONFTEST = """
import random
from concurrent.futures import Future

import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing
from pytest_avo.operators.operator import Proposal

chance = random.Random(1)


def samples(mean_s):
    return (tuple(mean_s * chance.gauss(1, 0.01) for _ in range(20)),)


class AtOnce:
    def submit(self, request):
        source = request.subject.source
        faster = int(source.partition("NUMBER = ")[2].split()[0]) % 25 == 1
        arms = {KERNEL: 0.9e-3 if faster else 1e-3, **dict.fromkeys(request.peers, 2e-3)}
        if request.baseline is not None:
            arms[BASELINE] = 1e-3
        answers = {}
        for shape in request.shapes:
            timing = Timing({arm: samples(mean_s) for arm, mean_s in arms.items()}, calls=1, stopped="rounds")
            answers[shape.id] = Future()
            answers[shape.id].set_result(Evaluation(shape.id, "ok", device="none", timing=timing))
        return answers

    def doing(self):
        return "idle"

    def news(self):
        return []

    def work(self):
        return []

    def close(self):
        pass


def pytest_configure(config):
    config.pluginmanager.get_plugin("avo-run").run.assessor._evaluators["cpu"] = AtOnce()


def pytest_avo_propose(task):
    source = task.kernel.source.partition("NUMBER = ")
    rest = source[2].partition("\\n")[2]
    return Proposal(f"{source[0]}NUMBER = {task.generation}\\n{rest}", f"number {task.generation}", {"geomean": 1.01})
"""


def main(items: int, generations: int) -> None:
    """Print the figures."""
    few_s, few_mib = bench(FEW)
    many_s, many_mib = bench(items)
    per_item_ms = (many_s - few_s) / (items - FEW) * 1e3
    per_item_kib = (many_mib - few_mib) / (items - FEW) * 1024
    print(
        f"bench of {items:,} items: {many_s:.1f} s of processor time, {many_mib:.0f} MiB; "
        f"of {FEW}: {few_s:.1f} s, {few_mib:.0f} MiB; "
        f"{per_item_ms:.2f} ms and {per_item_kib:.1f} KiB per item"
    )
    evolve(generations)


def bench(items: int) -> tuple[float, float]:
    """Seconds of processor time and peak memory in MiB of a bench."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder, kernels=max(1, items // SHAPES_PER_KERNEL), shapes=min(items, SHAPES_PER_KERNEL))
        return run(folder, "--avo-bench", "--avo-json", "out.json")


def evolve(generations: int) -> None:
    """Print processor time, memory, and how the wall time of a generation grows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder, kernels=1, shapes=5)
        command = ["--avo-evolve", "kernels/k0000.py", "--avo-operator", "tuner", "--generations", str(generations)]
        seconds, mib = run(folder, *command)
        with View(folder / ".avo" / FILE, 1) as view:
            began = [datetime.fromisoformat(attempt.created).timestamp() for attempt in view.attempts()]
            counts = view.counts()
    part = max(1, generations // 10)
    first, last = (began[1 + part] - began[1]) / part, (began[-1] - began[-1 - part]) / part
    print(
        f"evolution of {generations:,} generations, 5 shapes: {seconds:.1f} s of processor time, {mib:.0f} MiB; "
        "a generation takes "
        f"{first * 1e3:.0f} ms among the first {part} and {last * 1e3:.0f} ms among the last; "
        f"{', '.join(f'{number} {status}' for status, number in counts.items())}"
    )


def project(folder: Path, *, kernels: int, shapes: int) -> None:
    """A project with so many kernels, each claiming so many shapes."""
    (folder / "kernels").mkdir()
    (folder / "shapes").mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST)
    suite = "".join(SHAPE.format(length=length) for length in range(1, shapes + 1))
    (folder / "shapes" / "many.toml").write_text(suite)
    for number in range(kernels):
        (folder / "kernels" / f"k{number:04d}.py").write_text(KERNEL.format(suite="many"))


def run(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds of processor time and peak memory in MiB of pytest, which must end well."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--no-summary", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output[-3000:]
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 500)
