"""What a worker does before it can be asked anything."""

from __future__ import annotations

import subprocess
import sys


def test_torch_is_imported_while_the_fork_server_imports_it_too() -> None:
    script = "import sys, pytest_avo.evaluation.pool.worker; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
