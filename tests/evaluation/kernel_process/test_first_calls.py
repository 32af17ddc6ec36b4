"""First calls of vector functions, before a fork."""

from __future__ import annotations

import os
import subprocess
import sys


def test_no_thread_is_started_that_a_fork_would_lose() -> None:
    script = (
        "import os\n"
        "from pytest_avo.evaluation.kernel_process.first_calls import settle\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "settle()\n"
        "print(before, len(os.listdir('/proc/self/task')))\n"
    )
    command = [sys.executable, "-c", script]
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=threads)
    before, after = found.stdout.split()
    assert before == after
