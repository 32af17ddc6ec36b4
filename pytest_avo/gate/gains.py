"""Gains: a kernel's old time over its new one, round by round, which is what a gate decides on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_avo.core import stats
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.core.stats import Interval, Launches
from pytest_avo.core.verdict import Comparison, of_kinds


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
    by_kind: Mapping[str, Mapping[str, Launches]] = field(default_factory=dict)
    """kind of inputs -> shape -> the same on that kind alone; none where there is but one."""

    @classmethod
    def of_one(
        cls, shape: Shape, launches: Launches, relative_to: str = "", by_kind: Mapping[str, Launches] | None = None
    ) -> Gains:
        kinds = {kind: {shape.id: each} for kind, each in (by_kind or {}).items()}
        return cls({shape.id: launches}, {shape.id: shape.weight}, relative_to, kinds)

    @classmethod
    def of_all(cls, gains: Sequence[Gains]) -> Gains:
        """The gains of several shapes together."""
        launches = {shape: each for some in gains for shape, each in some.launches.items()}
        weights = {shape: each for some in gains for shape, each in some.weights.items()}
        kinds = dict.fromkeys(kind for some in gains for kind in some.by_kind)
        by_kind = {
            kind: {shape: each for some in gains for shape, each in some.by_kind.get(kind, {}).items()}
            for kind in kinds
        }
        return cls(launches, weights, next(iter({some.relative_to for some in gains})), by_kind)

    def continued(self, more: Gains) -> Gains:
        """The same gains with further launches, of the same shapes."""

        def joined(one: Mapping[str, Launches], other: Mapping[str, Launches]) -> dict[str, Launches]:
            return {shape: [*launches, *other.get(shape, ())] for shape, launches in one.items()}

        by_kind = {kind: joined(launches, more.by_kind.get(kind, {})) for kind, launches in self.by_kind.items()}
        return replace(self, launches=joined(self.launches, more.launches), by_kind=by_kind)

    def interval(self, confidence: float = 0.95) -> Interval:
        """The interval of the log-ratio; of its weighted mean where there are several shapes."""
        return stats.geomean_interval(self.launches, self.weights, confidence=confidence)

    def kinds(self, confidence: float = 0.95) -> dict[str, Interval]:
        """The intervals on each kind of inputs alone. confidence: of all of them together."""
        each = stats.of_each(confidence, len(self.by_kind) or 1)
        return {
            kind: stats.geomean_interval(launches, self.weights, confidence=each)
            for kind, launches in self.by_kind.items()
        }

    def comparison(self, median_us: float) -> Comparison:
        """As verdicts carry it, beside the old time in microseconds per call."""
        ratio = self.interval().exp()
        ci95 = (ratio.low, ratio.high)
        return Comparison(median_us=median_us, ratio=ratio.estimate, ci95=ci95, kinds=of_kinds(self.kinds()))
