"""What calls take of a limit."""

from __future__ import annotations

import time

import pytest
import torch

from pytest_avo.evaluation.arms.arm import Slice
from pytest_avo.evaluation.arms.faults import KernelRaised
from pytest_avo.evaluation.judge.checks import _Spent

NOTHING = torch.empty(0)


def test_what_calls_take_is_left_to_later_ones_no_more_whether_answered_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now_s)
    spent, given = _Spent(2.0), []

    def answered(*, limit_s: float) -> Slice:
        given.append(limit_s)
        return Slice(0.5, 0.5, False, lambda _: NOTHING, lambda: NOTHING, lambda _: NOTHING)

    def refused(*, limit_s: float) -> Slice:
        nonlocal now_s
        given.append(limit_s)
        now_s += 0.25
        raise KernelRaised("unsupported", "no")

    spent.on(answered)
    with pytest.raises(KernelRaised):
        spent.on(refused)
    for _ in range(4):
        spent.on(answered)
    assert given == [2.0, 1.5, 1.25, 0.75, 0.25, 0.001]
