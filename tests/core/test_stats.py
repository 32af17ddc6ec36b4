"""Intervals of paired timings: against Student's distribution, simulations of known truth, and by their symmetries."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import betainc

from pytest_avo.core.stats import (
    Interval,
    confidence_of_looks,
    geomean_interval,
    holm,
    interval,
    levelled,
    located,
    located_together,
    log_ratios,
    looks,
    p_above,
    p_below,
    student_quantile,
    student_share,
)

rounds = st.lists(st.integers(-10_000, 10_000).map(lambda n: n / 10_000), min_size=1, max_size=12)
launch_lists = st.lists(rounds, min_size=1, max_size=4)


def simulated(
    seed: int, *, launches: int, count: int, truth: float, within: float, between: float
) -> list[list[float]]:
    """Log-ratios with a deviation per round and one that all rounds of a launch share."""
    random = np.random.default_rng(seed)
    offsets = random.normal(truth, between, launches) if between else np.full(launches, truth)
    return [[float(x) for x in random.normal(offset, within, count)] for offset in offsets]


def test_a_log_ratio_is_above_zero_where_the_kernel_is_faster() -> None:
    assert log_ratios([2.0, 1.0], [1.0, 2.0]) == pytest.approx([math.log(2), -math.log(2)])


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="paired samples wanted, got 2 and 1"):
        log_ratios([1.0, 2.0], [1.0])


def test_the_location_is_the_mean_over_launches_of_rounds_and_late_ones_are_drawn_in() -> None:
    assert located([[1.0, 2.0, 3.0], [4.0]]).estimate == 3.0
    even = [0.01 * x for x in range(-5, 6)]
    assert located([[*even, 9.0]]).estimate == pytest.approx(0.0, abs=0.02)


def share_below(value: float, freedom: float) -> float:
    """Of Student's distribution; Abramowitz and Stegun, 26.7.1 with 26.5.27."""
    outside = betainc(freedom / 2, 0.5, 0, freedom / (freedom + value**2), regularized=True)
    return float(1 - outside / 2 if value > 0 else outside / 2)


def is_quantile(value: float, share: float, freedom: float) -> bool:
    """Whether a value is the quantile of a share, within a thousandth of itself."""
    margin = max(1e-3 * abs(value), 1e-6)
    return share_below(value - margin, freedom) <= share <= share_below(value + margin, freedom)


def test_a_launch_that_lies_apart_does_not_make_the_interval_useless() -> None:
    """Five launches of six agree to 2%; in one a process was unlucky for as long as it lived."""
    usual = [[0.70, 0.71, 0.69], [0.69, 0.70, 0.68], [0.71, 0.70, 0.72], [0.70, 0.69, 0.69], [0.72, 0.71, 0.70]]
    apart = [2.1, 2.0, 2.2]
    found = interval([*usual, apart])
    assert found.half_width < 0.05
    assert found.low < 0.70 < found.high
    few = interval([*usual[:2], apart])
    assert few.half_width > 1, "of three nobody can say which is the unusual one"


def test_launches_that_are_drawn_in_err_as_seldom_as_is_said() -> None:
    """Six launches of equal kernels, one in ten of them far off: 1% to either side is said."""
    random, runs = np.random.default_rng(11), 600
    means = 0.01 * random.standard_normal((runs, 6))
    means += (random.random((runs, 6)) < 0.1) * 0.3 * random.standard_normal((runs, 6))
    found = [interval([[x] for x in each], confidence=0.98) for each in means.tolist()]
    outside = sum(each.low > 0 or each.high < 0 for each in found)
    assert outside / runs <= 0.02 + 2 * math.sqrt(0.02 * 0.98 / runs)
    assert np.quantile([each.half_width for each in found], 0.9) < 0.06


@pytest.mark.parametrize("freedom", [1.0, 2.0, 3.7, 15.0, 400.0])
def test_students_distribution_is_that_of_the_incomplete_beta_function(freedom: float) -> None:
    assert share_below(12.706, 1.0) == pytest.approx(0.975, abs=1e-5), "as in every table"
    for share in (0.0005, 0.01, 0.3, 0.5, 0.975, 0.999):
        assert is_quantile(student_quantile(share, freedom), share, freedom)
    for value in (-6.0, -1.0, 0.0, 2.5):
        assert student_share(value, freedom) == pytest.approx(share_below(value, freedom), abs=1e-6)


