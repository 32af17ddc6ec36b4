"""Threads on cores: which are placed, and that the judge may do it from outside."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch

from pytest_avo.evaluation.arms.arm import Arm
from pytest_avo.evaluation.correctness.inputs import Case, draw
from pytest_avo.evaluation.judge.race.placement import Placement, Use, busy_threads, uses_foreign_cores
from pytest_avo.evaluation.linux.processes import threads
from tests.evaluation.laboratory import PATIENCE_S, Laboratory, kernel, shape

CORES = sorted(os.sched_getaffinity(0))
LASTING = kernel(
    "list(pool.map(lambda _: sum(x.square().sum() for _ in range(40)), range(2)))",
    top="""
    from concurrent.futures import ThreadPoolExecutor
    x = torch.ones(1 << 16)
    pool = ThreadPoolExecutor(1)
    """,
)
PASSING = LASTING.replace("    list(", "    pool = ThreadPoolExecutor(1)\n    list(")


def called(laboratory: Laboratory, source: str) -> tuple[Arm, Placement]:
    """A kernel's process, watched over some calls."""
    arm = laboratory.arm(source)
    placement = Placement([arm.pid])
    batch = [draw(Case("normal", shape()), torch.Generator().manual_seed(7)) for _ in range(3)]
    arm.call(batch, "f32", limit_s=PATIENCE_S, phase="check")
    return arm, placement


def allowed(arm: Arm) -> list[list[int]]:
    """The cores that each thread may run on, oldest thread first."""
    return [sorted(os.sched_getaffinity(thread)) for thread in sorted(threads(arm.pid))]


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_lasting_threads_get_a_core_each_until_the_end(laboratory: Laboratory) -> None:
    arm, placement = called(laboratory, LASTING)
    assert all(cores == CORES for cores in allowed(arm))
    placement.settle()
    placed = [cores for cores in allowed(arm) if cores != CORES]
    assert placed == [[CORES[0]], [CORES[1]]]
    placement.release()
    assert all(cores == CORES for cores in allowed(arm))


def test_threads_that_are_started_in_every_call_stay_free(laboratory: Laboratory) -> None:
    arm, placement = called(laboratory, PASSING)
    placement.settle()
    assert all(cores == CORES for cores in allowed(arm))


def test_a_process_that_is_gone_is_nobodys_problem(laboratory: Laboratory) -> None:
    arm, placement = called(laboratory, kernel())
    laboratory.end()
    placement.settle()
    placement.release()
    assert threads(arm.pid) == {}


def test_idle_threads_do_not_count() -> None:
    used = Use({10: 1.0, 11: 0.9, 12: 0.01}, 1.91)
    assert busy_threads(used, main=10, cores=2) == [10, 11]
    assert busy_threads(used, main=10, cores=1) == []


def test_only_what_was_used_since_the_beginning_counts() -> None:
    earlier = Use({10: 5.0, 11: 3.0}, 9.0)
    used = Use({10: 5.5, 11: 3.0, 12: 0.5}, 10.0).since(earlier)
    assert busy_threads(used, main=10, cores=2) == [10, 12]


def test_work_of_threads_that_ended_leaves_the_others_free() -> None:
    assert busy_threads(Use({10: 1.0}, 2.0), main=10, cores=2) == []
    assert busy_threads(Use({10: 1.0}, 1.01), main=10, cores=2) == [10]


def test_a_process_on_cores_that_its_judge_may_not_use_is_noticed() -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("this machine gives tests one core")
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert not uses_foreign_cores(child.pid)
        os.sched_setaffinity(0, {min(cores)})
        assert uses_foreign_cores(child.pid)
        os.sched_setaffinity(child.pid, {min(cores)})
        assert not uses_foreign_cores(child.pid)
    finally:
        os.sched_setaffinity(0, cores)
        child.kill()
        child.wait()


def test_the_main_thread_of_a_kernel_with_threads_of_its_own_stays_free_where_cores_are_few() -> None:
    used = Use({10: 0.2, 11: 1.0, 12: 0.9}, 2.1)
    assert busy_threads(used, main=10, cores=2) == [11, 12]
    assert busy_threads(used, main=10, cores=3) == [10, 11, 12]
    assert busy_threads(Use({10: 0.6, 11: 1.0, 12: 0.9}, 2.5), main=10, cores=2) == []
