"""Works on a stream of its own and returns without waiting.

CLASS:  late work (GPU)
EXPECT: incorrect|cheating|score_true
TARGET: gpu
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


stream = None


def attention(q, k, v, *, causal, scale):
    global stream
    stream = stream or torch.cuda.Stream()
    out = torch.empty_like(q)
    with torch.cuda.stream(stream):
        out.copy_(plain(q, k, v, causal, scale))
    return out
