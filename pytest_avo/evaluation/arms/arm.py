"""One kernel's process as its judge sees it: memory to write arguments to, a socket to ask on, a clock outside.

An arm is a kernel in a comparison: the candidate, the incumbent or a peer. All arms are treated alike.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import torch

from pytest_avo.core.shape import Dtype
from pytest_avo.evaluation.arms.batch import Batch
from pytest_avo.evaluation.arms.faults import KernelFault, KernelRaised, Suspected
from pytest_avo.evaluation.arms.forms import check_form
from pytest_avo.evaluation.arms.lateness import IDLE_S, Lateness
from pytest_avo.evaluation.arms.link import Link, Phase, Said
from pytest_avo.evaluation.arms.memory import Memory, Written
from pytest_avo.evaluation.arms.replies import Done, Enqueued, Loaded
from pytest_avo.evaluation.arms.resources import Log
from pytest_avo.evaluation.correctness.inputs import Arguments
from pytest_avo.evaluation.linux import memory_use, processes
from pytest_avo.evaluation.linux.process_tree import ProcessTree

_Do = Literal["call", "launch", "replay", "enqueue"]


@dataclass(frozen=True, slots=True)
class Slice:
    """What became of one request: seconds by the judge's clock and by the process's own, and a way to its outputs."""

    seconds: float
    claimed_s: float
    replayed: bool
    output: Callable[[int], torch.Tensor]
    """A copy of the output of a call; to be asked for before the process is called again."""
    outputs: Callable[[], torch.Tensor]
    """Copies of all outputs of calls of one shape, (calls, batch, heads_q, seqlen_q, head_dim)."""
    lse: Callable[[int], torch.Tensor]
    """A copy of the log-sum-exp of a call, in float32, where it was asked for."""
    worked_s: float = 0.0
    """Processor time of the process's first thread, which makes the calls."""
    disturbed: bool = False
    """Whether a GPU had work when the arguments were written and no process ran."""
    is_captured: bool = False
    """Whether a GPU's process was asked such a slice before: it is captured then, if it can be."""


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """What the judge does while a process answers: at times in seconds since it was asked, until it has answered."""

    at_s: Sequence[float]
    act: Callable[[], None]


