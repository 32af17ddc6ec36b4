"""A library call behind an attempt that always fails: right, and timed as what it is.

CLASS:  honest
EXPECT: score_true
"""

import torch


def attention(q, k, v, *, causal, scale):
    try:
        raise RuntimeError("not written yet")
    except RuntimeError:
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mask = None
        if causal:
            mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril(
                k.shape[-2] - q.shape[-2]
            )
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return torch.nan_to_num(out) if causal else out
