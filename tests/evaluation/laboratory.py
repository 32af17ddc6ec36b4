"""Real kernel processes for tests: sources to run, and a place that runs one and says how it ended."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from pytest_avo.core.evaluation import KERNEL, Limits, Subject
from pytest_avo.core.shape import Dtype, Shape
from pytest_avo.evaluation.arms.arm import Arm
from pytest_avo.evaluation.arms.arms import Arms
from pytest_avo.evaluation.arms.faults import KernelEnded, KernelFault
from pytest_avo.evaluation.arms.spawner import Spawner
from pytest_avo.evaluation.correctness.correctness import fault
from pytest_avo.evaluation.correctness.inputs import Case, draw
from pytest_avo.evaluation.linux import processes

ESCAPES = {
    "children": """
for _ in range(12):
    if os.fork() == 0: time.sleep(600)
""",
    "sessions": """
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
""",
    "orphans": """
if os.fork() == 0:
    os.setsid()
    for _ in range(5):
        if os.fork() == 0: time.sleep(600)
    os._exit(0)
time.sleep(0.1)
""",
    "programs": "subprocess.Popen(['sleep', '600'], start_new_session=True)",
    "deaf ones": """
if os.fork() == 0:
    for number in set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    while True: time.sleep(1)
""",
}
"""Ways of a kernel to leave processes behind, as the body of its function."""

MEMORY_BYTES = 1 << 30
PATIENCE_S = 180.0
"""For what takes milliseconds on an idle machine, and is not what a test is about."""
_HONEST = """
import ctypes, json, os, signal, socket, subprocess, sys, tempfile, threading, time
import torch
from torch.nn.functional import scaled_dot_product_attention


def honest(q, k, v, *, causal, scale):
    mask = None
    if causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return torch.nan_to_num(out) if causal else out
"""


def kernel(body: str = "", *, top: str = "") -> str:
    """A kernel that runs `top` on import and `body` in every call, and computes honestly unless the body returns."""
    lines = [_HONEST, textwrap.dedent(top), "calls = 0", "", ""]
    lines += ["def attention(q, k, v, *, causal, scale):", "    global calls", "    calls += 1"]
    lines += [textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")]
    lines += ["    return honest(q, k, v, causal=causal, scale=scale)", ""]
    return "\n".join(lines)


def shape(
    *,
    heads: tuple[int, int] = (4, 2),
    lengths: tuple[int, int] = (48, 80),
    head_dim: int = 64,
    causal: bool = True,
    dtype: Dtype = "f32",
    batch: int = 1,
) -> Shape:
    return Shape(
        batch=batch,
        heads_q=heads[0],
        heads_kv=heads[1],
        seqlen_q=lengths[0],
        seqlen_kv=lengths[1],
        head_dim=head_dim,
        causal=causal,
        dtype=dtype,
    )


@dataclass(frozen=True, slots=True)
class Ending:
    """How a kernel's calls went."""

    outcome: str
    reason: str = ""
    log: str = ""


class Laboratory:
    """A spawner with arms of its own."""

    def __init__(self, spawner: Spawner) -> None:
        self.spawner = spawner
        self.arms = Arms(spawner, threads=1, memory_bytes=MEMORY_BYTES)
        self._used: set[str] = set()

    def arm(self, source: str, *, name: str = KERNEL, limits: Limits | None = None) -> Arm:
        """The process of a kernel, loaded."""
        self._used.add(name)
        limits = limits or Limits(build=PATIENCE_S, check=PATIENCE_S, time=PATIENCE_S)
        return self.arms.get(name, Subject(label=name, source=source), [shape()], limits)

    def run(self, source: str, *, calls: int = 1, limit_s: float = PATIENCE_S, load_s: float = PATIENCE_S) -> Ending:
        """Load a kernel, call it on fresh inputs and check its results."""
        generator = torch.Generator().manual_seed(7)
        try:
            arm = self.arm(source, limits=Limits(build=load_s))
            for _ in range(calls):
                inputs = draw(Case("normal", shape()), generator)
                found = fault(inputs, arm.call([inputs], "f32", limit_s=limit_s, phase="check").output(0))
                if found:
                    raise KernelFault("incorrect", found)
        except (KernelFault, KernelEnded) as error:
            ended = self.arms.fault(KERNEL, error)
            return Ending(ended.outcome, ended.reason, self.arms.log(KERNEL))
        return Ending("ok")

    def end(self) -> None:
        """End all arms."""
        for name in self._used | set(self.arms._kept):
            self.arms.drop(name)
        self.arms.settle()

    def leftovers(self) -> list[processes.Process]:
        """Processes that are still there after all arms were ended."""
        self.end()
        return self.below_fork_server()

    def below_fork_server(self) -> list[processes.Process]:
        """All processes below the fork server."""
        process = self.spawner._process
        assert process is not None
        return processes.tree(process.pid)[1:]


def gone(pids: Iterable[int], *, within_s: float = PATIENCE_S) -> bool:
    """Whether all of these processes end in time; a zombie that its parent has yet to reap has ended."""
    deadline = time.monotonic() + within_s
    while any(processes.is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
