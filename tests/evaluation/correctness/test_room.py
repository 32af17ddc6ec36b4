"""Room: every call of a battery fits, slices stay within a device, and a shape that fits nowhere is named."""

from __future__ import annotations

from random import Random

import pytest
import torch

from pytest_avo.core.kernel import Claim
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.battery import battery
from pytest_avo.evaluation.correctness.extensions.cases import SequencesCase, all_cases
from pytest_avo.evaluation.correctness.extensions.drawing import draw_any
from pytest_avo.evaluation.correctness.room import (
    ALIGNMENT,
    GUARD_BYTES,
    HOST,
    Room,
    batch_bytes,
    gpu_room,
    guarded_bytes,
    host_room,
)
from pytest_avo.evaluation.correctness.sizes.beside import largest_beside
from tests.evaluation.laboratory import shape

SHAPES = [
    shape(),
    shape(lengths=(1, 333), head_dim=128, dtype="bf16"),
    shape(batch=64, heads=(32, 8), lengths=(1, 4096), head_dim=128, dtype="bf16"),
    shape(batch=2, heads=(64, 64), lengths=(1, 1), head_dim=256),
]
LONG = shape(heads=(16, 16), lengths=(32768, 32768), head_dim=128, dtype="bf16")
GIB = 1 << 30


@pytest.mark.parametrize("case", SHAPES, ids=lambda x: x.id)
@pytest.mark.parametrize("room", [HOST, gpu_room(78 * GIB)], ids=["host", "gpu"])
def test_there_is_room_for_every_call_of_a_battery(case: Shape, room: Room) -> None:
    given, result = room.for_shapes([case])
    for seed in range(20):
        for call in battery(case, Random(seed)):
            wanted = guarded_bytes(call.shape)
            assert wanted[0] <= given
            assert wanted[1] <= result
            if not call.required:
                assert wanted <= guarded_bytes(largest_beside(case))


@pytest.mark.parametrize("case", [SHAPES[0], SHAPES[1], shape(heads=(2, 2), lengths=(9, 700), head_dim=16)])
def test_there_is_room_for_all_that_a_kernel_may_offer(case: Shape) -> None:
    given, _ = HOST.for_shapes([case])
    least = guarded_bytes(case)[0], guarded_bytes(largest_beside(case))[0]
    for seed, claim in enumerate((Claim("cpu", ("a",), varlen=True, paged=True), Claim("cpu", ("a",), paged=256))):
        for call in all_cases(case, claim, Random(seed)):
            if isinstance(call, SequencesCase):
                asked = draw_any(call, torch.Generator().manual_seed(seed))
                spans = [1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) for x in asked.tensors]
                used = sum(spans) * asked.q.itemsize + sum(x.nbytes for x in asked.tables.values())
                assert used + 3 * (GUARD_BYTES + ALIGNMENT) + 4 * ALIGNMENT <= max(least)
                assert used <= given


@pytest.mark.parametrize("free_gib", [10, 22, 78, 139])
@pytest.mark.parametrize("sharers", [1, 2, 3])
def test_the_processes_of_all_workers_of_a_gpu_fit_on_it_at_once(free_gib: int, sharers: int) -> None:
    room = gpu_room(free_gib * GIB, sharers=sharers)
    # Arguments as drawn and as given; for each process its results, its own outputs, and as much to work with.
    assert sharers * (2 * room.given_bytes + 7 * 4 * room.result_bytes) <= free_gib * GIB


def test_a_slice_of_short_calls_on_a_gpu_reads_for_several_milliseconds() -> None:
    decoding = shape(batch=64, heads=(32, 8), lengths=(1, 4096), head_dim=128, dtype="bf16")
    for free_gib, bytes_per_s in ((78, 3.35e12), (139, 4.8e12)):
        calls = gpu_room(free_gib * GIB).max_calls(decoding)
        assert calls * decoding.bytes_moved / bytes_per_s > 3.5e-3


@pytest.mark.parametrize("case", [*SHAPES, LONG], ids=lambda x: x.id)
def test_a_full_slice_fits(case: Shape) -> None:
    for room in (HOST, gpu_room(78 * GIB)):
        calls = room.max_calls(case)
        assert 1 <= calls <= room.most_calls
        given, result = room.for_shapes([case])
        wanted = batch_bytes(case, calls)
        assert wanted[0] <= given
        assert wanted[1] <= result
        assert room.misfit(case) == ""


def test_a_shape_that_a_host_cannot_hold_is_named_with_what_it_needs() -> None:
    endless = shape(heads=(1, 1), lengths=(10**8, 16), head_dim=32)
    assert host_room(24 * GIB).misfit(endless) == "needs 59.6 GiB of memory at least, this machine has 24.0 GiB"
    assert host_room(24 * GIB).misfit(LONG) == ""


def test_a_shape_that_does_not_fit_is_named_with_what_it_needs() -> None:
    assert gpu_room(2 * GIB).misfit(LONG) == (
        "needs 0.4 GiB for arguments and 0.1 GiB for results, this device has room for 0.3 and 0.0 GiB"
    )
