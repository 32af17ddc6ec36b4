"""Predictions beside measurements."""

from __future__ import annotations

import math

import pytest

from pytest_avo.core.stats import Interval
from pytest_avo.lineage.records import GEOMEAN, AttemptOutcome
from pytest_avo.operators.knowledge.comparison import compared, comparison, measured_ratios
from tests.operators.steps import FIRST, SECOND, SEED, SHAPES, evaluation


@pytest.mark.parametrize(
    ("predicted", "judgement"), [(1.2, "too high"), (1.1, "right"), (1.05, "right"), (0.9, "too low")]
)
def test_a_prediction_is_right_within_the_interval(predicted: float, judgement: str) -> None:
    (found,) = compared({GEOMEAN: predicted}, {GEOMEAN: Interval(1.08, 1.05, 1.11)})
    assert found.judgement == judgement
    assert str(found) == f"geomean predicted {predicted:.3f}, measured 1.080 [1.050, 1.110]: {judgement}"


def test_only_what_was_measured_is_compared_the_geomean_first() -> None:
    measured = {FIRST: Interval(1.0, 0.9, 1.1), GEOMEAN: Interval(1.0, 0.9, 1.1)}
    found = compared({SECOND: 1.0, FIRST: 2.0, GEOMEAN: 1.0}, measured)
    assert [each.of for each in found] == [GEOMEAN, FIRST]
    kept = comparison(7, found)
    assert (kept.attempt, kept.judgements) == (7, {GEOMEAN: "right", FIRST: "too high"})


def test_the_confirmation_is_what_counts() -> None:
    evaluations = {SHAPES[0].id: evaluation(SEED.replace("100", "200"), SEED, SHAPES[0], timed=True)}
    evaluations[SECOND] = evaluation(SEED, SEED, SHAPES[1], timed=False)
    outcome = AttemptOutcome(1, "promoted", gain=Interval(0.9, 0.8, 1.0), confirmed=Interval(0.5, 0.4, 0.6))
    found = measured_ratios(outcome, evaluations)
    assert set(found) == {GEOMEAN, FIRST}
    assert found[GEOMEAN].estimate == pytest.approx(math.exp(0.5))
    assert found[FIRST].estimate == pytest.approx(2.0, rel=0.01)
