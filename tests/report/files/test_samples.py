from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from pytest_avo.report.files.samples import sample_stats

FRACTIONS = {"min", "max", "mean", "stddev", "median", "iqr", "q1", "q3", "ld15iqr", "hd15iqr", "ops", "total"}


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=40))
def test_statistics_are_those_of_pytest_benchmark(samples_s: list[float]) -> None:
    untyped: Any = Stats
    theirs = untyped()
    theirs.data = samples_s
    expected = theirs.as_dict()
    ours = sample_stats(samples_s, iterations=1)
    assert set(ours) == {*expected, "data", "iterations"}
    for field in FRACTIONS:
        assert ours[field] == pytest.approx(expected[field], rel=1e-9, abs=1e-12), field
    for field in set(expected) - FRACTIONS:
        assert ours[field] == expected[field], field


def test_samples_keep_their_order_and_their_number_of_calls() -> None:
    stats = sample_stats((0.3, 0.1, 0.2), iterations=5)
    assert stats["data"] == [0.3, 0.1, 0.2]
    assert (stats["rounds"], stats["iterations"], stats["median"]) == (3, 5, 0.2)


def test_a_single_sample_is_all_its_statistics() -> None:
    stats = sample_stats((0.25,), iterations=1)
    assert {stats[name] for name in ("min", "max", "mean", "median", "q1", "q3", "ld15iqr", "hd15iqr")} == {0.25}
    assert (stats["stddev"], stats["ops"], stats["outliers"]) == (0.0, 4.0, "0;0")
