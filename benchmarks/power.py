"""What the gate does with a kernel beside itself, and beside itself slowed down by a known share.

    python benchmarks/power.py RESULTS [--slowed 0,3,5,10] [--limit 3] [--runs 20] [--seconds 400]

One comparison is all that `--avo-compare-fail LIMIT%` does on one shape: rounds in turns until that is decided, and,
where the kernel looks too slow, a second measurement in fresh processes. On a CPU each has processes of its own; on a
GPU, where starting them takes longer than all else, ten follow each other in the same ones, as the shapes of a kernel
do in a run. Each is written to RESULTS, a line of JSON, when it is finished, so that runs can be made in pieces; at the
end stands the table over all of RESULTS: how often the gate failed the kernel, and how long a comparison took. A row of
0% holds the false alarms.

The slowed kernel is torch's own attention and a spin after it. On a CPU the spin lasts for a share of the time that the
call itself just took; on a GPU it is a kernel that counts clocks, calibrated on the first call of each process.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

from pytest_avo.core.evaluation import EvaluationRequest, Evaluations, Subject, TimingPlan
from pytest_avo.core.kernel import Kernel, parse_kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import judge
from pytest_avo.evaluation.devices.local import deal
from pytest_avo.evaluation.judge.peers import TORCH_SDPA
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.gate.gains import Comparand
from pytest_avo.gate.gate import Gate
from pytest_avo.gate.refs import GitBaseline
from pytest_avo.gate.rules import parse_rules

SPIN = {
    "cpu": """
import time

SHARE = {share}
honest = attention


def attention(q, k, v, *, causal, scale):
    start = time.perf_counter()
    out = honest(q, k, v, causal=causal, scale=scale)
    now = time.perf_counter()
    end = now + SHARE * (now - start)
    while time.perf_counter() < end:
        pass
    return out
""",
    "gpu": """
SHARE = {share}
honest = attention
cycles = {{}}


def attention(q, k, v, *, causal, scale):
    key = (q.shape, k.shape, q.dtype, causal)
    if key not in cycles:
        cycles[key] = clocks(q, k, v, causal, scale)
    out = honest(q, k, v, causal=causal, scale=scale)
    if SHARE:
        torch.cuda._sleep(cycles[key])
    return out


def clocks(q, k, v, causal, scale):
    one_ms = 2_000_000 / took(lambda: torch.cuda._sleep(2_000_000), 5)
    return int(SHARE * took(lambda: honest(q, k, v, causal=causal, scale=scale), 50) * one_ms)


def took(call, times):
    call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times
""",
}
SHAPES = {
    "cpu": [
        Shape(batch=1, heads_q=4, heads_kv=4, seqlen_q=512, seqlen_kv=512, head_dim=64, causal=True, dtype="f32")
    ],
    "gpu": [
        Shape(
            batch=batch, heads_q=heads_q, heads_kv=heads_kv, seqlen_q=seqlen_q, seqlen_kv=seqlen_kv, head_dim=128,
            causal=causal, dtype="bf16",
        )
        for batch, heads_q, heads_kv, seqlen_q, seqlen_kv, causal in (
            (4, 16, 16, 4096, 4096, True), (8, 16, 16, 2048, 2048, False), (2, 32, 8, 4096, 4096, True),
            (16, 32, 8, 1, 8192, False),
        )
    ],
}  # fmt: skip
"""On a GPU calls of 0.2 to 0.5 ms: the kernel that spins costs a launch besides, which is much of a shorter one."""
IN_A_ROW = {"cpu": 1, "gpu": 10}
"""Comparisons in the same processes."""


class Itself(GitBaseline):
    """The kernel that is not slowed down, in place of one from a commit."""

    def subject(self, kernel: Kernel) -> Subject:
        kind = "cpu" if deal(0).target == "cpu" else "gpu"
        return Subject("itself", slowed(kind, 0))


def slowed(kind: str, percent: float) -> str:
    """Source of torch's attention that takes so many percent longer."""
    return TORCH_SDPA + SPIN[kind].format(share=percent / 100)


