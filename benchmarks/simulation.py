"""Comparisons on a simulated machine, since a real one does not tell the truth: noise, and the rules that end a race.

Everything but the clock is what an evolution runs: `promotion_rule.py` and `taking_time.py` ask it about candidates
whose gain is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Timing, TimingPlan
from pytest_avo.core.ranking import ONE_SIDED_99, gains_by_kind, slowest
from pytest_avo.core.shape import Shape, read_suite
from pytest_avo.core.stats import Launches
from pytest_avo.evaluation.judge.race.stopping import Stopping

SHAPES = read_suite(Path(__file__).parents[1] / "shapes" / "quickstart.toml")
KINDS = ("normal", "spread", "sink")
LATE_SLICES, LATE_ROUNDS = 0.05, 0.1
"""Shares of the slices, and so of the rounds of two, that are late."""
LATE_BY = 0.15
"""By how much they are late on average."""
KINDS_DIFFER_BY = 0.01


class Machine:
    """Noise as a machine would have it: of slices, of the rounds of two of them, of processes, of kinds of inputs."""

    def __init__(self, noise: float, seed: int) -> None:
        """noise: deviation of a slice's log-time, or of a round's log-ratio, as drawn; a third of it of a process."""
        self._noise = noise
        self._random = np.random.default_rng(seed)

    def normal(self) -> float:
        """A standard normal number."""
        return float(self._random.standard_normal())

    def process(self) -> float:
        """What all that one process does deviates by."""
        return self._noise / 3 * self.normal()

    def kinds(self) -> dict[str, float]:
        """Effects of kinds of inputs on a shape, none on the whole."""
        effects = KINDS_DIFFER_BY * self._random.standard_normal(len(KINDS))
        return dict(zip(KINDS, (effects - effects.mean()).tolist(), strict=True))

    def slice(self) -> float:
        """What a slice's log-time deviates by."""
        late = float(self._random.exponential(LATE_BY)) if self._random.random() < LATE_SLICES else 0.0
        return self._noise * self.normal() + late

    def round(self) -> float:
        """What a round's log-ratio deviates by: either of its slices may be late."""
        is_late = self._random.random() < LATE_ROUNDS
        late = self._random.choice([-1, 1]) * self._random.exponential(LATE_BY) if is_late else 0.0
        return float(self._noise * self.normal() + late)


class Race:
    """A comparison of arms: log-times of slices that somebody draws, and the rules that say when there are enough."""

    def __init__(
        self, plan: TimingPlan, shapes: Sequence[Shape], arms: Sequence[str], *, turns: int = len(KINDS)
    ) -> None:
        """turns: how many kinds of inputs shapes have."""
        self.plan = plan
        self._shapes = shapes
        self.stopping = Stopping(plan, shapes, turns=turns)
        self._logs: dict[str, dict[str, list[list[float]]]] = {shape.id: {arm: [] for arm in arms} for shape in shapes}
        self._kinds: dict[str, list[list[str]]] = {shape.id: [] for shape in shapes}

    def begin_launch(self) -> None:
        """Make room for the rounds of one more launch."""
        for shape, logs in self._logs.items():
            self._kinds[shape].append([])
            for launches in logs.values():
                launches.append([])

    def note(self, shape: Shape, kind: str, logs: Mapping[str, float]) -> None:
        """Take down a round of the present launch: the kind of its inputs, and the log-time of every arm's slice."""
        self._kinds[shape.id][-1].append(kind)
        for arm, value in logs.items():
            self._logs[shape.id][arm][-1].append(value)

    def is_enough(self, rounds: int) -> bool:
        """Whether so many rounds of this launch suffice."""
        round_s = dict.fromkeys(self._logs, 1.0)
        return bool(self.stopping.after_round(rounds, 0.0, self._paired, others=[BASELINE], round_s=round_s))

    def is_over(self, launches: int) -> bool:
        """Whether so many launches suffice."""
        return bool(self.stopping.after_launch(launches, self._paired, others=[BASELINE], slowest=self._slowest))

    @property
    def rounds(self) -> int:
        """How many rounds there were, of all shapes."""
        return sum(len(launch) for kinds in self._kinds.values() for launch in kinds)

    def evaluations(self) -> dict[str, Evaluation]:
        """What was measured, by shape id."""
        return {shape: Evaluation(shape, "ok", timing=self._timing(shape)) for shape in self._logs}

    def _slowest(self) -> float:
        return slowest(gains_by_kind(self.evaluations(), self._shapes, confidence=ONE_SIDED_99))

    def _paired(self, shape: str, arm: str) -> Launches:
        rounds = zip(self._logs[shape][arm], self._logs[shape][KERNEL], strict=True)
        return stats.levelled([np.subtract(*both).tolist() for both in rounds], self._kinds[shape])

    def _timing(self, shape: str) -> Timing:
        logs = self._logs[shape].items()
        seconds = {arm: tuple(tuple(map(math.exp, launch)) for launch in launches) for arm, launches in logs}
        return Timing(seconds, calls=1, stopped="", kinds=tuple(map(tuple, self._kinds[shape])))
