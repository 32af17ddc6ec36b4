"""One call of a kernel on the GPU, for a profiler to watch; or watched by torch's own, which needs no counters.

    ncu ... python -m pytest_avo.evaluation.diagnosis.counters.call KERNEL.py --shape JSON [--trace] [--scratch DIR]

The call is made a few times first, so that everything is compiled, and once more between cudaProfilerStart and -Stop.
With --trace it writes the launches of that call as JSON lines (`TracedLaunch`), as CUPTI's activity records have them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.confined import command_line, describe, load_attention, own_output
from pytest_avo.evaluation.linux import sandbox
from pytest_avo.evaluation.linux.python import importing

WARM_UP_CALLS = 2
FAULT = "the kernel failed: "
"""Begins the line that says what the kernel raised; ncu prints lines of its own beside it."""
TRACE = "trace.json"


class TracedLaunch(msgspec.Struct, frozen=True):
    """One GPU function that a call launched."""

    name: str
    us: float
    grid: tuple[int, ...] = ()
    block: tuple[int, ...] = ()
    registers: int = 0
    shared_bytes: int = 0


def launches(trace: dict[str, Any]) -> list[TracedLaunch]:
    """The GPU functions of a trace in Chrome's format, as torch's profiler exports it, in their order."""
    events = [event for event in trace.get("traceEvents", []) if event.get("cat") == "kernel"]
    return [
        TracedLaunch(
            name=str(event["name"]),
            us=float(event["dur"]),
            grid=tuple(event["args"].get("grid", ())),
            block=tuple(event["args"].get("block", ())),
            registers=int(event["args"].get("registers per thread", 0)),
            shared_bytes=int(event["args"].get("shared memory", 0)),
        )
        for event in sorted(events, key=lambda event: float(event["ts"]))
    ]


def main() -> int:
    """Run the command line."""
    parser = command_line("counters.call")
    parser.add_argument("--shape", required=True, help="as JSON")
    parser.add_argument("--trace", action="store_true", help="watch the call with torch's profiler")
    arguments = parser.parse_args()
    with importing():
        import torch

        from pytest_avo.evaluation.correctness.inputs import Case, draw
        from pytest_avo.evaluation.correctness.noise import generator

    shape = msgspec.json.decode(arguments.shape, type=Shape)
    restrict_calls = _confine(arguments.scratch)
    # CUDA starts here, and with it the profiler's code in this process, which looks for its profiler.
    inputs = draw(Case("profile", shape), generator(1, "cuda"))
    torch.cuda.synchronize()
    if arguments.trace:
        _traced(torch, lambda: None)  # it loads what it needs when it is first used
    restrict_calls()
    with own_output() as output:
        try:
            attention = load_attention(arguments.kernel)

            def call() -> None:
                attention(*inputs.tensors, causal=inputs.causal, scale=inputs.scale)
                torch.cuda.synchronize()

            for _ in range(WARM_UP_CALLS):
                call()
            if arguments.trace:
                found = _traced(torch, call)
                output.write(b"".join(msgspec.json.encode(launch) + b"\n" for launch in found))
            else:
                runtime: Any = torch.cuda
                runtime.cudart().cudaProfilerStart()
                call()
                runtime.cudart().cudaProfilerStop()
        except Exception as error:
            sys.stderr.write(f"\n{FAULT}{describe(error)}\n")
            return 1
    return 0


def _confine(scratch: str | None) -> Callable[[], None]:
    """Hold this process to what a kernel's process may do; the result does the rest, once CUDA has started."""
    if scratch is None:
        return lambda: None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return sandbox.confine_watched(sandbox.Confinement(scratch=scratch, memory_bytes=memory, layers=True, gpu=True))


def _traced(torch: Any, call: Callable[[], None]) -> list[TracedLaunch]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        call()
        torch.cuda.synchronize()
    seen.export_chrome_trace(TRACE)
    return launches(json.loads(Path(TRACE).read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
