"""Attention in plain torch operations, one tile of queries at a time: the file a first evolution starts from.

It is naive on purpose: small tiles, keys and values repeated for every query head that shares them, scores computed
for keys that the causal mask then hides, softmax spelled out in separate passes. Every such choice is a literal below,
and each combination of them is correct; they differ in speed alone. What can make it fast: a tile large enough that
a matrix product outweighs the Python around it and small enough that its scores stay in the cache, no work on hidden
keys, and reading shared keys and values once.
"""

from __future__ import annotations

import torch

AVO = {"target": "cpu", "shapes": ["quickstart"]}

BLOCK_Q = 32  # queries per tile
BLOCK_K = 128  # keys per matrix product
SKIP_HIDDEN_KEYS = False  # leave out the keys that no query of the tile sees
GROUP_HEADS = False  # stack the query heads that share a key/value head into one taller tile
SOFTMAX = "passes"  # "passes": scores kept, then max, exp, sum; "fused": torch.softmax; "online": one pass, rescaled
PACK_KV = False  # copy keys and values so that each head lies contiguous in memory
ACCUMULATE = "float32"  # type of scores, probabilities and sums

TUNABLES = {
    "BLOCK_Q": [32, 64, 128, 256],
    "BLOCK_K": [128, 512, 2048, 8192],
    "SKIP_HIDDEN_KEYS": [False, True],
    "GROUP_HEADS": [False, True],
    "SOFTMAX": ["passes", "fused", "online"],
    "PACK_KV": [False, True],
    "ACCUMULATE": ["float32", "float64"],
}


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float) -> torch.Tensor:
    """Attend from q (batch, heads_q, seqlen_q, head_dim) to k and v (batch, heads_kv, seqlen_kv, head_dim)."""
    batch, heads_q, seqlen_q, head_dim = q.shape
    seqlen_kv = k.shape[2]
    if not GROUP_HEADS:
        group = heads_q // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if PACK_KV:
        k, v = k.contiguous(), v.contiguous()
    dtype = getattr(torch, ACCUMULATE)
    k, v = k.to(dtype), v.to(dtype)
    heads_kv = k.shape[1]

    out = torch.zeros_like(q)
    # Query i sees the keys up to i + shift; with more queries than keys the first rows see none and stay zero.
    shift = seqlen_kv - seqlen_q
    for first in range(max(0, -shift) if causal else 0, seqlen_q, BLOCK_Q):
        last = min(first + BLOCK_Q, seqlen_q)
        # How many keys each query of the tile sees; the first query sees fewest.
        seen = torch.arange(first, last) + shift + 1 if causal else torch.full((last - first,), seqlen_kv)
        end = min(seqlen_kv, last + shift) if causal and SKIP_HIDDEN_KEYS else seqlen_kv
        blocks = [(start, min(start + BLOCK_K, end)) for start in range(0, end, BLOCK_K)]
        tile = (q[:, :, first:last].to(dtype) * scale).reshape(batch, heads_kv, -1, head_dim)
        result = (online if SOFTMAX == "online" else materialised)(tile, k, v, blocks, seen)
        out[:, :, first:last] = result.reshape(batch, heads_q, last - first, head_dim)
    return out


def materialised(
    tile: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: list[tuple[int, int]], seen: torch.Tensor
) -> torch.Tensor:
    """Keep the scores of all keys, take their softmax, then sum the values."""
    scores = torch.cat([block_scores(tile, k, block, seen) for block in blocks], dim=-1)
    if SOFTMAX == "fused":
        weights = scores.softmax(dim=-1)
    else:
        weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return sum((weights[..., a:b] @ v[:, :, a:b] for a, b in blocks), torch.zeros_like(tile))


def online(
    tile: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: list[tuple[int, int]], seen: torch.Tensor
) -> torch.Tensor:
    """Go over the keys once, rescaling what is summed so far whenever a larger score appears."""
    total = torch.zeros_like(tile)
    top = tile.new_full((*tile.shape[:-1], 1), -torch.inf)
    norm = torch.zeros_like(top)
    for block in blocks:
        scores = block_scores(tile, k, block, seen)
        # Key 0 is in the first block and every query here sees it, so `higher` is finite from then on.
        higher = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
        weights = (scores - higher).exp()
        shrink = (top - higher).exp()
        total = total * shrink + weights @ v[:, :, block[0] : block[1]]
        norm = norm * shrink + weights.sum(dim=-1, keepdim=True)
        top = higher
    return total / norm


def block_scores(tile: torch.Tensor, k: torch.Tensor, block: tuple[int, int], seen: torch.Tensor) -> torch.Tensor:
    """Multiply the tile with one block of keys; -inf where the causal mask hides a key from a query."""
    start, stop = block
    scores = tile @ k[:, :, start:stop].transpose(-1, -2)
    if stop <= seen[0]:
        return scores
    hidden = torch.arange(start, stop) >= seen[:, None]
    by_query_head = scores.view(*tile.shape[:2], -1, len(seen), stop - start)
    return by_query_head.masked_fill(hidden, -torch.inf).view(scores.shape)
