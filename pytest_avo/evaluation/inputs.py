"""Inputs for a kernel: drawn afresh for every check and every timed round, from a secret seed.

Distributions follow the faults that they betray. Zero-mean values find missing or perturbed keys; a needle (a query
that points at one key) finds dropped blocks; shifted values find weak accumulators; constant keys find a wrong
normalisation; large logits find a softmax without maximum; value scales that differ between heads find errors hidden by
a large head.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch

from pytest_avo.core.shape import Dtype, Shape

TORCH_DTYPES: dict[Dtype, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
NEEDLE_LOGIT = 3.5
"""A needle's query is this many sqrt(head_dim) long along its key, which then takes nearly all the weight."""


@dataclass(frozen=True, slots=True)
class Case:
    """One call to check. `required` is False for shapes that the kernel did not claim: there it may refuse."""

    name: str
    shape: Shape
    distribution: str = "normal"
    layout: str = "bshd"
    required: bool = True


@dataclass(frozen=True, slots=True)
class Inputs:
    """Arguments of one call: q (batch, heads_q, seqlen_q, head_dim), k and v (batch, heads_kv, seqlen_kv, head_dim)."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    causal: bool
    scale: float

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.q, self.k, self.v


def draw(case: Case, generator: torch.Generator) -> Inputs:
    """Fresh random inputs of a case, quantised to its dtype."""
    shape = case.shape
    q = torch.randn(shape.batch, shape.heads_q, shape.seqlen_q, shape.head_dim, generator=generator)
    k = torch.randn(shape.batch, shape.heads_kv, shape.seqlen_kv, shape.head_dim, generator=generator)
    v = torch.randn(shape.batch, shape.heads_kv, shape.seqlen_kv, shape.head_dim, generator=generator)
    random = Random(int(torch.randint(2**62, (1,), generator=generator)))
    match case.distribution:
        case "normal":
            plant_needles(q, k, causal=shape.causal, scale=shape.softmax_scale, share=1 / 16, random=random)
        case "needle":
            plant_needles(q, k, causal=shape.causal, scale=shape.softmax_scale, share=1.0, random=random)
        case "large":
            q *= 30
        case "constant":
            k[:] = k[:, :, :1]
        case "shifted":
            k += 8 * torch.sign(torch.randn(shape.head_dim, generator=generator))
            v += 3
        case "scaled":
            v *= torch.logspace(-3, 2, shape.heads_kv).view(1, -1, 1, 1)
        case "tiny":
            v *= 2.0**-12  # an absolute tolerance, or a flush of small numbers, shows
        case "huge":
            v *= 2.0**12  # still within half precision, whose largest number is 65504
        case unknown:
            raise ValueError(f"no distribution {unknown!r}")
    dtype = TORCH_DTYPES[shape.dtype]
    q, k, v = (laid_out(x.to(dtype), case.layout) for x in (q, k, v))
    return Inputs(q, k, v, shape.causal, shape.softmax_scale)


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in memory as (batch, seqlen, heads, head_dim), the models' order; "padded" adds a gap per row."""
    match layout:
        case "bshd":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "bhsd":
            return x.contiguous()
        case "padded":
            store = x.new_zeros(x.shape[0], x.shape[2], x.shape[1], x.shape[3] + 8)
            store[..., : x.shape[3]] = x.transpose(1, 2)
            return store[..., : x.shape[3]].transpose(1, 2)
        case unknown:
            raise ValueError(f"no layout {unknown!r}")


def plant_needles(
    q: torch.Tensor, k: torch.Tensor, *, causal: bool, scale: float, share: float, random: Random
) -> None:
    """Point a share of the queries, in place, at one random visible key each."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]
    # The wanted logit is NEEDLE_LOGIT * sqrt(head_dim) whatever the scale, within what half precision holds.
    length = min(NEEDLE_LOGIT * head_dim**0.5 / (scale * head_dim**0.5), 1e4)
    for b in range(batch):
        for h in range(heads_q):
            # Rounded at random: a single query must not be a needle every time.
            rows = min(seqlen_q, int(seqlen_q * share + random.random()))
            picked = random.sample(range(seqlen_q), rows)
            keys = []
            for row in picked:
                visible = min(seqlen_kv, row + 1 + seqlen_kv - seqlen_q) if causal else seqlen_kv
                keys.append(_needle_key(visible, random) if visible > 0 else 0)
            pointed = k[b, h // (heads_q // heads_kv), keys]
            q[b, h, picked] = (pointed * (length / (pointed.norm(dim=-1, keepdim=True) + 1e-6))).to(q.dtype)


def _needle_key(visible: int, random: Random) -> int:
    """A random visible key; every other time one at the edge of a tile, where kernels go wrong."""
    if random.random() < 0.5:
        return random.randrange(visible)
    tile = random.choice((16, 32, 64, 128))
    edge = tile * random.randrange(-(-visible // tile))
    return min(visible - 1, random.choice((edge, edge + tile - 1)))


class Stream:
    """Endless cheap fresh inputs of one shape for timed rounds.

    A pool of random rows is drawn once; every round gathers rows from it in a new order with new signs, at the speed of
    a copy. No output can be replayed: every query meets other keys and every key carries another value.
    """

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        self._shape = shape
        self._generator = generator
        longest = max(shape.heads_q * shape.seqlen_q, shape.heads_kv * shape.seqlen_kv) * shape.batch
        pool = torch.randn(min(longest, 16384), shape.head_dim, generator=generator)
        self._pool = pool.to(TORCH_DTYPES[shape.dtype])

    def draw(self) -> Inputs:
        """Inputs of the next call, in the models' layout, with a few needles."""
        shape = self._shape
        q = self._gather(shape.heads_q, shape.seqlen_q)
        k = self._gather(shape.heads_kv, shape.seqlen_kv)
        v = self._gather(shape.heads_kv, shape.seqlen_kv)
        random = Random(int(torch.randint(2**62, (1,), generator=self._generator)))
        plant_needles(q, k, causal=shape.causal, scale=shape.softmax_scale, share=1 / 64, random=random)
        return Inputs(q, k, v, shape.causal, shape.softmax_scale)

    def _gather(self, heads: int, seqlen: int) -> torch.Tensor:
        count = self._shape.batch * seqlen * heads
        rows = torch.randint(len(self._pool), (count,), generator=self._generator)
        signs = torch.randint(0, 2, (self._shape.head_dim,), generator=self._generator) * 2 - 1
        values = self._pool.index_select(0, rows).mul_(signs.to(self._pool.dtype))
        return values.view(self._shape.batch, seqlen, heads, self._shape.head_dim).transpose(1, 2)
