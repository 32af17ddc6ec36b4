"""Clocks that leave out nearly all of the time spent in the kernel.

CLASS:  false clock
EXPECT: score_true|cheating
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


real, hidden = time.perf_counter, [0.0]
for name in ("perf_counter", "monotonic", "time"):
    setattr(time, name, lambda clock=getattr(time, name): clock() - hidden[0])
    setattr(time, name + "_ns", lambda clock=getattr(time, name + "_ns"): clock() - int(hidden[0] * 1e9))


def attention(q, k, v, *, causal, scale):
    start = real()
    out = plain(q, k, v, causal, scale)
    hidden[0] += (real() - start) * 0.999
    return out
