"""Memory that the judge and a kernel's process share, on the host."""

from __future__ import annotations

import mmap
import os

import pytest
import torch

from pytest_avo.evaluation.arms import memory as memory_module
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


@pytest.mark.parametrize(("first", "elements", "width"), [(0, 32, 8), (4, 32, 8), (2, 32, 4), (0, 30, 4), (1, 32, 2)])
def test_what_is_compared_on_a_gpu_is_compared_in_words_as_wide_as_it_lies(
    first: int, elements: int, width: int
) -> None:
    given, original = torch.zeros(128, dtype=torch.bfloat16), torch.zeros(128, dtype=torch.bfloat16)
    for number in range(first, first + elements):
        given[number] = torch.nan
        x, y = memory_module._words(given[first:][:elements], original[:elements])
        assert (x.itemsize, x.numel()) == (width, 2 * elements // width)
        assert int((x != y).sum()) == 1
        original[number - first] = torch.nan
    rows = (each.as_strided((3, 8), (40, 1)) for each in (given, original))
    assert memory_module._words(*rows)[0].shape == (3, 2)
