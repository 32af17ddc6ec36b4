"""How far honest kernels stay below the error limits: the margins in docs/error-rates.md.

    python benchmarks/tolerances.py [SECONDS] [SEED]

Draws calls as checks and timed rounds do, of shapes of the shipped suites that are quick to compute in float64, and has
each answered in this process by torch's attention, the CPU kernels (the first of them with all of its tunables) and
what kernels do otherwise: old maxima, rounded weights, powers of two. Prints the quantiles of error / limit by dtype,
and the worst with the number that draws it again.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, get_args

import msgspec
import torch
from tabulate import tabulate

from pytest_avo.core.shape import Dtype, Shape, read_suite
from pytest_avo.evaluation.correctness.battery import battery
from pytest_avo.evaluation.correctness.correctness import worst_share
from pytest_avo.evaluation.correctness.inputs import Inputs, Stream, draw
from pytest_avo.evaluation.correctness.kinds import UNUSUAL
from pytest_avo.evaluation.correctness.mixture import mix_all
from pytest_avo.evaluation.correctness.noise import generator
from pytest_avo.evaluation.correctness.timed_kinds import TIMED_KINDS
from pytest_avo.evaluation.judge.peers import TORCH_SDPA

ROOT = Path(__file__).parents[1]
SUITES = ("smoke", "quickstart", "selftest", "chunked", "decode-small", "decode-cpu")
MOST_SCORES, MOST_NUMBERS = 1 << 19, 1 << 22
"""Scores, and numbers of keys, of a call at a claimed shape."""
Attention = Callable[[Inputs], torch.Tensor]


def load(path: Path) -> ModuleType:
    """Import a kernel file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ways(random: Random) -> dict[str, Attention]:
    """Honest ways to compute attention, by name; some choose at random how in every call."""
    namespace: dict[str, Any] = {}
    exec(TORCH_SDPA, namespace)
    files = {path.stem: load(path) for path in sorted((ROOT / "kernels/cpu").glob("*.py"))}
    quickstart = files["quickstart"]

    def tuned(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        for name, choices in quickstart.TUNABLES.items():
            setattr(quickstart, name, random.choice([x for x in choices if x != "float64"]))
        found: torch.Tensor = quickstart.attention(q, k, v, **options)
        return found

    called = {"torch-sdpa": namespace["attention"]}
    called |= {name: module.attention for name, module in files.items()} | {"quickstart": tuned}
    found: dict[str, Attention] = {name: asked(kernel) for name, kernel in called.items()}
    return found | {
        "in passes, in its own precision": in_passes,
        "online, by blocks": lambda x: online(x, block=random.choice((16, 32, 64, 128)), random=random),
    }


def asked(kernel: Callable[..., torch.Tensor]) -> Attention:
    """A kernel as it is called."""
    return lambda x: kernel(*x.tensors, causal=x.causal, scale=x.scale)


def seen_scores(inputs: Inputs, q: torch.Tensor) -> torch.Tensor:
    """Scores in q's precision, (batch, heads_q, rows, keys), -inf where a key is hidden."""
    group, rows, keys = inputs.q.shape[1] // inputs.k.shape[1], inputs.q.shape[2], inputs.k.shape[2]
    scores = q @ inputs.k.to(q.dtype).repeat_interleave(group, 1).transpose(-1, -2)
    if not inputs.causal:
        return scores
    return scores.masked_fill(~torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows), -torch.inf)


