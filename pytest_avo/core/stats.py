"""Statistics of paired timings: pure functions on numbers, no input or output.

A comparison of two kernels is a set of rounds; in one round both ran once on the same inputs, so the quantity of
interest is the paired log-ratio d = log(t_reference / t_kernel): above zero the kernel is faster. Rounds belong to
launches (one launch is one process per kernel); memory layout differs between launches, so rounds within one are not
independent, and what launches differ by counts as soon as it is more than what rounds explain (Kalibera and Jones,
Rigorous Benchmarking in Reasonable Time, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean, median

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WINSOR = 2.5
ROBUST = 1.4826
"""Deviations of a normal distribution in its median absolute deviation."""
EQUAL = 1e-9
"""Log-ratios that differ by less are equal; where half of them are, they are no measure of the others."""
BEYOND_CHANCE = 2.0
"""Ratio of two estimates of one variance from which on they are taken for different."""
ENOUGH_LAUNCHES = 4
"""With so many launches one that lies apart from the others is winsorised, as rounds are. Of three nobody can say which
one is the outlier."""
STEPS = 32769
"""Number of angles at which Student's distribution is tabulated."""


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


def levelled(launches: Launches, kinds: Sequence[Sequence[str]], *, at: str = "") -> list[list[float]]:
    """Log-ratios by launch, each less the effect of its kind of inputs, so that all kinds count alike.

    The centre of the result is the mean over kinds of each kind's median over all launches, or the median of the kind
    `at`. Its spread is that of every round around the median of the others of its kind, which is as much wider than
    around the median of all as that owes to the round itself; for one kind, wider by how few of the rounds it has. As
    they are where some kind has a single round, or there is but one kind. at: only launches that had that kind.
    """
    flat, names = [x for each in launches for x in each], [name for each in kinds for name in each]
    if [len(each) for each in launches] != [len(each) for each in kinds]:
        raise ValueError(f"one kind a round wanted, got {len(names)} for {len(flat)}")
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    if len(places) == 1 or min(map(len, places.values())) < 2:
        kept = [
            [x for x, name in zip(*each, strict=True) if not at or name == at]
            for each in zip(launches, kinds, strict=True)
        ]
        return [each for each in kept if each]
    medians = {name: median(flat[index] for index in where) for name, where in places.items()}
    around = np.zeros(len(flat))
    for where in places.values():
        own = [flat[index] for index in where]
        around[where] = [x - others for x, others in zip(own, _medians_without_each(own), strict=True)]
    around -= median(around.tolist())
    centre = medians[at] if at else fmean(medians.values())
    if at:
        around *= math.sqrt(len(flat) / (len(places[at]) - 1))
    ends = np.cumsum([len(each) for each in launches])[:-1]
    return [
        (centre + each).tolist() for each, own in zip(np.split(around, ends), kinds, strict=True) if not at or at in own
    ]


def _medians_without_each(values: Sequence[float]) -> list[float]:
    """For each of the values, two at least, the median of the others."""
    ranked = sorted(values)
    low, high = (len(values) - 2) // 2, (len(values) - 1) // 2  # the ranks in the middle of the others
    found = [0.0] * len(values)
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        found[index] = (ranked[low + (low >= rank)] + ranked[high + (high >= rank)]) / 2
    return found


class Located(msgspec.Struct, frozen=True):
    """A location, the variance of its estimate, and the degrees of freedom that the variance was estimated with."""

    estimate: float
    variance: float
    freedom: float


def located(launches: Launches) -> Located:
    """The location of log-ratios: the mean over launches of the winsorised mean over their rounds.

    A round that is farther from its launch's median than WINSOR robust deviations of all counts as that far (Huber's
    winsorised mean): machines interrupt. So does a launch, where there are enough of them. The variance is that of
    rounds around their launches' means, or of launches around theirs where that is more: what rounds of a launch share,
    its processes' memory, only launches show. How many degrees of freedom the larger one has matters only where it is
    larger beyond chance.
    """
    winsorised = _winsorised(launches)
    count, number = sum(map(len, winsorised)), len(winsorised)
    kept = sum(map(_alike, winsorised, launches))
    own_means = [fmean(x) for x in winsorised]
    means = _winsorised([own_means])[0] if number >= ENOUGH_LAUNCHES else own_means
    estimate = fmean(means)
    inner = kept - number  # those that were winsorised tell nothing of the spread (Yuen's trimmed t)
    squares = sum((x - mean) ** 2 for each, mean in zip(winsorised, own_means, strict=True) for x in each)
    shares = sum(1 / len(x) for x in winsorised) / number**2
    within = squares / inner * shares * count / kept if inner > 0 else 0.0
    if number == 1:
        return Located(estimate, within, max(inner, 1))
    usual = _alike(means, own_means)
    between = sum((x - estimate) ** 2 for x in means) / max(usual - 1, 1) / usual
    return _larger(Located(estimate, within, max(inner, 1)), Located(estimate, between, max(usual - 1, 1)))


