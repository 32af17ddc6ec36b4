"""Times every query of a lineage of 10,000 attempts. Usage: python benchmarks/lineage_scale.py [ATTEMPTS]."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pytest_avo.core.evaluation import Evaluation, Timing
from pytest_avo.core.fingerprint import fingerprint
from pytest_avo.core.stats import Interval
from pytest_avo.lineage.records import AttemptOutcome, Run, Status
from pytest_avo.lineage.store import Store
from pytest_avo.lineage.view import View, latest_run

SHAPES = tuple(f"b{number}-h8-q1024-k1024-d64-causal-f32" for number in range(8))
REPEATS = 20
PROMOTED_EVERY = 25


def main(attempts: int) -> None:
    """Fill a lineage through the store as a run does, then time the view."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".avo" / "lineage.sqlite3"
        with Store.open(path) as store:
            started = time.perf_counter()
            run = fill(store, attempts)
            wrote_s = time.perf_counter() - started
            print(f"wrote {attempts} attempts in {wrote_s:.1f} s, {wrote_s / attempts * 1e3:.2f} ms each (3 commits)")
            print(f"file: {path.stat().st_size / 2**20:.1f} MiB")
            with View(path, run.id) as view:
                started = time.perf_counter()
                view.log_scores()
                print(f"first read of everything: {(time.perf_counter() - started) * 1e3:.1f} ms")
                for name, query in queries(view):
                    print(f"{name:28} {milliseconds(query):8.3f} ms")


def fill(store: Store, attempts: int) -> Run:
    """A run in which every 25th attempt is promoted."""
    run = store.start_run(
        kernel="kernels/cpu/quickstart.py",
        target="cpu",
        operator="tuner",
        seed=0,
        shapes=SHAPES,
        fingerprint=fingerprint(target="cpu", device="any", units=2),
        settings={},
    )
    timing = Timing({"kernel": ((1e-3,) * 10,), "baseline": ((1e-3,) * 10,)}, calls=1, stopped="rounds")
    evaluations = [Evaluation(shape, "ok", timing=timing) for shape in SHAPES]
    parent: int | None = None
    for number in range(attempts):
        attempt = store.add_attempt(
            run=run.id,
            generation=number,
            member=0,
            parent=parent,
            source=f"BLOCK = {number}\n" + "# filler\n" * 200,
            operator="tuner",
            hypothesis="BLOCK 64 -> 128: predicted +1.0%",
            predicted={"geomean": 1.01},
        )
        store.add_evaluations(attempt.id, "screen", evaluations)
        promoted = number % PROMOTED_EVERY == 1
        gain = Interval(0.001, 0.0005, 0.0015)
        status: Status = "seed" if parent is None else "promoted" if promoted else "same"
        store.add_outcome(AttemptOutcome(attempt.id, status, gain=gain, confirmed=gain if promoted else None))
        if parent is None or promoted:
            parent = attempt.id
    return run


def queries(view: View) -> list[tuple[str, Callable[[], object]]]:
    """Every question a run asks."""
    last = view.attempts()[-1]
    return [
        ("latest_run", lambda: latest_run(view.path, view.run.kernel)),
        ("incumbent", view.incumbent),
        ("counts", view.counts),
        ("unfinished", view.unfinished),
        ("find_by_digest (hit)", lambda: view.find_by_digest(last.digest)),
        ("find_by_digest (miss)", lambda: view.find_by_digest("0" * 16)),
        ("source", lambda: view.source(last.digest)),
        ("outcome", lambda: view.outcome(last.id)),
        ("evaluations", lambda: view.evaluations(last.id, "screen")),
        ("log_score", lambda: view.log_score(last.id)),
        ("attempts (all)", view.attempts),
        ("outcomes (all)", view.outcomes),
        ("log_scores (all)", view.log_scores),
        ("trend (all)", view.trend),
    ]


def milliseconds(query: Callable[[], object]) -> float:
    """Median wall time of a query."""
    times: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        query()
        times.append(time.perf_counter() - started)
    return median(times) * 1e3


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