def test_an_interval_of_logs_becomes_one_of_ratios() -> None:
    ratio = Interval(0.0, math.log(0.5), math.log(2)).exp()
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((1.0, 0.5, 2.0))
    assert Interval(0.0, -1.0, 3.0).half_width == 2.0


@pytest.mark.parametrize("confidence", [0.683, 0.95, 0.98])
@pytest.mark.parametrize("count", [9, 40])
def test_one_launch_without_late_rounds_agrees_with_the_t_test(count: int, confidence: float) -> None:
    sample = [0.05 + 0.01 * (-1) ** number for number in range(count)]
    found, middle = interval([sample], confidence=confidence), statistics.fmean(sample)
    error = statistics.stdev(sample) / math.sqrt(count)
    assert middle - found.low == pytest.approx(found.high - middle)
    assert is_quantile((found.high - middle) / error, (1 + confidence) / 2, count - 1)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """150 simulated comparisons in one launch: with a nominal 95%, coverage stays within four standard errors."""
    truth = 0.02
    found = [
        interval(simulated(seed, launches=1, count=30, truth=truth, within=0.05, between=0)) for seed in range(150)
    ]
    covered = sum(x.low <= truth <= x.high for x in found) / len(found)
    assert covered >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 150)


def test_launches_that_differ_widen_the_interval_beyond_the_naive_one() -> None:
    ratios = []
    for seed in range(20):
        launches = simulated(seed, launches=5, count=20, truth=0.0, within=0.01, between=0.02)
        naive = interval([[x for launch in launches for x in launch]])
        ratios.append(interval(launches).half_width / naive.half_width)
    assert np.median(ratios) > 1.5


def test_launches_that_agree_do_not_widen_the_interval_much() -> None:
    launches = simulated(5, launches=5, count=40, truth=0.0, within=0.01, between=0)
    naive = interval([[x for launch in launches for x in launch]])
    assert interval(launches).half_width < 1.5 * naive.half_width


@pytest.mark.parametrize(("launches", "between"), [(1, 0.0), (3, 0.0), (4, 0.02), (8, 0.01)])
def test_few_rounds_and_launches_err_as_seldom_as_is_said(launches: int, between: float) -> None:
    """Five shapes, six rounds a launch with inputs of three kinds, one in seven late: 1% to either side is said."""
    random, runs, outside = np.random.default_rng(7), 300, 0
    kinds = [("normal", "spread", "sink") * 2] * launches
    for _ in range(runs):
        shapes = {}
        for shape in range(5):
            effects = np.tile(0.03 * random.standard_normal(3), 2)
            effects -= effects.mean()
            noise = 0.02 * random.standard_normal((launches, 6)) + between * random.standard_normal((launches, 1))
            late = (random.random((launches, 6)) < 1 / 7) * random.exponential(0.15, (launches, 6))
            late *= random.choice([-1, 1], (launches, 6))
            shapes[str(shape)] = levelled((noise + effects + late).tolist(), kinds)
        found = geomean_interval(shapes, confidence=0.98)
        outside += found.low > 0 or found.high < 0
    assert outside / runs <= 0.02 + 2 * math.sqrt(0.02 * 0.98 / runs)


def test_what_all_shapes_share_in_a_launch_does_not_average_out() -> None:
    random = np.random.default_rng(3)
    shared = 0.05 * random.standard_normal(6)
    shapes = {str(n): (shared[:, None] + 0.001 * random.standard_normal((6, 4))).tolist() for n in range(10)}
    assert geomean_interval(shapes).half_width > 0.8 * interval(shapes["0"]).half_width
    assert located_together(shapes).freedom <= 5


