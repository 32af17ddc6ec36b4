"""What calls take of a limit."""

from __future__ import annotations

import time

import pytest
import torch

from pytest_avo.evaluation.arms.arm import Slice
from pytest_avo.evaluation.arms.faults import KernelRaised
from pytest_avo.evaluation.judge.checks import _Spent

NOTHING = torch.empty(0)


def test_what_calls_take_is_left_to_later_ones_no_more_whether_answered_or_refused() -> None:
    spent, given = _Spent(2.0), []

    def answered(*, limit_s: float) -> Slice:
        given.append(limit_s)
        return Slice(0.5, 0.5, False, lambda _: NOTHING, lambda: NOTHING, lambda _: NOTHING)

    def refused(*, limit_s: float) -> Slice:
        given.append(limit_s)
        time.sleep(0.01)
        raise KernelRaised("unsupported", "no")

    spent.on(answered)
    with pytest.raises(KernelRaised):
        spent.on(refused)
    for _ in range(3):
        spent.on(answered)
    assert given[:2] == [2.0, 1.5]
    assert 0.9 < given[2] <= 1.49
    assert given[-1] == pytest.approx(0.49, abs=0.1)
    spent.on(answered)
    assert given[-1] == 0.001
