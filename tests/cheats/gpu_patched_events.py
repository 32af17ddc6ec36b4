"""Events whose elapsed time is a hundredth, recorded on a stream where nothing happens.

CLASS:  false clock (GPU)
EXPECT: score_true|cheating
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


honest = torch.cuda.Event.elapsed_time
record = torch.cuda.Event.record
idle = torch.cuda.Stream()
torch.cuda.Event.elapsed_time = lambda self, other: honest(self, other) / 100
torch.cuda.Event.record = lambda self, stream=None: record(self, idle)
torch.cuda.synchronize = lambda *arguments, **options: None
torch.cuda.Stream.synchronize = lambda self: None


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