def test_rounds_that_only_some_shapes_had_narrow_the_interval() -> None:
    few, many = (simulated(8, launches=1, count=count, truth=0.0, within=0.05, between=0) for count in (6, 60))
    quiet = simulated(9, launches=1, count=6, truth=0.0, within=0.001, between=0)
    assert (
        geomean_interval({"a": quiet, "b": many}).half_width < 0.4 * geomean_interval({"a": quiet, "b": few}).half_width
    )


@settings(max_examples=60, deadline=None)
@given(launch_lists)
def test_the_estimate_lies_within_the_data_and_its_interval(launches: list[list[float]]) -> None:
    found = interval(launches)
    values = [x for launch in launches for x in launch]
    assert min(values) - 1e-12 <= found.estimate <= max(values) + 1e-12
    assert found.low <= found.estimate <= found.high


@settings(max_examples=60, deadline=None)
@given(launch_lists, st.floats(-3, 3))
def test_a_shift_of_all_rounds_shifts_the_interval(launches: list[list[float]], shift: float) -> None:
    before = interval(launches)
    after = interval([[x + shift for x in launch] for launch in launches])
    for name in ("estimate", "low", "high"):
        assert getattr(after, name) == pytest.approx(getattr(before, name) + shift, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(launch_lists)
def test_exchanging_the_kernels_mirrors_the_interval(launches: list[list[float]]) -> None:
    before = interval(launches)
    after = interval([[-x for x in launch] for launch in launches])
    assert after.estimate == pytest.approx(-before.estimate, abs=1e-12)
    assert after.low == pytest.approx(-before.high, abs=1e-9)
    assert after.high == pytest.approx(-before.low, abs=1e-9)


def test_a_geomean_of_one_shape_is_that_shapes_interval() -> None:
    launches = simulated(2, launches=3, count=10, truth=0.1, within=0.05, between=0.01)
    assert geomean_interval({"one": launches}) == interval(launches)


def test_weights_count_relative_to_each_other() -> None:
    shapes = {"a": [[0.0] * 5], "b": [[1.0] * 5]}
    assert geomean_interval(shapes).estimate == pytest.approx(0.5)
    weighted = geomean_interval(shapes, {"a": 30.0, "b": 10.0})
    assert (weighted.estimate, weighted.low, weighted.high) == pytest.approx((0.25, 0.25, 0.25))


def test_many_shapes_narrow_the_interval_of_the_geomean() -> None:
    shapes = {str(seed): simulated(seed, launches=1, count=20, truth=0.0, within=0.05, between=0) for seed in range(16)}
    widths = [interval(launches).half_width for launches in shapes.values()]
    assert geomean_interval(shapes).half_width < np.mean(widths) / 2.5


def test_the_geomean_covers_the_truth_as_often_as_it_says() -> None:
    truth, covered = 0.01, 0
    for seed in range(60):
        shapes = {
            str(i): simulated(1000 * seed + i, launches=1, count=20, truth=truth, within=0.05, between=0)
            for i in range(4)
        }
        found = geomean_interval(shapes)
        covered += found.low <= truth <= found.high
    assert covered / 60 >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 60)


def test_a_geomean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one shape"):
        geomean_interval({})


def test_holm_agrees_with_the_example_of_its_paper() -> None:
    # 4 tests at 0.01, 0.04, 0.03, 0.005: multiplied by 3, 1, 2, 4, and never below a smaller one's.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferronis(p_values: list[float]) -> None:
    adjusted = holm({str(i): p for i, p in enumerate(p_values)})
    for i, p in enumerate(p_values):
        assert p <= adjusted[str(i)] <= min(1.0, len(p_values) * p)
    assert adjusted[str(int(np.argmin(p_values)))] == pytest.approx(min(1.0, len(p_values) * min(p_values)))


def test_holm_refuses_what_is_no_probability() -> None:
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm({"a": wrong})


def test_p_values_mirror_each_other() -> None:
    sample = simulated(4, launches=2, count=20, truth=0.2, within=0.01, between=0.001)
    assert 0 < p_above(sample, 0.0) < 1e-3 < 0.999 < p_below(sample, 0.0)
    assert p_above(sample, 0.19) == pytest.approx(1 - p_below(sample, 0.19))
    assert (p_above([[0.1, 0.1]], 0.0), p_above([[0.1, 0.1]], 0.1)) == (0.0, 1.0)


