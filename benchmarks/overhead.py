"""What the harness itself costs: time per evaluation beyond the kernel's own, and memory of the controller.

    python benchmarks/overhead.py [EVALUATIONS]

Evaluates a kernel that does nothing but return, on one tiny shape, for correctness only, each time as a new source and
so in a new process, with torch warm. What remains is fork, confinement, import of the file, one check and the way there
and back: the kernel is wrong, so the battery ends at its first case, and that is the least any candidate costs.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time

from pytest_avo.core.evaluation import EvaluationRequest, Subject
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.pool import Pool

KERNEL = "def attention(q, k, v, *, causal, scale):\n    return q.clone()  # {number}\n"
SHAPE = Shape(batch=1, heads_q=1, heads_kv=1, seqlen_q=16, seqlen_kv=16, head_dim=16, causal=False, dtype="f32")


def main(evaluations: int) -> None:
    """Print the median and the 90th percentile of the time per evaluation, and the controller's memory."""
    pool = Pool(["popen"])
    seconds = []
    for number in range(-5, evaluations):
        start = time.perf_counter()
        request = EvaluationRequest(0, Subject("none", KERNEL.format(number=number)), (SHAPE,))
        evaluation = pool.submit(request)[SHAPE.id].result()
        if number >= 0:
            seconds.append(time.perf_counter() - start - evaluation.build_s)
        assert evaluation.outcome == "incorrect", evaluation
    pool.close()
    ninetieth = statistics.quantiles(seconds, n=10)[-1]
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"{evaluations} evaluations: median {statistics.median(seconds) * 1e3:.1f} ms, 90% {ninetieth * 1e3:.1f} ms; "
        f"controller {memory_mib:.0f} MiB\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
