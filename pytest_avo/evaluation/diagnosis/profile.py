"""Where a kernel's time goes on the CPU: torch's profiler, and perf where the machine has it and lets it be used.

    python -m pytest_avo.evaluation.diagnosis.profile KERNEL.py [--scratch DIR]

reads a shape as JSON, calls the kernel on random inputs for a while and writes what torch's profiler saw. It runs the
kernel's code, so `profile` starts it in a confined process of its own.
"""

from __future__ import annotations

import math
import re
import shutil
import signal
import subprocess
import sys
import time

import msgspec

from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.devices.cpu import CpuDevice
from pytest_avo.evaluation.devices.lease import lease, lease_path
from pytest_avo.evaluation.diagnosis.child import Child
from pytest_avo.evaluation.diagnosis.confined import command_line, confine, describe, load_attention, own_output
from pytest_avo.evaluation.linux.python import importing

LIMIT_S = 120.0
MEASURED_S = 1.0
"""How long calls are repeated, once for each profiler."""
MOST_CALLS = 300
"""That torch's profiler watches: it takes longer to count the operations of thousands of short calls than they took."""
ROWS = 15
LONGEST_SYMBOL = 100
SAMPLES_PER_S = 1000
COUNTERS = ("cycles", "instructions", "cache-misses", "branch-misses", "dTLB-load-misses")


def profile(kernel: Kernel, shape: Shape, *, confined: bool) -> str:
    """What the profilers say of a kernel on a shape, as text. Waits while another run times on this machine.

    EvaluatorError when the kernel's process ends without a profile, or not within LIMIT_S.
    """
    device = CpuDevice()
    with (
        lease(lease_path(device.id), exclusive=False, waiting=lambda _: None),
        # The threads and the allocator of timed kernels: idle threads that spin would be in the profile.
        Child("profile", kernel, confined=confined, environment=device.asleep()) as child,
        child.within(LIMIT_S),
    ):
        if found := _conversation(child, shape):
            return found
        child.status()
        raise EvaluatorError(f"{kernel.path.name}: no profile: {child.last_words() or f'nothing within {LIMIT_S:g} s'}")


def _conversation(child: Child, shape: Shape) -> str:
    """Hand the shape over, take torch's profile, then let perf watch while the process repeats its calls.

    Returns "" when the process ends without a profile.
    """
    try:
        child.requests.write(msgspec.json.encode(shape) + b"\n")
        child.requests.flush()
    except BrokenPipeError:
        pass  # what it says on its way out is read below
    head = child.answers.readline()
    if not head:
        return ""
    torch_says = str(msgspec.json.decode(head))
    return f"{torch_says}\n\n{_perf(child)}"


