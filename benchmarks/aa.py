"""A kernel beside itself, again and again, as an evolution screens candidates: none must be found faster.

    python benchmarks/aa.py RESULTS [--number 100] [--rounds 6] [--seconds 400] [--shapes 1]

Each time the candidate is kernels/cpu/quickstart.py with another comment, so that it is a new kernel in a new process,
and the incumbent is always the same text, as in an evolution. Estimates of the ratio are written to RESULTS, a line of
JSON each, when they are known, so that runs can be made in pieces. At the end stands what all of them amount to: the
median and how many lie above 1, which must be half of them; how far they spread; and how many intervals of one-sided
99% bounds leave 1 out to either side, which must be 2 of 100. With --rounds 0 an evolution's own rule decides how many
rounds there are, confirms what looks faster, and says what would be promoted, which must be nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import msgspec

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest, Subject, TimingPlan
from pytest_avo.core.ranking import LEAST_FLOOR, ONE_SIDED_99, geomean_gain
from pytest_avo.core.shape import read_suite
from pytest_avo.evaluation.pool.pool import Pool
from pytest_avo.evolution.decision import accepts, confirmation, decide, screening

ROOT = Path(__file__).parents[1]
KERNEL = (ROOT / "kernels" / "cpu" / "quickstart.py").read_text()


def main() -> None:
    """Compare until there are as many more as were asked for, or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6, help="of each comparison; 0: by the rule of an evolution")
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--shapes", type=int, default=1, help="how many of the suite quickstart, from its end")
    options = parser.parse_args()
    rows(options.results)  # before anything is measured
    shapes = tuple(read_suite(ROOT / "shapes" / "quickstart.toml")[-options.shapes :])
    plan = TimingPlan(min_rounds=options.rounds, max_rounds=options.rounds)
    plan = plan if options.rounds else screening(TimingPlan(), floor=LEAST_FLOOR)
    deadline = time.monotonic() + options.seconds
    pool = Pool(["popen"])
    try:
        for number in range(options.number):
            if time.monotonic() > deadline:
                break
            subject = Subject("candidate", f"{KERNEL}\n# {number}\n")
            request = EvaluationRequest(
                0,
                subject,
                shapes,
                plan=plan,
                baseline=Subject("incumbent", KERNEL),
                fixed="torch-sdpa",
                claim_alone=True,
            )
            start = time.monotonic()
            found = answers(pool, request)
            gain = geomean_gain(found, shapes, confidence=ONE_SIDED_99).exp()
            line = {"ratio": gain.estimate, "low": gain.low, "high": gain.high}
            if not options.rounds:
                looks_faster = decide(found, shapes, floor=LEAST_FLOOR).ranking == "faster"
                line["promoted"] = looks_faster and is_confirmed(pool, request)
            line["seconds"] = time.monotonic() - start
            with options.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
    finally:
        pool.close()
    print(summary(rows(options.results)))


def answers(pool: Pool, request: EvaluationRequest) -> dict[str, Evaluation]:
    return {shape: future.result() for shape, future in pool.submit(request).items()}


def is_confirmed(pool: Pool, request: EvaluationRequest) -> bool:
    """Whether a candidate that looked faster would be promoted."""
    plan = confirmation(TimingPlan(), floor=LEAST_FLOOR)
    again = msgspec.structs.replace(request, plan=plan, fresh=True, claim_alone=False)
    gain = decide(answers(pool, again), request.shapes, floor=LEAST_FLOOR).gain
    return gain is not None and accepts(gain, LEAST_FLOOR, accept="faster")


def rows(path: Path) -> list[dict[str, float]]:
    """What earlier pieces of a run wrote; ends the script where the file holds anything else."""
    try:
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        assert all(each.keys() >= {"ratio", "low", "high", "seconds"} for each in found)
    except (OSError, ValueError, AttributeError, AssertionError):
        raise SystemExit(f"{path}: expected comparisons that benchmarks/aa.py wrote, or a new file") from None
    return found


def summary(rows: list[dict[str, float]]) -> str:
    """What all comparisons amount to, in a line."""
    ratios = sorted(row["ratio"] for row in rows)
    above = sum(ratio > 1 for ratio in ratios)
    least = min(above, len(ratios) - above)
    chance = min(1.0, 2 * sum(math.comb(len(ratios), k) for k in range(least + 1)) / 2 ** len(ratios))
    faster, slower = sum(row["low"] > 1 for row in rows), sum(row["high"] < 1 for row in rows)
    promoted = f", promoted {sum(row.get('promoted', 0) for row in rows):g}" * any("promoted" in row for row in rows)
    spread = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
    return (
        f"{len(ratios)} comparisons: median {statistics.median(ratios):.4f}, {above} above 1 (p {chance:.2f}), "
        f"deviation {spread:.2%}; called faster {faster}, slower {slower}{promoted}; "
        f"{statistics.median(row['seconds'] for row in rows):.2f} s each"
    )


if __name__ == "__main__":
    main()
