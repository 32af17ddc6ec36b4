"""Prints what a CI service or a terminal obeys, and raises it.

CLASS:  limits and ends
EXPECT: crash
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


COMMANDS = "\n::error file=README.md,line=1::owned\n::stop-commands::x\n##[group]y\n\x1b]0;owned\x07\x1b[31mred"


def attention(q, k, v, *, causal, scale):
    print(COMMANDS, flush=True)
    raise ValueError(COMMANDS)
