"""The order of a round: kernel and baseline side by side, whatever else runs, and every such order as likely."""

from collections import Counter
from random import Random

import pytest

from pytest_avo.core.evaluation import BASELINE, FIXED, KERNEL
from pytest_avo.evaluation.judge.race.order import Order


def test_kernel_and_baseline_run_one_right_after_the_other() -> None:
    order, arms = Order(Random(1)), [BASELINE, FIXED, KERNEL, "torch-sdpa"]
    found = [list(order.next(arms)) for _ in range(400)]
    assert all(sorted(each) == sorted(arms) for each in found)
    assert all(abs(each.index(KERNEL) - each.index(BASELINE)) == 1 for each in found)
    assert len({tuple(each) for each in found}) == 12


def test_every_other_order_is_the_one_before_reversed() -> None:
    order, arms = Order(Random(2)), [BASELINE, FIXED, KERNEL]
    found = [list(order.next(arms)) for _ in range(200)]
    assert all(second == first[::-1] for first, second in zip(found[::2], found[1::2], strict=True))
    first = Counter(each[0] for each in found)
    assert first[FIXED] == 100, "first or last, as often"
    assert first[KERNEL] + first[BASELINE] == 100


@pytest.mark.parametrize("arms", [[KERNEL], [KERNEL, "peer"], ["a", "b", "c"], [KERNEL, BASELINE]])
def test_any_arms_have_an_order(arms: list[str]) -> None:
    order = Order(Random(3))
    assert {tuple(order.next(arms)) for _ in range(200)} >= {tuple(arms), tuple(arms[::-1])}