def _perf(child: Child) -> str:
    """What perf sees of the process while it repeats its calls once more, or why there is nothing to see."""
    perf = shutil.which("perf")
    if perf is None:
        return "perf: not on this machine, so the time inside compiled code is not divided further"
    data = child.scratch / "perf.data"
    command = [perf, "record", "-q", "-e", "cpu-clock:u", "-F", str(SAMPLES_PER_S), "-o", str(data)]
    recorder = subprocess.Popen([*command, "-p", str(child.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    counting = [perf, "stat", "-x", ",", "-e", ",".join(COUNTERS), "-p", str(child.pid)]
    counter = subprocess.Popen(counting, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.3)  # perf attaches to the threads that there are
    try:
        child.requests.write(b"again\n")
        child.requests.flush()
        child.answers.readline()
    except BrokenPipeError:
        pass  # a kernel that dies now has been seen until then
    for process in (recorder, counter):
        process.send_signal(signal.SIGINT)
    _, said = recorder.communicate(timeout=30)
    counted = counters(counter.communicate(timeout=30)[1])
    if not data.exists() or not data.stat().st_size:
        reason = said.decode(errors="replace").strip().splitlines()
        return (
            f"perf: {reason[0] if reason else 'recorded nothing'} (kernel.perf_event_paranoid may forbid it)\n{counted}"
        )
    command = [perf, "report", "--stdio", "-q", "-i", str(data), "--sort", "dso,symbol", "--percent-limit", "1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = by_name(found.stdout.splitlines())
    if not lines:
        return f"perf: recorded no sample\n{counted}"
    return "\n".join(["perf, share of samples in user space by library and symbol:", *lines[:ROWS], counted])


def counters(said: str) -> str:
    """What `perf stat -x,` counted, in a line."""
    found: dict[str, float] = {}
    for fields in (line.split(",") for line in said.splitlines()):
        if len(fields) > 2 and fields[2].partition(":")[0] in COUNTERS and fields[0].replace(".", "").isdecimal():
            found[fields[2].partition(":")[0]] = float(fields[0])
    if not found:
        return "perf stat: this machine lets none of the processor's counters be read"
    parts = [f"{name} {value:.3g}" for name, value in found.items()]
    if found.get("cycles") and "instructions" in found:
        parts.append(f"{found['instructions'] / found['cycles']:.2f} instructions a cycle")
    return f"perf stat: {', '.join(parts)}"


def by_name(lines: list[str]) -> list[str]:
    """The rows of perf's report by library and symbol; code that has only an address counts for its library."""
    shares: dict[tuple[str, str], float] = {}
    for line in lines:
        if found := re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[\S\]\s+(.*?)[ -]*$", line):
            symbol = "(no symbols)" if re.fullmatch(r"0x[0-9a-f]+", found[3]) else found[3]
            key = found[2], symbol
            shares[key] = shares.get(key, 0.0) + float(found[1])
    largest = sorted(shares.items(), key=lambda pair: -pair[1])
    return [f"{share:9.2f}%  {library}  {symbol[:LONGEST_SYMBOL]}" for (library, symbol), share in largest]


def main() -> int:
    """Run the command line."""
    arguments = command_line("profile").parse_args()
    with importing():
        import torch
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as profiler

        from pytest_avo.evaluation.correctness.inputs import Case, draw
        from pytest_avo.evaluation.correctness.noise import generator

    shape = msgspec.json.decode(sys.stdin.buffer.readline(), type=Shape)
    inputs = draw(Case("profile", shape), generator(1, "cpu"))
    # The profiler loads what it needs when it is first used, which a confined process may not.
    with profiler(activities=[ProfilerActivity.CPU]):
        torch.ones(1).sum()
    confine(arguments.scratch)
    with own_output() as output:
        try:
            attention = load_attention(arguments.kernel)

            def repeat(most: float, limit_s: float = MEASURED_S) -> tuple[int, float]:
                """Call for a while; how often, and seconds."""
                calls, start = 0, time.perf_counter()
                while (spent := time.perf_counter() - start) < limit_s and calls < most:
                    attention(*inputs.tensors, causal=inputs.causal, scale=inputs.scale)
                    calls += 1
                return calls, spent

            attention(*inputs.tensors, causal=inputs.causal, scale=inputs.scale)
            plain_calls, plain_s = repeat(MOST_CALLS, MEASURED_S / 4)
            with profiler(activities=[ProfilerActivity.CPU]) as seen:
                calls, spent = repeat(MOST_CALLS)
        except Exception as error:
            sys.stderr.write(f"{describe(error)}\n")
            return 1
        rows = [(each.key, each.count, each.self_cpu_time_total) for each in seen.key_averages()]
        plain_us = plain_s / plain_calls * 1e6
        output.write(msgspec.json.encode(table(rows, calls=calls, spent_s=spent, plain_us=plain_us)) + b"\n")
        output.flush()
        if sys.stdin.buffer.readline():
            repeat(math.inf)
            output.write(b"\n")
    return 0


def table(rows: list[tuple[str, int, float]], *, calls: int, spent_s: float, plain_us: float) -> str:
    """Operations by their own time: rows of name, how often and microseconds, over so many calls and seconds.

    plain_us: what a call takes that no profiler watches.
    """
    per_call_us = spent_s / calls * 1e6
    largest = sorted(rows, key=lambda row: -row[2])[:ROWS]
    lines = [
        f"torch's profiler: {per_call_us:,.1f} us a call ({calls} calls), {plain_us:,.1f} us where it does not watch"
    ]
    for name, count, total_us in largest:
        own_us = total_us / calls
        lines.append(f"{own_us:>12,.1f} us {own_us / per_call_us:>6.1%}  {count / calls:>8.1f} x {name}")
    outside_us = per_call_us - sum(total_us for _, _, total_us in rows) / calls
    lines.append(
        f"{outside_us:>12,.1f} us {outside_us / per_call_us:>6.1%}  outside torch: Python, or code of your own"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
