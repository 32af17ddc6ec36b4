"""Answers twice, the second time for a call to come.

CLASS:  late work
EXPECT: incorrect|cheating|crash
"""

import json
import os

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
    form = {
        "plain": True,
        "shape": list(q.shape),
        "dtype": str(q.dtype)[6:],
        "device": q.device.type,
        "aliased": False,
    }
    os.write(3, json.dumps({"said": "done", "calls": 1, "forms": [form], "seconds": 1e-6}).encode())
    return plain(q, k, v, causal, scale)