def compare(pool: Pool, percent: float, limit: float, kind: str, *, fresh: bool) -> dict[str, float | str | bool]:
    """One comparison under the gate's rule."""
    shape = random.choice(SHAPES[kind])
    gate = Gate(Itself("itself", "", Path()), parse_rules([f"{limit:g}%"], []), lenient=False, floor=0.01)
    kernel = parse_kernel(slowed(kind, percent), path=Path("slowed.py"))
    case = Comparand(kernel, "slowed.py", shape)

    waited_s = 0.0

    def evaluate(request: EvaluationRequest) -> Evaluations:
        nonlocal waited_s
        found = {shape: future.result() for shape, future in pool.submit(request).items()}
        waited_s += sum(each.waited_s for each in found.values())  # for a device that another run had
        return found

    start = time.perf_counter()
    plain = EvaluationRequest(0, Subject("slowed", kernel.source), (shape,), plan=TimingPlan(), fresh=fresh)
    request = gate.prepared(plain, kernel, gate.limit(case))
    evaluation = evaluate(request)[shape.id]
    verdict = gate.judge(judge(evaluation, shape, floor=0.01), case, evaluation, request, evaluate)
    assert verdict.baseline is not None, verdict
    seconds = time.perf_counter() - start - waited_s
    return {
        "slowed": percent, "limit": limit, "device": evaluation.device, "shape": shape.id, "failed": verdict.regressed,
        "verdict": verdict.kind, "measured": 1 / verdict.baseline.ratio - 1, "seconds": seconds,
    }  # fmt: skip


def table(path: Path) -> None:
    """Print what all comparisons in the file amount to."""
    found = rows(path)
    print("device, limit, slowed by: comparisons, failed by the gate, measured (median, 5% to 95%), s each")
    for device, limit, percent in sorted({(row["device"], row["limit"], row["slowed"]) for row in found}):
        group = [x for x in found if (x["device"], x["limit"], x["slowed"]) == (device, limit, percent)]
        failed, measured = sum(x["failed"] for x in group), sorted(x["measured"] for x in group)
        low, middle, high = (measured[math.floor(share * (len(measured) - 1))] for share in (0.05, 0.5, 0.95))
        seconds = sum(x["seconds"] for x in group) / len(group)
        print(
            f"{device}, {limit:g}%, {percent:g}%: {len(group)}, {failed} ({failed / len(group):.1%}), "
            f"{middle:+.1%} ({low:+.1%} to {high:+.1%}), {seconds:.1f}"
        )


def rows(path: Path) -> list[dict[str, Any]]:
    """What earlier pieces of a run wrote; ends the script where the file holds anything else."""
    try:
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        assert all(each.keys() >= {"slowed", "limit", "device", "failed", "measured", "seconds"} for each in found)
    except (OSError, ValueError, AttributeError, AssertionError):
        raise SystemExit(f"{path}: expected comparisons that benchmarks/power.py wrote, or a new file") from None
    return found


def main() -> None:
    """Compare until there are `runs` more of each, or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--slowed", default="0,3,5,10", help="percent, separated by commas")
    parser.add_argument("--limit", type=float, default=3.0, help="percent that the gate allows")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=400.0)
    options = parser.parse_args()
    rows(options.results)  # before anything is measured
    device = deal(0)
    kind = "cpu" if device.target == "cpu" else "gpu"
    deadline = time.monotonic() + options.seconds
    percents = [float(x) for x in options.slowed.split(",")]
    pool = Pool(["popen"], kind=device.fingerprint())
    try:
        for _ in range(math.ceil(options.runs / IN_A_ROW[kind])):
            for percent in random.sample(percents, len(percents)):
                for number in range(IN_A_ROW[kind]):
                    if time.monotonic() < deadline:
                        found = compare(pool, percent, options.limit, kind, fresh=number == 0)
                        with options.results.open("a") as file:
                            file.write(json.dumps(found) + "\n")
    finally:
        pool.close()
    table(options.results)


if __name__ == "__main__":
    main()
