"""The script that kills an evolution's processes at random moments, with a kill of each kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.plugin.conftest import quick, quick_and_scripted

SCRIPT = ROOT / "benchmarks" / "crash.py"
QUICK = quick(os.environ)


@pytest.mark.long
def test_nothing_is_lost_torn_or_left_over_whatever_is_killed() -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "4", "--seconds", "1500"]
    found = subprocess.run(command, capture_output=True, text=True, env=QUICK)
    assert found.returncode == 0, found.stdout + found.stderr
    kills, runs, kept = found.stdout.splitlines()
    expected = "4 kills (1 kernel, 1 fork server, 1 worker, 1 controller)"
    assert kills.startswith(expected), "on a machine so slow that this fails, give it more seconds"
    assert "evolved to the end" in runs
    assert kept.endswith("; 0 faults")
    assert not kept.startswith("0 evaluations")


def test_a_fault_is_told(tmp_path: Path) -> None:
    """A script that finds nothing wrong must be able to: a torn file and a lost row."""
    code = (
        "import sys, sqlite3; sys.path.insert(0, sys.argv[1]); import crash, pathlib; crash.GENERATIONS = 2\n"
        "project = crash.Project(pathlib.Path(sys.argv[2]))\n"
        "process = project.start(resume=False); process.wait(); project.check(); project.check_complete()\n"
        "assert process.returncode == 0 and not project.faults, project.faults\n"
        "with sqlite3.connect(project.lineage) as db: db.executescript(\n"
        "    'DROP TRIGGER outcome_whole; DELETE FROM outcome WHERE id = 2')\n"
        "project.kernel.write_text('def attention(')\n"
        "project.check(); project.check_complete(); print(*project.faults, sep='\\n')"
    )
    command = [sys.executable, "-c", code, str(SCRIPT.parent), str(tmp_path / "project")]
    # What is looked at is the files of a run.
    found = subprocess.run(command, capture_output=True, text=True, env=quick_and_scripted(os.environ))
    faults = found.stdout.splitlines()
    assert [fault.partition(":")[0] for fault in faults] == [
        "1 rows of outcome were lost or changed",
        "the kernel's file is torn",
        "an attempt without an outcome",
        "the kernel's file is not the incumbent",
    ], found.stdout + found.stderr
