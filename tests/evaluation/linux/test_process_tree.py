"""Stopped processes stand still; what moves is told from what a busy machine enters late."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from pytest_avo.evaluation.linux import processes
from pytest_avo.evaluation.linux.process_tree import MOST_ONCE_S, OFTEN, Movement, ProcessTree


@pytest.fixture
def spinning() -> Iterator[ProcessTree]:
    """A shell that never rests."""
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    yield ProcessTree(process.pid)
    process.kill()
    process.wait()


def run_on(tree: ProcessTree, cpu_s: float) -> None:
    """Let a stopped process work on for so much of its own time, and be stopped again."""
    enough = processes.used_s(tree.root) + cpu_s
    os.kill(tree.root, signal.SIGCONT)
    while processes.used_s(tree.root) < enough:
        time.sleep(0.001)
    os.kill(tree.root, signal.SIGSTOP)
    while processes.thread_states(tree.root) != {"T"}:
        time.sleep(0.001)


def test_a_stopped_process_stands_still(spinning: ProcessTree) -> None:
    spinning.stop()
    assert spinning.movement() is None


def test_a_little_time_is_movement_where_it_is_used_again_and_again(spinning: ProcessTree) -> None:
    found = []
    for _ in range(OFTEN):
        spinning.stop()
        run_on(spinning, 0.005)
        found.append(spinning.movement())
        assert spinning.movement() == found[-1]  # asking twice is no second time
        spinning.resume()
    assert found[:-1] == [None] * (OFTEN - 1)
    last = found[-1]
    assert last is not None
    assert "of processor time" in last.words
    assert not last.is_certain


def test_much_time_is_movement_at_once(spinning: ProcessTree) -> None:
    spinning.stop()
    run_on(spinning, MOST_ONCE_S + 0.02)
    found = spinning.movement()
    assert found is not None
    assert "of processor time" in found.words
    assert found.is_certain


def test_whoever_was_continued_is_found_at_once(spinning: ProcessTree) -> None:
    spinning.stop()
    os.kill(spinning.root, signal.SIGCONT)
    assert spinning.movement() == Movement("was continued", is_certain=True)


def test_time_of_children_that_ended_counts() -> None:
    """Whoever works in children that live for a millisecond is at work all the same."""
    before = sum(x.cpu_s for x in processes.tree(os.getpid()))
    pid = os.fork()
    if pid == 0:
        while time.process_time() < 0.05:
            pass
        os._exit(0)
    os.waitpid(pid, 0)
    assert sum(x.cpu_s for x in processes.tree(os.getpid())) - before >= 0.04
