"""The devices of this machine, dealt among workers."""

from __future__ import annotations

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.evaluation.devices.local import deal, devices, sharers


def test_workers_in_excess_share_devices() -> None:
    found = devices("cpu")
    assert [device.id for device in found] == ["cpu"]
    assert [deal(ordinal, "cpu").id for ordinal in range(3)] == ["cpu"] * 3
    assert [sharers(dealing, "cpu") for dealing in (1, 2, 3)] == [1, 2, 3]


def test_a_kind_that_is_not_here_is_the_evaluators_failure() -> None:
    with pytest.raises(EvaluatorError, match="this machine has no device for sm10 kernels"):
        deal(0, "sm10")
