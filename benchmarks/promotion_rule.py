"""What the rules of an evolution make of candidates with a known gain, on a simulated machine.

    python benchmarks/promotion_rule.py [CANDIDATES [NOISE]]

Everything but the clock is what an evolution runs: rounds with three kinds of inputs over five shapes, the rules that
end them (evaluation/judge/stopping.py), the decision on a screening and on a confirmation (evolution/decision.py). The
paired log-ratio of a round is the gain, the kind's own effect, a deviation of every process that differs from launch to
launch, and noise of which one round in ten is late. NOISE is the deviation of a round (0.03: 3%), that of a process a
third of it. A gain of 0 shows how many equal kernels would be promoted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing, TimingPlan
from pytest_avo.core.ranking import LEAST_FLOOR
from pytest_avo.core.shape import Shape, read_suite
from pytest_avo.core.stats import Launches
from pytest_avo.evaluation.judge.stopping import Stopping
from pytest_avo.evolution.decision import Decision, accepts, confirmation, decide, screening

SUITES = Path(__file__).parents[1] / "shapes"
KINDS = ("normal", "spread", "sink")
GAINS = (0.0, 0.01, 0.03, 0.05, 0.10)
LATE = 0.1
LATE_BY = 0.15
"""Share of the rounds that are late, and by how much on average."""


class Machine:
    """Log-ratios of rounds as a machine of some noise would give them."""

    def __init__(self, noise: float, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._noise = noise

    def process(self) -> float:
        """What a launch deviates by."""
        return self._noise / 3 * float(self._random.standard_normal())

    def kinds(self) -> dict[str, float]:
        """Effects of kinds of inputs on a shape, none on the whole."""
        effects = 0.01 * self._random.standard_normal(len(KINDS))
        return dict(zip(KINDS, (effects - effects.mean()).tolist(), strict=True))

    def round(self) -> float:
        late = self._random.choice([-1, 1]) * self._random.exponential(LATE_BY) if self._random.random() < LATE else 0.0
        return float(self._noise * self._random.standard_normal() + late)


def measured(machine: Machine, plan: TimingPlan, shapes: list[Shape], gain: float) -> tuple[Decision, int]:
    """The decision on a comparison under a plan, and how many rounds of one shape it took."""
    effects = {shape.id: machine.kinds() for shape in shapes}
    values: dict[str, list[list[float]]] = {shape.id: [] for shape in shapes}
    kinds: dict[str, list[list[str]]] = {shape.id: [] for shape in shapes}
    stopping = Stopping(plan, shapes, turns=len(KINDS))

    def paired(shape: str, arm: str) -> Launches:
        return stats.levelled(values[shape], kinds[shape])

    for launch in range(plan.launches):
        process = {shape.id: machine.process() for shape in shapes}
        for shape in shapes:
            values[shape.id].append([])
            kinds[shape.id].append([])
        for index in range(stopping.rounds):
            for shape in list(stopping.open):
                kind = KINDS[index % len(KINDS)]
                found = gain + effects[shape.id][kind] + process[shape.id] + machine.round()
                values[shape.id][-1].append(found)
                kinds[shape.id][-1].append(kind)
            if stopping.after_round(index + 1, 0.0, paired, others=[BASELINE], round_s=dict.fromkeys(values, 1.0)):
                break
        if stopping.after_launch(launch + 1, paired, others=[BASELINE]):
            break
    evaluations = {shape.id: evaluation(shape, values[shape.id], kinds[shape.id]) for shape in shapes}
    rounds = sum(len(launch) for launches in values.values() for launch in launches)
    return decide(evaluations, shapes, floor=plan.margin or 0.0), rounds


def evaluation(shape: Shape, values: list[list[float]], kinds: list[list[str]]) -> Evaluation:
    baseline = tuple(tuple(np.exp(launch).tolist()) for launch in values)
    seconds = {KERNEL: tuple((1.0,) * len(launch) for launch in values), BASELINE: baseline}
    timing = Timing(seconds, calls=1, stopped="", kinds=tuple(tuple(launch) for launch in kinds))
    return Evaluation(shape.id, "ok", timing=timing)


def tried(machine: Machine, shapes: list[Shape], gain: float) -> tuple[str, int]:
    """What becomes of a candidate, and how many rounds of one shape that takes."""
    decision, rounds = measured(machine, screening(TimingPlan(), floor=LEAST_FLOOR), shapes, gain)
    if decision.ranking != "faster":
        return decision.ranking, rounds
    confirmed, more = measured(machine, confirmation(TimingPlan(), floor=LEAST_FLOOR), shapes, gain)
    promoted = confirmed.gain is not None and accepts(confirmed.gain, LEAST_FLOOR, accept="faster")
    return "promoted" if promoted else "not confirmed", rounds + more


def main(candidates: int, noise: float, say: Callable[[str], None]) -> None:
    """Print a row for every gain."""
    shapes = list(read_suite(SUITES / "quickstart.toml"))
    say(f"{candidates} candidates of each gain, noise of a round {noise:.1%}")
    for gain in GAINS:
        machine = Machine(noise, seed=1)
        found = [tried(machine, shapes, gain) for _ in range(candidates)]
        counts = Counter(outcome for outcome, _ in found)
        shares = ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common())
        say(f"gain {gain:.0%}: {shares}; {np.mean([rounds for _, rounds in found]) / len(shapes):.1f} rounds a shape")


if __name__ == "__main__":
    given = (*sys.argv[1:], *("1000", "0.03")[len(sys.argv) - 1 :])
    main(int(given[0]), float(given[1]), print)
