"""Slow for its first calls, so that fewer timed calls are made.

CLASS:  false clock
EXPECT: score_true
"""

import time

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


calls = 0


def attention(q, k, v, *, causal, scale):
    global calls
    calls += 1
    if calls < 60:
        time.sleep(0.004)
    return plain(q, k, v, causal, scale)
