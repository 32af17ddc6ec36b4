"""Whether cores are idle, as Linux tells it."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from threading import Timer

import pytest

from pytest_avo.evaluation.linux.cgroup import Quota
from pytest_avo.evaluation.linux.idleness import are_idle

CORES = sorted(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
WINDOW_S = 0.3


def told(idle_s: float) -> str:
    """What Linux tells of cores that were idle, or waited for a disk, for so long."""
    row = f"100 5 20 {1000 + round(idle_s * TICKS / 2)} {10 + round(idle_s * TICKS / 2)} 0 3 0 0 0"
    return "\n".join([f"cpu  {row}", *(f"cpu{core} {row}" for core in CORES), "intr 17 3", ""])


@pytest.mark.parametrize(("idle", "expected"), [(1.0, True), (0.4, False), (0.0, False)])
def test_cores_are_idle_that_nobody_else_uses(tmp_path: Path, idle: float, expected: bool) -> None:
    stat = tmp_path / "stat"
    stat.write_text(told(0.0))
    later = Timer(WINDOW_S / 3, lambda: stat.write_text(told(idle * 1.2 * WINDOW_S)))
    later.start()
    assert are_idle(len(CORES), window_s=WINDOW_S, stat=stat) is expected
    later.join()


@pytest.mark.parametrize(("others", "expected"), [(0.0, True), (1.0, False)])
def test_a_quota_that_others_of_a_container_use_up_leaves_no_core_idle(
    tmp_path: Path, others: float, expected: bool
) -> None:
    """Beside the idle cores of a whole machine, which a container sees but is not given."""
    stat, used_s = tmp_path / "stat", iter([5.0, 5.0 + others * 1.2 * WINDOW_S])
    stat.write_text(told(0.0))
    later = Timer(WINDOW_S / 3, lambda: stat.write_text(told(1.2 * WINDOW_S)))
    later.start()
    found = are_idle(1, window_s=WINDOW_S, stat=stat, quotas=lambda: [Quota(1.0, next(used_s))])
    later.join()
    assert found is expected


def test_where_linux_does_not_tell_none_are(tmp_path: Path) -> None:
    assert not are_idle(1, window_s=0.0, stat=tmp_path / "stat")
    (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 8 9 10\n")
    assert not are_idle(1, window_s=0.0, stat=tmp_path / "stat")


def test_cores_that_another_process_keeps_busy_are_not() -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_work, daemon=True) for _ in CORES]
    for other in others:
        other.start()
    try:
        deadline = time.monotonic() + 60
        while are_idle(len(CORES)):  # until they have started
            assert time.monotonic() < deadline
    finally:
        for other in others:
            other.kill()
            other.join()


def _work() -> None:
    while True:
        pass
