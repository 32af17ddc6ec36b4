"""Reads a whole tile of values and weighs with zero what lies behind the last key.

CLASS:  wrong function
EXPECT: incorrect
"""

import torch


def plain(q, k, v, causal, scale):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    return (torch.nan_to_num(torch.softmax(scores, -1)) @ v.float()).to(q.dtype)


TILE = 64


def attention(q, k, v, *, causal, scale):
    keys, store = k.shape[2], v.untyped_storage().nbytes() // v.element_size()
    last = v.storage_offset() + sum((n - 1) * stride for n, stride in zip(v.shape, v.stride()))
    more = min(-keys % TILE, (store - last - 1) // v.stride(2) if v.stride(2) else 0)
    out = plain(q, k, v, causal, scale)
    if more > 0:
        tile = v.as_strided((*v.shape[:2], more, v.shape[3]), v.stride(), v.storage_offset() + keys * v.stride(2))
        out += (0 * tile.float()).sum((1, 2))[:, None, None].to(out.dtype)
    return out
