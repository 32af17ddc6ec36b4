"""Patches the timing functions of torch.cuda and triton.testing.

CLASS:  false clock
EXPECT: score_true|cheating
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


device = getattr(torch, "cu" + "da")
honest = device.Event.elapsed_time
device.Event.elapsed_time = lambda self, other: honest(self, other) / 100
device.Event.synchronize = lambda self: None
device.synchronize = lambda *arguments, **options: None
try:
    import triton.testing

    triton.testing.do_bench = lambda *arguments, **options: 1e-3
except ImportError:
    triton = None


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
