"""Memory that the judge and a kernel's process share, on the host."""

from __future__ import annotations

import mmap
import os

import pytest
import torch

from pytest_avo.evaluation.arms.memory import Memory, host_memory

SIZE = 4096


@pytest.fixture
def memory() -> Memory:
    return host_memory(SIZE)


def test_what_a_process_writes_through_the_descriptor_is_seen(memory: Memory) -> None:
    place = memory.tensor(torch.float32, elements=4, offset=256)
    original = torch.tensor([1.0, 2.0, float("nan"), 4.0])
    place.copy_(original)
    written = [(place, original)]
    assert memory.unchanged(written), "NaN is what was written"
    with mmap.mmap(memory.descriptor, SIZE) as theirs:
        assert theirs[256:260] == bytes([0, 0, 0x80, 0x3F])
        theirs[256] ^= 1
    assert not memory.unchanged(written)


def test_poison_is_no_number_in_any_dtype(memory: Memory) -> None:
    memory.poison(SIZE)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert memory.tensor(dtype, elements=64, offset=64).isnan().all()


def test_the_same_bytes_for_another_process_outlive_the_first(memory: Memory) -> None:
    again = memory.again()
    assert again.descriptor != memory.descriptor
    memory.tensor(torch.float32, elements=1, offset=0)[0] = 3.0
    closed = memory.descriptor
    memory.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(closed)
    assert again.size == SIZE
    assert again.tensor(torch.float32, elements=1, offset=0).item() == 3.0
    with mmap.mmap(again.descriptor, SIZE) as theirs:
        assert theirs[0:4] == bytes([0, 0, 0x40, 0x40])
    again.close()
