"""torch.compile on first use: compiler processes, files and threads that stay.

CLASS:  honest
EXPECT: accept
TARGET: cpu
LIMITS: build=240,check=120,time=60
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


compiled = None


def attention(q, k, v, *, causal, scale):
    global compiled
    compiled = compiled or torch.compile(plain, dynamic=True)
    return compiled(q, k, v, causal, scale)
