from __future__ import annotations

import pytest
import torch

from pytest_avo.core.evaluation import KERNEL
from pytest_avo.evaluation.arms.arm import Slice
from pytest_avo.evaluation.correctness.inputs import Inputs
from pytest_avo.evaluation.judge.peers import EMPTY
from pytest_avo.evaluation.judge.race.call_costs import TURNS, call_costs

HOST_S = {KERNEL: 30e-6, "fa3": 20e-6, EMPTY: 5e-6}
IDLE_S = {KERNEL: 90e-6, "fa3": 40e-6, EMPTY: 50e-6}


def test_what_a_kernel_that_does_nothing_takes_is_subtracted_and_never_more_than_that_is_said() -> None:
    asked: list[tuple[str, int, bool]] = []
    looked: list[tuple[int, float]] = []

    def draw(calls: int) -> list[Inputs]:
        x = torch.zeros(1, 1, 1, 1)
        return [Inputs(x, x, x, causal=False, scale=1.0)] * calls

    def ask(name: str, batch: list[Inputs], enqueue: bool) -> Slice:
        asked.append((name, len(batch), enqueue))
        seconds = len(batch) * (HOST_S if enqueue else IDLE_S)[name]
        out = torch.full((len(batch),), HOST_S[name])
        return Slice(seconds, 0.0, False, lambda _: out, lambda: out, lambda _: out)

    found = call_costs(
        list(HOST_S), draw=draw, ask=ask, look_at=lambda batch, out: looked.append((len(batch), float(out[0]))),
        most_calls=4,
    )  # fmt: skip
    assert set(found) == {KERNEL, "fa3"}
    assert (found[KERNEL].host_s, found[KERNEL].idle_s) == pytest.approx((25e-6, 40e-6))
    assert (found["fa3"].host_s, found["fa3"].idle_s) == pytest.approx((15e-6, 0.0))
    assert sorted(set(asked)) == sorted([(name, 4, True) for name in HOST_S] + [(name, 1, False) for name in HOST_S])
    assert [calls for calls, _ in looked] == [4] * TURNS + [1] * TURNS
    assert [out for _, out in looked] == pytest.approx([HOST_S[KERNEL]] * 2 * TURNS)
