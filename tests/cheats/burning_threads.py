"""Threads that burn while the kernel is idle and rest during its own calls.

CLASS:  slowing others
EXPECT: score_true|cheating
TARGET: cpu
"""

import threading

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


burning = threading.Event()
burning.set()


def burn():
    x = torch.randn(256, 256)
    while burning.wait():
        x = (x @ x).clamp(-1, 1)


for _ in range(4):
    threading.Thread(target=burn, daemon=True).start()


def attention(q, k, v, *, causal, scale):
    burning.clear()
    try:
        return plain(q, k, v, causal, scale)
    finally:
        burning.set()
