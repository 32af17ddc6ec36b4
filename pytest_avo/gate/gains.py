"""A kernel's old time beside its new one, round by round: what a gate decides on, whatever the old time comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_avo.core import stats
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval, Launches
from pytest_avo.core.verdict import Comparison


@dataclass(frozen=True, slots=True)
class Comparand:
    """What is compared: a kernel, its path as node ids have it, a shape, and the kernel's suites that hold it."""

    kernel: Kernel
    name: str
    shape: Shape
    suites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gains:
    """Log-ratios old time / new time by shape, launch after launch, and the shapes' weights."""

    launches: Mapping[str, Launches]
    weights: Mapping[str, float]
    relative_to: str = ""
    """The peer that both times are taken relative to, or ""."""

    @classmethod
    def of_one(cls, shape: Shape, launches: Launches, relative_to: str = "") -> Gains:
        return cls({shape.id: launches}, {shape.id: shape.weight}, relative_to)

    @classmethod
    def of_all(cls, gains: Sequence[Gains]) -> Gains:
        """Those of several shapes together."""
        launches = {shape: each for some in gains for shape, each in some.launches.items()}
        weights = {shape: each for some in gains for shape, each in some.weights.items()}
        return cls(launches, weights, next(iter({some.relative_to for some in gains})))

    def interval(self, confidence: float = 0.95) -> Interval:
        """Of the log-ratio; of the weighted geomean where there are several shapes."""
        return stats.geomean_interval(self.launches, self.weights, confidence=confidence)

    def comparison(self, median_us: float) -> Comparison:
        """As verdicts carry it, beside the old time in microseconds per call."""
        ratio = self.interval().exp()
        return Comparison(median_us=median_us, ratio=ratio.estimate, ci95=(ratio.low, ratio.high))
