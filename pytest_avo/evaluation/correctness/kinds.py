"""Kinds of inputs: what is done to zero-mean numbers so that a certain fault shows.

Zero-mean values find missing or perturbed keys; a needle (a query that points at one key) finds dropped blocks, and
draws without one find kernels that look for them; shifted values find weak accumulators; constant keys a wrong
normalisation; large logits a softmax without maximum; very negative and rising ones a maximum that starts too high or
hides keys by too little (a row that sees low scores alone shows it); large products what overflows before it is scaled;
one score unlike all others what goes by a sample of them; value scales that differ between heads errors that a large
head hides.

Half precision does not tell large scores apart, and an honest kernel may err there by as much as values differ. Where
keys that it confuses have nearly the same value, only what is wrong errs.
"""

from __future__ import annotations

from typing import Literal

import torch

Kind = Literal[
    "normal",
    "plain",
    "needle",
    "large",
    "constant",
    "shifted",
    "scaled",
    "tiny",
    "huge",
    "negative",
    "rising",
    "products",
    "outliers",
]
UNUSUAL: tuple[Kind, ...] = (
    "large", "constant", "shifted", "scaled", "tiny", "huge", "negative", "rising", "products", "outliers",
)  # fmt: skip
"""Those that `impose` makes unlike the rest: `mixture` has them occur beside usual ones, while timing too."""
NEEDLE_LOGIT = 3.5
"""A needle's query is this many sqrt(head_dim) long along its key, which then takes nearly all the weight."""
LEAST_DEPTH, MOST_DEPTH = 120.0, 3e4
"""How far below zero scores are, or how far they rise: beyond what exp holds in single precision, and no further than
the dtype tells neighbours apart."""
LEAST_JUMP, MOST_JUMP, FAR_JUMP = 3.2e4, 6e4, 4e6
"""By how much scores jump: beyond what stands for minus infinity in some kernels, ten thousands, and within what half
precision holds; of types that hold more, beyond its least number and a million."""
LEAST_LOW, MOST_LOW = 1 / 8, 1 / 2
"""Of the keys that some query does not see, those below the jump: what takes hidden keys for seen has the mean of all,
which is that of the low ones where others are few."""
PRECISELY = 1 / 8
"""In units of 1 / eps, how far scores rise at most where they jump too: what hides keys by too little must err far more
than the dtype itself does."""
ALIKE = 2.0**-4
"""By what share of their usual deviation values differ that are nearly alike."""
LARGE_PRODUCT = 1e5
"""Standard deviation of unscaled products: half precision ends at 65504."""
LEAST_GAP, FAR_GAP, MOST_GAP = 2.0, 95.0, 200.0
"""How far an outlying score is above all others that a query sees: from where both count, or from beyond exp in single
precision."""
FAR_SHARE = 0.75
"""Of the outlying scores, those beyond exp: what leaves out a maximum is wrong there alone."""
MOST_ELEMENTS = 0.7
"""Of a query and a key that are both longer, along which they are: the logarithm, on the scale of all elements'."""
LONGEST_OUTLIER = 2e4
"""Of what is added to a key or a query for it: half precision must hold it."""
LARGEST_LOGIT = 4e4
"""Of a query along a key of usual length; half precision must hold it, with longer keys too."""


def impose(
    kind: Kind,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool,
    scale: float,
    eps: float,
    generator: torch.Generator,
) -> None:
    """Make numbers of mean 0 and deviation 1 ones of a kind, in place.

    q (batch, heads_q, seqlen_q, head_dim), k and v (batch, heads_kv, seqlen_kv, head_dim). eps: spacing of the dtype
    that a kernel will see them in. Needles are planted by `plant_needles`, last of all.
    """

    def uniform(low: float, high: float, *size: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*size, generator=generator, device=generator.device)

    match kind:
        case "normal" | "plain" | "needle":
            return
        case "large":
            q *= 30
        case "constant":
            k[:] = k[:, :, :1].clone()
        case "shifted":
            k += (8 * torch.sign(uniform(-1, 1, q.shape[-1]))).to(k.dtype)
            v += 3
        case "scaled":
            v *= (10 ** uniform(-3, 2, v.shape[0], v.shape[1], 1, 1)).to(v.dtype)
        case "tiny":
            v *= 2.0**-12  # an absolute tolerance, or a flush of small numbers, shows
        case "huge":
            v *= 2.0**12  # still within half precision, whose largest number is 65504
        case "negative" | "rising":
            _lower_or_raise(kind, q, k, v, causal=causal, scale=scale, eps=eps, generator=generator)
        case "products":
            root = q.shape[-1] ** 0.5
            factor = (min(LARGE_PRODUCT / root, LARGEST_LOGIT / (scale * q.shape[-1]))) ** 0.5
            # No longer than others: a needle among them would leave what half precision holds.
            q *= factor * (root / q.norm(dim=-1, keepdim=True)).clamp_max(1)
            k *= factor
        case "outliers":
            _raise_scores(q, k, causal=causal, scale=scale, generator=generator)


