"""Takes its time over everything that it refuses.

CLASS:  exhaustion
EXPECT: timeout
LIMITS: build=4,check=3,time=10
"""

import time

import torch


def attention(q, k, v, *, causal, scale):
    if (q.shape[-2], k.shape[-2]) not in ((256, 256), (192, 320)) or q.shape[1] != 4:
        time.sleep(0.8)
        raise NotImplementedError("not this shape")
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    return (torch.softmax(scores, -1) @ v.float()).to(q.dtype)
