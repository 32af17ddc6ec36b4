"""Kinds of inputs that kernels are timed on: what scores are like in models, where they are not all alike.

How long a kernel takes depends on its scores: on how often a running maximum moves and results are rescaled, on what
can be skipped, on how much power numbers take. A kernel that is timed on one kind alone is made for that kind.

torch is imported where numbers are drawn: the names are read wherever suites are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_avo.core.shape import InputKind

if TYPE_CHECKING:
    import torch

SPREAD = 8.0
"""Standard deviation of scores."""
SINK_WEIGHT = 0.9
"""Of the first key, in every row: so much where all keys are visible, more where few are. What is left must matter, or
a kernel that knows the sink need not look at any other key."""
SINK_VALUE = 2.0**-6
"""By what the first key's value is smaller than others, as it is in models: else half precision rounds by more than all
other keys together add."""
RISE = 64.0
"""By how much scores grow from the first key to the last: in every tile of a long row the maximum moves."""
LOCAL = 6.0
"""How far above the usual scores' sum the score of a query's own place is, on the log scale."""
ALONG = 4.0
"""Of queries along the direction that keys differ in, in standard deviations of their usual numbers there."""


class Impose(Protocol):
    """Makes numbers of mean 0 and deviation 1 ones of a kind, in place.

    q (batch, heads_q, seqlen_q, head_dim), k and v (batch, heads_kv, seqlen_kv, head_dim).
    """

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, generator: torch.Generator
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class TimedKind:
    """A kind of timed inputs."""

    help: str
    """What it is, in words for users."""
    impose: Impose


def _normal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, generator: torch.Generator) -> None:
    pass


def _spread(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, generator: torch.Generator) -> None:
    q *= SPREAD / _deviation(q, scale)


def _sink(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, generator: torch.Generator) -> None:
    # All queries are alike along the direction, and so is the sink's weight; it makes the other keys' scores differ a
    # little more than they did.
    direction = _direction(q, generator)
    others = math.log(k.shape[2]) + (_deviation(q, scale) ** 2 + (scale * ALONG) ** 2) / 2
    rows = q.transpose(1, 2)  # as they lie in memory: a product of the others would copy them
    rows.addcmul_((ALONG - rows @ direction)[..., None], direction)
    k[:, :, 0] = (others + math.log(SINK_WEIGHT / (1 - SINK_WEIGHT))) / (scale * ALONG) * direction
    v[:, :, 0] *= SINK_VALUE


def _rising(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, generator: torch.Generator) -> None:
    _lift(q, k, _growth(k), scale=scale, generator=generator)


def _falling(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, generator: torch.Generator) -> None:
    _lift(q, k, 1 - _growth(k), scale=scale, generator=generator)


def _local(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, generator: torch.Generator) -> None:
    import torch

    head_dim, keys = q.shape[-1], k.shape[2]
    peak = math.log(keys) + _deviation(q, scale) ** 2 / 2 + LOCAL
    length = math.sqrt(peak / (scale * (head_dim // 2 or 1)))
    places = torch.arange(keys, device=k.device, dtype=torch.float32)
    turned = (length * _rotary(places, head_dim)).to(k.dtype)
    k += turned
    q += turned[-q.shape[2] :] if q.shape[2] <= keys else _rotary_of_more(q, keys, length)


TIMED_KINDS: dict[InputKind, TimedKind] = {
    "normal": TimedKind(
        "independent numbers of variance 1: scores of standard deviation 1 under the usual scale", _normal
    ),
    "spread": TimedKind("the same with scores of standard deviation 8: a few keys take the weight of a query", _spread),
    "sink": TimedKind(
        "the first key takes about nine tenths of the weight of every query, more where few are visible; its value is "
        "small, so that the others matter",
        _sink,
    ),
    "rising": TimedKind("scores grow from the first key to the last, by 64 in all", _rising),
    "falling": TimedKind("scores fall from the first key to the last, by 64 in all", _falling),
    "local": TimedKind("keys near a query take most of its weight, as rotary embeddings make them", _local),
}


def _deviation(q: torch.Tensor, scale: float) -> float:
    """Of usual scores."""
    return scale * math.sqrt(q.shape[-1])


def _growth(k: torch.Tensor) -> torch.Tensor:
    """(keys, 1): from nearly 0 at the first key to 1 at the last."""
    import torch

    keys = k.shape[2]
    return torch.arange(1, keys + 1, device=k.device, dtype=torch.float32)[:, None] / keys


def _lift(q: torch.Tensor, k: torch.Tensor, rise: torch.Tensor, *, scale: float, generator: torch.Generator) -> None:
    """Raise the scores of the keys by shares of RISE."""
    direction = _direction(q, generator)
    q += ALONG * direction
    k += (RISE / (scale * ALONG) * rise * direction).to(k.dtype)


def _direction(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random direction, of length 1: of the usual numbers, which tell nobody what it is."""
    import torch

    numbers = torch.randn(like.shape[-1], generator=generator, device=generator.device)
    direction: torch.Tensor = numbers / numbers.norm()
    return direction.to(like.dtype)


def _rotary(places: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(places, head_dim): a constant vector turned by rotary embeddings; products depend on the distance alone."""
    import torch

    pairs = head_dim // 2
    turns = places[:, None] * 10_000.0 ** (-torch.arange(pairs, device=places.device) / max(1, pairs))
    turned = torch.cat([turns.cos(), turns.sin()], dim=-1)
    return torch.nn.functional.pad(turned, (0, head_dim - 2 * pairs))


def _rotary_of_more(q: torch.Tensor, keys: int, length: float) -> torch.Tensor:
    """Queries of which the first lie before every key."""
    import torch

    places = torch.arange(keys - q.shape[2], keys, device=q.device, dtype=torch.float32)
    return (length * _rotary(places, q.shape[-1])).to(q.dtype)