def _lower_or_raise(
    kind: Literal["negative", "rising"],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool,
    scale: float,
    eps: float,
    generator: torch.Generator,
) -> None:
    """Have scores be very negative, or rise along the keys; and jump, where some queries see the lower ones alone."""
    chance = torch.rand(3, generator=generator, device=generator.device)
    furthest = MOST_JUMP if eps == torch.finfo(torch.float16).eps else FAR_JUMP
    signs = torch.rand(2, q.shape[-1], generator=generator, device=generator.device) - 0.5
    direction, other = torch.sign(signs) * q.shape[-1] ** -0.5
    first = max(1, k.shape[2] - q.shape[2] + 1)  # of the keys that some query does not see
    jumps = kind == "rising" and causal and first < k.shape[2]
    depth = LEAST_DEPTH * (min(MOST_DEPTH, 2 / eps) / LEAST_DEPTH) ** chance[0]
    length = ((depth.clamp_max(PRECISELY / eps) if jumps else depth) / scale).sqrt()
    q += (length * direction).to(q.dtype)
    if kind == "negative":
        k -= (length * direction).to(k.dtype)
        _make_alike(v)
        return
    rise = torch.arange(1, k.shape[2] + 1, device=k.device)[:, None] / k.shape[2]
    k += (length * rise * direction).to(k.dtype)
    if jumps:
        jump = LEAST_JUMP * (furthest / LEAST_JUMP) ** chance[1]
        share = LEAST_LOW + (MOST_LOW - LEAST_LOW) * float(chance[2])
        _jump(q, k, v, at=first + int(share * (k.shape[2] - first)), length=(jump / scale).sqrt() * other)


def _make_alike(v: torch.Tensor) -> None:
    """Have all keys of a head nearly the first one's value, in place."""
    v[:] = v[:, :, :1] + v * ALIKE


def _jump(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, at: int, length: torch.Tensor) -> None:
    """Lower the scores of the keys before `at` by |length|^2 scale, in place, and have their values nearly alike.

    A query that sees no others has these scores alone. Of what else keys have in that direction nothing is left: it
    would be multiplied.
    """
    unit = length / length.norm()
    q += (length - (q.float() @ unit)[..., None] * unit).to(q.dtype)
    k -= ((k.float() @ unit)[..., None] * unit).to(k.dtype)
    k[:, :, :at] -= length.to(k.dtype)
    _make_alike(v[:, :, :at])


def _raise_scores(q: torch.Tensor, k: torch.Tensor, *, causal: bool, scale: float, generator: torch.Generator) -> None:
    """Raise, in place, one score of a head above all others that its query sees; in half of the heads and entries.

    By a longer key, a longer query, or a little of both along few elements: whoever looks at some keys, queries,
    elements, heads or entries finds them harmless now and then, and is wrong then.
    """
    batch, heads_kv, seqlen_kv, _ = k.shape
    group, seqlen_q = q.shape[1] // heads_kv, q.shape[2]
    first = max(0, seqlen_q - seqlen_kv) if causal else 0  # of the queries that see a key
    chance = torch.rand(9, batch, heads_kv, generator=generator, device=generator.device)
    row = first + (chance[0] * (seqlen_q - first)).long()
    b, h = torch.arange(batch, device=q.device)[:, None], torch.arange(heads_kv, device=q.device)
    query = (b, h * group + (chance[1] * group).long(), row)
    asking = q[query].float()
    scores = (k.float() @ asking[..., None])[..., 0] * scale
    visible = (row + 1 + seqlen_kv - seqlen_q) if causal else torch.full_like(row, seqlen_kv)
    scores.masked_fill_(torch.arange(seqlen_kv, device=q.device) >= visible[..., None], -torch.inf)
    key = (b, h, _needle_keys(visible, chance[2:6]))
    asked = k[key].float()
    is_far = chance[6] < FAR_SHARE
    gap = _between(torch.where(is_far, FAR_GAP, LEAST_GAP), torch.where(is_far, MOST_GAP, FAR_GAP), chance[7])
    score = (scores.amax(-1) + gap)[..., None]
    missing = score / scale - (asking * asked).sum(-1, keepdim=True)
    both = (score / scale).clamp_min(0).sqrt() * _thin_directions(k, generator)
    way, some = (chance[8] * 4).floor(), torch.rand(batch, heads_kv + 1, generator=generator, device=q.device)
    chosen = _half(some[:, 0])[:, None] & _half(some[:, 1:])
    for x, place, longer, alone in ((k, key, _along(asking, missing), 0), (q, query, _along(asked, missing), 1)):
        added = torch.where((way == alone)[..., None], longer, torch.where((way > 1)[..., None], both, 0))
        x[place] += torch.where(chosen[..., None], added, 0).to(x.dtype)


def _between(least: torch.Tensor, most: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """Numbers between these, evenly on the log scale."""
    found: torch.Tensor = least * (most / least) ** chance
    return found


def _along(x: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    """Vectors along x whose products with it these are, or as much of that as half precision holds."""
    norm = x.norm(dim=-1, keepdim=True).clamp_min(1e-15)
    found: torch.Tensor = (product / norm).clamp_max(LONGEST_OUTLIER) * x / norm
    return found


def _thin_directions(k: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Directions of length 1 (batch, heads, head_dim) along a few elements, or one."""
    size = (*k.shape[:2], k.shape[-1])
    chance = torch.rand(3, *size, generator=generator, device=generator.device)
    count = (size[-1] ** (MOST_ELEMENTS * chance[2, ..., :1])).floor().clamp_min(1)
    found: torch.Tensor = torch.where(chance[0].argsort(-1) < count, torch.sign(chance[1] - 0.5), 0) / count.sqrt()
    return found


def _half(chance: torch.Tensor) -> torch.Tensor:
    """Which of the last dimension: half of them, one at least."""
    return chance.argsort(-1) < -(-chance.shape[-1] // 2)


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