def _winsorised(launches: Launches) -> list[list[float]]:
    """The rounds of each launch, winsorised: what lies farther from its median than a limit is put at the limit."""
    medians = [
        median(rounds) for rounds in launches
    ]  # of a few numbers: to make arrays of them takes ten times as long
    typical = median(abs(x - middle) for rounds, middle in zip(launches, medians, strict=True) for x in rounds)
    reach = WINSOR * ROBUST * typical if typical > EQUAL else math.inf
    return [
        [min(max(x, middle - reach), middle + reach) for x in rounds]
        for rounds, middle in zip(launches, medians, strict=True)
    ]


def _alike(one: Sequence[float], other: Sequence[float]) -> int:
    """How many numbers of two sequences are the same."""
    return sum(x == y for x, y in zip(one, other, strict=True))


def located_together(shapes: Mapping[str, Launches], weights: Mapping[str, float] | None = None) -> Located:
    """The weighted mean over shapes of the locations of their log-ratios.

    Variances add, and their freedom as Welch and Satterthwaite have it; where what shapes share in a launch, or in a
    round of the only one, makes the mean vary by more than that, so it does.
    """
    if not shapes:
        raise ValueError("a geomean wants at least one shape")
    share = np.array([1.0 if weights is None else weights[name] for name in shapes])
    share = share / share.sum()
    found = [located(launches) for launches in shapes.values()]
    estimate = float(np.dot(share, [each.estimate for each in found]))
    parts = [w**2 * each.variance for w, each in zip(share, found, strict=True)]
    variance = sum(parts)
    squares = sum(part**2 / each.freedom for part, each in zip(parts, found, strict=True))
    apart = Located(estimate, variance, variance**2 / squares if squares else 1.0)
    common = _together(list(shapes.values()), share)
    if common is None or len(shapes) == 1:
        return apart
    # What the mean over shapes varies by in the rounds that all of them had; further ones narrow it as they do `apart`.
    even = sum(part * _rounds(launches) for part, launches in zip(parts, shapes.values(), strict=True))
    even /= min(map(_rounds, shapes.values()))
    return _larger(apart, Located(estimate, common.variance * variance / even, common.freedom)) if even else apart


def _rounds(launches: Launches) -> int:
    """Rounds of the only launch; 1 where there are several, of which all shapes have as many."""
    return len(launches[0]) if len(launches) == 1 else 1


def interval(launches: Launches, *, confidence: float = 0.95) -> Interval:
    """Two-sided interval of the location of log-ratios, by Student's distribution."""
    return interval_of(located(launches), confidence=confidence)


def geomean_interval(
    shapes: Mapping[str, Launches], weights: Mapping[str, float] | None = None, *, confidence: float = 0.95
) -> Interval:
    """Interval of the weighted mean over shapes, still on the log scale (exp() of it is the geomean)."""
    return interval_of(located_together(shapes, weights), confidence=confidence)


def interval_of(found: Located, *, confidence: float) -> Interval:
    """The two-sided interval of a location."""
    half = student_quantile((1 + confidence) / 2, found.freedom) * math.sqrt(found.variance)
    return Interval(found.estimate, found.estimate - half, found.estimate + half)


def p_above(launches: Launches, bound: float) -> float:
    """One-sided p-value of "the location is above `bound`": how often chance alone would say so if it were not."""
    found = located(launches)
    if not found.variance:
        return float(found.estimate <= bound)
    return student_share((bound - found.estimate) / math.sqrt(found.variance), found.freedom)


def p_below(launches: Launches, bound: float) -> float:
    """One-sided p-value of "the location is below `bound`"."""
    return p_above([[-x for x in rounds] for rounds in launches], -bound)


def student_share(t: float, freedom: float) -> float:
    """Share of Student's distribution below t."""
    angles, shares = _student(freedom)
    return float(np.interp(math.atan(t / math.sqrt(freedom)), angles, shares))


def student_quantile(share: float, freedom: float) -> float:
    """Below which t that share of Student's distribution lies."""
    angles, shares = _student(freedom)
    return math.sqrt(freedom) * math.tan(float(np.interp(share, shares, angles)))


@lru_cache(maxsize=256)
def _student(freedom: float) -> tuple[Floats, Floats]:
    """Shares of Student's distribution by the angle whose tangent is t / sqrt(freedom).

    Over that angle its density is the cosine to the power of freedom - 1.
    """
    angles = np.linspace(-math.pi / 2, math.pi / 2, STEPS)
    density = np.cos(angles).clip(0.0) ** (max(freedom, 1.0) - 1)
    shares = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return angles, shares / shares[-1]


def _larger(one: Located, other: Located) -> Located:
    """The larger of two variances of one estimate, with the first one's freedom unless the other's is far larger."""
    if other.variance > BEYOND_CHANCE * one.variance:
        return other
    return Located(one.estimate, max(one.variance, other.variance), one.freedom)


def _together(shapes: Sequence[Launches], share: Floats) -> Located | None:
    """The mean over shapes, launch by launch, or round by round of the only one; None where their numbers differ."""
    numbers = {len(launches) for launches in shapes}
    if len(numbers) > 1:
        return None
    if numbers == {1}:
        shortest = min(len(launches[0]) for launches in shapes)  # further rounds were not everybody's
        units = [_winsorised(launches)[0][:shortest] for launches in shapes]
    else:
        units = [[located([rounds]).estimate for rounds in launches] for launches in shapes]
    means = share @ np.array(units)
    return None if len(means) < 2 else located([means.tolist()])


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
