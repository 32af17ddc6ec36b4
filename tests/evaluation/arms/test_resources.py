"""A process that waits for the next new kernel: whose it becomes, and when nobody's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pytest_avo.core.evaluation import Subject
from tests.evaluation.laboratory import Laboratory, gone, kernel


@pytest.fixture
def sparing(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laboratory]:
    """Where a process is kept ready for the next new kernel."""
    monkeypatch.setattr(laboratory.spawner, "_keeps_spares", True)
    yield laboratory
    laboratory.spawner.end_spare()


def waiting(laboratory: Laboratory) -> int:
    """The process that is kept ready."""
    assert laboratory.spawner._spare is not None
    return laboratory.spawner.ordered()


def test_a_process_that_was_kept_ready_is_the_next_new_kernels(sparing: Laboratory) -> None:
    first = kernel(top="ONE = 1")
    sparing.arm(first)
    ready = waiting(sparing)
    # One that was there before has a folder of its own, with what it compiled.
    assert sparing.arm(first, name="again").pid != ready
    assert waiting(sparing) == ready
    second = kernel("assert os.getcwd() == os.environ['HOME']\nopen('mine', 'w').close()", top="TWO = 2")
    assert sparing.run(second).outcome == "ok"
    assert sparing.arm(second).pid == ready
    assert waiting(sparing) != ready


def test_a_process_that_was_kept_ready_and_is_gone_or_too_small_is_nobodys(sparing: Laboratory) -> None:
    sparing.arm(kernel(top="ONE = 1"))
    gone_pid = waiting(sparing)
    os.kill(gone_pid, signal.SIGKILL)
    assert gone([gone_pid])
    assert sparing.arm(kernel(top="TWO = 2")).pid != gone_pid
    small = waiting(sparing)
    large = Subject("large", kernel(top="THREE = 3"))
    arm = sparing.spawner.fork(large, given_bytes=64 << 20, result_bytes=64 << 20, threads=1, memory_bytes=1 << 30)
    assert (arm.pid != small, arm.given.size) == (True, 64 << 20)
    sparing.spawner.end(arm)
