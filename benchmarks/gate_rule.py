"""What the gate makes of known slowdowns, on a simulated machine.

    python benchmarks/gate_rule.py [COMPARISONS [NOISE...]]

Everything but the clock is what `--avo-compare-fail 3%` runs on one shape: the rules that end a race
(evaluation/judge/race/stopping.py), and what is measured again and when that fails (gate/gate.py). NOISE is the
deviation of a round (0.04: 4%), one in ten is late besides; that of a process is a third of it. A kernel that is slower
by 3%, as slow as is allowed, shows how often chance fails one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from simulation import SHAPES, Machine, Race

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, EvaluationRequest, Evaluations, Subject, TimingPlan
from pytest_avo.core.kernel import Kernel, parse_kernel
from pytest_avo.core.verdict import Verdict
from pytest_avo.gate.gains import Comparand
from pytest_avo.gate.gate import Gate
from pytest_avo.gate.refs import GitBaseline
from pytest_avo.gate.rules import parse_rules

SLOWED = (0.0, 0.03, 0.05, 0.10)
LIMIT = "3%"
SHAPE = SHAPES[0]
CASE = Comparand(parse_kernel("", path=Path("slowed.py")), "slowed.py", SHAPE)


class Itself(GitBaseline):
    """The kernel that is not slowed down, in place of one from a commit."""

    def subject(self, kernel: Kernel) -> Subject:
        return Subject("itself", "")


class Bench:
    """Measures a slowed kernel beside itself, and counts rounds."""

    def __init__(self, machine: Machine, slowed: float) -> None:
        """slowed: by what share."""
        self._machine = machine
        self._slowed = slowed
        self.rounds = 0

    def __call__(self, request: EvaluationRequest) -> Evaluations:
        if request.plan is None:
            return {SHAPE.id: Evaluation(SHAPE.id, "ok")}
        race = Race(request.plan, [SHAPE], (KERNEL, BASELINE), turns=1)
        for launch in range(request.plan.launches):
            race.begin_launch()
            process = self._machine.process()
            for index in range(race.stopping.rounds):
                slower = math.log1p(self._slowed) + process + self._machine.round()
                race.note(SHAPE, "normal", {KERNEL: slower, BASELINE: 0.0})
                if race.is_enough(index + 1):
                    break
            if race.is_over(launch + 1):
                break
        self.rounds += race.rounds
        return race.evaluations()


def gated(machine: Machine, slowed: float) -> tuple[bool, int]:
    """Whether the gate fails a kernel, and how many rounds that took."""
    gate = Gate(Itself("itself", "", Path()), parse_rules([LIMIT], []), lenient=False, floor=0.01)
    plain = EvaluationRequest(0, Subject("slowed", ""), (SHAPE,), plan=TimingPlan())
    request = gate.prepared(plain, CASE.kernel, gate.limit(CASE))
    bench = Bench(machine, slowed)
    verdict = gate.judge(Verdict(SHAPE.id, "correct"), CASE, bench(request)[SHAPE.id], request, bench)
    return verdict.regressed, bench.rounds


def main(comparisons: int, noises: list[float], say: Callable[[str], None]) -> None:
    """Print a row for every noise and slowdown."""
    say(f"{comparisons} comparisons of each")
    for noise in noises:
        for slowed in SLOWED:
            machine = Machine(noise, seed=1)
            found = [gated(machine, slowed) for _ in range(comparisons)]
            failed, rounds = (np.mean(each) for each in zip(*found, strict=True))
            say(f"noise {noise:.0%}, slowed by {slowed:.0%}: {failed:.1%} fail, {rounds:.0f} rounds")


if __name__ == "__main__":
    given = sys.argv[1:] or ["400"]
    main(int(given[0]), [float(each) for each in given[1:]] or [0.02, 0.04, 0.06, 0.1], print)
