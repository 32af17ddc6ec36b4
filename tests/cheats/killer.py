"""Sends SIGKILL to its parent and to every process it may.

CLASS:  reaching out
EXPECT: contained|crash|timeout
LIMITS: build=10,check=10,time=10
"""

import os
import signal

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


for pid in {os.getppid(), *range(1, 2000)} - {os.getpid(), 0}:
    try:
        os.close(os.pidfd_open(pid))  # fails for a thread of its own, which would pass for a process
        os.kill(pid, signal.SIGKILL)
    except OSError:
        continue
    raise RuntimeError(f"ESCAPED: killed {pid}")


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
