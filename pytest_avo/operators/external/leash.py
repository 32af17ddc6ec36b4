"""Holds a coding agent: `python -m pytest_avo.operators.external.leash COMMAND...`, with a pipe as its standard input.

When the pipe closes, because the evolution ends the step or was killed itself, the agent and all that it started is
stopped: politely, then not. Its exit status becomes this process's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

from pytest_avo.evaluation.linux import processes

POLITE_S = 10.0
_PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """Run the command until it ends, or the pipe does."""
    # Whatever leaves the agent's process group becomes a child of this process when its parent ends, and is found.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        agent = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - goes to the transcript
        return 127
    threading.Thread(target=_stop_at_end, args=(agent,), daemon=True).start()
    status = agent.wait()
    _clear()
    return status if status >= 0 else 128 - status


def _stop_at_end(agent: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    _stop(signal.SIGTERM)
    end = time.monotonic() + POLITE_S
    while agent.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    _stop(signal.SIGKILL)


def _clear() -> None:
    """Kill and bury what the agent left behind."""
    with contextlib.suppress(ChildProcessError):  # none is left
        while True:
            _stop(signal.SIGKILL)
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)


def _stop(number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        processes.send([each.pid for each in processes.tree(os.getpid())[1:]], number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
