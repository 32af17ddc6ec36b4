"""The statistics of one benchmark, defined as pytest-benchmark defines them, whose readers expect them so."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median, stdev


def sample_stats(samples_s: Sequence[float], *, iterations: int) -> dict[str, object]:
    """The `stats` object: all times in seconds per call, `ops` in calls per second.

    Quartiles are the mean of the two hinge rules (medians of the halves without and with the middle sample, which
    pytest-benchmark calls method 3); fences stand 1.5 interquartile ranges beyond them (Tukey).
    """
    ordered = sorted(samples_s)
    centre, spread = mean(ordered), stdev(ordered) if len(ordered) > 1 else 0.0
    q1, q3 = quartiles(ordered)
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    outside_deviation = sum(abs(x - centre) > spread for x in ordered)
    outside_fences = sum(not low <= x <= high for x in ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": centre,
        "stddev": spread,
        "rounds": len(ordered),
        "median": median(ordered),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outside_fences,
        "stddev_outliers": outside_deviation,
        "outliers": f"{outside_deviation};{outside_fences}",
        "ld15iqr": min(x for x in ordered if x >= low),
        "hd15iqr": max(x for x in ordered if x <= high),
        "ops": len(ordered) / sum(ordered),
        "total": sum(ordered),
        "data": list(samples_s),
        "iterations": iterations,
    }


def quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    """First and third quartile of sorted samples."""
    count = len(ordered)
    if count == 1:
        return ordered[0], ordered[0]
    lower, upper = ordered[: count // 2], ordered[-(count // 2) :]
    if count % 2 == 0:
        return median(lower), median(upper)
    middle = [ordered[count // 2]]
    return (median(lower) + median([*lower, *middle])) / 2, (median(upper) + median([*middle, *upper])) / 2
