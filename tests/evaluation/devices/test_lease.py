"""The lease on a device, between processes as in real runs."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.evaluation.devices.lease import check_locks, lease, lease_path

HOLDER = """
import sys
from pathlib import Path
from pytest_avo.evaluation.devices.lease import lease
with lease(Path(sys.argv[1]), exclusive=sys.argv[2] == "alone", waiting=lambda who: print("waiting", flush=True)):
    print("held", flush=True)
    sys.stdin.read()
print("released", flush=True)
"""


class Holder:
    """A process that holds the lease until it is told to release it."""

    def __init__(self, path: Path, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cpu.lock"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def held(stack: ExitStack, path: Path, mode: str) -> Holder:
    holder = Holder(path, mode)
    stack.callback(holder.close)
    return holder


@pytest.mark.parametrize(("first", "second"), [("alone", "alone"), ("alone", "shared"), ("shared", "alone")])
def test_one_that_wants_the_device_alone_has_it_alone(stack: ExitStack, path: Path, first: str, second: str) -> None:
    one = held(stack, path, first)
    assert one.says() == "held"
    two = held(stack, path, second)
    assert two.says() == "waiting"
    one.release()
    assert one.says() == "released"
    assert two.says() == "held"


def test_checks_share_the_device(stack: ExitStack, path: Path) -> None:
    for _ in range(2):
        assert held(stack, path, "shared").says() == "held"


def test_one_that_wants_the_device_alone_waits_for_those_before_it_and_not_for_those_after(
    stack: ExitStack, path: Path
) -> None:
    first = held(stack, path, "shared")
    assert first.says() == "held"
    timing = held(stack, path, "alone")
    assert timing.says() == "waiting"
    later = held(stack, path, "shared")
    assert later.says() == "waiting", "else checks could keep it waiting for ever"
    first.release()
    assert timing.says() == "held"
    timing.release()
    assert later.says() == "held"


def test_whoever_waits_is_told_for_whom_and_how_long(stack: ExitStack, path: Path) -> None:
    holder = held(stack, path, "alone")
    assert holder.says() == "held"
    told: list[str] = []

    def waiting(who: str) -> None:
        told.append(who)
        holder.release()

    begun = time.monotonic()
    with lease(path, exclusive=True, waiting=waiting) as waited_s:
        assert told == [f"process {holder.process.pid} in {os.getcwd()}"]
        assert 0 < waited_s < time.monotonic() - begun
    with lease(path, exclusive=True, waiting=_unexpected) as waited_s:
        assert waited_s == 0


def test_the_lease_of_a_killed_process_is_free(stack: ExitStack, path: Path) -> None:
    one = held(stack, path, "alone")
    assert one.says() == "held"
    two = held(stack, path, "alone")
    assert two.says() == "waiting"
    os.kill(one.process.pid, signal.SIGKILL)
    assert two.says() == "held"


def test_the_lease_is_released_after_an_error(path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"), lease(path, exclusive=True, waiting=_unexpected):
        raise RuntimeError("in the middle")
    with lease(path, exclusive=True, waiting=_unexpected):
        pass


def test_threads_of_one_process_exclude_each_other_too(path: Path) -> None:
    waited, done = threading.Event(), threading.Event()

    def other() -> None:
        with lease(path, exclusive=True, waiting=lambda _: waited.set()):
            done.set()

    thread = threading.Thread(target=other)
    with lease(path, exclusive=True, waiting=_unexpected):
        thread.start()
        assert waited.wait(180)
        assert not done.is_set()
    thread.join(180)
    assert done.is_set()


def test_every_device_has_a_file_of_its_own_that_all_runs_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert lease_path("cpu") == lease_path("cpu") == tmp_path / "pytest-avo" / "cpu.lock"
    assert lease_path("cpu") != lease_path("GPU-1234")
    assert lease_path("cpu").parent.is_dir()


def _unexpected(_: str) -> None:
    raise AssertionError("nobody else holds the lease")


def test_a_file_system_without_locks_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check_locks()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InvalidInput, match=r"check\.lock: cannot be locked: No locks available; set XDG_CACHE_HOME"):
        check_locks()
