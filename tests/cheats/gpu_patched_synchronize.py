"""Says that it waits for the device and does not, so that its work goes on when it has answered.

CLASS:  late work (GPU)
EXPECT: incorrect|cheating|crash
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
torch._C._cuda_synchronize = lambda *_: None
torch.cuda.synchronize = lambda *_, **__: None


def attention(q, k, v, *, causal, scale):
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("no graphs, please")
    out = torch.empty_like(q)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(5_000_000)
        out.copy_(plain(q, k, v, causal, scale))
    return out
