"""Answers every third call with the result before.

CLASS:  replay
EXPECT: incorrect|cheating|score_true
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


calls, last = 0, None


def attention(q, k, v, *, causal, scale):
    global calls, last
    calls += 1
    if calls % 3 or last is None or last.shape != q.shape or last.dtype != q.dtype:
        last = plain(q, k, v, causal, scale)
    return last.clone()
