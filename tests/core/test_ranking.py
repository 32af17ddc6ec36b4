"""The rank of a gain, the gain over several shapes, and the floor below which all is noise."""

from __future__ import annotations

import math

import pytest

from pytest_avo.core.evaluation import BASELINE, KERNEL, Evaluation, Outcome, Timing
from pytest_avo.core.ranking import LEAST_FLOOR, failing, floor_of, geomean_gain, noise_floor, paired, ranking
from pytest_avo.core.stats import Interval
from tests.core.gains import HEAVY, ONE, TWO, both, timed


@pytest.mark.parametrize(
    ("low", "high", "limit", "expected"),
    [
        (0.02, 0.04, 0.03, "faster"),
        (-0.005, 0.005, None, "same"),
        (-0.02, 0.005, None, "ambiguous"),
        (-0.02, 0.04, 0.03, "same"),
        (-0.04, 0.001, 0.03, "ambiguous"),
        (-0.02, -0.015, 0.03, "slower"),
        (-0.02, -0.015, None, "slower"),
        (-0.09, -0.05, 0.03, "ambiguous"),
    ],
)
def test_rankings(low: float, high: float, limit: float | None, expected: str) -> None:
    assert ranking(Interval((low + high) / 2, low, high), floor=0.01, limit=limit) == expected


def test_launches_are_paired_one_by_one() -> None:
    timing = Timing({KERNEL: ((1.0, 1.0), (2.0,)), "peer": ((2.0, 4.0), (2.0,))}, calls=1, stopped="")
    ratios = paired(timing, "peer")
    assert ratios == [pytest.approx([0.6931, 1.3863], abs=1e-3), pytest.approx([0.0])]


def test_weights_of_shapes_count() -> None:
    evaluations = {ONE.id: timed(ONE, gain=0.10), HEAVY.id: timed(HEAVY, gain=0.02)}
    gain = geomean_gain(evaluations, (ONE, HEAVY), confidence=0.95)
    assert gain.estimate == pytest.approx((0.10 + 3 * 0.02) / 4, abs=0.001)


def test_a_quiet_machine_has_the_least_floor() -> None:
    assert noise_floor(both(0.0, 0.0, noise=0.0001), (ONE, TWO)) == LEAST_FLOOR


def test_what_a_kernel_differs_from_itself_by_beyond_its_interval_is_the_floor() -> None:
    assert noise_floor(both(0.01, 0.01), (ONE, TWO)) == pytest.approx(0.01, abs=0.001)
    assert noise_floor(both(-0.01, -0.01), (ONE, TWO)) == pytest.approx(0.01, abs=0.001)


def test_noise_is_in_intervals_and_no_part_of_the_floor() -> None:
    assert noise_floor(both(0.0, 0.0, noise=0.1), (ONE, TWO)) == LEAST_FLOOR


def test_any_two_arms_can_be_paired() -> None:
    timing = both(0.1, 0.1)[ONE.id].timing
    assert timing is not None
    (of_kernel,), (of_baseline,) = paired(timing, BASELINE), paired(timing, KERNEL, of=BASELINE)
    assert of_baseline == pytest.approx([-x for x in of_kernel])


def test_what_was_not_timed_has_no_gain() -> None:
    with pytest.raises(ValueError, match=f"{ONE.id} was not timed"):
        geomean_gain({ONE.id: Evaluation(ONE.id, "ok")}, (ONE,), confidence=0.95)


def test_the_floor_is_that_of_all_comparisons_together() -> None:
    off, wide = Interval(0.03, 0.03, 0.03), Interval(0.0, -0.04, 0.04)
    assert floor_of([off]) == pytest.approx(0.06)
    assert floor_of([off, wide]) == pytest.approx(2 * math.sqrt((0.03**2 + 0.04**2) / 2))


@pytest.mark.parametrize("outcome", ["incorrect", "crashed", "timeout", "rejected", "unsupported"])
def test_a_kernel_that_is_not_right_is_ranked_by_what_became_of_it(outcome: Outcome) -> None:
    assert failing(Evaluation(ONE.id, outcome, "because")) == outcome
    with pytest.raises(ValueError, match="ranked by its timing"):
        failing(Evaluation(ONE.id, "ok"))