def test_a_p_value_agrees_with_the_interval_of_the_same_sample() -> None:
    sample = simulated(5, launches=3, count=20, truth=0.03, within=0.05, between=0.01)
    low = interval(sample, confidence=0.90).low
    assert p_above(sample, low) == pytest.approx(0.05, abs=1e-4)


def test_among_equal_kernels_holm_seldom_finds_any_slower() -> None:
    """Eight shapes, none slower: without a correction about a third of the runs would call one slower."""
    runs, alpha = 60, 0.05
    plain = corrected = 0
    for run in range(runs):
        shapes = [simulated(100 * run + i, launches=1, count=30, truth=0, within=0.05, between=0) for i in range(8)]
        found = {str(i): p_below(launches, 0.0) for i, launches in enumerate(shapes)}
        plain += min(found.values()) <= alpha
        corrected += min(holm(found).values()) <= alpha
    assert plain / runs > 0.15
    assert corrected / runs <= alpha + 4 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(5, 30, (5, 10, 20, 30)), (10, 30, (10, 20, 30)), (5, 5, (5,)), (5, 6, (5, 6)), (5, 10, (5, 10)), (9, 3, (9,))],
)
def test_looks_double_and_end_with_the_last_round(first: int, last: int, expected: tuple[int, ...]) -> None:
    assert looks(first, last) == expected


def test_looking_often_errs_no_more_than_it_says() -> None:
    """Two equal kernels: looked at after every round at the full risk, a bound errs often; at a few looks, seldom."""
    risk, runs = 0.05, 80
    careless = careful = 0
    chosen = looks(10, 40)
    for seed in range(runs):
        [rounds] = simulated(seed, launches=1, count=40, truth=0, within=0.05, between=0)

        def above(count: int, confidence: float, rounds: list[float] = rounds) -> bool:
            return interval([rounds[:count]], confidence=confidence).low > 0

        careless += any(above(count, 1 - 2 * risk) for count in range(10, 41))
        careful += any(above(count, confidence_of_looks(len(chosen), risk=risk)) for count in chosen)
    assert careless / runs > 2 * risk
    assert careful / runs <= risk + 4 * math.sqrt(risk * (1 - risk) / runs)


def test_every_kind_of_inputs_counts_alike_however_many_rounds_it_has() -> None:
    kinds = ["normal", "spread"] * 3 + ["normal"]
    launch = [0.1, -0.3, 0.1, -0.3, 0.1, -0.3, 0.1]
    assert levelled([launch], [kinds]) == [pytest.approx([-0.1] * 7)]
    assert levelled([launch], [kinds], at="spread") == [pytest.approx([-0.3] * 7)]
    one_turn_each = levelled([launch[:2], launch[2:4]], [kinds[:2], kinds[2:4]])
    assert one_turn_each == [pytest.approx([-0.1, -0.1])] * 2


def test_one_kind_of_inputs_and_single_rounds_are_left_as_they_are() -> None:
    assert levelled([[0.1, 0.3]], [["normal", "normal"]]) == [[0.1, 0.3]]
    assert levelled([[0.1, 0.3]], [["normal", "spread"]]) == [[0.1, 0.3]]
    assert levelled([[0.1, 0.3]], [["normal", "spread"]], at="spread") == [[0.3]]
    with pytest.raises(ValueError, match="one kind a round wanted"):
        levelled([[0.1]], [[]])


@pytest.mark.parametrize("rounds", [6, 9, 18])
def test_the_interval_over_kinds_of_inputs_covers_the_truth_as_often_as_that_over_one(rounds: int) -> None:
    random = np.random.default_rng(4)
    kinds = [f"kind {number % 3}" for number in range(rounds)]
    effects = np.array([0.1 * (number % 3) for number in range(rounds)])
    missed = 0
    for _ in range(300):
        found = interval(levelled([list(effects + 0.02 * random.standard_normal(rounds))], [kinds]))
        missed += not found.low <= 0.1 <= found.high
    assert missed <= 30
