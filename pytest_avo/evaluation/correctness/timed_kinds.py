"""Kinds of inputs that kernels are timed on, as `core/input_kinds.py` names them: made of fresh numbers, in place."""

from __future__ import annotations

import math

import torch

from pytest_avo.core.input_kinds import InputKind

SPREAD = 8.0
"""Standard deviation of scores."""
SINK_WEIGHT = 0.9
"""Of the first key at least, in nearly every row: so much where all keys are visible, more where few are."""
RISE = 64.0
"""By how much scores grow from the first key to the last: in every tile of a long row the maximum moves."""
LOCAL = 6.0
"""How far above the usual scores' sum the score of a query's own place is, on the log scale."""
ALONG = 4.0
"""Of every query along the direction that keys differ in, in standard deviations of its usual numbers there."""


def impose_timed(
    kind: InputKind, q: torch.Tensor, k: torch.Tensor, *, scale: float, generator: torch.Generator
) -> None:
    """Make numbers of mean 0 and deviation 1 ones of a kind, in place.

    q (batch, heads_q, seqlen_q, head_dim), k (batch, heads_kv, seqlen_kv, head_dim).
    """
    head_dim, keys = q.shape[-1], k.shape[2]
    deviation = scale * math.sqrt(head_dim)
    match kind:
        case "normal":
            return
        case "spread":
            q *= SPREAD / deviation
        case "sink":
            # Queries lie along the direction, which makes the other keys' scores differ a little more than they did.
            direction = _direction(q, generator)
            others = math.log(keys) + (deviation**2 + (scale * ALONG) ** 2) / 2
            q += ALONG * direction
            # Queries differ along the direction by one: two deviations below the mean it is still a sink.
            k[:, :, 0] = (others + math.log(SINK_WEIGHT / (1 - SINK_WEIGHT))) / (scale * (ALONG - 2)) * direction
        case "rising" | "falling":
            direction = _direction(q, generator)
            q += ALONG * direction
            growth = torch.arange(1, keys + 1, device=k.device, dtype=torch.float32)[:, None] / keys
            rise = growth if kind == "rising" else 1 - growth
            k += (RISE / (scale * ALONG) * rise * direction).to(k.dtype)
        case "local":
            peak = math.log(keys) + deviation**2 / 2 + LOCAL
            length = math.sqrt(peak / (scale * (head_dim // 2 or 1)))
            places = torch.arange(keys, device=k.device, dtype=torch.float32)
            turned = (length * _rotary(places, head_dim)).to(k.dtype)
            k += turned
            q += turned[-q.shape[2] :] if q.shape[2] <= keys else _rotary_of_more(q, keys, length)


def _direction(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random direction, of length 1."""
    signs = torch.randint(0, 2, (like.shape[-1],), generator=generator, device=generator.device) * 2 - 1
    return (signs / math.sqrt(like.shape[-1])).to(like.dtype)


def _rotary(places: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(places, head_dim): a constant vector turned by rotary embeddings; products depend on the distance alone."""
    pairs = head_dim // 2
    turns = places[:, None] * 10_000.0 ** (-torch.arange(pairs, device=places.device) / max(1, pairs))
    turned = torch.cat([turns.cos(), turns.sin()], dim=-1)
    return torch.nn.functional.pad(turned, (0, head_dim - 2 * pairs))


def _rotary_of_more(q: torch.Tensor, keys: int, length: float) -> torch.Tensor:
    """Queries of which the first lie before every key."""
    places = torch.arange(keys - q.shape[2], keys, device=q.device, dtype=torch.float32)
    return (length * _rotary(places, q.shape[-1])).to(q.dtype)
