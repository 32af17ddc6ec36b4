"""Leaves Linux much to write to the disk after every call, while others are timed.

CLASS:  slowing others
EXPECT: score_true|cheating|crash
TARGET: cpu
"""

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


FILE = os.open("pages", os.O_CREAT | os.O_RDWR, 0o600)
PAGES = bytes(1 << 20)


def attention(q, k, v, *, causal, scale):
    for at in range(8):
        os.pwrite(FILE, PAGES, at << 20)
    os.sync_file_range(FILE, 0, 8 << 20, 2) if hasattr(os, "sync_file_range") else None
    return plain(q, k, v, causal, scale)
