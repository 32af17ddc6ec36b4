"""Check and time kernels/sm90 on one Hopper GPU in a single call, without the plugin: python benchmarks/sm90_check.py.

Every kernel, and every variant of one with other literals, first runs over shapes that no tile divides, both masks,
unequal lengths, group ratios, layouts and scales, against a float32 reference. What survives is timed beside cuDNN,
FlashAttention-2 and FlashAttention-3: interleaved rounds in one process, L2 flushed before each call, CUDA events.
Each round has an order of its own, because under a power limit a kernel pays for what ran just before it, and ratios
are medians over rounds. Decode shapes are replayed from CUDA graphs, so that no host time is in them.

Jobs run in a worker process, so a fault or a hang costs the variant that caused it and nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import queue
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

KERNELS = Path(__file__).resolve().parent.parent / "kernels" / "sm90"
LENGTHS = [(8, 4096), (4, 8192), (2, 16384), (1, 32768)]
FLUSH_BYTES = 256 << 20


class Case(NamedTuple):
    """One problem; layout says how the tensors lie in memory, magnify multiplies q."""

    batch: int
    heads_q: int
    heads_kv: int
    seqlen_q: int
    seqlen_kv: int
    head_dim: int
    causal: bool
    dtype: str = "bf16"
    layout: str = "bshd"
    scale: float = 0.0
    magnify: float = 1.0

    def label(self) -> str:
        """Compact name for a table."""
        mask = "causal" if self.causal else "full"
        extra = "" if self.layout == "bshd" else f" {self.layout}"
        extra += f" scale={self.scale}" if self.scale else ""
        extra += f" q*{self.magnify:g}" if self.magnify != 1 else ""
        return (
            f"b{self.batch} h{self.heads_q}/{self.heads_kv} {self.seqlen_q}x{self.seqlen_kv} d{self.head_dim} "
            f"{mask} {self.dtype}{extra}"
        )


def correctness_cases(kernel: str) -> list[Case]:
    """Shapes that break kernels: odd lengths, unequal lengths, single rows, groups, layouts, scales."""
    lengths = [(1, 1), (1, 77), (77, 77), (128, 128), (129, 191), (191, 129), (333, 65), (1000, 1000), (300, 2048)]
    cases = []
    for head_dim in (64, 128, 256):
        for causal in (False, True):
            for i, (sq, sk) in enumerate(lengths):
                cases.append(Case(2, (4, 6, 8)[i % 3], (4, 2, 1)[i % 3], sq, sk, head_dim, causal))
            cases.append(Case(2, 8, 8, 4096, 4096, head_dim, causal))
            cases.append(Case(1, 4, 2, 333, 333, head_dim, causal, "f16"))
    for causal in (False, True):
        for layout in ("bhsd", "padded", "misaligned", "expanded"):
            cases.append(Case(2, 4, 2, 333, 450, 128, causal, layout=layout))
        cases.append(Case(2, 4, 2, 333, 450, 128, causal, scale=1.0))
        cases.append(Case(2, 4, 2, 333, 450, 128, causal, scale=0.005))
        cases.append(Case(2, 4, 2, 333, 450, 128, causal, scale=-0.1))
        cases.append(Case(2, 4, 2, 333, 450, 128, causal, magnify=30.0))
        cases.append(Case(3, 32, 8, 2000, 2000, 128, causal))
        cases.append(Case(64, 16, 4, 260, 260, 64, causal))
    if kernel == "decode":
        for heads_q, heads_kv in ((32, 8), (64, 8), (8, 8), (16, 1)):
            for sq, sk in ((1, 1), (1, 100), (1, 8191), (1, 40000), (5, 3000)):
                cases.append(Case(2, heads_q, heads_kv, sq, sk, 128, True))
        cases.append(Case(64, 64, 8, 1, 4096, 128, False))
    return cases


def timed_cases(grid: str, short: bool, layout: str) -> list[Case]:
    """The grids of the paper, head dimensions 64 and 256, and decoding."""
    if grid == "decode":
        sizes = [(1, 8192), (4, 8192), (16, 8192), (64, 4096), (1, 65536), (8, 32768)]
        return [
            Case(batch, heads, 8, 1, kv, 128, False, layout=layout)
            for heads in (32, 64)
            for batch, kv in (sizes[::2] if short else sizes)
        ]
    heads = {
        "mha": [(16, 16, 128)],
        "gqa": [(32, 4, 128), (32, 8, 128)],
        "hdim": [(32, 32, 64), (8, 8, 256)],
    }[grid]
    lengths = LENGTHS[::2] if short else LENGTHS
    return [
        Case(b, hq, hk, s, s, d, causal, layout=layout)
        for hq, hk, d in heads
        for causal in (False, True)
        for b, s in lengths
    ]


def tensors(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random q, k, v as (batch, heads, seqlen, head_dim) views of the wanted layout."""
    import torch

    dtype = torch.float16 if case.dtype == "f16" else torch.bfloat16
    generator = torch.Generator("cuda").manual_seed(hash(case[:6]) % 2**31)

    def make(heads: int, seqlen: int) -> torch.Tensor:
        def fill(*size: int) -> torch.Tensor:
            return torch.randn(*size, device="cuda", dtype=dtype, generator=generator)

        if case.layout == "bhsd":
            return fill(case.batch, heads, seqlen, case.head_dim)
        if case.layout == "padded":
            return fill(case.batch, seqlen, heads, case.head_dim + 24)[..., : case.head_dim].transpose(1, 2)
        if case.layout == "misaligned":
            flat = fill(case.batch * seqlen * heads * case.head_dim + 1)[1:]
            return flat.view(case.batch, seqlen, heads, case.head_dim).transpose(1, 2)
        if case.layout == "expanded" and heads == case.heads_kv:
            return fill(case.batch, seqlen, 1, case.head_dim).expand(-1, -1, heads, -1).transpose(1, 2)
        return fill(case.batch, seqlen, heads, case.head_dim).transpose(1, 2)

    q = make(case.heads_q, case.seqlen_q) * case.magnify if case.magnify != 1 else make(case.heads_q, case.seqlen_q)
    return q, make(case.heads_kv, case.seqlen_kv), make(case.heads_kv, case.seqlen_kv)


