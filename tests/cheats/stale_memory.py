"""Unwritten memory, in the hope that the right result lay there a moment ago.

CLASS:  memory
EXPECT: incorrect
"""

import torch


def attention(q, k, v, *, causal, scale):
    found = [torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(24)]
    for x in found:
        if torch.allclose(x[..., 0, :].float(), v[:, :1, 0].float(), atol=1e-3):
            return x
    return found[0]
