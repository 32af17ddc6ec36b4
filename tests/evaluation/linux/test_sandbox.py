"""Confinement as the machine offers it, also to ordinary users."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_avo.evaluation.linux import sandbox
from tests import ROOT
from tests.evaluation.laboratory import Laboratory

IN_A_USER_NAMESPACE = """
import ctypes, sys
from pathlib import Path
if ctypes.CDLL(None).unshare(0x10000000):
    print("no user namespaces")
    sys.exit()
from pytest_avo.evaluation.arms.spawner import Spawner
from tests.evaluation.laboratory import Laboratory, kernel
spawner = Spawner(box=Path(sys.argv[1]), environment={}, warm=[])
spawner.start(layers=True)
laboratory = Laboratory(spawner)
for number in range(2):
    print(laboratory.run(kernel(f"calls == {number}")).outcome)
    laboratory.end()
spawner.kill()
"""

WATCHED = """
import os, socket, sys, threading
from pytest_avo.evaluation.linux import sandbox
def tried(what):
    try:
        what()
        return "done"
    except OSError as error:
        return type(error).__name__
held = sandbox.Confinement(scratch=os.getcwd(), memory_bytes=1 << 32, layers=True, gpu=True)
restrict_calls = sandbox.confine_watched(held)
found = []
def name():
    path = f"/proc/self/task/{threading.get_native_id()}/comm"
    found.append(tried(lambda: open(path, "w").write("driver")))
thread = threading.Thread(target=name)
thread.start()
thread.join()
found += [tried(lambda: open("/proc/sys/kernel/core_pattern", "a")), tried(socket.socket)]
restrict_calls()
print(*found, tried(socket.socket), tried(lambda: open("/usr/written", "w")), tried(lambda: open("own", "w")))
"""
"""What a process does that a profiler watches: CUDA's driver names its threads, and no thread of it may escape."""


def test_kernels_are_confined_by_what_the_machine_offers(confined: Laboratory) -> None:
    assert confined.spawner.layers == sandbox.offered_layers()
    assert len(confined.spawner.layers) >= 1


def test_without_layers_none_is_claimed(bare: Laboratory) -> None:
    assert bare.spawner.layers == ()


def test_asking_what_is_offered_confines_nobody(tmp_path: Path) -> None:
    before = os.readlink("/proc/self/ns/net")
    sandbox.offered_layers()
    assert os.readlink("/proc/self/ns/net") == before
    (tmp_path / "writable").write_text("x")


def test_one_kernel_after_the_other_without_power_over_the_outer_namespaces(tmp_path: Path) -> None:
    """An ordinary user may enter a PID namespace but not leave it again: the second kernel must start all the same."""
    found = subprocess.run(
        [sys.executable, "-c", IN_A_USER_NAMESPACE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if "no user namespaces" in found.stdout:
        pytest.skip("this machine has no user namespaces")
    assert found.stdout.split() == ["ok"] * 2, found.stderr


def test_a_watched_process_names_its_threads_and_reaches_out_until_its_calls_are_restricted(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", WATCHED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if "landlock 0" in " ".join(sandbox.offered_layers()) or "own mounts" not in sandbox.offered_layers():
        pytest.skip("this machine does not confine files")
    named, system, before, after, elsewhere, own = found.stdout.split()
    assert (named, before, own) == ("done", "done", "done"), found.stderr
    assert {system, elsewhere} <= {"PermissionError", "OSError"}
    assert after == "PermissionError"
