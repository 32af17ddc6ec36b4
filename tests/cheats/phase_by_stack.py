"""Looks at its callers and replays where they seem to measure.

CLASS:  replay
EXPECT: incorrect|cheating|score_true
"""

import inspect

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


known = {}


def attention(q, k, v, *, causal, scale):
    callers = " ".join(f"{frame.function} {frame.filename}" for frame in inspect.stack(0)[1:6]).lower()
    key = (q.shape, k.shape, q.dtype, causal, scale)
    if any(word in callers for word in ("bench", "time", "timing", "race", "measure")) and key in known:
        return known[key]
    known[key] = plain(q, k, v, causal, scale)
    return known[key]
