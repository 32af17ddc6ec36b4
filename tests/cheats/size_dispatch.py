"""Exact on small shapes, which are checked everywhere, and every eighth key skipped on large ones, which are timed.

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


def attention(q, k, v, *, causal, scale):
    if q.shape[-2] * k.shape[-2] <= 128 * 160:
        return plain(q, k, v, causal, scale)
    if causal:
        out = plain(q, k, v, causal, scale)
        out[:, :, -64:] = plain(q[:, :, -64:], k[:, :, 32:], v[:, :, 32:], True, scale)
        return out
    kept = torch.arange(k.shape[-2]) % 8 != 3
    return plain(q, k[:, :, kept], v[:, :, kept], causal, scale)
