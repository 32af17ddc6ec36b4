from __future__ import annotations

import math

import pytest

from pytest_avo.gate.gains import Gains
from tests.evaluation.laboratory import shape

ONE, TWO = shape(), shape(lengths=(1, 96))


def gains(ratio: float, *, of_second: bool = False) -> Gains:
    return Gains.of_one(TWO if of_second else ONE, [[math.log(ratio)] * 5], relative_to="torch-sdpa")


def test_a_gain_beside_the_old_time() -> None:
    found = gains(1.1).comparison(250.0)
    assert found.median_us == 250.0
    assert [found.ratio, *found.ci95] == pytest.approx([1.1, 1.1, 1.1])


def test_the_gain_over_several_shapes_is_the_geomean() -> None:
    both = Gains.of_all([gains(1.21), gains(1.0, of_second=True)])
    assert both.relative_to == "torch-sdpa"
    assert math.exp(both.interval().estimate) == pytest.approx(1.1)
