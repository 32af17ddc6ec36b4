"""Candidates per minute by number of workers, for correctness only: what a second worker is worth.

    python benchmarks/workers.py [WORKERS [CANDIDATES [KERNEL [SUITE]]]]

Evaluates CANDIDATES variants of a kernel (default: 60 of kernels/cpu/quickstart.py), each a new source and so in a new
process, on every shape of a suite (default: smoke) without timing them, over one worker and over WORKERS (default: 2),
in turns, twice. Workers are started and warm before the clock runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from itertools import count
from pathlib import Path

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject
from pytest_avo.core.shape import Shape, SuiteFolders
from pytest_avo.evaluation.pool.pool import Pool

ROOT = Path(__file__).parents[1]
numbers = count()


def main(workers: int, candidates: int, kernel: Path, suite: str) -> None:
    """Print the rate of each run and the ratio of the best ones."""
    source = kernel.read_text()
    shapes = SuiteFolders((ROOT / "shapes",)).shapes(suite)
    rates: dict[int, list[float]] = {1: [], workers: []}
    for _ in range(2):
        for size in rates:
            rate = candidates_per_minute(size, candidates, source, tuple(shapes))
            rates[size].append(rate)
            print(f"-n {size}: {rate:.1f} candidates per minute, {len(shapes)} shapes each", flush=True)
    ratio = max(rates[workers]) / max(rates[1])
    print(f"-n {workers} evaluates {ratio:.2f} times as many candidates as -n 1")


def candidates_per_minute(size: int, candidates: int, source: str, shapes: tuple[Shape, ...]) -> float:
    """The rate of one run."""
    pool = Pool(["popen"] * size)
    try:
        for future in [future for _ in range(2 * size) for future in submit(pool, source, shapes).values()]:
            future.result()
        while any(not work.host for work in pool.work()):
            time.sleep(0.1)
        start = time.perf_counter()
        answers = [submit(pool, source, shapes) for _ in range(candidates)]
        outcomes = {future.result().outcome for each in answers for future in each.values()}
        seconds = time.perf_counter() - start
        assert outcomes == {"ok"}, outcomes
        return candidates / seconds * 60
    finally:
        pool.close()


def submit(pool: Pool, source: str, shapes: tuple[Shape, ...]) -> Mapping[str, Future[Evaluation]]:
    """One candidate that the workers have not seen."""
    return pool.submit(EvaluationRequest(0, Subject("candidate", f"{source}\n# {next(numbers)}\n"), shapes))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        int(arguments[0]) if arguments else 2,
        int(arguments[1]) if len(arguments) > 1 else 60,
        Path(arguments[2]) if len(arguments) > 2 else ROOT / "kernels/cpu/quickstart.py",
        arguments[3] if len(arguments) > 3 else "smoke",
    )
