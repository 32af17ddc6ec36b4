"""A kernel's old time beside its new one, round by round: what a gate decides on, whatever the old time comes from."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_avo.core import stats
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval, Launches
from pytest_avo.core.verdict import Comparison


@dataclass(frozen=True, slots=True)
class Case:
    """What is compared: a kernel, its path as node ids have it, a shape, and the kernel's suites that hold it."""

    kernel: Kernel
    name: str
    shape: Shape
    suites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gains:
    """Log-ratios old time / new time, launch after launch; `median_us` is the old time in microseconds per call."""

    launches: Launches
    median_us: float

    def interval(self, *, confidence: float = 0.95) -> Interval:
        return stats.interval(self.launches, confidence=confidence)

    def comparison(self) -> Comparison:
        """As verdicts carry it."""
        ratio = self.interval().exp()
        return Comparison(median_us=self.median_us, ratio=ratio.estimate, ci95=(ratio.low, ratio.high))
