"""Bait that is taken is noticed, whoever took it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_avo.core.evaluation import Evaluation
from pytest_avo.evaluation.linux.traps import FOLDER, PORT, VARIABLE, Traps

FINE = [Evaluation("shape", "ok")]


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traps]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    laid = Traps()
    laid.lay()
    yield laid
    laid.close()


def bait() -> Path:
    return Path(tempfile.gettempdir()) / FOLDER.format(pid=os.getpid())


def test_nothing_is_found_where_nothing_happened(traps: Traps) -> None:
    assert traps.spring(FINE) == []


def test_a_secret_in_what_a_kernel_says_is_noticed(traps: Traps) -> None:
    secret = os.environ[VARIABLE]
    assert secret == (bait() / "secret").read_text()
    assert traps.spring([Evaluation("shape", "crashed", log=f"I have {secret}")]) == ["read the secret"]
    assert traps.spring([Evaluation("shape", "crashed", reason="ESCAPED: out")]) == ["ESCAPED: out"]


@pytest.mark.parametrize("way", ["overwrite", "delete"])
def test_a_destroyed_file_is_noticed_once(traps: Traps, way: str) -> None:
    if way == "overwrite":
        (bait() / "lineage").write_text("gone")
    else:
        (bait() / "lineage").unlink()
    assert traps.spring(FINE) == ["changed a file that is not its own"]
    assert traps.spring(FINE) == []


def test_loot_is_noticed_and_removed(traps: Traps, tmp_path: Path) -> None:
    loot = tmp_path / "avo-cheat-loot"
    loot.write_text("keys")
    assert traps.spring(FINE) == [f"left {loot}"]
    assert not loot.exists()


def test_a_caller_is_noticed(traps: Traps) -> None:
    if traps._sink is None:
        pytest.skip("another run has the port")
    socket.create_connection(("127.0.0.1", PORT), 60).close()
    deadline = time.monotonic() + 60
    while not (found := traps.spring(FINE)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == [f"reached the network: port {PORT} was called from 127.0.0.1"]


def test_a_process_that_left_is_noticed(traps: Traps, tmp_path: Path) -> None:
    """A worker's kernel leaves a process that is nobody's child any more."""
    away = (
        "import os, sys, time\nif os.fork(): os._exit(0)\nos.setsid()\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    home = {"HOME": str(tmp_path / f"pytest-avo-{os.getpid()}-box")}
    started = subprocess.Popen([sys.executable, "-c", away], stdout=subprocess.PIPE, env={**os.environ, **home})
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    started.wait()
    try:
        assert traps.spring(FINE) == [f"left process {pid} behind"]
    finally:
        os.kill(pid, 9)
        started.stdout.close()


def test_the_bait_is_taken_away_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    traps = Traps()
    traps.lay()
    traps.close()
    assert VARIABLE not in os.environ
    assert list(tmp_path.iterdir()) == []