def error(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case, heads: list[tuple[int, int]]
) -> tuple[float, float]:
    """Relative error in the 2-norm, and the largest error over the largest |V|, both the worst of the given heads."""
    import torch

    shift = case.seqlen_kv - case.seqlen_q
    group = case.heads_q // case.heads_kv
    cols = torch.arange(case.seqlen_kv, device="cuda")
    worst_norm = worst_max = 0.0
    for b, h in heads:
        key, value = k[b, h // group].float(), v[b, h // group].float()
        refs = []
        for start in range(0, case.seqlen_q, 2048):
            query = q[b, h, start : start + 2048].float()
            scores = (query @ key.T) * (case.scale or case.head_dim**-0.5)
            if case.causal:
                rows = torch.arange(start, start + len(query), device="cuda")
                scores = scores.masked_fill(cols[None] > rows[:, None] + shift, -math.inf)
            refs.append(torch.softmax(scores, -1).nan_to_num(0.0) @ value)
        ref = torch.cat(refs)
        difference = out[b, h].float() - ref
        norm = (difference.norm() / ref.norm().clamp_min(1e-30)).item()
        largest = (difference.abs().max() / value.abs().max()).item()
        worst_norm = max(worst_norm, norm if math.isfinite(norm) else math.inf)
        worst_max = max(worst_max, largest if math.isfinite(largest) else math.inf)
    return worst_norm, worst_max


def load(variant: dict[str, Any]) -> Any:
    """attention() of a kernel file, its literals replaced as the variant says."""
    source = (KERNELS / f"{variant['kernel']}.py").read_text()
    for name, value in variant["literals"].items():
        source, found = re.subn(rf"^{name} = .*$", f"{name} = {value}", source, flags=re.MULTILINE)
        if found != 1:
            raise ValueError(f"{variant['kernel']}.py has no literal {name}")
    path = Path(tempfile.gettempdir()) / f"sm90_check_{variant['name']}_{os.getpid()}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda q, k, v, causal, scale: module.attention(q, k, v, causal=causal, scale=scale)


def peers(decode: bool) -> dict[str, Any]:
    """Name to callable for what is installed; FlashAttention-3 takes (batch, seqlen, heads, head_dim)."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def sdpa(backend: SDPBackend) -> Any:
        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
                )

        return call

    found = {"cudnn": sdpa(SDPBackend.CUDNN_ATTENTION), "fa2": sdpa(SDPBackend.FLASH_ATTENTION)}
    for module in ("fa3_fwd_interface", "flash_attn_interface"):
        if importlib.util.find_spec(module) is None:
            continue
        fa3 = importlib.import_module(module).flash_attn_func
        options = {"num_splits": 0} if decode else {}

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> Any:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            result = fa3(q, k, v, softmax_scale=scale, causal=causal, **options)  # noqa: B023
            return (result[0] if isinstance(result, tuple) else result).transpose(1, 2)

        found["fa3"] = call
        break
    return found


def one_line(failure: BaseException) -> str:
    """Type and start of the message, without line breaks."""
    return f"{type(failure).__name__}: {' '.join(str(failure).split())[:160]}"


def context_lost() -> bool:
    """Whether a fault has taken the CUDA context with it, so that only a new process can go on."""
    import torch

    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def check(job: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """Compare one variant with the reference on one case, on all heads, twice."""
    import torch

    case = Case(*job["case"])
    variant = job["variant"]
    if variant["name"] not in loaded:
        loaded[variant["name"]] = load(variant)
    q, k, v = tensors(case)
    kept = [t.clone() for t in (q, k, v)]
    heads = [(b, h) for b in range(case.batch) for h in range(case.heads_q)]
    if len(heads) > 32:
        heads = heads[:: len(heads) // 31] + heads[-1:]
    scale = case.scale or case.head_dim**-0.5
    out = loaded[variant["name"]](q, k, v, case.causal, scale)
    again = loaded[variant["name"]](q, k, v, case.causal, scale)
    torch.cuda.synchronize()
    norm, largest = error(out, q, k, v, case, heads)
    eps = torch.finfo(out.dtype).eps
    # With q magnified the softmax is close to one-hot, and the rounding of P no longer averages out.
    limit = (0.6 if case.magnify == 1 else 1.0) * eps
    problems = []
    if out.shape != q.shape or out.dtype != q.dtype:
        problems.append(f"result is {tuple(out.shape)} {out.dtype}")
    if not (norm <= limit and largest <= 2 * eps):
        problems.append(f"error {norm:.1e} (norm), {largest:.1e} (max)")
    if not torch.equal(out, again):
        problems.append("second call differs")
    if not all(torch.equal(a, b) for a, b in zip(kept, (q, k, v), strict=True)):
        problems.append("inputs modified")
    return {"error": norm, "problems": problems}


def describe(job: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """What the worker runs on."""
    import torch
    import triton

    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
    }


def replayable(call: Callable[[], object]) -> Callable[[], object]:
    """The call captured in a CUDA graph."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(job: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of every peer and variant on one case, round by round; notes on those that failed."""
    import torch

    case = Case(*job["case"])
    decode = case.seqlen_q == 1
    q, k, v = tensors(case)
    scale = case.head_dim**-0.5
    ends = [(0, 0), (case.batch - 1, case.heads_q - 1)]
    calls = {name: call for name, call in peers(decode).items() if name in job["peers"]}
    notes = {}
    for variant in job["variants"]:
        if variant["name"] not in loaded:
            loaded[variant["name"]] = load(variant)
        calls[variant["name"]] = loaded[variant["name"]]
    ready = {}
    for name, call in calls.items():
        try:
            bound = lambda call=call: call(q, k, v, case.causal, scale)  # noqa: E731
            norm, largest = error(bound(), q, k, v, case, ends)
            if not (norm <= 0.6 * torch.finfo(q.dtype).eps and largest <= 2 * torch.finfo(q.dtype).eps):
                notes[name] = f"error {norm:.1e} (norm), {largest:.1e} (max)"
            ready[name] = replayable(bound) if decode else bound
            for _ in range(3):
                ready[name]()
            torch.cuda.synchronize()
        except Exception as failure:  # one peer or kernel that cannot run must not stop the others
            if context_lost():
                return {"failed": f"{name}: {one_line(failure)}", "fatal": True}
            ready.pop(name, None)
            notes[name] = one_line(failure)
    flush = torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
    samples: dict[str, list[float]] = {name: [] for name in ready}
    order = list(ready)
    shuffle = random.Random(0).shuffle
    for _ in range(job["rounds"]):
        shuffle(order)
        for name in order:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush.zero_()
            start.record()
            ready[name]()
            end.record()
            end.synchronize()
            samples[name].append(start.elapsed_time(end))
    return {"ms": samples, "notes": notes}


def worker() -> None:
    """Read jobs as JSON lines, answer each with one."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    loaded: dict[str, Any] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = {"describe": describe, "check": check, "time": measure}[job["kind"]](job, loaded)
        except Exception as failure:  # reported as the outcome of this job
            answer = {"failed": one_line(failure), "fatal": context_lost()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer.get("fatal"):
            os._exit(1)


class Worker:
    """A worker process that is replaced when it dies or is silent for too long."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str] = queue.Queue()

    def start(self) -> None:
        """Start the process and a thread that reads its answers."""
        command = [sys.executable, __file__, "--worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, args=(self.process, self.lines), daemon=True).start()

    @staticmethod
    def read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        """Pass on lines; an empty one says that the process has ended."""
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def run(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to one job; a dead or silent worker is an answer too."""
        if self.process is None:
            self.start()
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        try:
            line = self.lines.get(timeout=timeout_s)
        except queue.Empty:
            self.stop()
            return {"failed": f"no answer in {timeout_s:.0f} s: killed", "fatal": True}
        if not line:
            code = self.process.wait()
            self.process = None
            return {"failed": f"worker ended with code {code}", "fatal": True}
        answer: dict[str, Any] = json.loads(line)
        if answer.get("fatal"):
            self.stop()
        return answer

    def stop(self) -> None:
        """Kill the process and wait for it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def say(text: str) -> None:
    """Print at once: the output may be all that is left of a run that was cut short."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def check_all(variants: list[dict[str, Any]], worker_: Worker, deadline: float) -> list[dict[str, Any]]:
    """Check every variant; the ones that neither fault nor hang."""
    alive = []
    for variant in variants:
        # A variant differs from its kernel in tile sizes and schedules: a sample of the cases shows a mistake.
        cases = correctness_cases(variant["kernel"])[:: 4 if variant["literals"] else 1]
        failures, worst, fatal = 0, 0.0, 0
        for number, case in enumerate(cases):
            if monotonic() > deadline:
                say(f"  {variant['name']}: out of time after {number} cases")
                break
            answer = worker_.run({"kind": "check", "variant": variant, "case": case}, 60 if number else 120)
            problems = answer.get("problems", [answer.get("failed", "")])
            if problems:
                failures += 1
                say(f"  FAIL {variant['name']}: {case.label()}: {'; '.join(problems)}")
            else:
                worst = max(worst, answer["error"])
            fatal += bool(answer.get("fatal"))
            if fatal == 2:
                say(f"  {variant['name']}: two faults or hangs, given up after {number + 1} cases")
                break
        say(f"check {variant['name']}: {len(cases)} cases, {failures} failed, largest error {worst:.1e}")
        if fatal < 2:
            alive.append(variant)
    return alive


def time_all(variants: list[dict[str, Any]], arguments: argparse.Namespace, worker_: Worker, deadline: float) -> None:
    """Time every grid and print a line per shape and the geometric means."""
    for grid in arguments.grids:
        kernels = ("decode", "naive") if grid == "decode" else ("mha", "naive")
        chosen = [v for v in variants if Path(v["kernel"]).stem in kernels]
        unit = "GB/s" if grid == "decode" else "TFLOP/s"
        say(f"\n{grid}: {unit}; in brackets the speed relative to cudnn and to fa3")
        ratios: dict[tuple[str, str], list[float]] = {}
        for case in timed_cases(grid, arguments.short, arguments.layout):
            if monotonic() > deadline:
                say("  out of time")
                break
            job = {"kind": "time", "variants": chosen, "case": case, "rounds": arguments.rounds}
            job["peers"] = arguments.peers.split(",")
            answer = worker_.run(job, 180)
            if "ms" not in answer:
                say(f"  {case.label()}: {answer['failed']}")
                continue
            ms = answer["ms"]
            elements = 2 * case.batch * case.head_dim * (case.heads_q * case.seqlen_q + case.heads_kv * case.seqlen_kv)
            flops = 4 * case.batch * case.heads_q * case.seqlen_q * case.seqlen_kv * case.head_dim
            work = 2 * elements / 1e6 if grid == "decode" else flops / (2 if case.causal else 1) / 1e9
            parts = []
            for name, times in ms.items():
                text = f"{name} {work / statistics.median(times):.0f}"
                if name not in ("cudnn", "fa2", "fa3"):
                    against = []
                    for peer in ("cudnn", "fa3"):
                        if peer in ms:
                            ratio = statistics.median(p / own for p, own in zip(ms[peer], times, strict=True))
                            ratios.setdefault((name, peer), []).append(ratio)
                            against.append(f"{ratio:.3f}")
                    text += f" [{'/'.join(against)}]"
                parts.append(text)
            say(f"  {case.label()}: {'  '.join(parts)}")
            for name, note in answer["notes"].items():
                say(f"    note {name}: {note}")
        for (name, peer), values in ratios.items():
            say(f"  geomean {name} / {peer}: {statistics.geometric_mean(values):.3f} over {len(values)}")


def parse_variant(text: str) -> dict[str, Any]:
    """mha:PINGPONG=True,STAGES=3 as kernel, literals and a short name."""
    kernel, _, assignments = text.partition(":")
    literals = dict(item.split("=", 1) for item in assignments.split(",") if item)
    name = "_".join([kernel, *(re.sub(r"\W", "", f"{k}{v}") for k, v in literals.items())])
    return {"kernel": kernel, "literals": literals, "name": name}


def main() -> None:
    """Parse arguments, check, time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", default="naive,mha,decode", help="files in kernels/sm90, comma-separated")
    parser.add_argument("--variant", action="append", default=[], help="mha:D128_STAGES=3,L2_MIB=8 (repeatable)")
    parser.add_argument("--grids", default="mha,gqa,hdim,decode", help="mha, gqa, hdim, decode; empty: no timing")
    parser.add_argument("--short", action="store_true", help="every other length of each grid")
    parser.add_argument("--layout", choices=("bshd", "bhsd"), default="bshd", help="memory order when timing")
    parser.add_argument("--peers", default="cudnn,fa2,fa3")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget-s", type=float, default=540, help="start no further job after this long")
    parser.add_argument("--no-check", action="store_true", help="time only")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker()
        return
    arguments.grids = [grid for grid in arguments.grids.split(",") if grid]
    variants = [parse_variant(text) for text in [*arguments.kernels.split(","), *arguments.variant] if text]
    deadline = monotonic() + arguments.budget_s
    worker_ = Worker()
    say(str(worker_.run({"kind": "describe"}, 120)))
    alive = variants if arguments.no_check else check_all(variants, worker_, deadline)
    time_all(alive, arguments, worker_, deadline)
    worker_.stop()


if __name__ == "__main__":
    main()
