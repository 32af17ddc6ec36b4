"""Who goes on with a run: one at a time, and nobody who has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.lineage.run_lock import hold


def test_a_run_is_gone_on_with_by_one_at_a_time(tmp_path: Path) -> None:
    lineage = tmp_path / "lineage.sqlite3"
    first, other = hold(lineage, 3), hold(lineage, 4)
    with pytest.raises(InvalidInput, match="--avo-resume: run 3 goes on in another process"):
        hold(lineage, 3)
    os.close(first)
    os.close(hold(lineage, 3))
    os.close(other)


def test_a_process_that_was_killed_holds_nothing_nor_do_those_that_it_started(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from pathlib import Path
from pytest_avo.lineage.run_lock import hold
hold(Path(sys.argv[1]), 3)
subprocess.Popen(["sleep", "20"])
print("held", flush=True)
os.kill(os.getpid(), 9)
"""
    lineage = tmp_path / "lineage.sqlite3"
    ended = subprocess.Popen([sys.executable, "-c", code, str(lineage)], stdout=subprocess.PIPE, start_new_session=True)
    assert ended.stdout is not None
    assert ended.stdout.readline() == b"held\n"
    ended.wait()
    os.close(hold(lineage, 3))
    os.killpg(ended.pid, 9)
    ended.stdout.close()
