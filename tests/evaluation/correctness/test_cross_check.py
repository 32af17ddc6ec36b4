"""Which places of a slice are looked at: where outputs differ most by each measure that limits have."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from pytest_avo.evaluation.correctness.correctness import NOT_FINITE
from pytest_avo.evaluation.correctness.cross_check import call_fault, plain_outputs, slice_fault, suspects
from pytest_avo.evaluation.correctness.inputs import Case, Inputs, Stream, draw
from pytest_avo.evaluation.correctness.kinds import Kind
from pytest_avo.evaluation.correctness.noise import generator
from tests.evaluation.laboratory import shape

SHAPE = shape(heads=(4, 2), lengths=(256, 256))


def drawn(seed: int = 1) -> list[Inputs]:
    return Stream(SHAPE, generator(seed, "cpu")).draw(2)


def two_parts(x: torch.Tensor) -> torch.Tensor:
    """16 of 24 bits."""
    high = x.bfloat16().float()
    return high + (x - high).bfloat16().float()


@pytest.mark.parametrize("seed", range(5))
def test_a_decoy_within_the_limits_hides_no_low_precision(seed: int) -> None:
    """A row of small results is what differs most by its own size, and may."""
    batch = drawn(seed)
    exact = plain_outputs(batch)
    low = plain_outputs([replace(x, q=two_parts(x.q), k=two_parts(x.k), v=two_parts(x.v)) for x in batch])
    for out in (exact, low):
        out[:, :, :, -1] += 1.2e-6 * 1.7
    assert slice_fault(batch, exact, plain_outputs(batch)) is None
    assert (slice_fault(batch, low, plain_outputs(batch), random=Random(seed)) or "").startswith("max error ")


def test_each_measure_has_a_place_of_its_own() -> None:
    other = torch.full((2, 1, 4, 256, 64), 1.0)
    other[1, 0, 2, 200] = 1e-3
    out = other.clone()
    out[1, 0, 2, 200] += 1e-5  # by its own size
    out[0, 0, 3, 7, 5] += 1e-3  # an element
    out[0, 0, 0, 128:] += 5e-5  # a whole block
    element, own_size, block = ((0, 0, 1), 0), ((1, 0, 1), 128), ((0, 0, 0), 128)
    assert suspects(out, other, heads_kv=2) == [element, own_size, block]
    drawn = {tuple(suspects(out, other, heads_kv=2, random=Random(seed))) for seed in range(9)}
    assert drawn == {(element, own_size), (element, block)}


def test_groups_of_unusual_inputs_are_looked_at_by_themselves() -> None:
    other = torch.full((2, 1, 4, 256, 64), 1.0)
    out = other.clone()
    out[1, 0, 3, 200] += 1.0
    out[0, 0, 0, 3] += 1e-5
    assert suspects(out, other, heads_kv=2, groups=[(1, 0, 1)]) == [((1, 0, 1), 128), ((0, 0, 0), 0)]


def test_what_another_kernel_has_no_number_for_hides_nothing() -> None:
    other = torch.full((1, 1, 4, 256, 64), 1.0)
    out = other.clone()
    other[0, 0, 0, 0, 0], other[0, 0, 1, 0, 0] = torch.nan, torch.inf
    out[0, 0, 2, 130] += 1e-3
    found = suspects(out, other, heads_kv=4)
    assert ((0, 0, 0), 0) in found
    assert ((0, 0, 2), 128) in found


@pytest.mark.parametrize("kind", ["normal", "needle"])
def test_a_call_in_any_layout_is_looked_at_where_it_differs(kind: Kind) -> None:
    inputs = draw(Case("x", SHAPE, kind, ("cache", "sbhd", "padded")), generator(3, "cpu"))
    [out] = plain_outputs([inputs])
    assert call_fault(inputs, out) is None
    out[0, 3, 200] += 1.0
    assert "(heads from 2, rows from 128)" in (call_fault(inputs, out) or "")
    out[0, 0, 0, 0] = torch.nan
    assert call_fault(inputs, out) == NOT_FINITE