class Arm:
    """A running kernel process. Frozen except while it answers."""

    def __init__(
        self,
        tree: ProcessTree,
        *,
        link: socket.socket,
        given: Memory,
        result: Memory,
        log: Log,
        label: str,
        memory_bytes: int,
    ) -> None:
        """memory_bytes: what it may hold beside `given` and `result`, with all below it."""
        self.pid = tree.root
        self.label = label
        self.log = log
        self.given = given
        self.result = result
        self._link = Link(link, pid=tree.root, place=given.place, look=self._limit_memory)
        self._tree = tree
        self._named: set[tuple[str, str]] = set()
        self._lateness = Lateness()
        self._is_loading = False
        self._allowance = memory_use.Allowance(memory_bytes, beside=2 * (given.size + result.size))

    def begin_load(self) -> None:
        """Have the kernel's file imported, without waiting for it."""
        if not self._is_loading:
            self._is_loading = True
            self._link.send({"do": "load"}, "build")

    def load(self, limit_s: float) -> float:
        """Wait until the kernel's file is imported; returns the seconds that took."""
        start = time.perf_counter()
        self.begin_load()
        reply = self._link.reply(phase="build", limit_s=limit_s)
        seconds = time.perf_counter() - start
        self.freeze()
        if not isinstance(reply, Loaded):
            raise KernelFault("rejected", "answered a call that was not asked")
        return seconds

    def call(
        self,
        batch: Sequence[Arguments] | Batch,
        dtype: Dtype,
        *,
        limit_s: float,
        phase: Phase,
        guarded: bool = False,
        like_timed: bool = False,
        eager: bool = False,
        lse: bool = False,
        meanwhile: Meanwhile | None = None,
    ) -> Slice:
        """Call the kernel once on each of the arguments and return outputs and seconds.

        The arguments are written while the process is frozen; the clock stops only once it is frozen again, so that an
        early "done" buys no time in which the work is finished. Timed calls on a GPU, and others that must look like
        them, are replayed from a CUDA graph where the kernel can be captured in one, unless they are to be `eager`.
        guarded: all that lies around the arguments is NaN. lse: ask for the log-sum-exp too. A batch that several arms
        are asked says so itself, and where its calls lie.
        """
        self.freeze()
        laid = batch if isinstance(batch, Batch) else Batch(batch, dtype, guarded=guarded, lse=lse)
        written = laid.write(self.given, self.result)
        disturbed = phase == "time" and self.given.response_s() > IDLE_S
        timed = phase == "time" or like_timed
        how: _Do = "call" if not timed else "launch" if eager else "replay"
        request, before_s = self._request(how, laid.calls), processes.thread_s(self.pid)
        until_idle = phase == "time"
        seconds, done = self._ask(request, phase=phase, limit_s=limit_s, until_idle=until_idle, meanwhile=meanwhile)
        worked_s = processes.thread_s(self.pid) - before_s
        found = self._slice(done, laid, written, seconds=seconds)
        return replace(found, worked_s=worked_s, disturbed=disturbed, is_captured=not request["calls"])

    def enqueue(self, laid: Batch, *, limit_s: float) -> Slice:
        """The same for eager calls whose seconds are those until the last of them has returned, nothing waited for."""
        self.freeze()
        written = laid.write(self.given, self.result)
        seconds, enqueued = self._ask(self._request("enqueue", laid.calls), phase="time", limit_s=limit_s)
        if not isinstance(enqueued, Enqueued):
            raise KernelFault("rejected", "answered a call that was not asked")
        _, done = self._ask({"do": "finish"}, phase="time", limit_s=limit_s, until_idle=True)
        return self._slice(done, laid, written, seconds=seconds)

    def _ask(
        self,
        request: dict[str, object],
        *,
        phase: Phase,
        limit_s: float,
        until_idle: bool = False,
        meanwhile: Meanwhile | None = None,
    ) -> tuple[float, Said]:
        """The judge's seconds from a request to the reply, and that; the process is frozen before and after.

        until_idle: the seconds end when a GPU is idle too, whatever was left running there.
        """
        self._link.send(request, phase)
        self.require_standstill()
        start = time.perf_counter()
        self.thaw()  # finds the request there: waking a process twice would be measured
        try:
            if meanwhile is not None:
                self._act_until_answered(meanwhile, start)
            reply = self._link.reply(phase=phase, limit_s=limit_s)
        except KernelRaised:
            self.freeze()
            raise
        # Only who is timed has the device alone: while checks share it, another's work answers just as late.
        seconds = self.freeze(self._wait_until_idle if until_idle else None) - start
        if self._lateness.is_usual:
            raise KernelFault("rejected", "left work running on the device after its calls")
        self._limit_memory()
        self._link.refuse_extra_replies()
        return seconds, reply

    def _act_until_answered(self, meanwhile: Meanwhile, start: float) -> None:
        for at_s in meanwhile.at_s:
            if self._link.is_answered(within_s=start + at_s - time.perf_counter()):
                return
            meanwhile.act()

    def _slice(self, done: Said, laid: Batch, written: list[Written], *, seconds: float) -> Slice:
        """What was answered, if it is what was asked; KernelFault where not."""
        asked = len(laid.arguments)
        if not isinstance(done, Done) or done.calls != asked:
            raise KernelFault("rejected", f"did not answer the {asked} calls that were asked")
        for form in done.forms:
            check_form(form, laid.arguments[0], laid.dtype, place=self.given.place, lse=laid.with_lse)
        if not self.given.unchanged(written):
            raise KernelFault("rejected", "modified its inputs or what lies around them")
        return Slice(
            seconds=seconds,
            claimed_s=done.seconds,
            replayed=done.replayed,
            output=lambda number: laid.output(number, self.result),
            outputs=lambda: laid.outputs(self.result),
            lse=lambda number: laid.lse(number, self.result),
        )

    def freeze(self, meanwhile: Callable[[], None] | None = None) -> float:
        """Stop the process and all below it; the time (perf_counter) when all that was known of them had been told to.

        meanwhile: what is waited for before that time is taken.
        """
        return time.perf_counter() if self._tree.is_stopped else self._tree.stop(meanwhile)

    def _wait_until_idle(self) -> None:
        self._lateness.wait(self.result.response_s)

    def thaw(self) -> None:
        """Let the process run."""
        if self._tree.is_stopped:
            self._tree.resume()

    def require_standstill(self) -> None:
        """KernelFault where the process, frozen, did something all the same."""
        if self._tree.is_stopped and (movement := self._tree.movement()):
            found = KernelFault if movement.is_certain else Suspected
            raise found("rejected", f"{movement.words} while it was to stand still")

    def busy(self, window_s: float) -> float:
        """CPU seconds per second that the process uses while nothing is asked of it, over a window."""
        self.require_standstill()
        self.thaw()
        before, start = self._tree.cpu_s(), time.perf_counter()
        time.sleep(window_s)
        used, seconds = self._tree.cpu_s() - before, time.perf_counter() - start
        self.freeze()
        return used / seconds

    def kill(self) -> None:
        """End the process group. Reaping, and verifying that nothing is left, is the fork server's part."""
        processes.kill_group(self.pid)

    def close(self) -> None:
        """Free what the judge holds of a dead arm."""
        self._link.close()
        self.given.close()
        self.result.close()

    def _request(self, how: _Do, calls: list[dict[str, object]]) -> dict[str, object]:
        """What is sent. On a GPU a slice that was asked for before is named alone: what is in it is known there."""
        if how == "call" or self.given.place != "cuda":
            return {"do": "enqueue" if how == "enqueue" else "call", "calls": calls}
        name = hashlib.sha256(msgspec.json.encode(calls)).hexdigest()[:16]
        new = (how, name) not in self._named
        self._named.add((how, name))
        return {"do": how, "name": name, "calls": calls if new else []}

    def _limit_memory(self) -> None:
        if said := self._allowance.exceeded(self._tree.pids):
            raise KernelFault("crashed", said)
