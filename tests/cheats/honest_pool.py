"""A pool of threads that stays, idle between calls.

CLASS:  honest
EXPECT: accept
"""

from concurrent.futures import ThreadPoolExecutor

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


pool = ThreadPoolExecutor(4)


def attention(q, k, v, *, causal, scale):
    group = q.shape[1] // k.shape[1]
    heads = range(q.shape[1])
    parts = pool.map(
        lambda h: plain(
            q[:, h : h + 1], k[:, h // group : h // group + 1], v[:, h // group : h // group + 1], causal, scale
        ),
        heads,
    )
    return torch.cat(list(parts), 1)
