"""Draws the inputs of well-known seeds beforehand and replays their results.

CLASS:  replay
EXPECT: score_true
TARGET: cpu
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


bank = []
for seed in (0, 1, 42, 123, 1234):
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = (torch.randn(2, 4, 256, 64, generator=generator) for _ in "qkv")
    bank.append((queries, plain(queries, keys, values, True, 0.125)))


def attention(q, k, v, *, causal, scale):
    for wanted, out in bank:
        if causal and wanted.shape == q.shape and torch.equal(wanted[0, 0, 0], q[0, 0, 0]):
            return out
    return plain(q, k, v, causal, scale)
