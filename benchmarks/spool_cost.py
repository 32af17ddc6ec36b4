"""What a journey through a spool costs beside evaluating in place, on one machine and one file system.

    python benchmarks/spool_cost.py [--requests 20] [--folder DIR]

The same small check, warm, is asked of a pool and of a spool that the same pool serves, turn about. Printed are the
medians and their difference; what a batch queue, or carrying the folder, adds comes on top. --folder: on the file
system that is to be measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

from pytest_avo.core.evaluation import EvaluationRequest, Subject
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.evaluator import Evaluator
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.evaluation.spool.client import SpoolClient
from pytest_avo.evaluation.spool.folder import SpoolFolder
from pytest_avo.evaluation.spool.server import Server

SHAPE = Shape(batch=1, heads_q=2, heads_kv=2, seqlen_q=48, seqlen_kv=48, head_dim=32, causal=True, dtype="f32")
KERNEL = """
import torch


def attention(q, k, v, *, causal, scale):
    scores = (q.float() * scale) @ k.float().transpose(-1, -2)
    if causal:
        rows, keys = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows), float("-inf"))
    return (torch.nan_to_num(torch.softmax(scores, -1)) @ v.float()).to(q.dtype)
"""


def journey_s(evaluator: Evaluator) -> float:
    """Seconds from a question to its answer."""
    begun = time.perf_counter()
    futures = evaluator.submit(EvaluationRequest(0, Subject("kernel.py", KERNEL), (SHAPE,)))
    assert futures[SHAPE.id].result().outcome == "ok"
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        pool, folder = Pool(["popen"]), SpoolFolder(Path(name) / "spool")
        folder.make()
        hello = pool.meet()
        client = SpoolClient(folder, hello.fingerprint)
        server = Server(folder, pool, hello, workers=1, say=print, linger_s=1e9)
        server.introduce()
        threading.Thread(target=server.serve, daemon=True).start()
        journey_s(pool), journey_s(client)
        both = [(journey_s(pool), journey_s(client)) for _ in range(options.requests)]
        client.close()
        pool.close()
    in_place, by_spool = (statistics.median(times) for times in zip(*both, strict=True))
    print(f"{options.requests} requests each: in place {in_place:.2f} s, by way of a spool {by_spool:.2f} s")
    print(f"a journey costs {by_spool - in_place:.2f} s more")


if __name__ == "__main__":
    main()
