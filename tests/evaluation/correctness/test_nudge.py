"""One element of a call changed: the output must follow, and an honest kernel's does."""

from __future__ import annotations

from random import Random

import pytest
import torch

from pytest_avo.core.shape import Dtype
from pytest_avo.evaluation.correctness.inputs import Case, Inputs, draw
from pytest_avo.evaluation.correctness.layouts import Layout
from pytest_avo.evaluation.correctness.nudge import Nudge, nudges
from pytest_avo.evaluation.correctness.reference import Part, computed
from tests.evaluation.laboratory import shape


def drawn(
    *, causal: bool = True, dtype: Dtype = "f32", layout: Layout = "padded", lengths: tuple[int, int] = (96, 130)
) -> Inputs:
    case = Case("needle", shape(causal=causal, dtype=dtype, lengths=lengths), "needle", (layout, "bshd", layout))
    return draw(case, torch.Generator().manual_seed(5))


def honest(inputs: Inputs) -> torch.Tensor:
    """Plain torch operations in the inputs' own precision."""
    part = Part(slice(0, 1), slice(0, inputs.k.shape[1]), slice(0, inputs.q.shape[2]))
    return computed(inputs, part, inputs.q.dtype).flatten(1, 2)


def found(nudge: Nudge, out: torch.Tensor) -> str | None:
    return nudge.at.fault(nudge.inputs, out)


def snapshot(inputs: Inputs) -> list[torch.Tensor]:
    return [x.clone() for x in inputs.tensors]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_old_answer_is_wrong_and_the_new_one_right(causal: bool, dtype: Dtype) -> None:
    for seed in range(10):
        inputs = drawn(causal=causal, dtype=dtype)
        old = honest(inputs)
        for nudge in nudges(inputs, Random(seed)):
            new = honest(nudge.inputs)
            assert found(nudge, new) is None, nudge
            assert "error" in (found(nudge, old) or ""), f"{nudge.what}, row {nudge.at.row}, seed {seed}"
            old = new


def test_one_element_changes_at_a_time_and_strides_stay() -> None:
    inputs = drawn()
    before, original = snapshot(inputs), snapshot(inputs)
    for nudge, name in zip(nudges(inputs, Random(1)), "vkq", strict=True):
        assert nudge.what == f"one element changed in {name}"
        after = snapshot(nudge.inputs)
        changed = [int((x != y).sum()) for x, y in zip(before, after, strict=True)]
        assert sum(changed) == 1
        assert changed["qkv".index(name)] == 1
        assert [x.stride() for x in nudge.inputs.tensors] == [x.stride() for x in inputs.tensors]
        before = after
    assert all(torch.equal(x, y) for x, y in zip(original, inputs.tensors, strict=True)), "the first inputs are kept"


def test_rows_that_see_no_key_are_not_chosen() -> None:
    inputs = drawn(lengths=(90, 10))
    assert all(nudge.at.row >= 80 for seed in range(20) for nudge in nudges(inputs, Random(seed)))


def test_a_call_stays_what_it_was_when_the_next_one_is_made() -> None:
    """It may be judged on another thread meanwhile."""
    found = list(nudges(drawn(), Random(1)))
    again = nudges(drawn(), Random(1))
    for nudge in found:
        assert all(map(torch.equal, nudge.inputs.tensors, next(again).inputs.tensors))
