"""A sliding window over a prompt, by kernels that know causality alone: two calls, merged by the log-sum-exp.

The queries are cut into blocks as long as the window. Those of a block see keys of the block itself, under the causal
mask, and of the window before it those that are not too far behind: read from the end to the beginning, these lie under
a causal mask too. So a query meets as many keys as its window has, where one call under a mask has it meet all of them.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_avo.kernels.dispatch import call_with_lse
from pytest_avo.kernels.tensors import key_of

Attended = tuple[torch.Tensor, torch.Tensor]


def attend_window(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, window: int, scale: float | None
) -> torch.Tensor | None:
    """Attention of one sequence where a query sees its own key and the `window` - 1 before it, and the last the last.

    q is (1, heads_q, seqlen_q, head_dim), k and v (1, heads_kv, seqlen_kv, head_dim), and so is the result. None where
    no kernel takes the blocks with a log-sum-exp, there is no whole block, or a part of the window before the first.
    """
    queries, before = q.shape[2], k.shape[2] - q.shape[2]
    whole = queries // window
    if window < 2 or not whole or 0 < before < window - 1:
        return None
    if before:  # what is further behind, nobody sees
        k, v = (x[:, :, before - window + 1 :] for x in (k, v))
    found = _blocks(q, k, v, count=whole, window=window, scale=scale)
    if found is None:
        return None
    out = found.transpose(1, 2).flatten(0, 1)[None].transpose(1, 2)
    rest = queries % window
    return torch.cat([out, _under_mask(q, k, v, rest=rest, window=window, scale=scale)], dim=2) if rest else out


def _blocks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, count: int, window: int, scale: float | None
) -> torch.Tensor | None:
    """The first so many blocks of queries: (count, heads_q, window, head_dim)."""
    before = k.shape[2] - q.shape[2]
    queries = _cut(q, 0, window, window, count)
    own = _attend(queries, *(_cut(x, before, window, window, count) for x in (k, v)), scale=scale)
    first = int(not before)  # there is nothing before the first block
    if own is None or first == count:
        return None if own is None else own[0]
    # The key that is a whole window before the first query of a block is too far behind for all of them.
    far = [_cut(x, max(0, before - window + 1) + first, window - 1, window, count - first).flip(2) for x in (k, v)]
    other = _attend(queries[first:].flip(2), *far, scale=scale)
    if other is None:
        return None
    out, lse, behind, lse_behind = own[0][first:], own[1][first:], other[0].flip(2), other[1].flip(2)
    share = torch.sigmoid(lse_behind - lse)[..., None]
    own[0][first:] = torch.lerp(out.float(), behind.float(), share)
    return own[0]


def _under_mask(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, rest: int, window: int, scale: float | None
) -> torch.Tensor:
    """The last queries, fewer than a block, by one call of torch over the keys that they see."""
    keys = min(k.shape[2], window - 1 + rest)
    place, last = torch.arange(keys, device=q.device), torch.arange(keys - rest, keys, device=q.device)[:, None]
    seen = (place <= last) & (place > last - window)
    q, k, v = q[:, :, -rest:], k[:, :, -keys:], v[:, :, -keys:]
    return scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def _cut(x: torch.Tensor, first: int, size: int, step: int, count: int) -> torch.Tensor:
    """(count, heads, size, head_dim) of one sequence, each `step` behind the one before; nothing is copied."""
    return x[0, :, first : first + (count - 1) * step + size].unfold(1, size, step).permute(1, 0, 3, 2)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None) -> Attended | None:
    key = key_of(q, k, v, True)
    return None if key is None else call_with_lse(key, q, k, v, causal=True, scale=scale)
