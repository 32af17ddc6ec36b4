"""Calls in shared memory: one by one or all together, they lie where they are said to lie."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from pytest_avo.core.shape import Dtype
from pytest_avo.evaluation.arms.batch import Batch
from pytest_avo.evaluation.arms.memory import Memory, host_memory
from pytest_avo.evaluation.correctness.inputs import Case, Stream, draw
from pytest_avo.evaluation.correctness.room import HOST
from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES
from tests.evaluation.laboratory import shape

BYTES = 1 << 20


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_arguments_written_together_are_those_of_each_call(calls: int) -> None:
    batch = Stream(shape(heads=(4, 2), lengths=(3, 7), batch=2, dtype="bf16"), torch.Generator().manual_seed(1)).draw(
        calls
    )
    given, laid = host_memory(BYTES), Batch(batch, "bf16", guarded=False)
    together = laid.places(given, together=True)
    assert len(together) == 3
    for place, x in together:
        place.copy_(x)
    assert all(torch.equal(place, x) for place, x in laid.places(given, together=False))
    assert len(laid.places(given, together=False)) == 3 * calls


class AsOnGpu(Memory):
    """Memory of the host that is written and compared as that of a GPU is."""

    @property
    def place(self) -> str:
        return "cuda"


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_one_element_that_is_changed_of_arguments_written_together_shows(dtype: Dtype) -> None:
    batch = Stream(shape(dtype=dtype), torch.Generator().manual_seed(1)).draw(4)
    host = host_memory(BYTES)
    given, laid = AsOnGpu(host._content, host.descriptor, unmap=lambda: None), Batch(batch, dtype, guarded=False)
    written = laid.places(given, together=True)
    for place, x in written:
        place.copy_(x)
    assert given.unchanged(written)
    third_v, _ = laid.places(given, together=False)[8]
    third_v[5] += 1
    assert not given.unchanged(written)


def test_a_slice_begins_anywhere_in_the_hosts_memory_and_there_is_room_for_that() -> None:
    case, random = shape(lengths=(9, 70), batch=3), Random(1)
    stream = Stream(case, torch.Generator().manual_seed(1))
    given_bytes, _ = replace(HOST, given_bytes=0).for_shapes([case])
    given = host_memory(given_bytes)
    slices = [Batch.anywhere(stream.draw(HOST.max_calls(case)), "f32", random, place="cpu") for _ in range(20)]
    firsts = {place.data_ptr() for laid in slices for place, x in laid.places(given, together=False)[:1]}
    assert len(firsts) > 15
    assert all(place.shape == x.shape for laid in slices for place, x in laid.places(given, together=False))
    assert len({str(Batch.anywhere(stream.draw(2), "f32", random, place="cuda").calls) for _ in range(5)}) == 1


def test_arguments_that_lie_anywhere_are_written_each() -> None:
    batch = Stream(shape(dtype="bf16"), torch.Generator().manual_seed(1)).draw(3)
    laid = Batch([batch[2], batch[0], batch[1]], "bf16", guarded=False)
    assert len(laid.places(host_memory(BYTES), together=True)) == 9


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_what_lies_around_guarded_arguments_must_stay_as_it_was(dtype: Dtype) -> None:
    """A kernel that clears the rest of its last tile writes into what belongs to others."""
    case = Case("odd start", shape(dtype=dtype), layouts=("odd", "cache", "bshd"))
    laid = Batch([draw(case, torch.Generator().manual_seed(1))], dtype, guarded=True)
    given, result = host_memory(8 << 20), host_memory(BYTES)
    written = laid.write(given, result)
    assert given.unchanged(written)
    ends = [offset + x.nbytes for offset, x in laid._places]
    for at in (0, laid._places[0][0] - 2, *ends, ends[-1] + 5000):
        word = given.tensor(torch.int16, elements=1, offset=at)
        word.fill_(0)
        assert not given.unchanged(written)
        word.fill_(-1)
    assert given.unchanged(written)


@pytest.mark.parametrize("calls", [1, 3])
def test_all_outputs_are_those_of_each_call(calls: int) -> None:
    case = shape(heads=(3, 3), lengths=(5, 7), dtype="bf16")  # of a size that leaves gaps between outputs
    laid = Batch(Stream(case, torch.Generator().manual_seed(1)).draw(calls), "bf16", guarded=False)
    result = host_memory(BYTES)
    words = torch.arange(BYTES // 2, dtype=torch.int16)
    result.tensor(TORCH_DTYPES["bf16"], elements=BYTES // 2, offset=0).view(torch.int16).copy_(words)
    outputs = laid.outputs(result)
    assert torch.equal(outputs, torch.stack([laid.output(number, result) for number in range(calls)]))
    result.poison(BYTES)
    assert not bool(outputs.isnan().all()), "a copy"
