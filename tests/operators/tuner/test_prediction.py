"""Predictions: effects told apart, and silence where nothing was measured."""

from __future__ import annotations

import pytest

from pytest_avo.core.kernel import Tunable
from pytest_avo.operators.tuner.prediction import predict
from pytest_avo.operators.tuner.search import Measured

SPACE = (Tunable("A", 1, (1, 2, 3)), Tunable("B", False, (False, True)))
OLD = {"A": 1, "B": False}


def test_nothing_is_predicted_from_nothing() -> None:
    assert predict(SPACE, [], old=OLD, new={"A": 2, "B": False}) is None
    measured = [Measured(OLD, 0.0), Measured({"A": 2, "B": False}, None), Measured({"A": 1, "B": True}, 0.1)]
    assert predict(SPACE, measured, old=OLD, new={"A": 2, "B": False}) is None
    assert predict(SPACE, measured, old=OLD, new={"A": 2, "B": True}) is None


def test_effects_of_several_changes_add_up() -> None:
    measured = [Measured(OLD, 0.0), Measured({"A": 2, "B": False}, 0.2), Measured({"A": 1, "B": True}, -0.1)]
    prediction = predict(SPACE, measured, old=OLD, new={"A": 2, "B": True})
    assert prediction is not None
    assert prediction.log_ratio == pytest.approx(0.1, abs=0.02)
    assert prediction.evidence == 2


def test_a_value_gets_no_credit_for_the_company_it_kept() -> None:
    # B is worth 0.5 and A nothing; but A = 2 was measured with B alone, so mean scores would favour it.
    measured = [
        Measured(OLD, 0.0),
        Measured({"A": 1, "B": True}, 0.5),
        Measured({"A": 2, "B": True}, 0.5),
        Measured({"A": 3, "B": False}, 0.0),
    ]
    prediction = predict(SPACE, measured, old=OLD, new={"A": 2, "B": False})
    assert prediction is not None
    assert abs(prediction.log_ratio) < 0.1
    assert prediction.evidence == 1
