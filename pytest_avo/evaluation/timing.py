"""Timing kernels against each other: interleaved rounds on fresh inputs, by the judge's clock.

In a round every arm runs once on the same inputs, in an order that is reversed every other round, all but the one being
timed frozen. What is kept are the paired times; absolute times on a shared machine mean little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from random import Random
from statistics import median

import torch

from pytest_avo.core import stats
from pytest_avo.core.evaluation import BASELINE, KERNEL, Timing, TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.arm import Arm, KernelEnded, KernelFault
from pytest_avo.evaluation.arms import max_calls
from pytest_avo.evaluation.correctness import sampled_fault
from pytest_avo.evaluation.inputs import Stream

SLICE_S = 0.005
"""A timed slice lasts at least about this long, so that the cost of asking (about 0.1 ms) hardly counts."""
WARM_UP_ROUNDS = 2
CLOCK_TOLERANCE = 0.10
CLOCK_SLACK_S = 0.005
CLOCK_FACTOR = 2.0
"""How far a process's own account of a slice may fall short of the judge's, beyond twice what honest arms show: a
share of the slice and a time. A larger gap means a false clock or work outside the call."""


class ArmFault(Exception):
    """An arm failed while it was timed."""

    def __init__(self, arm: str, shape: str, error: KernelFault | KernelEnded) -> None:
        super().__init__(str(error))
        self.arm = arm
        self.shape = shape
        self.error = error


class Race:
    """One comparison of arms over shapes, launch after launch."""

    def __init__(self, *, shapes: list[Shape], plan: TimingPlan, limit_s: float, seed: int) -> None:
        self._shapes = shapes
        self._plan = plan
        self._limit_s = limit_s
        self._random = Random(seed)
        generator = torch.Generator().manual_seed(seed)
        self._streams = {shape.id: Stream(shape, generator) for shape in shapes}
        self._calls: dict[str, int] = {}
        self._samples: dict[str, dict[str, list[list[float]]]] = {shape.id: {} for shape in shapes}
        self._unclaimed: dict[str, dict[str, list[float]]] = {shape.id: {} for shape in shapes}

        self._started = 0.0

    def run(self, launch: Callable[[], Mapping[str, Arm]], say: Callable[[str], None]) -> dict[str, Timing]:
        """Race the arms that `launch` provides (fresh ones on every call but the first); ArmFault when one fails."""
        plan = self._plan
        self._started = time.monotonic()
        rounds = math.ceil(plan.max_rounds / plan.launches)
        stopped = ""
        for number in range(plan.launches):
            arms = launch()
            for shape in self._shapes:
                self._warm_up(shape, arms)
            for index in range(rounds):
                say(f"round {number * rounds + index + 1} of at most {rounds * plan.launches}")
                for shape in self._shapes:
                    self._round(shape, arms, backwards=bool(index % 2))
                if reason := self._verdict_is_in(number, index + 1):
                    stopped = reason
                    break
        self._check_clocks()
        return {
            shape.id: Timing(
                seconds={
                    arm: tuple(tuple(rounds) for rounds in launches)
                    for arm, launches in self._samples[shape.id].items()
                },
                calls=self._calls[shape.id],
                stopped=stopped or f"all {rounds * plan.launches} rounds done",
            )
            for shape in self._shapes
        }

    def _warm_up(self, shape: Shape, arms: Mapping[str, Arm]) -> None:
        """Untimed calls; the first launch also fixes how many calls make a slice of this shape."""
        fastest = math.inf
        for name, arm in arms.items():
            self._samples[shape.id].setdefault(name, []).append([])
            for _ in range(WARM_UP_ROUNDS):
                seconds = self._slice(shape, name, arm, [self._streams[shape.id].draw()])
            fastest = min(fastest, seconds)
        wanted = math.ceil(SLICE_S / max(fastest, 1e-6))
        self._calls.setdefault(shape.id, min(max_calls(shape), wanted))

    def _round(self, shape: Shape, arms: Mapping[str, Arm], *, backwards: bool) -> None:
        calls = self._calls[shape.id]
        batch = [self._streams[shape.id].draw() for _ in range(calls)]
        order = sorted(arms)
        for name in reversed(order) if backwards else order:
            seconds = self._slice(shape, name, arms[name], batch)
            self._samples[shape.id][name][-1].append(seconds / calls)

    def _slice(self, shape: Shape, name: str, arm: Arm, batch: list) -> float:  # type: ignore[type-arg]
        try:
            result = arm.call(batch, shape.dtype, limit_s=self._limit_s, phase="time")
            self._unclaimed[shape.id].setdefault(name, []).append(result.seconds - result.claimed_s)
            if name == KERNEL:
                chosen = self._random.randrange(len(batch))
                if found := sampled_fault(batch[chosen], result.outputs[chosen], self._random):
                    raise KernelFault("incorrect", f"{found} (a timed call)")
        except (KernelFault, KernelEnded) as error:
            raise ArmFault(name, shape.id, error) from None
        return result.seconds

    def _verdict_is_in(self, launch: int, rounds: int) -> str:
        """Why no further round of this launch is needed, or "". Several launches are never cut short by a result."""
        plan = self._plan
        if time.monotonic() - self._started > plan.budget_s * (launch + 1) / plan.launches:
            return f"time budget of {plan.budget_s:g} s spent"
        if rounds < plan.min_rounds or plan.launches > 1:
            return ""
        if plan.margin is not None:
            shapes = {shape.id: self._paired(shape.id, BASELINE) for shape in self._shapes}
            weights = {shape.id: shape.weight for shape in self._shapes}
            bound = stats.geomean_interval(shapes, weights, confidence=0.98)
            if bound.low > plan.margin:
                return "plainly faster"
            return "not faster" if bound.high < plan.margin else ""
        arms = [(shape.id, arm) for shape in self._shapes for arm in self._samples[shape.id] if arm != KERNEL]
        widths = [stats.interval(self._paired(shape, arm)).half_width for shape, arm in arms]
        return "intervals narrow enough" if widths and max(widths) < plan.precision else ""

    def _paired(self, shape: str, arm: str) -> list[list[float]]:
        samples = self._samples[shape]
        return [stats.log_ratios(x, y) for x, y in zip(samples[arm], samples[KERNEL], strict=True)]

    def _check_clocks(self) -> None:
        """Reject a kernel whose process accounts for less, or more, of the measured time than the other arms do."""
        for shape, arms in self._unclaimed.items():
            # The least of all slices: a false clock is off in each of them, a busy machine leaves one alone.
            missing = min(arms[KERNEL])
            others = [min(gaps) for name, gaps in arms.items() if name != KERNEL]
            if not others:
                continue  # how long a busy machine takes to wake a process is not known without another arm
            usual = CLOCK_FACTOR * max(others)
            slices = [x * self._calls[shape] for rounds in self._samples[shape][KERNEL] for x in rounds]
            allowed = usual + CLOCK_TOLERANCE * median(slices) + CLOCK_SLACK_S
            if not -CLOCK_SLACK_S <= missing <= allowed:
                reason = f"its process accounts for {missing * 1e3:+.1f} ms less than the judge's clock ({shape})"
                raise ArmFault(KERNEL, shape, KernelFault("rejected", reason))