def in_passes(inputs: Inputs) -> torch.Tensor:
    """Unfused, queries scaled beforehand."""
    p = seen_scores(inputs, inputs.q * inputs.scale).softmax(-1).nan_to_num()
    return p @ inputs.v.repeat_interleave(inputs.q.shape[1] // inputs.v.shape[1], 1)


def online(inputs: Inputs, *, block: int, random: Random) -> torch.Tensor:
    """As fused kernels do it: by blocks of keys, weights rounded, powers of two, a maximum that may lag behind by 8."""
    lag, scaled = random.choice((0.0, 8.0)), random.random() < 0.5
    factor = inputs.scale / math.log(2)
    q = (inputs.q * factor).float() if scaled else inputs.q.float()
    scores = seen_scores(inputs, q) * (1.0 if scaled else factor)
    v = inputs.v.float().repeat_interleave(inputs.q.shape[1] // inputs.v.shape[1], 1)
    top = scores.new_full((*scores.shape[:-1], 1), -torch.inf)
    norm, total = torch.zeros_like(top), torch.zeros_like(q)
    for first in range(0, scores.shape[-1], block):
        part = scores[..., first : first + block]
        highest = part.amax(-1, keepdim=True)
        new = torch.where(highest > top + lag, highest, top)
        rescale, p = (torch.exp2(x - new).nan_to_num() for x in (top, part))
        total = total * rescale + p.to(inputs.q.dtype).float() @ v[..., first : first + block, :]
        norm, top = norm * rescale + p.sum(-1, keepdim=True), new
    return (total / norm).nan_to_num().to(inputs.q.dtype)


def shapes(dtype: Dtype) -> list[Shape]:
    """Shapes of the suites in a dtype, without those that take long."""
    found = [shape for suite in SUITES for shape in read_suite(ROOT / "shapes" / f"{suite}.toml")]
    small = [
        x
        for x in found
        if x.batch * x.heads_q * x.seqlen_q * x.seqlen_kv <= MOST_SCORES
        and x.batch * x.heads_kv * x.seqlen_kv * x.head_dim <= MOST_NUMBERS
    ]
    return [msgspec.structs.replace(shape, dtype=dtype) for shape in small]


def drawn(shape: Shape, number: int) -> tuple[str, Inputs]:
    """One call: of a check, or of a timed round with groups of unusual inputs."""
    random, source = Random(number), generator(number, "cpu")
    if random.random() < 0.5:
        case = random.choice(battery(shape, random))
        return f"{case.name} {case.shape.id}", draw(case, source)
    kind = random.choice(list(TIMED_KINDS))
    batch = Stream(shape, source).draw(1, kind)
    mixed = mix_all(batch, random.sample(UNUSUAL, k=random.randint(0, 2)), random, source)
    return f"timed {kind} {shape.id} {list(mixed.values())}", batch[0]


@dataclasses.dataclass(slots=True)
class Found:
    """Shares of the limits, and where the largest was."""

    shares: list[float] = dataclasses.field(default_factory=list)
    worst: tuple[float, str] = (0.0, "")

    def add(self, share: float, where: str) -> None:
        """Note one output."""
        self.shares.append(share)
        self.worst = max(self.worst, (share, where))


def main(seconds: float, seed: int) -> None:
    """Print the margins of all ways by dtype."""
    torch.set_num_threads(1)
    honest = ways(Random(seed))
    found: dict[tuple[Dtype, str], Found] = {}
    end, number = time.monotonic() + seconds, seed * 1_000_000
    while time.monotonic() < end:
        for dtype in get_args(Dtype):
            number += 1
            what, inputs = drawn(Random(number).choice(shapes(dtype)), number)
            for name, way in honest.items():
                found.setdefault((dtype, name), Found()).add(worst_share(inputs, way(inputs)), f"{what} ({number})")
    rows: list[list[Any]] = []
    for (dtype, name), each in sorted(found.items()):
        quantiles = torch.tensor(each.shares).quantile(torch.tensor([0.5, 0.99, 1.0]))
        rows.append([dtype, name, len(each.shares), *(f"{float(x):.2f}" for x in quantiles), each.worst[1]])
    sys.stdout.write(tabulate(rows, headers=["dtype", "kernel", "n", "median", "99%", "worst", "where"]) + "\n")
    wrong = sum(share > 1 for each in found.values() for share in each.shares)
    sys.stdout.write(f"judged wrong: {wrong} of {sum(row[2] for row in rows)}\n")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
