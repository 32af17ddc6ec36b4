"""What an evolution makes of incumbents that take their time, and of honest ones, on a simulated machine.

    python benchmarks/taking_time.py [CANDIDATES [NOISE]]

An incumbent was promoted once, 1.35 times as fast as the seed, screened and confirmed beside the fixed arm. Now a
candidate is beside it: one that changes nothing while the incumbent takes so much longer, or an honest gain while it
does not. Counted is what the confirmation promotes and what the rule of the fixed arm (evolution/fixed_arm.py) lets
pass of that. Everything but the clock is what an evolution runs. NOISE is the deviation of a round's log-ratio (0.1:
10%), one round in ten is late besides; that of a process is a third of it, and the fixed arm drifts by 3% in between.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from simulation import KINDS, SHAPES, Machine, Race

from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL, Evaluations, TimingPlan
from pytest_avo.core.ranking import LEAST_FLOOR
from pytest_avo.evolution.decision import accepts, confirmation, decide, screening
from pytest_avo.evolution.fixed_arm import unshown

ARMS = (KERNEL, BASELINE, FIXED)
SLOWED = (1.1, 1.15, 1.21, 1.3, 1.5)
GAINS = (1.05, 1.1, 1.2, 1.5)
PROMOTED = 0.3
DRIFT = 0.03


def measured(machine: Machine, slower: dict[str, float], plan: TimingPlan) -> Evaluations:
    """Arms that take so much longer, log-ratios; a turn of all kinds of inputs in each launch, as few as it can be."""
    race = Race(plan, SHAPES, ARMS)
    for launch in range(race.plan.launches):
        race.begin_launch()
        for shape in SHAPES:
            process = {arm: machine.process() for arm in ARMS}
            logs = {arm: [slower[arm] + process[arm] + machine.slice() for _ in KINDS] for arm in ARMS}
            for index, kind in enumerate(KINDS):
                race.note(shape, kind, {arm: logs[arm][index] for arm in ARMS})
        if race.is_over(launch + 1):
            break
    return race.evaluations()


def tried(machine: Machine, *, gain: float, slowed: float) -> tuple[bool, bool]:
    """Whether a candidate's confirmation promotes it, and whether the fixed arm lets that pass; both ratios."""
    plans = [screening(TimingPlan(), floor=LEAST_FLOOR), confirmation(TimingPlan(), floor=LEAST_FLOOR)]
    then = [measured(machine, {KERNEL: 0.0, BASELINE: PROMOTED, FIXED: 0.0}, plan) for plan in plans]
    fixed = DRIFT * machine.normal()
    slower = {KERNEL: -math.log(gain), BASELINE: math.log(slowed), FIXED: fixed}
    now = [measured(machine, slower, plan) for plan in plans]
    found = decide(now[-1], SHAPES, floor=LEAST_FLOOR).gain
    promoted = found is not None and accepts(found, LEAST_FLOOR, accept="faster")
    return promoted, promoted and unshown(now, then, SHAPES) is None


def main(candidates: int, noise: float, say: Callable[[str], None]) -> None:
    """Print a row for every gain, false and honest."""
    machine = Machine(noise / math.sqrt(2), seed=1)  # of a slice: a log-ratio of two deviates by `noise`
    say(f"{candidates} candidates of each, noise of a round {noise:.1%}")
    rows = [(f"no gain, incumbent {x:.2f}x slower", 1.0, x) for x in SLOWED]
    rows += [(f"gain {x:.2f}x, incumbent honest", x, 1.0) for x in GAINS]
    for name, gain, slowed in rows:
        found = [tried(machine, gain=gain, slowed=slowed) for _ in range(candidates)]
        promoted, passed = (sum(each) for each in zip(*found, strict=True))
        say(f"{name}: faster in a confirmation {promoted}, promoted {passed}")


if __name__ == "__main__":
    given = (*sys.argv[1:], *("200", "0.1")[len(sys.argv) - 1 :])
    main(int(given[0]), float(given[1]), print)
