"""What the rules of an evolution make of candidates with a known gain, on a simulated machine.

    python benchmarks/promotion_rule.py [CANDIDATES [NOISE]]

Everything but the clock is what an evolution runs: rounds with three kinds of inputs over five shapes, the rules that
end them (evaluation/judge/race/stopping.py), the decision on a screening and on a confirmation (evolution/decision.py).
The paired log-ratio of a round is the gain, the kind's own effect, a deviation of every process that differs from
launch to launch, and noise of which one round in ten is late. NOISE is the deviation of a round (0.03: 3%), that of a
process a third of it. A gain of 0 shows how many equal kernels would be promoted, the last line how many would that are
as much faster as the floor, the worst case, if all of them were confirmed and none was screened.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
from simulation import KINDS, SHAPES, Machine, Race

from pytest_avo.core.evaluation import BASELINE, KERNEL, TimingPlan
from pytest_avo.core.ranking import LEAST_FLOOR
from pytest_avo.evolution.decision import Decision, accepts, confirmation, decide, screening

GAINS = (0.0, 0.01, 0.03, 0.05, 0.10)


def measured(machine: Machine, plan: TimingPlan, gain: float) -> tuple[Decision, int]:
    """The decision on a comparison under a plan, and how many rounds of one shape it took."""
    race = Race(plan, SHAPES, (KERNEL, BASELINE))
    effects = {shape.id: machine.kinds() for shape in SHAPES}
    for launch in range(plan.launches):
        race.begin_launch()
        process = {shape.id: machine.process() for shape in SHAPES}
        for index in range(race.stopping.rounds):
            kind = KINDS[index % len(KINDS)]
            for shape in list(race.stopping.open):
                found = gain + effects[shape.id][kind] + process[shape.id] + machine.round()
                race.note(shape, kind, {KERNEL: 0.0, BASELINE: found})
            if race.is_enough(index + 1):
                break
        if race.is_over(launch + 1):
            break
    return decide(race.evaluations(), SHAPES, floor=plan.margin or 0.0), race.rounds


def tried(machine: Machine, gain: float) -> tuple[str, int]:
    """What becomes of a candidate, and how many rounds of one shape that takes."""
    decision, rounds = measured(machine, screening(TimingPlan(), floor=LEAST_FLOOR), gain)
    if decision.ranking != "faster":
        return decision.ranking, rounds
    promoted, more = confirmed(machine, gain)
    return "promoted" if promoted else "not confirmed", rounds + more


def confirmed(machine: Machine, gain: float) -> tuple[bool, int]:
    """Whether a candidate is promoted that was screened, and how many rounds of one shape its confirmation takes."""
    decision, rounds = measured(machine, confirmation(TimingPlan(), floor=LEAST_FLOOR), gain)
    return decision.gain is not None and accepts(decision.gain, LEAST_FLOOR, accept="faster"), rounds


def main(candidates: int, noise: float, say: Callable[[str], None]) -> None:
    """Print a row for every gain."""
    say(f"{candidates} candidates of each gain, noise of a round {noise:.1%}")
    for gain in GAINS:
        machine = Machine(noise, seed=1)
        found = [tried(machine, gain) for _ in range(candidates)]
        counts = Counter(outcome for outcome, _ in found)
        shares = ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common())
        say(f"gain {gain:.0%}: {shares}; {np.mean([rounds for _, rounds in found]) / len(SHAPES):.1f} rounds a shape")
    machine = Machine(noise, seed=1)
    promoted = sum(confirmed(machine, LEAST_FLOOR)[0] for _ in range(candidates))
    say(f"gain {LEAST_FLOOR:.1%}, confirmed all: promoted {promoted}")


if __name__ == "__main__":
    given = (*sys.argv[1:], *("1000", "0.03")[len(sys.argv) - 1 :])
    main(int(given[0]), float(given[1]), print)
