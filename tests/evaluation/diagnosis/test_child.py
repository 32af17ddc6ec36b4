"""The process that kernels' code runs in outside the judge, as the one that only compiles a kernel."""

from __future__ import annotations

import time
from pathlib import Path

from pytest_avo.core.kernel import Kernel
from pytest_avo.evaluation.diagnosis.child import Child
from tests.evaluation.laboratory import gone

SHAPE = b"""[{"batch": 1, "heads_q": 1, "heads_kv": 1, "seqlen_q": 1, "seqlen_kv": 1, "head_dim": 16, "causal": false,
"dtype": "bf16"}]"""
LEAVES_A_PROCESS = """
import os, time
pid = os.fork()
if pid == 0:
    os.setsid()
    time.sleep(600)
print(pid, flush=True)
time.sleep(600)
"""


def child(source: str, *, confined: bool = True) -> Child:
    kernel = Kernel(path=Path("kernel.py"), source=source, claim=None, tunables=(), fault="")
    return Child("compile", kernel, confined=confined, arguments=["--target", "sm90", "--shapes-json", "-"])


def test_how_it_ended_and_what_it_said_last_are_known() -> None:
    with child("import os\nprint('one\\ntwo', flush=True)\nos._exit(3)") as process:
        with process.requests:
            process.requests.write(SHAPE)
        assert process.status() == 3
        assert process.last_words() == "two"
        assert not process.is_alive
        assert process.in_time
        folder = process.scratch
    assert not folder.exists()


def test_a_signal_is_a_negative_status() -> None:
    with child("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)") as process:
        with process.requests:
            process.requests.write(SHAPE)
        assert process.status() == -9


def test_out_of_time_it_ends_with_all_that_it_started() -> None:
    with child(LEAVES_A_PROCESS) as process:
        with process.requests:
            process.requests.write(SHAPE)
        while not process.last_words().isdigit():
            assert process.is_alive
            time.sleep(0.05)
        below = int(process.last_words())
        with process.within(0.1):
            assert process.answers.read() == b""
        assert not process.in_time
        assert process.status() == -9
        assert gone([below])
