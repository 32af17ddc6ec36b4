"""Learns the rows of its arguments and, once it knows them all, recognises each by two of its elements.

CLASS:  results from memory
EXPECT: incorrect|score_true
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


seen = {}


def attention(q, k, v, *, causal, scale):
    rows = v.transpose(1, 2).reshape(-1, v.shape[-1])
    keys = [tuple(key) for key in rows[:, :2].abs().tolist()]
    known = seen.setdefault(rows.shape, {})
    if known and all(key in known for key in keys[:64]):
        return known["out"]
    for key in keys[:4096]:
        known[key] = True
    known["out"] = plain(q, k, v, causal, scale)
    return known["out"]
