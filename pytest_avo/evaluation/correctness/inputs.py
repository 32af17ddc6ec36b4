"""Inputs for a kernel: drawn afresh for every check and every timed round, from a secret seed.

Distributions follow the faults that they betray. Zero-mean values find missing or perturbed keys; a needle (a query
that points at one key) finds dropped blocks; shifted values find weak accumulators; constant keys find a wrong
normalisation; large logits find a softmax without maximum; value scales that differ between heads find errors hidden by
a large head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.correctness.noise import Numbers
from pytest_avo.evaluation.devices.dtypes import TORCH_DTYPES

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
    """Fresh random inputs of a case, quantised to its dtype, on the generator's device."""
    shape = case.shape

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=generator.device)

    q = normal(shape.batch, shape.heads_q, shape.seqlen_q, shape.head_dim)
    k = normal(shape.batch, shape.heads_kv, shape.seqlen_kv, shape.head_dim)
    v = normal(shape.batch, shape.heads_kv, shape.seqlen_kv, shape.head_dim)
    match case.distribution:
        case "normal":
            plant_needles(q, k, causal=shape.causal, scale=shape.softmax_scale, share=1 / 16, generator=generator)
        case "needle":
            plant_needles(q, k, causal=shape.causal, scale=shape.softmax_scale, share=1.0, generator=generator)
        case "large":
            q *= 30
        case "constant":
            k[:] = k[:, :, :1].clone()
        case "shifted":
            k += 8 * torch.sign(normal(shape.head_dim))
            v += 3
        case "scaled":
            v *= torch.logspace(-3, 2, shape.heads_kv, device=v.device).view(1, -1, 1, 1)
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
    q: torch.Tensor, k: torch.Tensor, *, causal: bool, scale: float, share: float, generator: torch.Generator
) -> None:
    """Point a share of the queries of every head, in place, at one random visible key each."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    heads_kv, seqlen_kv = k.shape[1:3]

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator, device=generator.device)

    # Rounded at random: a single query must not be a needle every time.
    count = (seqlen_q * share + uniform(batch, heads_q, 1)).long()
    rows = uniform(batch, heads_q, seqlen_q).argsort(-1)[..., : int(seqlen_q * share) + 1]
    b, h, nth = (torch.arange(rows.shape[-1], device=q.device) < count).nonzero(as_tuple=True)
    row = rows[b, h, nth]
    visible = (row + 1 + seqlen_kv - seqlen_q).clamp(0, seqlen_kv) if causal else torch.full_like(row, seqlen_kv)
    key = _needle_keys(visible, uniform(4, len(row)))
    pointed = k[b, h // (heads_q // heads_kv), key].float()
    # The wanted logit is NEEDLE_LOGIT * sqrt(head_dim) whatever the scale, within what half precision holds.
    length = min(NEEDLE_LOGIT * head_dim**0.5 / (scale * head_dim**0.5), 1e4)
    q[b, h, row] = (pointed * (length / (pointed.norm(dim=-1, keepdim=True) + 1e-6))).to(q.dtype)


def _needle_keys(visible: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """A random visible key each; every other one at the edge of a tile, where kernels go wrong."""
    anywhere = (chance[0] * visible).long()
    tile = 16 << (chance[1] * 4).long()  # 16, 32, 64 or 128
    edge = tile * (chance[0] * -(-visible // tile)).long()
    edge += torch.where(chance[2] < 0.5, 0, tile - 1)
    return torch.minimum(torch.where(chance[3] < 0.5, anywhere, edge), visible - 1).clamp_min(0)


class Stream:
    """Endless cheap fresh inputs of one shape for timed rounds.

    Every row of every call is new: rows from a pool, in whatever order and with whatever signs, can be learnt and told
    from one another by a few of their elements.
    """

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        self._shape = shape
        self._generator = generator
        self._noise = Numbers(generator)

    def draw(self, calls: int) -> list[Inputs]:
        """Inputs of the next calls, in the models' layout, with a few needles."""
        shape = self._shape
        q = self._rows(calls, shape.heads_q, shape.seqlen_q)
        k = self._rows(calls, shape.heads_kv, shape.seqlen_kv)
        v = self._rows(calls, shape.heads_kv, shape.seqlen_kv)
        plant_needles(
            q.flatten(0, 1),
            k.flatten(0, 1),
            causal=shape.causal,
            scale=shape.softmax_scale,
            share=1 / 64,
            generator=self._generator,
        )
        return [Inputs(*qkv, shape.causal, shape.softmax_scale) for qkv in zip(q, k, v, strict=True)]

    def _rows(self, calls: int, heads: int, seqlen: int) -> torch.Tensor:
        """Random numbers (calls, batch, heads, seqlen, head_dim), in memory as models lay them out."""
        shape = self._shape
        size = (calls, shape.batch, seqlen, heads, shape.head_dim)
        return self._noise.draw(*size, dtype=TORCH_DTYPES[shape.dtype]).transpose(2, 3)
