"""What the harness itself costs: per evaluation beyond the kernel's own time, and beside timing without protection.

    python benchmarks/overhead.py [EVALUATIONS [SUITE]]

First, a kernel that does nothing but return is evaluated on one tiny shape, for correctness only, each time as a new
source and so in a new process, with torch warm. What remains is fork, confinement, import of the file, one check and
the way there and back: the kernel is wrong, so the battery ends at its first case, and that is the least any candidate
costs.

Then torch's own attention is timed beside itself in 30 rounds on shapes of a suite (quickstart): by the harness, and by
a plain loop in one process that draws fresh inputs and times the same calls, warm-up included, with time.perf_counter.
The harness adds processes, copies of the arguments, freezing, poisoned results, inputs compared, a clock outside, and
a check of an output in every round.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from pytest_avo.core.evaluation import EvaluationRequest, Subject, TimingPlan
from pytest_avo.core.shape import Shape, read_suite
from pytest_avo.evaluation.devices.local import deal
from pytest_avo.evaluation.judge.peers import TORCH_SDPA
from pytest_avo.evaluation.pool.pool import Pool

KERNEL = "def attention(q, k, v, *, causal, scale):\n    return q.clone()  # {number}\n"
SHAPE = Shape(batch=1, heads_q=1, heads_kv=1, seqlen_q=16, seqlen_kv=16, head_dim=16, causal=False, dtype="f32")
SUITES = Path(__file__).parents[1] / "shapes"
ROUNDS = 30


class Loop(msgspec.Struct):
    """What the plain loop is to time: a shape, and how many calls make a slice."""

    shape: Shape
    calls: int


def main(evaluations: int, suite: str) -> None:
    """Print both comparisons, and the controller's memory."""
    pool = Pool(["popen"])
    try:
        print(least(pool, evaluations))
        shapes = read_suite(SUITES / f"{suite}.toml")
        beside_a_plain_loop(pool, shapes[0])  # the first one imports what later ones have
        for shape in shapes:
            print(beside_a_plain_loop(pool, shape))
    finally:
        pool.close()
    print(f"controller {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def least(pool: Pool, evaluations: int) -> str:
    """Median and 90th percentile of the time per evaluation of a kernel that does nothing."""
    seconds = []
    for number in range(-5, evaluations):
        start = time.perf_counter()
        request = EvaluationRequest(0, Subject("none", KERNEL.format(number=number)), (SHAPE,))
        evaluation = pool.submit(request)[SHAPE.id].result()
        if number >= 0:
            seconds.append(time.perf_counter() - start - evaluation.build_s)
        assert evaluation.outcome == "incorrect", evaluation
    ninetieth = statistics.quantiles(seconds, n=10)[-1]
    return f"{evaluations} evaluations: median {statistics.median(seconds) * 1e3:.1f} ms, 90% {ninetieth * 1e3:.1f} ms"


def beside_a_plain_loop(pool: Pool, shape: Shape) -> str:
    """Wall time of the same rounds by the harness and by a plain loop, on one shape."""
    plan = TimingPlan(min_rounds=ROUNDS, max_rounds=ROUNDS, budget_s=300.0)
    subject = Subject("torch", TORCH_SDPA)
    request = EvaluationRequest(0, subject, (shape,), plan=plan, baseline=subject)
    start = time.perf_counter()
    evaluation = pool.submit(request)[shape.id].result()
    whole_s = time.perf_counter() - start
    assert evaluation.timing is not None, evaluation
    told = msgspec.json.encode(Loop(shape, evaluation.timing.calls))
    # Threads and allocator as kernels' processes had them.
    environment = {**os.environ, **deal(0, spins=evaluation.timing.spins).environment()}
    command = [sys.executable, __file__, "--loop"]
    found = subprocess.run(command, input=told, stdout=subprocess.PIPE, env=environment, check=True)
    plain_s = float(found.stdout)
    calls, timed_s = evaluation.timing.calls, evaluation.time_s
    return (
        f"{shape.id}: {ROUNDS} rounds of 2 x {calls} calls take {timed_s:.2f} s, a plain loop {plain_s:.2f} s "
        f"({timed_s / plain_s - 1:+.0%}); with the check for correctness {whole_s:.2f} s"
    )


def plain_loop(loop: Loop) -> float:
    """Seconds for the same rounds in this process, drawing of inputs included."""
    import torch

    from pytest_avo.evaluation.correctness import inputs

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    space: dict[str, object] = {}
    exec(TORCH_SDPA, space)
    attention = space["attention"]
    stream = inputs.Stream(loop.shape, torch.Generator().manual_seed(1))
    times = []

    def timed(batch: list[inputs.Inputs]) -> None:
        begun = time.perf_counter()
        for x in batch:
            attention(x.q, x.k, x.v, causal=x.causal, scale=x.scale)  # type: ignore[operator]
        times.append(time.perf_counter() - begun)

    start = time.perf_counter()
    one = stream.draw(1)
    for _ in range(4):  # as the harness does: two arms warm up by two calls each
        timed(one)
    for _ in range(1 + ROUNDS):
        batch = stream.draw(loop.calls)
        for _ in range(2):
            timed(batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[1:] == ["--loop"]:
        sys.stdout.write(str(plain_loop(msgspec.json.decode(sys.stdin.buffer.read(), type=Loop))))
    else:
        given = (*sys.argv[1:], *("200", "quickstart")[len(sys.argv) - 1 :])
        main(int(given[0]), given[1])
