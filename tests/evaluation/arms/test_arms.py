"""The processes that a worker keeps: which are used again, and with how many threads."""

from __future__ import annotations

import pytest
import torch

from pytest_avo.core.evaluation import KERNEL, Limits, Subject
from pytest_avo.evaluation.arms.arms import Arms
from pytest_avo.evaluation.arms.faults import KernelRaised
from pytest_avo.evaluation.correctness.inputs import Case, draw
from tests.evaluation.laboratory import MEMORY_BYTES, PATIENCE_S, Laboratory, kernel, shape

COUNTING = Subject("counting", kernel("raise ValueError(f'{torch.get_num_threads()} threads')"))


def threads_of(arms: Arms, *, timed: bool) -> str:
    arm = arms.get(KERNEL, COUNTING, [shape()], Limits(), timed=timed)
    with pytest.raises(KernelRaised) as raised:
        arm.call([draw(Case("normal", shape()), torch.Generator())], "f32", limit_s=PATIENCE_S, phase="check")
    return raised.value.reason


def test_workers_share_the_cores_until_they_time(bare: Laboratory) -> None:
    arms = Arms(bare.spawner, threads=6, sharing=2, memory_bytes=MEMORY_BYTES)
    assert "3 threads" in threads_of(arms, timed=False)
    assert "6 threads" in threads_of(arms, timed=True)
    arms.drop(KERNEL)


def test_more_workers_than_cores_have_a_thread_each(bare: Laboratory) -> None:
    arms = Arms(bare.spawner, threads=2, sharing=5, memory_bytes=MEMORY_BYTES)
    assert "1 threads" in threads_of(arms, timed=False)
    arms.drop(KERNEL)


def test_a_process_is_kept_for_the_next_request_of_its_kind(bare: Laboratory) -> None:
    arms = Arms(bare.spawner, threads=2, memory_bytes=MEMORY_BYTES)
    first = arms.get(KERNEL, COUNTING, [shape()], Limits(), timed=False)
    assert arms.get(KERNEL, COUNTING, [shape()], Limits()) is first
    arms.drop(KERNEL)
