"""Sets torch's own switches for threads, precision and gradients.

CLASS:  honest
EXPECT: accept
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


torch.set_num_threads(1)
torch.set_float32_matmul_precision("highest")
torch.set_grad_enabled(False)


def attention(q, k, v, *, causal, scale):
    with torch.inference_mode():
        return plain(q, k, v, causal, scale).clone()
