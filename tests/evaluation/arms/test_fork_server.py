"""The process that kernels' processes are forked from: replaced when it is lost, and the end of all below it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import KERNEL
from pytest_avo.evaluation.arms.faults import KernelEnded
from pytest_avo.evaluation.arms.spawner import Spawner
from pytest_avo.evaluation.linux import processes
from tests import ROOT
from tests.evaluation.laboratory import ESCAPES, Laboratory, gone, kernel


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Laboratory]:
    """A spawner whose fork server a test may kill; without layers, the harder case."""
    spawner = Spawner(box=tmp_path, environment={}, warm=[])
    spawner.start(layers=False)
    laboratory = Laboratory(spawner)
    yield laboratory
    laboratory.end()
    spawner.kill()


def fork_server(laboratory: Laboratory) -> int:
    process = laboratory.spawner._process
    assert process is not None
    return process.pid


def test_a_lost_fork_server_is_replaced_and_blamed_on_nobody(mortal: Laboratory) -> None:
    for _ in range(2):  # one that has just begun, and one that has forked
        os.kill(fork_server(mortal), signal.SIGKILL)
        assert gone([fork_server(mortal)])
        assert mortal.run(kernel()).outcome == "ok"
    os.kill(fork_server(mortal), signal.SIGKILL)
    reason = mortal.arms.fault(KERNEL, KernelEnded("check")).reason
    assert reason == "process took the process that it was forked from down with it in check"
    assert not mortal.spawner.is_alive


def test_killing_the_spawner_leaves_nothing(mortal: Laboratory) -> None:
    assert mortal.run(kernel(ESCAPES["orphans"] + ESCAPES["programs"])).outcome == "ok"
    pids = [x.pid for x in processes.tree(fork_server(mortal))]
    assert len(pids) >= 3
    mortal.spawner.kill()
    assert not any(processes.is_running(pid) for pid in pids)


def test_another_thread_may_kill_the_spawner_meanwhile(mortal: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that ends the worker, while this one finds a kernel gone: a worker outlived its controller by that."""
    pid, tree = fork_server(mortal), processes.tree

    def killed_first(root: int) -> list[processes.Process]:
        monkeypatch.undo()
        mortal.spawner.kill()
        return tree(root)

    monkeypatch.setattr(processes, "tree", killed_first)
    mortal.spawner.kill()
    assert not processes.is_running(pid)


WORKER = f"""
import os, sys
from pathlib import Path
from pytest_avo.evaluation.linux import processes
from pytest_avo.evaluation.arms.spawner import Spawner
from tests.evaluation.laboratory import Laboratory
spawner = Spawner(box=Path(sys.argv[1]), environment={{}}, warm=[])
spawner.start(layers=False)
assert Laboratory(spawner).run({kernel(ESCAPES["orphans"])!r}).outcome == "ok"
print(*[x.pid for x in processes.tree(os.getpid())[1:]], flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_fork_server_ends_with_all_below_it_when_its_worker_does(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    pids = [int(pid) for pid in found.stdout.split()]
    assert len(pids) >= 3, found.stderr
    assert gone(pids)


def test_a_fork_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    spawner = Spawner(box=tmp_path, environment={}, warm=["no_such_module"])
    spawner.start(layers=True)
    with pytest.raises(
        EvaluatorError, match="fork server ended: ModuleNotFoundError: No module named 'no_such_module'"
    ):
        spawner.wait()
    spawner.kill()
