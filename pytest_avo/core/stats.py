"""Statistics of paired timings: pure functions on numbers, no input or output.

A comparison of two kernels is a set of rounds; in one round both ran once on the same inputs, so the quantity of
interest is the paired log-ratio d = log(t_reference / t_kernel): above zero the kernel is faster. Rounds belong to
launches (one launch is one process per kernel); memory layout differs between launches, so rounds within one are not
independent and the bootstrap resamples launches first, rounds second (Kalibera and Jones, Rigorous Benchmarking in
Reasonable Time, 2013).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000


class Interval(msgspec.Struct, frozen=True):
    """An estimate with its confidence interval, on the scale of the data."""

    estimate: float
    low: float
    high: float

    def exp(self) -> Interval:
        """From log-ratios to ratios."""
        return Interval(*(float(np.exp(x)) for x in (self.estimate, self.low, self.high)))

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


Launches = Sequence[Sequence[float]]
"""Paired log-ratios, one inner sequence per launch, one number per round."""


def log_ratios(reference_s: Sequence[float], kernel_s: Sequence[float]) -> list[float]:
    """Paired log-ratios log(reference / kernel) of one launch; both sequences in seconds, same length, all positive."""
    if len(reference_s) != len(kernel_s):
        raise ValueError(f"paired samples wanted, got {len(reference_s)} and {len(kernel_s)}")
    return [float(x) for x in np.log(np.asarray(reference_s) / np.asarray(kernel_s))]


def levelled(launch: Sequence[float], kinds: Sequence[str], *, at: str = "") -> list[float]:
    """Log-ratios of a launch whose rounds had inputs of several kinds, as if every kind had the same.

    The location of the result is the mean over kinds of each kind's median, or the median of the kind `at`. Its spread
    is that of every round around the median of the others of its kind, which is as much wider than around the median
    of all as that owes to the round itself; for one kind, wider by how few of the rounds it has. As they are where
    some kind has a single round, or there is but one kind.
    """
    if len(launch) != len(kinds):
        raise ValueError(f"one kind a round wanted, got {len(kinds)} for {len(launch)}")
    rounds: dict[str, list[float]] = {}
    for value, kind in zip(launch, kinds, strict=True):
        rounds.setdefault(kind, []).append(value)
    if len(rounds) == 1 or min(map(len, rounds.values())) < 2:
        return list(rounds[at] if at else launch)
    around = np.concatenate(
        [[x - np.median(each[:i] + each[i + 1 :]) for i, x in enumerate(each)] for each in rounds.values()]
    )
    around -= np.median(around)
    if at:
        around *= np.sqrt(len(launch) / (len(rounds[at]) - 1))
    centre = np.median(rounds[at]) if at else np.mean([np.median(each) for each in rounds.values()])
    return [float(x) for x in centre + around]


def location(launches: Launches) -> float:
    """The point estimate: median over the rounds of a launch, mean over launches."""
    return float(np.mean([np.median(rounds) for rounds in launches]))


def bootstrap_locations(launches: Launches, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """`location` of `resamples` cluster-bootstrap replicates: launches with replacement, then rounds within each."""
    random = np.random.default_rng(seed)
    medians: Floats = np.empty((len(launches), resamples))
    for index, rounds in enumerate(launches):
        values = np.asarray(rounds, dtype=np.float64)
        picks = random.integers(0, len(values), size=(resamples, len(values)))
        medians[index] = np.median(values[picks], axis=1)
    if len(launches) == 1:
        return np.asarray(medians[0], dtype=np.float64)
    chosen = random.integers(0, len(launches), size=(len(launches), resamples))
    return np.asarray(np.take_along_axis(medians, chosen, axis=0).mean(axis=0), dtype=np.float64)


def interval(launches: Launches, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Two-sided percentile interval of `location`."""
    return _percentiles(location(launches), bootstrap_locations(launches, resamples=resamples, seed=seed), confidence)


def geomean_interval(
    shapes: Mapping[str, Launches],
    weights: Mapping[str, float] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of the weighted mean over shapes of `location`, still on the log scale (exp() of it is the geomean)."""
    if not shapes:
        raise ValueError("a geomean wants at least one shape")
    share = np.array([1.0 if weights is None else weights[name] for name in shapes])
    share = share / share.sum()
    estimate = float(np.dot(share, [location(launches) for launches in shapes.values()]))
    replicates = np.stack(
        [bootstrap_locations(x, resamples=resamples, seed=seed + i) for i, x in enumerate(shapes.values())]
    )
    return _percentiles(estimate, share @ replicates, confidence)


def p_above(launches: Launches, bound: float, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """One-sided p-value of "the location is above `bound`": how often chance alone would say so if it were not.

    The share of bootstrap replicates at or below the bound, the data themselves counted as one of them, so that it is
    never zero: a claim cannot be surer than 1 / (resamples + 1).
    """
    return _p_value(bootstrap_locations(launches, resamples=resamples, seed=seed) <= bound)


def p_below(launches: Launches, bound: float, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """One-sided p-value of "the location is below `bound`"."""
    return _p_value(bootstrap_locations(launches, resamples=resamples, seed=seed) >= bound)


def looks(first: int, last: int) -> tuple[int, ...]:
    """Rounds after which a comparison that may stop early is looked at: the first, doubled, and so on to the last."""
    found = [first]
    while found[-1] * 2 < last:
        found.append(found[-1] * 2)
    return (*found, last) if last > found[-1] else tuple(found)


def confidence_of_looks(number: int, *, risk: float) -> float:
    """Confidence of the two-sided intervals of so many looks, such that a bound of any errs with at most `risk`.

    The risk is split evenly (Bonferroni): who looks after every round, each time at the full risk, errs far more often.
    """
    return 1 - 2 * risk / number


def of_each(confidence: float, number: int) -> float:
    """Confidence of each of so many two-sided intervals, for all of them to hold with `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / number


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: claim what is at most alpha, and with 1 - alpha not one claim of all is false.

    p_values: by shape, one claim each, in any dependence. Holm, A simple sequentially rejective multiple test
    procedure, 1979: the k-th smallest of m is multiplied by m - k + 1, and none falls below a smaller one's.
    """
    if bad := {name: p for name, p in p_values.items() if not 0 <= p <= 1}:
        raise ValueError(f"p-values lie between 0 and 1, got {bad}")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _p_value(against: NDArray[np.bool_]) -> float:
    return (1 + int(against.sum())) / (1 + len(against))


def _percentiles(estimate: float, replicates: Floats, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))
