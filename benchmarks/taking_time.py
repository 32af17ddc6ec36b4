"""What an evolution makes of incumbents that take their time, and of honest ones, on a simulated machine.

    python benchmarks/taking_time.py [CANDIDATES [NOISE]]

An incumbent was promoted once, 1.35 times as fast as the seed, and timed beside the fixed arm then. Now a candidate is
confirmed beside it: one that changes nothing while the incumbent takes so much longer, or an honest gain while it does
not. Counted is what the confirmation promotes and what the rule of the fixed arm (evolution/fixed_arm.py) lets pass of
that. Everything but the clock is what an evolution runs. NOISE is the deviation of a round's log-ratio (0.1: 10%), one
round in ten is late besides; that of a process is a third of it, and the fixed arm drifts by 3% in between.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL, Evaluation, Timing, TimingPlan
from pytest_avo.core.ranking import LEAST_FLOOR
from pytest_avo.core.shape import Shape, read_suite
from pytest_avo.core.stats import Launches
from pytest_avo.evaluation.judge.stopping import Stopping
from pytest_avo.evolution.decision import accepts, confirmation, decide
from pytest_avo.evolution.fixed_arm import unshown

SUITES = Path(__file__).parents[1] / "shapes"
KINDS = ("normal", "spread", "sink")
ARMS = (KERNEL, BASELINE, FIXED)
SLOWED = (1.1, 1.15, 1.21, 1.3, 1.5)
GAINS = (1.05, 1.1, 1.2, 1.5)
PROMOTED = 0.3
LATE, LATE_BY = 0.05, 0.15
"""Share of the slices that are late, and by how much on average."""
DRIFT = 0.03
Evaluations = dict[str, Evaluation]


class Machine:
    """Log-times of slices as a machine of some noise would give them."""

    def __init__(self, noise: float, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._each = noise / math.sqrt(2)
        """Of one arm, where a log-ratio of two deviates by `noise`."""

    def process(self) -> dict[str, float]:
        """What a launch's processes deviate by."""
        return {arm: self._each / 3 * float(self.random.standard_normal()) for arm in ARMS}

    def slice(self) -> float:
        late = float(self.random.exponential(LATE_BY)) if self.random.random() < LATE else 0.0
        return self._each * float(self.random.standard_normal()) + late


def confirmed(machine: Machine, shapes: list[Shape], slower: dict[str, float]) -> Evaluations:
    """A confirmation of arms that take so much longer, log-ratios."""
    plan = confirmation(TimingPlan(), floor=LEAST_FLOOR)
    stopping = Stopping(plan, shapes, turns=len(KINDS))
    logs: dict[str, dict[str, list[list[float]]]] = {shape.id: {arm: [] for arm in ARMS} for shape in shapes}
    kinds: list[tuple[str, ...]] = []

    def paired(shape: str, arm: str) -> Launches:
        rounds = zip(logs[shape][arm], logs[shape][KERNEL], strict=True)
        return stats.levelled([np.subtract(*both).tolist() for both in rounds], kinds)

    for launch in range(plan.launches):
        kinds.append(tuple(KINDS[index % len(KINDS)] for index in range(stopping.rounds)))
        for shape in shapes:
            process = machine.process()
            for arm, found in logs[shape.id].items():
                found.append([slower[arm] + process[arm] + machine.slice() for _ in kinds[-1]])
        if stopping.after_launch(launch + 1, paired, others=[BASELINE]):
            break
    return {shape.id: Evaluation(shape.id, "ok", timing=timing(logs[shape.id], kinds)) for shape in shapes}


def timing(logs: dict[str, list[list[float]]], kinds: list[tuple[str, ...]]) -> Timing:
    seconds = {arm: tuple(tuple(map(math.exp, launch)) for launch in launches) for arm, launches in logs.items()}
    return Timing(seconds, calls=1, stopped="", kinds=tuple(kinds))


def tried(machine: Machine, shapes: list[Shape], *, gain: float, slowed: float) -> tuple[bool, bool]:
    """Whether a candidate's confirmation promotes it, and whether the fixed arm lets that pass; both ratios."""
    then = confirmed(machine, shapes, {KERNEL: 0.0, BASELINE: PROMOTED, FIXED: 0.0})
    fixed = DRIFT * float(machine.random.standard_normal())
    now = confirmed(machine, shapes, {KERNEL: -math.log(gain), BASELINE: math.log(slowed), FIXED: fixed})
    found = decide(now, shapes, floor=LEAST_FLOOR).gain
    promoted = found is not None and accepts(found, LEAST_FLOOR, accept="faster")
    return promoted, promoted and unshown(now, then, shapes) is None


def main(candidates: int, noise: float, say: Callable[[str], None]) -> None:
    """Print a row for every gain, false and honest."""
    shapes = list(read_suite(SUITES / "quickstart.toml"))
    machine = Machine(noise, seed=1)
    say(f"{candidates} candidates of each, noise of a round {noise:.1%}")
    rows = [(f"no gain, incumbent {x:.2f}x slower", 1.0, x) for x in SLOWED]
    rows += [(f"gain {x:.2f}x, incumbent honest", x, 1.0) for x in GAINS]
    for name, gain, slowed in rows:
        found = [tried(machine, shapes, gain=gain, slowed=slowed) for _ in range(candidates)]
        promoted, passed = (sum(each) for each in zip(*found, strict=True))
        say(f"{name}: faster in a confirmation {promoted}, promoted {passed}")


if __name__ == "__main__":
    given = (*sys.argv[1:], *("200", "0.1")[len(sys.argv) - 1 :])
    main(int(given[0]), float(given[1]), print)
