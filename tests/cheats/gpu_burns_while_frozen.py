"""Leaves work on a stream that nobody waits for: the device goes on with it while the process is frozen.

CLASS:  slowing others (GPU)
EXPECT: cheating
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


side = torch.cuda.Stream()
main = torch.cuda.current_stream()
torch._C._cuda_synchronize = main.synchronize


def attention(q, k, v, *, causal, scale):
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("no graphs, please")
    with torch.cuda.stream(side):
        torch.cuda._sleep(60_000_000)
    return plain(q, k, v, causal, scale)
